"""The report on a model before a start: what it finds, and that it loads no weight."""

import json
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import torch
from driver import save_model
from safetensors.torch import load_file, save_file

from loraconsole.pipeline.config import Config, OperatorError
from loraconsole.pipeline.fetch import resolve
from loraconsole.pipeline.model_cache import Report
from loraconsole.pipeline.model_report import ModelReport, report_model
from loraconsole.pipeline.tokenizer import make_byte_tokenizer


class Listener(Report):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    save_model(directory, "llama", eos_token_id=3)
    make_byte_tokenizer(160).save(str(directory / "tokenizer.json"))
    return directory


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    module = "loraconsole.pipeline.model_report"
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments], capture_output=True, text=True
    )


def test_a_model_that_is_served_is_reported_good_without_torch(model: Path) -> None:
    done = command("--model", str(model), "--json")
    report = msgspec.json.decode(done.stdout, type=ModelReport)
    assert done.returncode == 0 and report.is_served and report.directory == str(model)
    said = {finding.name: finding.finding for finding in report.findings}
    assert "is a llama of 3 layers, 256 tokens long" in said["the model"]
    assert "rope_parameters" in said["read:"] and "initializer_range" in said["change nothing:"]
    assert "of F32" in said["model.safetensors"] and "3" in said["stop tokens"]
    check = (
        "import sys; from loraconsole.pipeline.model_report import report_model; "
        f"assert report_model({str(model)!r}).is_served; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", check], check=True)


def test_all_that_is_wrong_is_listed_first_and_the_command_fails(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a_new_key": 1, "alibi": True}))
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {"x": torch.zeros(1)}, model / "model.safetensors")
    report = report_model(str(model))
    assert [f.name for f in report.findings if f.verdict == "bad"] == ["a_new_key", "alibi"]
    assert report.findings[0].verdict == "bad"
    done = command("--model", str(model), "--ignore-key", "a_new_key", "--ignore-key", "alibi")
    assert done.returncode == 1 and "bad   model.safetensors: x is used by nothing" in done.stdout


def test_a_report_and_a_start_say_the_same(model: Path) -> None:
    (model / "model.safetensors.index.json").write_text("{}")
    listener = Listener()
    resolve(Config(model=str(model)), listener)
    notes = [finding for finding in report_model(str(model)).findings if finding.verdict == "note"]
    assert len(notes) == len(listener.said) == 1 and notes[0].text in listener.said[0]
    (model / "model.safetensors").write_bytes(b"")
    with pytest.raises(OperatorError) as refused:
        resolve(Config(model=str(model)))
    (bad,) = [finding for finding in report_model(str(model)).findings if finding.verdict == "bad"]
    assert bad.text in str(refused.value)


def test_what_is_not_on_this_machine_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name, words in (("org/model", "not in the hub's cache"), ("nothing", "there is no model")):
        report = report_model(name)
        assert not report.is_served and words in report.findings[0].finding


def test_the_default_model_is_good(model_directory: str) -> None:
    report = report_model("SmolLM2-135M-Instruct")
    assert report.is_served and report.directory == model_directory
    assert all(finding.verdict == "good" for finding in report.findings)

"""The report on a model before a start: what it finds, and that it loads no weight."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import msgspec
import pytest
import torch
from driver import save_model
from safetensors.torch import load_file, save_file

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.fetch.fetch import PLAIN_CHAT_TEMPLATE, resolve
from loraconsole.pipeline.fetch.model_cache import FetchReport
from loraconsole.pipeline.fetch.model_report import ModelReport, report_model
from loraconsole.pipeline.text.tokenizer import make_byte_tokenizer


class Listener(FetchReport):
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
    settings = {"chat_template": PLAIN_CHAT_TEMPLATE}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    return directory


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    module = "loraconsole.pipeline.fetch.model_report"
    return subprocess.run(
        [sys.executable, "-P", "-m", module, *arguments], capture_output=True, text=True
    )


@pytest.mark.processes
def test_a_model_that_is_served_is_reported_good_without_torch(model: Path) -> None:
    done = command("--model", str(model), "--json")
    report = msgspec.json.decode(done.stdout, type=ModelReport)
    assert done.returncode == 0 and report.is_served and report.directory == str(model)
    said = {finding.name: finding.finding for finding in report.findings}
    assert "is a llama of 3 layers, 256 tokens long" in said["the model"]
    assert "rope_parameters" in said["read:"] and "initializer_range" in said["change nothing:"]
    assert "of F32" in said["model.safetensors"] and "3 '" in said["stop tokens"]
    assert said["the chat template"] == "compiles"
    check = (
        "import sys; from loraconsole.pipeline.fetch.model_report import report_model; "
        f"assert report_model({str(model)!r}).is_served; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-P", "-c", check], check=True)


@pytest.mark.processes
def test_all_that_is_wrong_is_listed_first_and_the_command_fails(model: Path) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"a_new_key": 1, "alibi": True}))
    tensors = load_file(model / "model.safetensors")
    save_file(tensors | {"x": torch.zeros(1)}, model / "model.safetensors")
    report = report_model(str(model))
    assert [f.name for f in report.findings if f.verdict == "bad"] == ["a_new_key", "alibi"]
    assert report.findings[0].verdict == "bad"
    done = command("--model", str(model), "--ignore-key", "a_new_key", "--ignore-key", "alibi")
    assert done.returncode == 1 and "bad   model.safetensors: x is not used here" in done.stdout


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


def test_what_goes_with_the_weights_is_reported_too(model: Path) -> None:
    def said(verdict: str) -> str:
        report = report_model(str(model))
        return "; ".join(f.text for f in report.findings if f.verdict == verdict)

    assert said("note") == ""
    (model / "generation_config.json").write_text('{"temperature": 0.6, "num_beams": 4}')
    assert "temperature 0.6" in said("good") and "num_beams 4" in said("note")
    (model / "tokenizer_config.json").write_text('{"chat_template": "{% for %}"}')
    assert "chats are refused" in said("note") and said("bad") == ""
    (model / "tokenizer.json").unlink()
    assert "the tokenizer is missing" in said("bad")
    (model / "generation_config.json").write_text("[]")
    assert "generation_config.json" in said("bad")


def test_a_gguf_that_is_refused_is_reported_key_by_key(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "odd.gguf", "llama")
    writer.add_float32("llama.logit_scale", 0.5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    report = report_model(str(tmp_path / "odd.gguf"))
    bad = [finding for finding in report.findings if finding.verdict == "bad"]
    assert "llama.logit_scale" in {finding.name for finding in bad}


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

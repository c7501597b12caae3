"""`doctor MODEL`: the report on a model's files, and which options go together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from driver import save_model

from loraconsole.console.cli.doctor import doctor
from loraconsole.console.commands.inspect import DoctorCommand
from loraconsole.console.commands.parser import parse
from loraconsole.pipeline.errors import UsageError
from loraconsole.pipeline.text.tokenizer import make_byte_tokenizer

pytestmark = pytest.mark.processes


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "llama")
    make_byte_tokenizer(160).save(str(tmp_path / "model" / "tokenizer.json"))
    return tmp_path / "model"


def change(model: Path, **fields: Any) -> None:
    path = model / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def ask(*arguments: str | Path) -> int:
    command = parse(["doctor", *map(str, arguments)])
    assert isinstance(command, DoctorCommand)
    return doctor(command)


def test_a_model_that_is_served_is_reported_a_line_a_finding(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ask(model) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith("FAIL")]
    assert any(line.startswith("ok    model.safetensors ") for line in lines)
    assert lines[-1] == f"{model} would be served"


def test_on_a_terminal_findings_are_wrapped_in_their_column(
    model: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    change(model, num_attention_heads="four")
    assert ask(model) == 1
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    (place,) = {line.index("is 'four'") for line in lines if "is 'four'" in line}
    rows = [line for line in lines if line[:4] in ("FAIL", "ok  ", "    ")]
    assert all(line[place - 2 : place] == "  " and line[place] != " " for line in rows)
    assert lines[-1] == f"{model} would be refused: 1 reason"


def test_what_is_no_model_directory_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert ask(tmp_path) == 1
    said = capsys.readouterr().out
    assert said.count("FAIL") == 1 and "this is an adapter: give it as --adapter" in said


def test_what_is_not_computed_is_named_with_its_file_and_exits_1(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(model, attention_is_upside_down=True)
    assert ask(model) == 1
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("FAIL")]
    assert len(failed) == 1 and "config.json: attention_is_upside_down" in failed[0]
    assert ask(model, "--ignore-key", "attention_is_upside_down") == 0


def test_the_report_is_one_json_document_as_well(
    model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(model, model_type="elephant")
    assert ask(model, "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["model"] == str(model)
    assert any("elephant" in found["finding"] for found in report["findings"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--against", "transformers"], "need a MODEL"),
        (["m", "--adapter", "a=b"], "--adapter goes with --against"),
        (["m", "--against", "transformers", "--adapter", "a"], "is not NAME=PATH"),
        (["m", "--against", "transformers", "--tokens", "0"], "--tokens 0 is not from 1 to 512"),
        (["m", "--dtype", "bfloat16"], "--dtype goes with --against"),
    ],
)
def test_options_that_say_nothing_together_are_bad_usage(arguments: list[str], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        ask(*arguments)


def test_bad_usage_exits_2_and_a_model_that_is_not_there_1() -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "doctor"]
    for arguments, code in ((["--adapter", "a=b"], 2), (["nowhere"], 1)):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=60)
        assert done.returncode == code
    assert "there is no model nowhere" in done.stdout

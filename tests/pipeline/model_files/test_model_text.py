"""A model's text files are read as editors and downloads leave them, or refused by their fault."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import pytest
from driver import SMALL

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model_files.generation_config import read_generation_config
from loraconsole.pipeline.model_files.model_config import read_model_config
from loraconsole.pipeline.runtime.text_files import read_json
from loraconsole.pipeline.text.tokenizer_files import read_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")


@pytest.fixture
def model(model_directory: str, tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama", **SMALL}))
    (tmp_path / "tokenizer.json").write_bytes(
        (Path(model_directory) / "tokenizer.json").read_bytes()
    )
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "x"}')
    (tmp_path / "generation_config.json").write_text('{"temperature": 0.5}')
    return tmp_path


def read_all(model: Path) -> None:
    read_model_config(model)
    read_generation_config(model)
    read_tokenizer(model)


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_byte_order_mark_changes_nothing(model: Path, file: str, encoding: str) -> None:
    text = (model / file).read_text(encoding="utf-8")
    (model / file).write_bytes(text.encode(encoding))
    assert (model / file).read_bytes()[:2] in (codecs.BOM_UTF8[:2], codecs.BOM_UTF16_LE)
    read_all(model)
    assert read_generation_config(model).temperature == 0.5


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize(
    ("text", "word"),
    [(POINTER, "Git LFS pointer"), ("{", "line 1"), ('{"a":' * 100_000, ""), ("\x00", "line 1")],
)
def test_a_file_that_is_broken_is_named(model: Path, file: str, text: str, word: str) -> None:
    (model / file).write_text(text)
    with pytest.raises(OperatorError, match=file) as refused:
        read_all(model)
    assert word in str(refused.value)


def test_half_a_surrogate_pair_is_refused_and_a_whole_one_is_a_character(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(r'{"eos_token": "\ud83d\ude00"}')
    assert read_json(path) == {"eos_token": "😀"}
    path.write_text(r'{"eos_token": "\ud83d"}')
    with pytest.raises(ValueError, match="half of a surrogate pair"):
        read_json(path)

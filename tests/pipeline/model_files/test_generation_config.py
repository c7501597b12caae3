"""generation_config.json: read, known harmless, or named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import transformers

from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.model_files.generation_config import (
    HARMLESS,
    NEUTRAL,
    NO_DEFAULTS,
    READ,
    GenerationDefaults,
    read_generation_config,
)


def read(directory: Path, **values: Any) -> GenerationDefaults:
    (directory / "generation_config.json").write_text(json.dumps(values))
    return read_generation_config(directory)


def test_a_model_without_the_file_has_no_defaults(tmp_path: Path) -> None:
    assert read_generation_config(tmp_path) is NO_DEFAULTS


def test_sampling_defaults_are_read(tmp_path: Path) -> None:
    found = read(tmp_path, temperature=0.6, top_k=20.0, top_p=0.95, min_p=0, repetition_penalty=1.1)
    assert found.named == {
        "temperature": 0.6,
        "top_k": 20,
        "top_p": 0.95,
        "min_p": 0.0,
        "repetition_penalty": 1.1,
    }
    assert found.not_honoured == ()


def test_nulls_say_nothing_and_stop_strings_may_be_one_or_several(tmp_path: Path) -> None:
    assert read(tmp_path, temperature=None, stop_strings=None) == NO_DEFAULTS
    assert read(tmp_path, stop_strings="END").stop == ("END",)
    assert read(tmp_path, stop_strings=["A", "B"]).stop == ("A", "B")


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"num_beams": 4}, "num_beams 4"),
        ({"no_repeat_ngram_size": 3}, "no_repeat_ngram_size 3"),
        ({"suppress_tokens": [1, 2]}, "suppress_tokens [1, 2]"),
        ({"forced_eos_token_id": 2}, "forced_eos_token_id 2"),
        ({"typical_p": 0.9}, "typical_p 0.9"),
        ({"stop_words_ids": [[1]]}, "stop_words_ids [[1]]"),
    ],
)
def test_what_is_not_honoured_is_named(tmp_path: Path, values: dict[str, Any], word: str) -> None:
    assert read(tmp_path, **values).not_honoured == (word,)


def test_values_that_ask_for_nothing_are_not_named(tmp_path: Path) -> None:
    off = {name: values[0] for name, values in NEUTRAL.items() if values}
    assert read(tmp_path, **off).not_honoured == ()
    assert read(tmp_path, **dict.fromkeys(HARMLESS, 7)).not_honoured == ()


def test_every_key_that_transformers_writes_is_known(tmp_path: Path) -> None:
    """A key of a later transformers shows here: decide what it is."""
    keys = set(transformers.GenerationConfig().to_dict())
    keys |= set(transformers.GenerationConfig._get_default_generation_params())
    assert keys <= {*READ, *HARMLESS, *NEUTRAL}


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"top_k": 2**70}, "top_k"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"stop_strings": [1]}, "stop_strings"),
    ],
)
def test_a_bad_value_names_file_and_key(tmp_path: Path, values: dict[str, Any], key: str) -> None:
    with pytest.raises(OperatorError) as refused:
        read(tmp_path, **values)
    assert "generation_config.json" in refused.value.what and key in refused.value.what
    assert "--generation-config none" in refused.value.hint


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000])
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(OperatorError, match=r"generation_config\.json"):
        read_generation_config(tmp_path)

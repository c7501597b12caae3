"""Prompts between a beginning and an end, for the vocabularies that have tokens for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from made_tokenizers import SPECIAL, byte_level, write

from loraconsole.pipeline.text.fill_middle import MARKS, FillMiddle, Marks
from loraconsole.pipeline.text.tokenizer import Tokenizer


def tokenizer_with(directory: Path, *specials: str, bos: bool = False) -> Tokenizer:
    """A byte-level tokenizer with these special tokens more, which adds a BOS or nothing."""
    from tokenizers import processors

    made = byte_level([*SPECIAL, *specials])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.token_to_id("<s>"))]
        )
    directory.mkdir(exist_ok=True)
    write(directory, "llama", {"bos_token": "<s>", "tokenizer_class": "PreTrainedTokenizerFast"})
    made.save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


@pytest.mark.parametrize("marks", MARKS, ids=lambda marks: marks.prefix)
@pytest.mark.parametrize("bos", [False, True])
def test_both_texts_come_after_their_marks_and_then_the_middle(
    marks: Marks, bos: bool, tmp_path: Path
) -> None:
    tokenizer = tokenizer_with(tmp_path, *marks, bos=bos)
    fill = FillMiddle.of(tokenizer)
    assert fill is not None
    ids = fill.encode("def f(x):\n", "\n    return y", True)
    text = tokenizer.decode(ids, skip_special_tokens=False)
    head = "<s>" if bos else ""
    prefix, suffix, middle = marks
    assert text == f"{head}{prefix}def f(x):\n{suffix}\n    return y{middle}"
    assert fill.encode("def f(x):\n", "\n    return y", False) == ids[bos:]
    assert [tokenizer.token_id(mark) for mark in marks] == [
        token_id for token_id in ids if tokenizer.is_special(token_id)
    ][bos:]


def test_a_vocabulary_without_all_of_a_set_fills_in_nothing(
    tmp_path: Path, model_directory: str
) -> None:
    for number, marks in enumerate(MARKS):
        tokenizer = tokenizer_with(tmp_path / str(number), *marks[:2])
        assert FillMiddle.of(tokenizer) is None
    assert FillMiddle.of(Tokenizer(model_directory)) is None

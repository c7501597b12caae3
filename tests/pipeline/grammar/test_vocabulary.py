"""The vocabulary of every kind of tokenizer: what a grammar allows is the text of the answer."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import token_tables
from made_tokenizers import MADE, write

from loraconsole.pipeline.grammar.mask_filler import MaskFiller
from loraconsole.pipeline.grammar.matcher import Ending, Matcher, compile_grammar
from loraconsole.pipeline.grammar.specification import json_schema_grammar, regex_grammar
from loraconsole.pipeline.grammar.token_table import (
    make_token_table,
    read_token_table,
    write_token_table,
)
from loraconsole.pipeline.grammar.vocabulary import Vocabulary
from loraconsole.pipeline.text.tokenizer import Tokenizer

KINDS = [kind for kind in MADE if kind.startswith(("byte-level", "sentencepiece"))]
"""Those that can write every text."""
SCHEMA = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "maxLength": 12},
        "number": {"type": "integer"},
        "list": {"type": "array", "items": {"enum": ["hello", "world", None]}, "maxItems": 3},
    },
    "required": ["text", "number", "list"],
    "additionalProperties": False,
}


def load(kind: str, directory: Path) -> Tokenizer:
    write(directory, "llama", {})
    MADE[kind]().save(str(directory / "tokenizer.json"))
    return Tokenizer(directory)


def new_matcher(grammar: str, vocabulary: Vocabulary, ends: list[int]) -> Matcher:
    ending = Ending.of(vocabulary, ends, ends)
    return Matcher(compile_grammar(grammar, vocabulary), vocabulary, ending)


def allowed_next(matcher: Matcher, vocabulary: Vocabulary) -> list[int]:
    mask = np.zeros((1, vocabulary.words), dtype=np.int32)
    MaskFiller(threads=1).fill_masks([(0, matcher)], mask)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    found: list[int] = bits.nonzero()[0].tolist()
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_any_way_through_a_grammar_is_its_text(kind: str, tmp_path: Path) -> None:
    tokenizer = load(kind, tmp_path)
    size, end = tokenizer.vocab_size + 5, 2
    vocabulary = Vocabulary(make_token_table(tokenizer), size)
    grammar = json_schema_grammar(SCHEMA, whitespace="[ \n]{1,2}")
    for seed in range(30):
        chance, stream = random.Random(seed), tokenizer.stream()
        matcher, text, number = new_matcher(grammar, vocabulary, [end]), "", 0
        while end not in (usable := allowed_next(matcher, vocabulary)) or len(usable) > 1:
            assert usable and max(usable) < tokenizer.vocab_size, matcher.error
            token_id = chance.choice([i for i in usable if i != end])
            matcher.accept_tokens([token_id])
            text, number = text + stream.push(token_id), number + 1
            assert number < 1000
        text += stream.flush()
        value = json.loads(text)
        assert set(value) == {"text", "number", "list"} and isinstance(value["number"], int)


@pytest.mark.parametrize("kind", KINDS[2:])
def test_no_answer_begins_with_a_space_that_the_detokenizer_drops(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = load(kind, tmp_path)
    vocabulary = Vocabulary(make_token_table(tokenizer), tokenizer.vocab_size)
    matcher = new_matcher(regex_grammar(" ?(hello )+"), vocabulary, [])
    first = allowed_next(matcher, vocabulary)
    assert first and not any(tokenizer.token_bytes(i).startswith(b" ") for i in first)
    only_space = new_matcher(regex_grammar(" hello"), vocabulary, [])
    assert allowed_next(only_space, vocabulary)  # better without its space than no answer


@pytest.mark.parametrize("kind", MADE)
def test_the_table_is_that_of_the_detokenizer_and_comes_back_from_its_file(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = load(kind, tmp_path)
    table = make_token_table(tokenizer)
    assert table.tokens == [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    assert table.special == [i for i in range(tokenizer.vocab_size) if tokenizer.is_special(i)]
    for token_id in table.changed_first:
        assert tokenizer.decode([token_id]).encode() == table.tokens[token_id][1:]
    write_token_table(tmp_path, table)
    assert read_token_table(tmp_path) == table


def test_a_vocabulary_is_as_wide_as_the_logits(tmp_path: Path) -> None:
    table = make_token_table(load("byte-level", tmp_path))
    for size in (100, len(table.tokens), 1000):
        vocabulary = Vocabulary(table, size)
        assert vocabulary.library.vocab_size == size + 1 and 32 * vocabulary.words > size
        matcher = new_matcher(regex_grammar("[0-9]+"), vocabulary, [])
        assert all(i < min(size, len(table.tokens)) for i in allowed_next(matcher, vocabulary))


def test_a_special_token_is_no_text_of_a_grammar(tmp_path: Path) -> None:
    tokenizer = load("byte-level", tmp_path)
    vocabulary = Vocabulary(make_token_table(tokenizer), tokenizer.vocab_size)
    end = tokenizer.token_id("<|im_end|>")
    assert end is not None
    matcher = new_matcher(regex_grammar("<.*>"), vocabulary, [end])
    assert end not in allowed_next(matcher, vocabulary)
    matcher.accept_tokens(tokenizer.encode("<a>"))
    assert end in allowed_next(matcher, vocabulary)
    matcher.accept_tokens([end])
    assert matcher.is_over and not allowed_next(matcher, vocabulary)


def test_an_end_token_that_is_text_ends_an_answer_and_is_never_inside_one(tmp_path: Path) -> None:
    """Some models' end token is an ordinary word."""
    tokenizer = load("byte-level", tmp_path)
    vocabulary = Vocabulary(make_token_table(tokenizer), tokenizer.vocab_size)
    (end,) = tokenizer.encode("7")
    matcher = new_matcher(regex_grammar("[0-9]{2}"), vocabulary, [end])
    assert end not in allowed_next(matcher, vocabulary)
    matcher.accept_tokens(tokenizer.encode("12"))
    assert allowed_next(matcher, vocabulary) == [end]


def test_a_grammar_may_name_a_token_that_ends_answers() -> None:
    """Then it may come where the grammar has it, and ends the answer."""
    matcher = new_matcher('start: "hi" <|end|>', token_tables.vocabulary(), [257])
    matcher.accept_tokens(list(b"hi"))
    assert allowed_next(matcher, token_tables.vocabulary()) == [257]
    matcher.accept_tokens([257])
    assert matcher.is_over and not matcher.error

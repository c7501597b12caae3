"""For tests of constrained answers: a table of tokens that are single bytes and some words."""

from __future__ import annotations

import functools

from loraconsole.pipeline.grammar.matcher import Ending, Matcher, compile_grammar
from loraconsole.pipeline.grammar.token_table import TokenTable
from loraconsole.pipeline.grammar.vocabulary import Vocabulary

WORDS = ("true", "false", "null", '{"', '":', '"}', ", ", "name", "  ", "[]")
END = 150
"""A special token, for models that have an end token."""


def small_table() -> TokenTable:
    """160 tokens: the ASCII characters by their codes, then `WORDS`, then special ones."""
    tokens = [bytes([code]) for code in range(128)] + [word.encode() for word in WORDS]
    special = list(range(len(tokens), 160))
    tokens += [f"<{token_id}>".encode() for token_id in special]
    return TokenTable(tokens, special, [])


def text_of(token_ids: list[int]) -> str:
    """The text of tokens of `small_table`, without special ones."""
    table = small_table()
    return b"".join(table.tokens[i] for i in token_ids if 0 <= i < 138).decode()


@functools.cache
def vocabulary() -> Vocabulary:
    """Every byte a token, and two special ones."""
    tokens = [bytes([byte]) for byte in range(256)] + [b"<|begin|>", b"<|end|>"]
    return Vocabulary(TokenTable(tokens, [256, 257], []), 260)


def matches(grammar: str, text: str) -> bool:
    """Whether a grammar matches a text as a whole."""
    library = compile_grammar(grammar, vocabulary())
    assert not library.is_error(), library.get_error()
    matcher = Matcher(library, vocabulary(), Ending.of(vocabulary(), [257], []))
    matcher.accept_tokens(list(text.encode()))
    return not matcher.error and library.is_accepting()

"""For tests of constrained answers: a table of tokens that are single bytes and some words."""

from __future__ import annotations

from loraconsole.pipeline.grammar.token_table import TokenTable

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

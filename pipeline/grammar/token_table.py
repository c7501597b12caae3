"""`TokenTable`: the bytes of every token, as grammars match them; a file in the run directory.

The server writes it when the first constrained request comes. So the workers need no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from ..private_files import write_private
from ..text.tokenizer import HALF_CHARACTER, Tokenizer

FILE = "tokens.msgpack"
"""Its name in the run directory."""


class TokenTable(msgspec.Struct, frozen=True):
    """Tokens by id, as the detokenizer writes them in the middle of a text."""

    tokens: list[bytes]
    """Empty for ids without a token."""
    special: list[int]
    """Tokens that no text contains."""
    changed_first: list[int]
    """Tokens that the detokenizer writes differently at the beginning of an answer: SentencePiece
    drops the first space."""


def make_token_table(tokenizer: Tokenizer) -> TokenTable:
    """The table of a tokenizer. Reads every token: a tenth of a second for 50 000."""
    size = tokenizer.vocab_size
    tokens = [tokenizer.token_bytes(token_id) for token_id in range(size)]
    special = [token_id for token_id in range(size) if tokenizer.is_special(token_id)]
    changed = [] if tokenizer.is_byte_level else list(_changed_first(tokenizer, tokens))
    return TokenTable(tokens, special, changed)


def _changed_first(tokenizer: Tokenizer, tokens: list[bytes]) -> Iterator[int]:
    for token_id, data in enumerate(tokens):
        if data[:1] == b" ":
            alone = tokenizer.decode([token_id], skip_special_tokens=False)
            if HALF_CHARACTER not in alone and alone.encode() != data:
                yield token_id


def write_token_table(run: Path, table: TokenTable) -> None:
    """Writes it to a run directory. Raises `OSError`."""
    write_private(run / FILE, msgspec.msgpack.encode(table))


def read_token_table(run: Path) -> TokenTable:
    """Reads it from a run directory. Raises `OSError`, and `ValueError` if it is broken."""
    return msgspec.msgpack.decode((run / FILE).read_bytes(), type=TokenTable)

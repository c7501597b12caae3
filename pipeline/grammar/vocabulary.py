"""`Vocabulary`: a model's tokens in llguidance's form."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from llguidance import LLTokenizer, TokenizerWrapper
from numpy.typing import NDArray

from .token_table import TokenTable


class Vocabulary:
    """The tokens that logits have a place for, and one more: `end`, which llguidance allows where
    an answer may end. It stands for all tokens that end an answer, which differ by request."""

    def __init__(self, table: TokenTable, size: int) -> None:
        """`size`: width of the logits. Builds a trie: 0.2 s for 50 000 tokens."""
        self.size = self.end = size
        tokens = table.tokens[:size]
        tokens += [b""] * (size - len(tokens)) + [b"end of answer"]
        special = [*(i for i in table.special if i < size), self.end]
        self.special = frozenset(special)
        """Tokens that no text of a grammar matches, unless it names them."""
        source = _TokenSource(tokens, special, self.end)
        self.library = LLTokenizer(TokenizerWrapper(source), eos_token=self.end)
        source.library = self.library
        self.words = -(-(size + 1) // 32)
        """int32 words of a mask."""
        self._changed_first = [i for i in table.changed_first if i < size]

    @functools.cached_property
    def same_first(self) -> NDArray[np.int32] | None:
        """A mask of the tokens that have the same bytes at the beginning of an answer as inside it;
        None if all have."""
        if not self._changed_first:
            return None
        return ~self.mask_of(self._changed_first)

    def mask_of(self, token_ids: Sequence[int]) -> NDArray[np.int32]:
        """A mask with the bits of these tokens. [words]"""
        bits = np.zeros(self.words * 32, dtype=np.uint8)
        bits[list(token_ids)] = 1
        return np.packbits(bits, bitorder="little").view(np.int32)


class _TokenSource:
    """What llguidance asks of a tokenizer."""

    bos_token_id = None

    def __init__(self, tokens: list[bytes], special: list[int], end: int) -> None:
        self.tokens, self.special_token_ids, self.eos_token_id = tokens, special, end
        self.library: LLTokenizer | None = None

    def __call__(self, text: bytes | str) -> list[int]:
        """Tokens that llguidance may force. Our own grammars have it force none; those of a request
        may, and then the longest match is right for any vocabulary."""
        if self.library is None:
            return []
        return self.library.greedy_tokenize(text if isinstance(text, str) else text.decode())

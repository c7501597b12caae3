"""`TokenWords`: single tokens as logprobs show them, with the bytes that each adds to the text."""

from __future__ import annotations

from ..messages import TokenText
from .tokenizer import HALF_CHARACTER, Tokenizer


class TokenWords:
    """The tokens of one text. `skip_special_tokens`: special ones are left out of it, but for those
    in `shown`."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool,
        shown: frozenset[int] = frozenset(),
    ) -> None:
        self._tokenizer, self._skips, self._shown = tokenizer, skip_special_tokens, shown

    def is_left_out(self, token_id: int) -> bool:
        """Whether the text does not have this token."""
        is_skipped = self._skips and self._tokenizer.is_special(token_id)
        return is_skipped and token_id not in self._shown

    def entry(self, token_id: int, logprob: float, *, is_first: bool) -> TokenText:
        """A token of the text; `is_first`: no token of the text is before it."""
        text = self._tokenizer.token_text(token_id)
        data = b"" if self.is_left_out(token_id) else self._tokenizer.token_bytes(token_id)
        if data and is_first and not self._tokenizer.is_byte_level:
            # Other decoders treat the first token of a text differently: its space is dropped.
            first = self._tokenizer.decode((token_id,), skip_special_tokens=False)
            data = data if HALF_CHARACTER in first else first.encode()
        return TokenText(token_id, text, data, logprob)

"""`Matcher`: how far one answer has come in its grammar, and the tokens that may come next."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from llguidance import LLMatcher, LLParserLimits
from numpy.typing import NDArray

from .vocabulary import Vocabulary

LIMITS = LLParserLimits(
    step_lexer_fuel=100_000,
    step_max_items=25_000,
    max_lexer_states=50_000,
    verbose_errors=False,
)
"""A grammar may delay the steps of all requests by some 10 ms each, and hold 100 MB. Half of
llguidance's own limits, at which an ambiguous grammar took 50 ms."""


def compile_grammar(text: str, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher at the grammar's beginning. If the grammar cannot be compiled, its `get_error` has
    the reason, and it allows only the end."""
    return LLMatcher(vocabulary.library, text, log_level=0, limits=LIMITS)


DEAD_END = "no token of the model continues the text"
"""For llguidance's reason NoExtensionBias."""


def reason_of(error: str) -> str:
    """llguidance's reason, without the state of its parser."""
    reason = error.partition("<non-verbose/>")[0].partition("\n<state>")[0].strip()
    return DEAD_END if reason == "NoExtensionBias" else reason


class Matcher:
    """One answer. `end_ids` end it: the model's own end tokens unless the request ignores them, and
    the request's stop tokens. `never_ids` are the model's end tokens that it ignores."""

    def __init__(
        self,
        library: LLMatcher,
        vocabulary: Vocabulary,
        end_ids: Iterable[int],
        never_ids: Iterable[int],
    ) -> None:
        """`library`: this answer's own copy."""
        size = vocabulary.size
        self.library, self._vocabulary = library, vocabulary
        self._end_ids = frozenset(i for i in end_ids if 0 <= i < size)
        self._ends = vocabulary.mask_of(sorted(self._end_ids))
        never = [i for i in never_ids if 0 <= i < size]
        self._texts = ~vocabulary.mask_of([*never, vocabulary.end])
        self._is_first = True
        self.is_over = False
        """Whether a token has ended the answer; more tokens may come, which no client gets."""
        self.error = ""
        """Why the answer cannot go on."""

    def accept_tokens(self, token_ids: Sequence[int]) -> None:
        """Advances by tokens of the answer. One that the grammar does not allow sets `error`."""
        for token_id in token_ids:
            if self.is_over or self.error:
                return
            if token_id < 0 or token_id in self._end_ids:
                self.is_over = True
                return
            self._is_first = False
            if not self.library.consume_token(token_id):
                self.error = reason_of(self.library.get_error())

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow but the answer's end."""
        return self.is_over or self.library.is_stopped()

    def finish_mask(self, mask: NDArray[np.int32]) -> None:
        """Completes the mask that llguidance has computed, in place: the tokens that end the answer
        take the place of `Vocabulary.end`. No bit is set after the end, and after an error."""
        if self.library.is_error():
            self.error = reason_of(self.library.get_error())
        if self.is_over or self.error:
            mask[:] = 0
            return
        word, bit = divmod(self._vocabulary.end, 32)
        may_end = bool(mask[word] >> bit & 1) and self.library.is_accepting()
        mask &= self._texts
        same_first = self._vocabulary.same_first
        if self._is_first and same_first is not None and (mask & same_first).any():
            mask &= same_first
        if may_end:
            mask |= self._ends

"""`Matcher`: how far one answer has come in its grammar, and the tokens that may come next."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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


SHALLOW_CHARACTERS = 2048
"""Longest grammar that is compiled on any thread's stack."""
STACK_BYTES = 256 << 20
"""Stack for longer ones: llguidance compiles by recursion, a level for each rule or reference and
each bracket, with up to 10 KB of stack. Most of it is never used, and is no memory then."""


def compile_grammar(text: str, vocabulary: Vocabulary) -> LLMatcher:
    """A matcher at the grammar's beginning. If the grammar cannot be compiled, its `get_error` has
    the reason, and it allows only the end."""
    compile_it = functools.partial(LLMatcher, vocabulary.library, text, log_level=0, limits=LIMITS)
    return compile_it() if len(text) <= SHALLOW_CHARACTERS else _on_large_stack(compile_it)


def _on_large_stack(work: Callable[[], LLMatcher]) -> LLMatcher:
    """The result of `work`, in a thread that is made for it."""
    with ONE_SIZE:
        usual = threading.stack_size(STACK_BYTES)
        try:
            pool = ThreadPoolExecutor(1, "compile")
            done = pool.submit(work)  # which starts the thread
        finally:
            threading.stack_size(usual)
    with pool:
        return done.result()


ONE_SIZE = threading.Lock()
"""Held while the stack of new threads has another size."""


DEAD_END = "no token of the model continues the text"
"""For llguidance's reason NoExtensionBias."""


def reason_of(error: str) -> str:
    """llguidance's reason, without the state of its parser."""
    reason = error.partition("<non-verbose/>")[0].partition("\n<state>")[0].strip()
    return DEAD_END if reason == "NoExtensionBias" else reason


@dataclass(frozen=True, eq=False)
class Ending:
    """How answers end: shared by those with the same tokens."""

    ids: frozenset[int]
    """The tokens that end an answer."""
    ends: NDArray[np.int32]
    """Their mask."""
    others: NDArray[np.int32]
    """The mask of all tokens but `Vocabulary.end` and those that may never come."""
    word: int
    bit: int
    """Where a mask has `Vocabulary.end`."""

    @classmethod
    def of(cls, vocabulary: Vocabulary, end_ids: Iterable[int], never_ids: Iterable[int]) -> Ending:
        size = vocabulary.size
        ids = frozenset(i for i in end_ids if 0 <= i < size)
        named = ids & vocabulary.special  # a grammar has them only where it names them
        never = [i for i in never_ids if 0 <= i < size and i not in named]
        others = ~vocabulary.mask_of([*never, vocabulary.end])
        word, bit = divmod(vocabulary.end, 32)
        return cls(ids, vocabulary.mask_of(sorted(ids)), others, word, bit)


class Matcher:
    """One answer."""

    def __init__(self, library: LLMatcher, vocabulary: Vocabulary, ending: Ending) -> None:
        """`library`: this answer's own copy."""
        self.library, self.ending, self._vocabulary = library, ending, vocabulary
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
            if token_id < 0 or token_id in self.ending.ids:
                self.is_over = True
                return
            self._is_first = False
            if not self.library.consume_token(token_id):
                self.error = reason_of(self.library.get_error())

    @property
    def is_complete(self) -> bool:
        """Whether nothing can follow but the answer's end."""
        return self.is_over or self.library.is_stopped()

    def note_error(self) -> None:
        """Notes what llguidance has met while it computed the mask."""
        if self.library.is_error():
            self.error = reason_of(self.library.get_error())

    def keep_first(self, mask: NDArray[np.int32]) -> None:
        """At the beginning of an answer: takes out, in place, the tokens that have other bytes
        there than inside a text, unless no other is left."""
        same_first = self._vocabulary.same_first if self._is_first else None
        if same_first is not None and (mask & same_first).any():
            mask &= same_first

"""`Constraints`: which tokens may come next in many answers at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .compile_cost import cost_fault
from .constraint import Constraint
from .mask_filler import MaskFiller
from .matcher_cache import MatcherCache
from .token_table import read_token_table
from .vocabulary import Vocabulary


@dataclass(frozen=True)
class MaskBatch:
    """Which tokens each of several answers may continue with."""

    bits: NDArray[np.int32]
    """[rows, words]; bit t % 32 of word t // 32 is set if token t may come next. No bit is set
    after an error, and in a complete answer that no token of the model ends."""
    is_complete: tuple[bool, ...]
    """Whether nothing can follow but the end."""
    errors: dict[int, str]
    """Why the answers of some rows cannot go on."""


class Constraints:
    """Matchers over one vocabulary, which is read when the first is needed. Used from one thread;
    other Python threads run while masks are computed."""

    def __init__(
        self,
        run: Path,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        threads: int,
        new_bits: Callable[[int, int], NDArray[np.int32]],
    ) -> None:
        """`run` has the server's token table; `vocab_size` is the width of the logits. `new_bits`
        makes memory for masks of its shape, which is used again and again: new memory of 2 MB costs
        more than the masks in it."""
        self._run, self._size, self._eos = run, vocab_size, tuple(eos_token_ids)
        self._filler = MaskFiller(threads)
        self._matchers: MatcherCache | None = None
        self._words, self._new_bits = -(-(vocab_size + 1) // 32), new_bits
        self._bits = new_bits(0, self._words)

    def compute_masks(self, constraints: Sequence[Constraint]) -> MaskBatch:
        """The masks of the next tokens, a row each; valid until the next call."""
        count = len(constraints)
        if len(self._bits) < count:
            self._bits = self._new_bits(max(count, 2 * len(self._bits)), self._words)
        bits = self._bits[:count]
        for constraint in constraints:
            if constraint.matcher is None and not constraint.error:
                self._open(constraint)
        rows = [(row, c.matcher) for row, c in enumerate(constraints) if c.matcher is not None]
        if len(rows) < count:
            bits[:] = 0
        self._filler.fill_masks(rows, bits)
        is_complete = tuple(c.matcher is not None and c.matcher.is_complete for c in constraints)
        return MaskBatch(
            bits, is_complete, {row: c.reason for row, c in enumerate(constraints) if c.reason}
        )

    def _open(self, constraint: Constraint) -> None:
        """Makes its matcher, which has read the answer so far."""
        params = constraint.params
        constraint.error = cost_fault(params.grammar)
        if constraint.error:
            return
        try:
            if self._matchers is None:
                vocabulary = Vocabulary(read_token_table(self._run), self._size)
                self._matchers = MatcherCache(vocabulary)
        except (OSError, ValueError) as error:
            constraint.error = f"the table of tokens is not readable: {error}"
            return
        ends = params.stop_token_ids if params.ignore_eos else (*self._eos, *params.stop_token_ids)
        constraint.matcher = self._matchers.new_matcher(params.grammar, ends, self._eos)
        constraint.matcher.accept_tokens(constraint.output_ids)

"""`GrammarMasks`: masks of the constrained rows of steps, computed beside the device's work.

A step's mask needs the tokens of the step before, which arrive while the device computes the step.
Only sampling waits for the mask. Knows no batch and no sequence.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from ..grammar.constraint import Constraint
from ..model.compute_queue import sent
from ..model.sampler import TokenMask
from .pending_step import IssuedStep

if TYPE_CHECKING:
    from ..grammar.constraints import Constraints, MaskBatch

ConstrainedRows: TypeAlias = Sequence[tuple[int, Constraint]]
"""The constrained rows among those that a step samples."""


class GrammarMasks:
    """Advances matchers and computes masks: for a CPU in a thread, since the forward pass uses the
    caller's; for a GPU, which computes by itself, in the caller's, since a change of threads takes
    as long as ten masks. Its methods are called in the queue, so in the order of the steps."""

    def __init__(
        self,
        run: Path,
        vocab_size: int,
        eos_token_ids: Sequence[int],
        threads: int,
        *,
        on_gpu: bool,
    ) -> None:
        """`run`: directory with the server's table of tokens; `threads` compute masks."""
        self._about = run, vocab_size, eos_token_ids, threads, _new_bits(pinned=on_gpu)
        self._constraints: Constraints | None = None
        self._thread = None if on_gpu else ThreadPoolExecutor(1, thread_name_prefix="grammar")
        self._unread: list[tuple[IssuedStep, ConstrainedRows]] = []
        """Steps whose tokens the matchers have not got yet."""

    def start(self, rows: ConstrainedRows) -> Callable[[], MaskBatch]:
        """Starts to compute a step's masks, once the steps before it are done; the result waits for
        them."""
        before, self._unread = self._unread, []
        if self._thread is None:
            return functools.partial(self._compute, before, rows)
        return self._thread.submit(self._compute, before, rows).result

    def add_step(self, issued: IssuedStep, rows: ConstrainedRows) -> None:
        """Has the tokens of a step read before the next masks are computed."""
        self._unread.append((issued, rows))

    def forget(self) -> None:
        """Drops steps whose sequences are gone."""
        self._unread = []

    def _compute(
        self, before: Sequence[tuple[IssuedStep, ConstrainedRows]], rows: ConstrainedRows
    ) -> MaskBatch:
        for issued, earlier in before:
            token_ids = issued.token_ids()
            for row, constraint in earlier:
                constraint.accept_token(token_ids[row])
        if self._constraints is None:
            from ..grammar.constraints import Constraints  # llguidance: 0.1 s

            self._constraints = Constraints(*self._about)
        return self._constraints.compute_masks([constraint for _, constraint in rows])


def _new_bits(*, pinned: bool) -> Callable[[int, int], NDArray[np.int32]]:
    """Makes memory on the host; from pinned memory a GPU copies without the host's waiting."""

    def make(rows: int, words: int) -> NDArray[np.int32]:
        made: NDArray[np.int32] = torch.zeros(
            (rows, words), dtype=torch.int32, pin_memory=pinned and rows > 0
        ).numpy()
        return made

    return make


def token_mask(rows: ConstrainedRows, masks: MaskBatch, device: torch.device) -> TokenMask:
    """The masks on the device, sent without waiting for it."""
    bits = sent(torch.from_numpy(masks.bits.view("uint8")), device)
    return TokenMask(tuple(row for row, _ in rows), bits, masks.is_complete)

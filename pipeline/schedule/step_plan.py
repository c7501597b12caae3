"""`StepPlan`: one step in the making; `Decision`: why a request is admitted in it, or waits."""

from __future__ import annotations

import msgspec

from ..messages import Admission, BatchRow
from .sequence import Sequence


class StepPlan:
    """What a step holds so far, and how much more it may take."""

    def __init__(self, now: float) -> None:
        self.now = now
        """When it is planned, unix seconds."""
        self.budget = 0
        """Prompt tokens that may still be computed in this step."""
        self.rows: dict[int, BatchRow] = {}
        self.admissions: list[Admission] = []
        self.sampling: set[int] = set()
        """Sequences whose row samples a token."""
        self.others: list[Sequence] = []
        """Running sequences that compute a piece of prompt, or that need a page."""


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """One admission decision with its arithmetic, in tokens and pages.

    Admitted where `need` + `adapters` + `adapter_pages` <= `total` after idle adapters have gone, a
    place in the batch is free (`running`), prompt tokens of the step are left (`budget`), and its
    adapter is in its pages.
    """

    request: str
    is_admitted: bool
    held: int
    remaining: int
    need: int
    """Worst-case pages of all that run, with this one; 0 where it was not computed."""
    free: int
    kv: int
    adapters: int
    """Pages that adapters hold."""
    adapter_pages: int
    """Pages that its own adapter would still take."""
    total: int
    budget: int
    running: int
    reason: str = ""

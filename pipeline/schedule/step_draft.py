"""`StepDraft`: one step in the making. Knows no policy and no pool."""

from __future__ import annotations

from ..messages import Admission, BatchRow
from .sequence import Sequence


class StepDraft:
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

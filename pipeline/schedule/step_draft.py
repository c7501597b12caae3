"""`StepDraft`: a step that is being planned. Knows no policy and no pool."""

from __future__ import annotations

from ..messages import Admission, BatchRow
from .sequence import Sequence


class StepDraft:
    """The rows of a step so far, and how many prompt tokens it may still take."""

    def __init__(self, now: float) -> None:
        self.now = now
        """Time of planning, unix seconds."""
        self.budget = 0
        """Prompt tokens that may still be computed in this step."""
        self.rows: dict[int, BatchRow] = {}
        self.admissions: list[Admission] = []
        self.sampling: set[int] = set()
        """Sequences whose row samples a token."""
        self.others: list[Sequence] = []
        """Running sequences that compute a piece of prompt or need a page."""
        self.prompts: list[tuple[Sequence, int]] = []
        """Pieces of prompts in this step, and their tokens."""

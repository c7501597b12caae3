"""`Constraint`: the grammar of one sequence, and how far its answer has come."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..messages import SamplingParams

if TYPE_CHECKING:  # imports llguidance, which most workers never need
    from .matcher import Matcher


@dataclass
class Constraint:
    """A sequence's grammar. Its matcher is made by `Constraints`, in the thread that uses it."""

    params: SamplingParams
    output_ids: Sequence[int]
    """Tokens of the answer before this worker's own."""
    matcher: Matcher | None = None
    error: str = ""
    """Why it has no matcher."""

    @property
    def reason(self) -> str:
        """Why the answer cannot go on; "" if it can."""
        return self.error if self.matcher is None else self.matcher.error

    def accept_token(self, token_id: int) -> None:
        """Advances by the token that was sampled after its last mask."""
        if self.matcher is not None:
            self.matcher.accept_tokens((token_id,))

"""`StepCharge`: who pays for the device time of a step."""

from __future__ import annotations

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

from ..messages import BatchRow
from .step_draft import StepDraft
from .tally import Tally


@dataclass(frozen=True)
class StepCharge:
    """A posted step: how many tokens it computes, and which of them sample nothing.

    Formula: price = device time of the step / tokens of the step; a row pays price * its tokens. A
    row that samples pays for its last token when that token is accepted; the rest is in `prompts`.
    So the parts of all adapters and the base add up to the device time of the steps. It takes a
    token of a prompt for as dear as a decoded one, and ignores the lengths of the rows' KV.
    """

    num_tokens: int
    prompts: tuple[tuple[Tally, int], ...]
    """Tokens that sample nothing, by the tally that pays for them."""
    released: tuple[int, ...]
    """Sequences that have no row in this step or a later one."""

    @classmethod
    def of(cls, plan: StepDraft, rows: ListLike[BatchRow], released: tuple[int, ...]) -> StepCharge:
        """The charge of a planned step; `rows` are its rows."""
        more = sum(count - 1 for _, count in plan.prompts)
        silent = tuple(
            (sequence.tally, count - (sequence.number in plan.sampling))
            for sequence, count in plan.prompts
        )
        return cls(len(rows) + more, silent, released)

    def price_us(self, busy_us: int) -> float:
        """Microseconds of device time a token; 0 if the step was not timed."""
        return busy_us / self.num_tokens

    def pay_prompts(self, price_us: float) -> None:
        for tally, count in self.prompts:
            tally.device_us += price_us * count

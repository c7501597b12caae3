"""`LiveSequences`: the sequences that steps compute, and their slots in the token history.

Knows no tensor and no adapter's weights.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..messages import Admission, BatchRow, SamplingParams
from ..model.batch_torch import StepRow
from ..model.page_pool import PAGE_SIZE


@dataclass
class LiveSequence:
    """What the runner holds of a sequence: where its tokens and pages are, and how far it is."""

    number: int
    slot: int
    params: SamplingParams
    adapter: str | None
    num_prompt: int
    admitted: int
    """Tokens it came with; those after were sampled here."""
    known: int
    """Tokens in the history, the one still being sampled included."""
    computed: int = 0
    pages: list[int] = field(default_factory=list)

    def advance(self, row: BatchRow, adapter: str | None, unclean: list[int]) -> StepRow:
        """Moves on by one row, which is computed with `adapter`; new pages that the row does not
        fill go to `unclean`."""
        start, stop = self.computed, self.computed + row.num_tokens
        assert row.num_tokens > 0 and stop <= self.known, (
            f"sequence {self.number}: tokens {start} to {stop} of {self.known} known"
        )
        full = stop // PAGE_SIZE
        self.pages.extend(row.new_pages)
        unclean.extend(self.pages[max(full, len(self.pages) - len(row.new_pages)) :])
        assert stop <= len(self.pages) * PAGE_SIZE, (
            f"sequence {self.number}: {stop} tokens in {len(self.pages)} pages"
        )
        self.computed = stop
        return StepRow(self.slot, start, row.num_tokens, self.known, self.pages, adapter)


class LiveSequences:
    """Sequences by number. A slot that was released is given out again before a new one."""

    def __init__(self) -> None:
        self._live: dict[int, LiveSequence] = {}
        self._free_slots: list[int] = []
        self.num_slots = 0
        """Slots that were ever in use since `clear`."""

    def __getitem__(self, number: int) -> LiveSequence:
        return self._live[number]

    def admit(self, admission: Admission, adapter: str | None) -> LiveSequence:
        """Takes a sequence in and gives it a slot."""
        assert admission.sequence not in self._live, f"{admission.sequence} is already here"
        if self._free_slots:
            slot = self._free_slots.pop()
        else:
            slot, self.num_slots = self.num_slots, self.num_slots + 1
        count = len(admission.token_ids)
        sequence = LiveSequence(
            admission.sequence,
            slot,
            admission.params,
            adapter,
            admission.num_prompt,
            admitted=count,
            known=count,
        )
        self._live[admission.sequence] = sequence
        return sequence

    def release(self, number: int) -> None:
        """Forgets a sequence; its slot is free."""
        self._free_slots.append(self._live.pop(number).slot)

    def clear(self) -> None:
        """Forgets all of them, and every slot."""
        self._live.clear()
        self._free_slots.clear()
        self.num_slots = 0

"""`LiveSequences`: the sequences that steps compute, and their slots in the token history.

Knows no tensor and no adapter's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ..grammar.constraint import Constraint
from ..messages import Admission, BatchRow, KeptSequence, SamplingParams
from ..model.batch_torch import ScoredRow, StepRow
from ..model.page_pool import PAGE_SIZE, pages_for
from ..model.token_rules import TokenRules


@dataclass
class LiveSequence:
    """The runner's record of a sequence: its slot, its pages, and how far it is computed."""

    number: int
    slot: int
    params: SamplingParams
    adapter: str | None
    num_prompt: int
    admitted: int
    """Tokens it was admitted with; later ones were sampled here."""
    known: int
    """Tokens in the history, including the one being sampled."""
    computed: int = 0
    pages: list[int] = field(default_factory=list)
    request_id: str = ""
    arrived_at: float = 0.0
    """Of its request; "" and 0 for what no request asked for."""
    rules: TokenRules | None = None
    scored: int = 0
    """First tokens of the prompt whose logprobs are known; 0: none are asked for."""
    constraint: Constraint | None = None

    def advance(self, row: BatchRow, adapter: str | None, unclean: list[int]) -> StepRow:
        """Advances by one row, computed with `adapter`; new pages that the row does not fill are
        added to `unclean`."""
        start, stop = self.computed, self.computed + row.num_tokens
        assert row.num_tokens > 0 and stop <= self.known, (
            f"sequence {self.number}: tokens {start} to {stop} of {self.known} known"
        )
        # Pages kept over a restart are new here, but begin with tokens already computed.
        first = max(stop // PAGE_SIZE, pages_for(start))
        self.pages.extend(row.new_pages)
        unclean.extend(self.pages[max(first, len(self.pages) - len(row.new_pages)) :])
        assert stop <= len(self.pages) * PAGE_SIZE, (
            f"sequence {self.number}: {stop} tokens in {len(self.pages)} pages"
        )
        self.computed = stop
        given = (self.slot, start, row.num_tokens, self.known, self.pages, adapter)
        if self.scored:
            scores_from, scores_to = self._scores(start, stop)
            if scores_from < scores_to:
                return ScoredRow(*given, scores_from, scores_to)
        return StepRow(*given)

    def _scores(self, start: int, stop: int) -> tuple[int, int]:
        """The positions from `start` to `stop` whose states are wanted, from and to; none if
        these are not in order. All but the prompt's last, whose next token is no part of the
        prompt, or those that are pooled."""
        pooling = self.params.pooling
        first = {"": self.scored - 1, "mean": 0, "last": self.num_prompt - 1}[pooling]
        end = self.num_prompt if pooling else self.num_prompt - 1
        return max(start, first), min(stop, end)


class LiveSequences:
    """Sequences by number. A released slot is reused before a new one is created."""

    def __init__(self) -> None:
        self._live: dict[int, LiveSequence] = {}
        self._free_slots: list[int] = []
        self.num_slots = 0
        """Slots created since `clear`."""
        self._num_scored = 0
        self._num_constrained = 0

    def __getitem__(self, number: int) -> LiveSequence:
        return self._live[number]

    @property
    def has_scored(self) -> bool:
        """Whether a request asks for the logprobs of its prompt."""
        return self._num_scored > 0

    def admit(self, admission: Admission, adapter: str | None) -> LiveSequence:
        """Adds a sequence and assigns it a slot."""
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
            computed=admission.computed,
            request_id=admission.request_id,
            arrived_at=admission.arrived_at,
        )
        if admission.params.prompt_logprobs is not None:
            sequence.scored = admission.scored
            self._num_scored += 1
        if admission.params.grammar:
            output = admission.token_ids[admission.num_prompt :]
            sequence.constraint = Constraint(admission.params, output)
            self._num_constrained += 1
        self._live[admission.sequence] = sequence
        return sequence

    def constrained(self, rows: Sequence[LiveSequence]) -> list[tuple[int, Constraint]]:
        """The rows that have a constraint, by their place."""
        if not self._num_constrained:
            return []
        return [(i, s.constraint) for i, s in enumerate(rows) if s.constraint is not None]

    def release(self, number: int) -> None:
        """Removes a sequence and frees its slot."""
        sequence = self._live.pop(number)
        self._num_scored -= sequence.scored > 0
        self._free_slots.append(sequence.slot)
        self._num_constrained -= sequence.constraint is not None

    def kept(self) -> tuple[KeptSequence, ...]:
        """What the pages hold of each request, once all launched steps are done."""
        return tuple(
            KeptSequence(s.request_id, s.arrived_at, s.adapter, s.computed, tuple(s.pages))
            for s in self._live.values()
            if s.request_id
        )

    def clear(self) -> None:
        """Removes all sequences and slots."""
        self._live.clear()
        self._num_scored = 0
        self._free_slots.clear()
        self.num_slots = self._num_constrained = 0

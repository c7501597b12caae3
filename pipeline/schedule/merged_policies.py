"""Policies that keep a batch to one adapter, so that the workers may compute it with that adapter
merged into a copy of the weights.

They only name the adapter (`merge_target`). Answers never depend on it: the merged copy computes
steps of that adapter alone, and the original weights compute all others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from ..messages import SchedulerSettings
from .adapter_registry import AdapterRecord
from .policies import Policy
from .sequence import Sequence, SequenceState
from .waiting_queue import WaitingQueue

MOST_OVERTAKEN = 30
"""S-LoRA's rule against starvation."""


class Merged(Policy):
    """One adapter at a time (S-LoRA's `peft`); the base model counts as one.

    It is the batch's adapter, or that of the oldest request if nothing runs. Requests of others
    wait until it has drained. It drains when more than 30 of them are ahead of its own oldest
    (S-LoRA's rule), or when 30 of its own have overtaken the oldest of all. Without the second rule
    a single request would wait as long as requests for this adapter keep arriving.
    """

    merges = True

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self._serving: AdapterRecord | None = None
        self._overtaken = 0

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        serving = running[0].adapter if running else queue.oldest.adapter
        if any(sequence.adapter is not serving for sequence in running):
            self.held_back = "until the batch has one adapter only"  # the policy has just changed
            return
        if serving is not self._serving:
            self._serving, self._overtaken = serving, 0
        self.merge_target = serving if serving.name else None
        name = serving.name or "the base model"
        self.held_back = f"one adapter at a time: {name} now"
        own = [s for s in queue.of_client(serving.name) if s.adapter is serving]
        if own and queue.position(own[0]) > MOST_OVERTAKEN:
            self.held_back = f"until {name} has drained: {MOST_OVERTAKEN} others are older"
            return
        for sequence in own:
            if self._overtaken >= MOST_OVERTAKEN and queue.oldest.adapter is not serving:
                self.held_back = f"until {name} has drained: {MOST_OVERTAKEN} overtook another"
                return
            yield sequence

    def on_leave(self, sequence: Sequence, queue: WaitingQueue) -> None:
        if sequence.state is SequenceState.RUNNING and queue:
            oldest = queue.oldest
            if oldest.adapter is not sequence.adapter and oldest.age < sequence.age:
                self._overtaken += 1


class Credit(Policy):
    """dLoRA's credit batching: one adapter merged while it fills the batch, else all mixed.

    Let n be the requests that oldest first would have in the batch, and q_a those of adapter a
    (running and waiting, at most a batch). It merges a = argmax q_a once q_a >= n and n is at least
    half a batch, and keeps it while q_a >= 0.556 n (dLoRA's merge time over its unmerge time).
    Mixed, it is oldest first; merged, only a is admitted. Each admission past older requests of
    other adapters gives each of those adapters a credit of 1 / (0.556 batch), and takes as much
    from a, down to 0. An adapter with a credit of 1 is served before all others until it has less
    than half of that, or no request waiting: a merged adapter overtakes no request by more than
    0.556 batches.

    dLoRA adapts its thresholds to estimated throughput; these are its initial values.
    """

    counts = merges = True
    ENTER, STAY = 1.0, 0.556
    FORCE, RELEASE = 1.0, 0.5

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self.credits: dict[str, float] = {}
        self._forced: str | None = None

    def kept_counters(self) -> dict[str, float]:
        return dict(self.credits)

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        self.credits.update(counters)

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        forced = self._find_forced(queue)
        if forced is not None:
            self.merge_target = None
            yield from queue.of_client(forced)
            yield from (s for s in queue if s.adapter.name != forced)
            return
        merged = self.merge_target = self._find_merged(queue, running)
        if merged is None:
            yield from queue
            return
        self.held_back = f"adapter {merged.name} is merged and fills the batch"
        for sequence in queue.of_client(merged.name):
            if self._find_forced(queue) is not None:
                return  # the next pass serves it
            if sequence.adapter is merged:
                yield sequence

    def _find_forced(self, queue: WaitingQueue) -> str | None:
        """The client whose credit puts it before all others, if any."""
        if self._forced is not None:
            owed = self.credits.get(self._forced, 0.0)
            if owed >= self.RELEASE and queue.first_of(self._forced):
                return self._forced
        owed, name = max(((c, n) for n, c in self.credits.items()), default=(0.0, ""))
        self._forced = name if owed >= self.FORCE else None
        return self._forced

    def _find_merged(self, queue: WaitingQueue, running: list[Sequence]) -> AdapterRecord | None:
        """The adapter that fills a batch alone, if any."""
        fcfs = min(len(queue) + len(running), self.max_running)
        counts: dict[AdapterRecord, int] = {}
        for client in queue.clients():
            if client and (first := queue.first_of(client)):
                counts[first.adapter] = first.adapter.waiting + first.adapter.running
        for sequence in running:
            adapter = sequence.adapter
            if adapter.name:
                counts[adapter] = adapter.waiting + adapter.running
        # The key breaks ties, so that the choice is always the same.
        most = max(counts.items(), key=lambda item: (item[1], item[0].key), default=None)
        if most is None:
            return None
        adapter, count = most
        current = self.merge_target
        if current is not None and min(counts.get(current, 0), fcfs) >= self.STAY * fcfs:
            return current
        is_worth = 2 * fcfs >= self.max_running
        return adapter if is_worth and min(count, fcfs) >= self.ENTER * fcfs else None

    def on_leave(self, sequence: Sequence, queue: WaitingQueue) -> None:
        client = sequence.adapter.name
        if sequence.state is SequenceState.RUNNING and self.merge_target is sequence.adapter:
            step = 1.0 / max(1.0, self.STAY * self.max_running)
            for other in self._older(sequence, queue):
                self.credits[other] = self.credits.get(other, 0.0) + step
                self.credits[client] = max(0.0, self.credits.get(client, 0.0) - step)
        elif sequence.state is SequenceState.RUNNING and client == self._forced:
            step = 1.0 / max(1, self.max_running)
            self.credits[client] = max(0.0, self.credits.get(client, 0.0) - step)
        if not queue.first_of(client):
            self.credits.pop(client, None)  # no request of it waits: its credit lapses

    @staticmethod
    def _older(sequence: Sequence, queue: WaitingQueue) -> Iterable[str]:
        """Other clients with an older request waiting."""
        oldest = ((client, queue.first_of(client)) for client in queue.clients())
        name = sequence.adapter.name
        return [c for c, first in oldest if first and c != name and first.age < sequence.age]

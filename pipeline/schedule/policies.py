"""Policies: the order in which waiting requests are tried. The scheduler decides whether there is
room.

Each is one small class. Those that keep a batch to one adapter are in `merged_policies.py`, the
one that uses latencies is in `pets.py`, and `make_policy` makes any by its name.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import ClassVar

from ..messages import SchedulerSettings
from .adapter_registry import AdapterRecord
from .sequence import Sequence, SequenceState
from .waiting_queue import WaitingQueue

OVERHEAD_SECONDS = 0.5
"""S-LoRA's allowance between admission and first token."""
MOST_CLIENTS = 4096
"""Most counters of the fair policy: adapters come and go under new names."""
SMOOTHING = 0.7
"""The weight of the newest value in S-LoRA's moving averages."""


class Policy:
    """The interface between scheduler and policy. `candidates` must not change the queue. It is
    read only as far as there is room, so a generator computes no more than is tried."""

    counts_tokens: ClassVar[bool] = False
    """Whether the scheduler calls `on_tokens`."""
    counts: ClassVar[bool] = False
    """Whether it has `kept_counters`."""
    merges: ClassVar[bool] = False
    """Whether it ever has a `merge_target`."""
    max_running = 1
    """Most requests in a batch; set by the scheduler."""
    counters: Mapping[str, float] = MappingProxyType({})
    """Service of each client so far, by its adapter's name; empty if it is not counted."""
    merge_target: AdapterRecord | None = None
    """The adapter that the workers should keep merged into a copy of the weights."""
    held_back = "behind another in the queue"
    """The reason shown for sequences that the last `candidates` did not yield."""

    def __init__(self, settings: SchedulerSettings) -> None:
        self.configure(settings)

    def configure(self, settings: SchedulerSettings) -> None:
        """Sets new parameters of the same policy; its counters stay."""

    def kept_counters(self) -> dict[str, float]:
        """What it has counted so far by client, for a router that continues this one's work."""
        return {}

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        """Goes on with the `kept_counters` of an earlier policy of the same name."""

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterable[Sequence]:
        """Sequences to be tried for admission, in turn. When the next one is requested, the last is
        either RUNNING or could not be admitted."""
        raise NotImplementedError

    def place(self, older: int, number: int) -> int:
        """The place in a queue of `number`, 1 is tried first, of a sequence with `older` older ones
        in it; 0 if age alone does not decide."""
        return 0

    def on_arrival(self, sequence: Sequence, queue: WaitingQueue) -> None:
        """A sequence is about to enter the queue: new, or preempted."""

    def on_leave(self, sequence: Sequence, queue: WaitingQueue) -> None:
        """A sequence has left the queue: admitted if its state is RUNNING, else ended."""

    def on_tokens(self, sequences: Iterable[Sequence]) -> None:
        """Each of these sequences got one more token."""

    def overdue(self, queue: WaitingQueue, now: float) -> list[tuple[Sequence, str]]:
        """Sequences to be ended unserved, each with the reason for its client."""
        return []


class FirstComeFirstServed(Policy):
    """Oldest first (S-LoRA's default queue)."""

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterable[Sequence]:
        return iter(queue)

    def place(self, older: int, number: int) -> int:
        return older + 1


class LastInFirstOut(Policy):
    """Newest first: under overload the newest requests are still served in time."""

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterable[Sequence]:
        return reversed(queue)

    def place(self, older: int, number: int) -> int:
        return number - older


class Cluster(Policy):
    """S-LoRA's adapter clustering: oldest first until a batch has d different adapters
    (`batch_num_adapters`); then requests whose adapter is in the batch, oldest first; then the
    others, oldest first. So d is a preference, not a cap. The base model counts as no adapter and
    is always in the batch."""

    def configure(self, settings: SchedulerSettings) -> None:
        self._most = max(1, settings.batch_num_adapters)

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        inside = {s.adapter.name for s in running if s.adapter.name}
        line = iter(queue)
        while len(inside) < self._most:
            if (sequence := next(line, None)) is None:
                return
            yield sequence
            if sequence.state is SequenceState.RUNNING and sequence.adapter.name:
                inside.add(sequence.adapter.name)
        rest = list(line)
        clients = {"", *inside}
        yield from (s for s in rest if s.adapter.name in clients)
        yield from (s for s in rest if s.adapter.name not in clients)


class EarlyAbort(Policy):
    """S-LoRA's admission control: a request whose first token would come after `slo_seconds` is
    ended, with the reason. When more arrive than are served, the newest goes first, since the
    oldest would be late anyway.

    With a = arrivals since the last admission, b = requests admitted then, both averaged as
    x' = 0.7 new + 0.3 x, it is newest first while a >= max(b, 1). S-LoRA rounds both down at every
    try, and so never counts less than one arrival per try. Here they are averaged from admission to
    admission and not rounded, so the rate does not depend on how often admission is tried.
    """

    def __init__(self, settings: SchedulerSettings) -> None:
        super().__init__(settings)
        self._arrived = self._admitted = 0
        self._arrivals = 0.0
        self._batch = self._batch_before = 1.0

    def configure(self, settings: SchedulerSettings) -> None:
        self._slo = settings.slo_seconds

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        arrivals = SMOOTHING * self._arrived + (1 - SMOOTHING) * self._arrivals
        self._admitted = 0
        yield from reversed(queue) if arrivals >= self._batch else queue

    def on_arrival(self, sequence: Sequence, queue: WaitingQueue) -> None:
        self._arrived += 1

    def on_leave(self, sequence: Sequence, queue: WaitingQueue) -> None:
        if sequence.state is not SequenceState.RUNNING:
            return
        if not self._admitted:  # the first of a pass: a time between admissions has ended
            self._arrivals = SMOOTHING * self._arrived + (1 - SMOOTHING) * self._arrivals
            self._arrived = 0
            self._batch_before = self._batch
        self._admitted += 1
        self._batch = max(SMOOTHING * self._admitted + (1 - SMOOTHING) * self._batch_before, 1.0)

    def overdue(self, queue: WaitingQueue, now: float) -> list[tuple[Sequence, str]]:
        late: list[tuple[Sequence, str]] = []
        for sequence in queue if queue and self._is_late(queue.oldest, now) else ():
            if not self._is_late(sequence, now):
                break
            if sequence.first_token_at is None:  # a preempted one was in time
                waited = now - sequence.request.arrived_at + OVERHEAD_SECONDS
                why = f"aborted: would start after {waited:.1f} s, --slo-seconds is {self._slo:g}"
                late.append((sequence, why))
        return late

    def _is_late(self, sequence: Sequence, now: float) -> bool:
        return now - sequence.request.arrived_at + OVERHEAD_SECONDS >= self._slo


class VirtualTokenCounter(Policy):
    """Fair shares among clients (Sheng et al., OSDI 2024): each has a counter of its service, and
    the one with the least is admitted next.

    Admission of a prompt of n tokens: c_u += w_p n / weight_u, once per request. Each output token:
    c_u += w_q / weight_u. When a request of u arrives and no other of u waits:
    c_u = max(c_u, min of c_v over clients v that wait), or with an empty queue max(c_u, c of the
    client that left the queue last). So an idle client saves up no credit.

    Bound (their lemma): the counters of any two clients that wait differ by at most max(w_p L, w_q
    M) / least weight, with L the longest prompt and M the tokens that the pool holds. So the
    service of two clients that always wait differs by at most twice that at any time. The bound
    holds only while no request waits for its adapter, since such a request lets others pass.
    """

    INPUT_WEIGHT, OUTPUT_WEIGHT = 1.0, 2.0
    counts = counts_tokens = True

    def __init__(self, settings: SchedulerSettings) -> None:
        self.counters: dict[str, float] = {}
        self._left_last = ""
        super().__init__(settings)

    def configure(self, settings: SchedulerSettings) -> None:
        self._weights = {weight.name: weight.weight for weight in settings.weights}
        self._costs: dict[str, float] = {}

    def kept_counters(self) -> dict[str, float]:
        return dict(self.counters)

    def restore_counters(self, counters: Mapping[str, float]) -> None:
        self.counters.update(counters)

    def candidates(self, queue: WaitingQueue, running: list[Sequence]) -> Iterator[Sequence]:
        heap = []
        for client in queue.clients():
            if first := queue.first_of(client):
                heap.append((self.counters.get(client, 0.0), first.age, client))
        heapq.heapify(heap)
        while heap:
            client = heap[0][2]
            first = queue.first_of(client)
            assert first is not None
            yield first
            if first.state is not SequenceState.RUNNING:
                heapq.heappop(heap)  # it waits for its adapter, as do all of this client
            elif following := queue.first_of(client):
                heapq.heapreplace(heap, (self.counters[client], following.age, client))
            else:
                heapq.heappop(heap)

    def on_arrival(self, sequence: Sequence, queue: WaitingQueue) -> None:
        client = sequence.adapter.name
        if queue.first_of(client):
            return
        least = min((self.counters.get(other, 0.0) for other in queue.clients()), default=None)
        if least is None:
            least = self.counters.get(self._left_last, 0.0)
        self.counters[client] = max(self.counters.get(client, 0.0), least)
        if len(self.counters) > MOST_CLIENTS:
            self._forget(queue)

    def _forget(self, queue: WaitingQueue) -> None:
        """Drops the lower half of the counters of clients that do not wait. One that returns gets
        the least of those that wait, which is more than most of these had."""
        idle = sorted(self.counters.keys() - queue.clients(), key=lambda c: (self.counters[c], c))
        for client in idle[: len(idle) // 2]:
            del self.counters[client]
        self._costs.clear()

    def on_leave(self, sequence: Sequence, queue: WaitingQueue) -> None:
        client = sequence.adapter.name
        self._left_last = client
        if sequence.state is SequenceState.RUNNING and not sequence.is_charged:
            sequence.is_charged = True
            self._charge(client, self.INPUT_WEIGHT * sequence.num_prompt)

    def on_tokens(self, sequences: Iterable[Sequence]) -> None:
        counters, costs = self.counters, self._costs
        for sequence in sequences:
            client = sequence.adapter.name
            cost = costs.get(client)
            if cost is None:
                cost = costs[client] = self.OUTPUT_WEIGHT / self._weights.get(client, 1.0)
            counters[client] = counters.get(client, 0.0) + cost

    def _charge(self, client: str, service: float) -> None:
        weight = self._weights.get(client, 1.0)
        self.counters[client] = self.counters.get(client, 0.0) + service / weight

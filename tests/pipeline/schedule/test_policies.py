"""Policies against a second scheduler, written from their formulas alone: slow, plain, with lists
that are sorted at every turn and a worst case that is simulated instead of computed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    POLICIES,
    POLICY_ALIASES,
    AdapterInfo,
    AdapterState,
    ClientWeight,
    Request,
    SampledToken,
    SamplingParams,
    SchedulerSettings,
    SetScheduler,
    Tokens,
)
from loraconsole.pipeline.schedule import merged_policies
from loraconsole.pipeline.schedule.adapter_registry import AdapterRegistry
from loraconsole.pipeline.schedule.pets import LatencyTable, cut, shortest_batch
from loraconsole.pipeline.schedule.policies import VirtualTokenCounter
from loraconsole.pipeline.schedule.policy_factory import SIMPLE, changed_settings
from loraconsole.pipeline.schedule.scheduler import Scheduler, SchedulerLimits
from loraconsole.pipeline.schedule.worst_case import Demand

NAMES = ("a", "b", "c")
SLO = 6.0


@dataclass
class Asked:
    """One request of a world, and how far it is."""

    name: str
    adapter: str
    """"" is the base model."""
    at: int
    prompt: int
    output: int
    said: int = 0
    charged: bool = False

    @property
    def held(self) -> int:
        return self.prompt + self.said

    @property
    def left(self) -> int:
        return self.output - self.said


@dataclass
class World:
    """What arrives, and what it may take."""

    asked: list[Asked]
    pool: int = 60
    places: int = 4
    numbers: SchedulerSettings = field(default_factory=SchedulerSettings)

    def copy(self) -> list[Asked]:
        return [Asked(a.name, a.adapter, a.at, a.prompt, a.output) for a in self.asked]


History = list[tuple[int, str, str]]
"""(step, admitted or ended, request), in order."""


# --- the real one -------------------------------------------------------------------------------


def make_scheduler(world: World, policy: str, table: LatencyTable | None = None) -> Scheduler:
    """With pages of one token, and adapters that take none and are there at once."""
    registry = AdapterRegistry({name: f"/{name}" for name in NAMES}, now=0.0)
    numbers = SchedulerSettings(
        policy=policy,
        weights=world.numbers.weights,
        batch_num_adapters=world.numbers.batch_num_adapters,
        slo_seconds=world.numbers.slo_seconds,
        max_wait_tokens=world.numbers.max_wait_tokens,
        max_per_adapter=world.numbers.max_per_adapter,
    )
    scheduler = Scheduler(registry, settings=numbers, table=table)
    limits = SchedulerLimits(
        num_pages=world.pool,
        page_size=1,
        max_model_len=1000,
        max_running=world.places,
        max_prefill_tokens=10_000,
        chunk_tokens=10_000,
    )
    scheduler.reset(1, limits, 0.0)
    for adapter in registry:
        adapter.change_state(AdapterState.VALIDATING, 0.0)
        adapter.note_read(0, AdapterInfo(adapter.key, "", 8, ("q_proj",), 0, 0, "digest"), 1, 0.0)
        scheduler.residency.settle(adapter, 0, 0.0)
        assert adapter.state is AdapterState.GPU
    return scheduler


def to_request(asked: Asked) -> Request:
    return Request(
        request_id=asked.name,
        adapter=asked.adapter or None,
        prompt_ids=(0,) * asked.prompt,
        params=SamplingParams(max_tokens=asked.output),
        arrived_at=float(asked.at),
    )


def answer(scheduler: Scheduler, now: float) -> list[str]:
    """One step, and its tokens back; who was admitted."""
    batch = scheduler.next_batch(now)
    if batch is None:
        return []
    by_number = {s.number: s.request.request_id for s in scheduler.sequences()}
    tokens = tuple(SampledToken(row.sequence, 1) for row in batch.rows)
    scheduler.accept_tokens(Tokens(batch.epoch, batch.step, 0, tokens), now)
    scheduler.check()
    return [by_number[admission.sequence] for admission in batch.admit]


def run_real(
    world: World, policy: str, watch: Callable[[Scheduler], None] | None = None
) -> History:
    scheduler = make_scheduler(world, policy)
    coming, history = world.copy(), []
    for step in itertools.count():
        while coming and coming[0].at <= step:
            scheduler.add_request(to_request(coming.pop(0)), 0.0)
        admitted = answer(scheduler, float(step))
        history += [(step, "ended", s.request.request_id) for s, _ in scheduler.refused]
        scheduler.refused.clear()
        history += [(step, "admitted", name) for name in admitted]
        if watch:
            watch(scheduler)
        if not coming and not len(scheduler):
            return history
        assert step < 5000, "a request never ran"
    raise AssertionError


# --- the plain one ------------------------------------------------------------------------------


def worst_case(running: list[Asked]) -> int:
    """The most tokens that are held at any moment of a run of all to their end."""
    moments = range(max((r.left for r in running), default=0) + 1)
    return max(sum(r.held + t for r in running if r.left >= t) for t in moments)


@dataclass
class Plain:
    """One turn: end late requests, plan a token for each that runs, admit others until one does not
    fit, plan a token for those, and remove the requests that have all their tokens."""

    world: World
    waiting: list[Asked] = field(default_factory=list)
    running: list[Asked] = field(default_factory=list)

    def __post_init__(self) -> None: ...

    def run(self) -> History:
        coming, history = self.world.copy(), []
        for step in itertools.count():
            while coming and coming[0].at <= step:
                self.arrives(coming.pop(0))
            for late in self.late(step):
                self.waiting.remove(late)
                history.append((step, "ended", late.name))
            for request in self.running:
                request.said += 1
            tried: set[str] = set()
            new: list[Asked] = []
            while len(self.running) < self.world.places:
                found = self.choose(tried)
                if found is None or worst_case([*self.running, found]) > self.world.pool:
                    break
                self.waiting.remove(found)
                self.running.append(found)
                self.admitted(found)
                history.append((step, "admitted", found.name))
                new.append(found)
            self.passed()
            self.spoke(self.running)
            for request in new:
                request.said += 1
            self.running = [r for r in self.running if r.left]
            if not coming and not self.waiting and not self.running:
                return history
        raise AssertionError

    def arrives(self, request: Asked) -> None:
        self.waiting.append(request)

    def late(self, step: int) -> list[Asked]:
        return []

    def choose(self, tried: set[str]) -> Asked | None:
        raise NotImplementedError

    def admitted(self, request: Asked) -> None: ...

    def passed(self) -> None: ...

    def spoke(self, requests: list[Asked]) -> None: ...


class PlainFcfs(Plain):
    def choose(self, tried: set[str]) -> Asked | None:
        return self.waiting[0] if self.waiting else None


class PlainLifo(Plain):
    def choose(self, tried: set[str]) -> Asked | None:
        return self.waiting[-1] if self.waiting else None


class PlainCluster(Plain):
    def choose(self, tried: set[str]) -> Asked | None:
        inside = {r.adapter for r in self.running} - {""}
        if not tried and len(inside) >= self.world.numbers.batch_num_adapters:
            tried |= {"", *inside}  # they stay the preferred ones of this turn
        for request in self.waiting:
            if request.adapter in tried:
                return request
        return self.waiting[0] if self.waiting else None


class PlainMerged(Plain):
    serving: str | None = None
    overtook = 0

    def choose(self, tried: set[str]) -> Asked | None:
        if not self.waiting:
            return None
        serving = self.running[0].adapter if self.running else self.waiting[0].adapter
        if serving != self.serving:
            self.serving, self.overtook = serving, 0
        own = [i for i, r in enumerate(self.waiting) if r.adapter == serving]
        # Counted at the start of a turn: those before its first are others by definition.
        if not own or (not tried and own[0] > merged_policies.MOST_OVERTAKEN):
            return None
        tried.add("this turn has begun")
        if own[0] > 0 and self.overtook >= merged_policies.MOST_OVERTAKEN:
            return None
        self.next_overtakes = own[0] > 0
        return self.waiting[own[0]]

    next_overtakes = False

    def admitted(self, request: Asked) -> None:
        self.overtook += self.next_overtakes


class PlainAbort(Plain):
    came = 0
    rate, size = 0.0, 1.0
    now_admitted = 0
    newest_first: bool | None = None

    def arrives(self, request: Asked) -> None:
        super().arrives(request)
        self.came += 1

    def late(self, step: int) -> list[Asked]:
        return [r for r in self.waiting if step - r.at + 0.5 >= SLO]

    def choose(self, tried: set[str]) -> Asked | None:
        if self.newest_first is None:
            self.newest_first = 0.7 * self.came + 0.3 * self.rate >= self.size
        if not self.waiting:
            return None
        return self.waiting[-1] if self.newest_first else self.waiting[0]

    def admitted(self, request: Asked) -> None:
        self.now_admitted += 1

    def passed(self) -> None:
        self.newest_first = None
        if self.now_admitted:
            self.rate = 0.7 * self.came + 0.3 * self.rate
            self.size = max(0.7 * self.now_admitted + 0.3 * self.size, 1.0)
            self.came = self.now_admitted = 0


class PlainFair(Plain):
    def __post_init__(self) -> None:
        self.counter = dict.fromkeys(("", *NAMES), 0.0)
        self.weight = {w.name: w.weight for w in self.world.numbers.weights}
        self.last_out = ""

    def arrives(self, request: Asked) -> None:
        clients = {r.adapter for r in self.waiting}
        if request.adapter not in clients:
            floor = (
                min(self.counter[c] for c in clients) if clients else self.counter[self.last_out]
            )
            self.counter[request.adapter] = max(self.counter[request.adapter], floor)
        super().arrives(request)

    def choose(self, tried: set[str]) -> Asked | None:
        heads: dict[str, Asked] = {}
        for request in self.waiting:
            heads.setdefault(request.adapter, request)
        order = sorted(
            heads.values(), key=lambda r: (self.counter[r.adapter], self.waiting.index(r))
        )
        return order[0] if order else None

    def admitted(self, request: Asked) -> None:
        self.counter[request.adapter] += request.prompt / self.weight.get(request.adapter, 1.0)
        self.last_out = request.adapter

    def spoke(self, requests: list[Asked]) -> None:
        for request in requests:
            self.counter[request.adapter] += 2.0 / self.weight.get(request.adapter, 1.0)


class PlainCredit(Plain):
    def __post_init__(self) -> None:
        self.credit: dict[str, float] = {}
        self.forced: str | None = None
        self.merged: str | None = None

    def owed(self) -> str | None:
        """The client that credit puts first."""
        waits = {r.adapter for r in self.waiting}
        if self.forced in waits and self.credit.get(self.forced, 0.0) >= 0.5:
            return self.forced
        order = sorted(self.credit.items(), key=lambda item: (item[1], item[0]))
        self.forced = order[-1][0] if order and order[-1][1] >= 1.0 else None
        return self.forced

    def fills_the_batch(self) -> str | None:
        batch = min(len(self.waiting) + len(self.running), self.world.places)
        everybody = [r.adapter for r in (*self.waiting, *self.running) if r.adapter]
        if not everybody:
            return None
        most = max(set(everybody), key=lambda name: (everybody.count(name), name))
        if self.merged and min(everybody.count(self.merged), batch) >= 0.556 * batch:
            return self.merged
        is_worth = batch >= self.world.places / 2
        return most if is_worth and everybody.count(most) >= batch else None

    def choose(self, tried: set[str]) -> Asked | None:
        if not self.waiting:
            return None
        if "this turn has begun" not in tried:
            tried.add("this turn has begun")
            self.served_first = self.owed()
            self.merged = None if self.served_first is not None else self.fills_the_batch()
        if self.served_first is not None:
            own = [r for r in self.waiting if r.adapter == self.served_first]
            return (own or self.waiting)[0]
        if self.merged is None:
            return self.waiting[0]
        own = [r for r in self.waiting if r.adapter == self.merged]
        return own[0] if own and self.owed() is None else None

    def admitted(self, request: Asked) -> None:
        name, places = request.adapter, self.world.places
        if self.merged is not None and name == self.merged:
            number = int(request.name[1:])
            older = {r.adapter for r in self.waiting if int(r.name[1:]) < number} - {name}
            for other in older:
                step = 1 / max(1.0, 0.556 * places)
                self.credit[other] = self.credit.get(other, 0.0) + step
                self.credit[name] = max(0.0, self.credit.get(name, 0.0) - step)
        elif name == self.forced:
            self.credit[name] = max(0.0, self.credit.get(name, 0.0) - 1 / places)
        if name not in {r.adapter for r in self.waiting}:
            self.credit.pop(name, None)


PLAIN: dict[str, type[Plain]] = {
    "fcfs": PlainFcfs,
    "lifo": PlainLifo,
    "cluster": PlainCluster,
    "merged": PlainMerged,
    "abort": PlainAbort,
    "vtc_fair": PlainFair,
    "credit": PlainCredit,
}


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Up to 40 requests that come in bursts."""
    rows = draw(
        st.lists(
            st.tuples(
                st.sampled_from([0, 0, 0, 1, 3]),
                st.sampled_from(["", "a", "a", "b", "c"]),
                st.integers(1, 6),
                st.integers(1, 8),
            ),
            min_size=1,
            max_size=40,
        )
    )
    asked, at = [], 0
    for number, (gap, adapter, prompt, output) in enumerate(rows):
        at += gap
        asked.append(Asked(f"r{number}", adapter, at, prompt, output))
    weights = draw(st.lists(st.sampled_from([0.5, 1.0, 2.0, 4.0]), min_size=4, max_size=4))
    clients = ("", *NAMES)
    return World(
        asked,
        pool=draw(st.integers(14, 60)),
        places=draw(st.integers(1, 8)),
        numbers=SchedulerSettings(
            batch_num_adapters=draw(st.integers(1, 3)),
            slo_seconds=SLO,
            weights=tuple(itertools.starmap(ClientWeight, zip(clients, weights, strict=True))),
        ),
    )


@pytest.mark.slow
@pytest.mark.parametrize("policy", PLAIN)
@settings(max_examples=120, deadline=None)
@given(world=worlds())
def test_a_policy_admits_whom_its_formula_says_when_it_says(policy: str, world: World) -> None:
    with patch.object(merged_policies, "MOST_OVERTAKEN", 3):
        assert run_real(world, policy) == PLAIN[policy](world).run()


@pytest.mark.parametrize("policy", sorted(set(POLICIES) - {"abort"}))
@settings(max_examples=40, deadline=None)
@given(world=worlds())
def test_every_policy_serves_everybody_once(policy: str, world: World) -> None:
    history = run_real(world, policy)
    assert sorted(name for _, _, name in history) == sorted(a.name for a in world.asked)


# --- bounds -------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(world=worlds())
def test_counters_of_clients_that_wait_stay_within_the_bound(world: World) -> None:
    """The lemma of the virtual token counter, at every step of any world."""
    weight = {w.name: w.weight for w in world.numbers.weights}
    longest = max(a.prompt for a in world.asked)
    bound = max(1.0 * longest, 2.0 * world.pool) / min(weight.values())

    def watch(scheduler: Scheduler) -> None:
        assert isinstance(scheduler.policy, VirtualTokenCounter)
        waiting = [scheduler.policy.counters[c] for c in scheduler.waiting.clients()]
        assert not waiting or max(waiting) - min(waiting) <= bound

    run_real(world, "vtc_fair", watch)


def test_clients_that_always_wait_are_served_by_their_weights() -> None:
    rows = [("a", 400), ("b", 400)]
    asked = [Asked(f"{n}{i}", n, 0, 4, 6) for n, count in rows for i in range(count)]
    weights = (ClientWeight("a", 1.0), ClientWeight("b", 3.0))
    world = World(asked, pool=80, places=8, numbers=SchedulerSettings(weights=weights))
    history = run_real(world, "vtc_fair")
    until_b_is_done = max(i for i, (_, _, name) in enumerate(history) if name.startswith("b"))
    served = [name[0] for _, _, name in history[:until_b_is_done]]
    assert served.count("b") / served.count("a") == pytest.approx(3.0, rel=0.1)


def test_a_client_that_was_idle_has_saved_nothing_up() -> None:
    early = [Asked(f"a{i}", "a", 0, 4, 6) for i in range(60)]
    late = [Asked(f"b{i}", "b", 20, 4, 6) for i in range(60)]
    history = run_real(World([*early, *late], pool=40, places=4), "vtc_fair")
    since = [name[0] for step, _, name in history if step >= 20][:20]
    assert 8 <= since.count("b") <= 12, since


def test_merged_lets_nobody_be_overtaken_by_more_than_thirty() -> None:
    """One request among a stream of another adapter's that never ends while it waits."""
    stream = [Asked(f"a{i}", "a", i // 2, 2, 4) for i in range(400)]
    alone = Asked("alone", "b", 3, 2, 4)
    asked = sorted([*stream, alone], key=lambda a: a.at)
    history = run_real(World(asked, pool=100, places=8), "merged")
    names = [name for _, _, name in history]
    at = {a.name: a.at for a in asked}
    younger = [n for n in names[: names.index("alone")] if at[n] > at["alone"]]
    assert 0 < len(younger) <= 30


@pytest.mark.parametrize("policy", ["merged"])
@settings(max_examples=60, deadline=None)
@given(world=worlds())
def test_a_merged_batch_holds_one_adapter(policy: str, world: World) -> None:
    def watch(scheduler: Scheduler) -> None:
        assert len({s.adapter for s in scheduler.running}) <= 1

    run_real(world, policy, watch)


def test_credit_merges_who_fills_the_batch_and_forces_whom_it_bypassed() -> None:
    """A crowd for one adapter is merged; those it overtakes are served within 0.556 batches."""
    crowd = [Asked(f"a{i}", "a", i // 4, 2, 4) for i in range(400)]
    alone = Asked("alone", "b", 10, 2, 4)
    asked = sorted([*crowd, alone], key=lambda a: a.at)
    targets: list[str] = []

    def watch(scheduler: Scheduler) -> None:
        target = scheduler.policy.merge_target
        targets.append(target.name if target else "")

    history = run_real(World(asked, pool=200, places=10), "credit", watch)
    assert targets[5] == "a"
    names, at = [name for _, _, name in history], {a.name: a.at for a in asked}
    younger = [n for n in names[: names.index("alone")] if at[n] > at["alone"]]
    assert len(younger) <= 0.556 * 10 + 1


def test_credit_stays_mixed_where_no_adapter_fills_the_batch() -> None:
    asked = [Asked(f"r{i}", NAMES[i % 3], 0, 2, 4) for i in range(15)]
    targets: set[object] = set()
    history = run_real(
        World(asked, pool=100, places=6), "credit", lambda s: targets.add(s.policy.merge_target)
    )
    assert targets == {None}
    assert [name for _, _, name in history] == [a.name for a in asked], "oldest first"


# --- caps, waits, changes -----------------------------------------------------------------------


def test_an_adapter_at_its_cap_lets_others_pass_and_says_so() -> None:
    asked = [*(Asked(f"a{i}", "a", 0, 1, 9) for i in range(4)), Asked("b", "b", 0, 1, 9)]
    world = World(asked, places=8, numbers=SchedulerSettings(max_per_adapter=2))
    scheduler = make_scheduler(world, "fcfs")
    for request in asked:
        scheduler.add_request(to_request(request), 0.0)
    assert answer(scheduler, 0.0) == ["a0", "a1", "b"]
    reasons = {r.request_id: r.reason for r in scheduler.view(0.0).requests if r.reason}
    assert reasons == dict.fromkeys(("a2", "a3"), "adapter a runs 2, --max-per-adapter")


def test_max_wait_tokens_gives_s_loras_ten_steps_back() -> None:
    asked = [Asked("first", "a", 0, 1, 40), Asked("second", "a", 1, 1, 4)]
    every = run_real(World(asked, pool=100), "fcfs")
    tenth = run_real(World(asked, pool=100, numbers=SchedulerSettings(max_wait_tokens=10)), "fcfs")
    assert every == [(0, "admitted", "first"), (1, "admitted", "second")]
    assert tenth == [(0, "admitted", "first"), (11, "admitted", "second")]


def test_a_full_batch_is_not_held_against_the_queue_until_one_has_ended() -> None:
    """Full of long requests: no look at the queue until one has ended; then at once."""
    asked = [Asked(f"r{i}", "", 0, 2, 50) for i in range(10)]
    scheduler = make_scheduler(World(asked, pool=500, places=4), "fcfs")
    for request in asked:
        scheduler.add_request(to_request(request), 0.0)
    answer(scheduler, 0.0)
    policy = scheduler.policy
    with patch.object(policy, "candidates", side_effect=policy.candidates) as passes:
        for step in range(1, 20):
            answer(scheduler, float(step))
        assert passes.call_count <= 1, "the first step of all is one of prompts"
        scheduler.finish("r0")
        assert answer(scheduler, 20.0) == ["r4"]


def test_abort_tells_how_late_it_would_have_been() -> None:
    asked = [Asked("late", "", 0, 2, 4), Asked("long", "", 0, 2, 50)]
    world = World(asked, places=1, numbers=SchedulerSettings(slo_seconds=6.0))
    scheduler = make_scheduler(world, "abort")
    for request in asked:
        scheduler.add_request(to_request(request), 0.0)
    for step in range(8):
        answer(scheduler, float(step))
    [(sequence, reason)] = scheduler.refused
    assert sequence.request.request_id == "late"
    assert reason == "aborted: would start after 6.5 s, --slo-seconds is 6"
    assert "late" not in scheduler and "long" in scheduler


def test_every_policy_is_described_is_made_and_may_be_chosen() -> None:
    choices = get_args(get_type_hints(Config)["scheduler"])
    assert set(choices) == POLICIES.keys() | POLICY_ALIASES.keys()
    assert POLICIES.keys() == SIMPLE.keys() | {"pets"}


@pytest.mark.parametrize("after", sorted(POLICIES))
@settings(max_examples=15, deadline=None)
@given(world=worlds(), before=st.sampled_from(sorted(set(POLICIES) - {"abort"})))
def test_a_policy_may_change_while_requests_run_and_none_is_lost(
    after: str, world: World, before: str
) -> None:
    if after == "abort":
        world.numbers = SchedulerSettings(slo_seconds=1e6)
    scheduler = make_scheduler(world, before)
    coming, admitted = world.copy(), []
    for step in itertools.count():
        while coming and coming[0].at <= step:
            scheduler.add_request(to_request(coming.pop(0)), 0.0)
        if step == 4:
            order = SetScheduler(order="", reply_to="", policy=after)
            scheduler.set_policy(changed_settings(scheduler.settings, order, ("base",)))
        admitted += answer(scheduler, float(step))
        if not coming and not len(scheduler):
            break
        assert step < 5000, "a request never ran"
    assert sorted(admitted) == sorted(a.name for a in world.asked)


def test_settings_change_as_ordered_and_bad_ones_are_refused_with_the_reason() -> None:
    now = SchedulerSettings(policy="vtc_fair", weights=(ClientWeight("a", 2.0),))

    def order(**what: object) -> SetScheduler:
        return SetScheduler(order="o", reply_to="me", **what)  # type: ignore[arg-type]

    assert changed_settings(now, order(policy="peft"), ("m",)).policy == "merged"
    assert changed_settings(now, order(policy="slora"), ("m",)).weights == now.weights
    weights = changed_settings(now, order(weights=(ClientWeight("m", 3.0),)), ("m",)).weights
    assert weights == (ClientWeight("", 3.0),), "the base model by its served name"
    for bad, what in (
        (order(policy="best"), "no policy 'best'; known: fcfs, lifo"),
        (order(weights=(ClientWeight("a", 0.0),)), "weight 0 of 'a' is not above 0"),
        (order(slo_seconds=-1.0), "slo_seconds -1 is not above 0"),
        (order(max_per_adapter=-1), "max_per_adapter -1 is below 0"),
        (order(batch_num_adapters=0), "batch_num_adapters 0 is not above 0"),
    ):
        with pytest.raises(ValueError, match=what):
            changed_settings(now, bad, ("m",))


# --- pets ---------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 7), st.data())
def test_a_cut_costs_no_more_than_any_other(count: int, data: st.DataObject) -> None:
    """Against all 2^(n-1) ways to cut n."""
    pairs = [(i, j) for j in range(count) for i in range(j + 1)]
    costs = {pair: float(data.draw(st.integers(0, 9))) for pair in pairs}
    pieces = cut(count, lambda first, last: costs[first, last])
    assert [i for first, last in pieces for i in range(first, last + 1)] == list(range(count))
    totals = []
    for bits in itertools.product((False, True), repeat=count - 1):
        edges = [0, *(i + 1 for i, bit in enumerate(bits) if bit), count]
        totals.append(sum(costs[a, b - 1] for a, b in itertools.pairwise(edges)))
    assert sum(costs[piece] for piece in pieces) == min(totals)


def all_cuts(items: list[Any]) -> Iterator[list[list[Any]]]:
    """Every way to cut a list into pieces that are not empty."""
    for bits in itertools.product((False, True), repeat=len(items) - 1):
        edges = [0, *(i + 1 for i, bit in enumerate(bits) if bit), len(items)]
        yield [items[a:b] for a, b in itertools.pairwise(edges)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 9)),
        min_size=1,
        max_size=8,
        unique_by=lambda row: row[1],  # two ways that cost the same would both be right
    ),
    st.integers(0, 10**6),
)
def test_pets_finds_the_batch_that_a_search_of_all_finds(
    rows: list[tuple[str, int]], seed: int
) -> None:
    """By a table of random latencies, against every cut of every adapter's prompts and every cut of
    the pieces."""
    rng = random.Random(seed)
    sizes = range(1, 9)
    base = {b: {n: rng.uniform(1, 9) for n in range(1, 10)} for b in sizes}
    added = {b: {n: base[b][n] + rng.uniform(1, 9) for n in range(1, 10)} for b in sizes}
    asked = [Asked(f"r{i}", name, 0, length, 2) for i, (name, length) in enumerate(rows)]
    scheduler = make_scheduler(World(asked, pool=2000), "fcfs")
    for request in asked:
        scheduler.add_request(to_request(request), 0.0)
    found = shortest_batch(list(scheduler.waiting), LatencyTable(base=base, rank={8: added}))

    pieces: list[list[Asked]] = []
    for name in "ab":
        own = sorted((a for a in asked if a.adapter == name), key=lambda a: a.prompt)
        if own:
            pieces += min(
                all_cuts(own),
                key=lambda cuts: sum(
                    added[len(c)][c[-1].prompt] - base[len(c)][c[-1].prompt] for c in cuts
                ),
            )
    pieces.sort(key=lambda piece: (piece[-1].prompt, asked.index(piece[0])))

    def seconds(batches: list[list[list[Asked]]]) -> float:
        return sum(base[sum(map(len, batch))][batch[-1][-1].prompt] for batch in batches)

    first = min(all_cuts(pieces), key=seconds)[0]
    expected = [request.name for piece in first for request in piece]
    assert [s.request.request_id for s in found] == expected


def test_pets_serves_the_short_prompts_together_before_the_long_ones() -> None:
    lengths = [40, 2, 2, 40, 2, 2, 40, 2, 2, 2, 2, 2]
    asked = [Asked(f"r{i}", "a", 0, length, 2) for i, length in enumerate(lengths)]
    history = run_real(World(asked, pool=400, places=20), "pets")
    prompts = [lengths[int(name[1:])] for _, _, name in history]
    assert prompts == sorted(lengths)
    few = World(asked[:10], pool=400, places=20)
    assert [name for _, _, name in run_real(few, "pets")] == [a.name for a in asked[:10]]


def test_pets_keeps_apart_what_padding_would_slow_down_and_joins_what_launches_would() -> None:
    """By a table in which a step costs what its longest prompt would take for all."""
    asked = [Asked(f"r{i}", "", 0, 10 if i < 6 else 100, 2) for i in range(12)]
    scheduler = make_scheduler(World(asked, pool=2000), "fcfs")
    for request in asked:
        scheduler.add_request(to_request(request), 0.0)
    sequences = list(scheduler.waiting)

    def names(table: LatencyTable) -> list[str]:
        return [s.request.request_id for s in shortest_batch(sequences, table)]

    padded = LatencyTable(base={1: {10: 10.0, 100: 100.0}, 12: {10: 120.0, 100: 1200.0}})
    by_launch = LatencyTable(base={1: {10: 50.0, 100: 50.0}, 12: {10: 50.0, 100: 50.0}})
    assert names(by_launch) == [a.name for a in asked]
    # Base prompts are one mini-batch; of two adapters, the short ones' goes first.
    assert names(padded) == [a.name for a in asked]
    mixed = [Asked(f"r{i}", "a" if i < 6 else "b", 0, 10 if i < 6 else 100, 2) for i in range(12)]
    scheduler = make_scheduler(World(mixed, pool=2000), "fcfs")
    for request in mixed:
        scheduler.add_request(to_request(request), 0.0)
    sequences = list(scheduler.waiting)
    assert set(names(padded)) <= {f"r{i}" for i in range(6)}
    assert names(by_launch) == [a.name for a in mixed]


def test_a_table_of_latencies_is_interpolated_in_both_directions() -> None:
    text = b'{"base": {"2": {"32": 10, "64": 20}, "4": {"32": 30, "64": 50}}, '
    text += b'"rank": {"8": {"2": {"32": 14, "64": 26}, "4": {"32": 40, "64": 70}}}}'
    table = LatencyTable.decode(text)
    assert table.alpha(2, 32) == 10 and table.alpha(3, 48) == pytest.approx(27.5)
    assert table.alpha(1, 8) == 10 and table.alpha(4, 128) == 100 and table.alpha(8, 64) == 100
    assert table.beta(8, 2, 64) == 6 and table.beta(16, 4, 64) == 40 and table.beta(0, 4, 64) == 0


@pytest.mark.parametrize(
    ("text", "what"),
    [
        (b"{", "truncated"),
        (b'{"base": {"2": {"x": 1}}}', "x|key"),
        (b'{"base": {}}', "base has no entries"),
        (b'{"base": {"2": {}}}', "base has no entries, or none for a batch"),
        (b'{"base": {"2": {"8": -1}}}', "base has a latency below zero"),
        (b'{"base": {"0": {"8": 1}}}', "base has a batch or a length below one"),
        (b'{"bass": {}}', "unknown field `bass`"),
    ],
)
def test_a_bad_table_is_refused_with_the_reason(text: bytes, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        LatencyTable.decode(text)


# --- the formula --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entries", "need"),
    [([(9, 2047)], 2056), ([(2047, 2047)] * 3 + [(9, 7)] * 3, 12282)],
)
def test_demand_is_s_loras_formula_in_its_worked_examples(
    entries: list[tuple[int, int]], need: int
) -> None:
    demand = Demand(1)
    for held, remaining in entries[:-1]:
        demand.add_sequence(held, remaining)
    assert demand.with_candidate(*entries[-1]) == need
    assert Demand(1, entries).pages == need


def test_a_failed_candidate_leaves_no_trace_in_the_demand() -> None:
    """S-LoRA's queue kept it, and went on with it."""
    demand = Demand(1, [(10, 5)])
    before = demand.pages
    demand.with_candidate(1000, 1000)
    assert demand.pages == before

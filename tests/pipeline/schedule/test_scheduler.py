"""The scheduler against a worker that really keeps KV in the pages that batches name."""

from __future__ import annotations

import contextlib
import random
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.messages import (
    POLICIES,
    AdapterInfo,
    AdapterState,
    Batch,
    CheckAdapter,
    DropAdapter,
    EvictAdapter,
    EvictionRule,
    PlaceAdapter,
    Request,
    SampledToken,
    SamplingParams,
    SchedulerSettings,
    StepLimit,
    StreamToken,
    Tokens,
)
from loraconsole.pipeline.schedule.adapter_registry import (
    AdapterRecord,
    AdapterRefused,
    AdapterRegistry,
)
from loraconsole.pipeline.schedule.page_allocator import OutOfPages, PageAllocator
from loraconsole.pipeline.schedule.scheduler import Demand, Overlong, Scheduler, SchedulerLimits

PAGE = 4
EOS = 7
Order = PlaceAdapter | EvictAdapter | DropAdapter | CheckAdapter


def next_token(token_ids: list[int], adapter: str | None) -> int:
    """What the fake model says: a function of every token before, as a real one."""
    return (sum((i + 1) * t for i, t in enumerate(token_ids)) * 31 + len(adapter or "")) % 50


Posted = tuple[list[Order], Batch | None]
"""What the router sends in one go: orders about adapters, then a batch."""

ADAPTERS = {"sql": 1, "chat": 3, "wide": 5}
"""And the pages they take."""


class FakeWorker:
    """Computes from batches alone. Each slot of its pages remembers what was written there last:
    a token of a sequence, or a part of an adapter."""

    def __init__(self, num_pages: int) -> None:
        self.slots: list[object] = [None] * (num_pages * PAGE)
        self.tokens: dict[int, list[int]] = {}
        self.adapter: dict[int, str | None] = {}
        self.pages: dict[int, list[int]] = {}
        self.computed: dict[int, int] = {}
        self.placed: dict[str, tuple[int, ...]] = {}
        self.trials: dict[str, CheckAdapter] = {}

    def obey(self, order: Order) -> None:
        match order:
            case PlaceAdapter():
                self.placed[order.key] = order.pages
                for page in order.pages:
                    self.slots[page * PAGE : (page + 1) * PAGE] = [(order.key, page)] * PAGE
            case EvictAdapter() | DropAdapter():
                self.placed.pop(order.key, None)
                held = {key for trial in self.trials.values() for key in (trial.key, *trial.others)}
                assert order.key not in held, "evicted in the middle of its verification"
            case CheckAdapter():
                self.trials[order.order] = order
                for page in order.pages:
                    self.slots[page * PAGE : (page + 1) * PAGE] = [(order.order, page)] * PAGE

    def end_trial(self, name: str) -> None:
        """All it needed stayed as it was."""
        trial = self.trials.pop(name)
        for key in (trial.key, *trial.others):
            self.check_adapter(key)
        for page in trial.pages:
            held = self.slots[page * PAGE : (page + 1) * PAGE]
            assert held == [(name, page)] * PAGE, "a verification's pages were written to"

    def check_adapter(self, key: str) -> None:
        """It is placed, and its pages are as they were."""
        for page in self.placed[key]:
            held = self.slots[page * PAGE : (page + 1) * PAGE]
            assert held == [(key, page)] * PAGE, f"a page of {key} was written to"

    def run(self, batch: Batch) -> Tokens:
        for number in batch.release:
            for table in (self.tokens, self.adapter, self.pages, self.computed):
                table.pop(number, None)  # type: ignore[attr-defined]
        for admission in batch.admit:
            assert admission.sequence not in self.tokens, "admitted twice"
            self.tokens[admission.sequence] = list(admission.token_ids)
            self.adapter[admission.sequence] = admission.adapter
            self.pages[admission.sequence] = []
            self.computed[admission.sequence] = admission.computed
        sampled = []
        for row in batch.rows:
            tokens, pages = self.tokens[row.sequence], self.pages[row.sequence]
            if key := self.adapter[row.sequence]:
                self.check_adapter(key)
            pages.extend(row.new_pages)
            for position in range(
                self.computed[row.sequence], self.computed[row.sequence] + row.num_tokens
            ):
                page, slot = divmod(position, PAGE)
                self.slots[pages[page] * PAGE + slot] = tokens[position]
            self.computed[row.sequence] += row.num_tokens
            if self.computed[row.sequence] == len(tokens):
                held = [self.slots[pages[p // PAGE] * PAGE + p % PAGE] for p in range(len(tokens))]
                assert held == tokens, "another sequence wrote into this one's pages"
                token = next_token(tokens, key and key.partition("@")[0])
                tokens.append(token)
                sampled.append(SampledToken(row.sequence, token))
        return Tokens(batch.epoch, batch.step, 0, tuple(sampled))


def post(scheduler: Scheduler) -> Posted | None:
    """What the router would send now; None where there is nothing to do."""
    batch = scheduler.next_batch(0.0)
    scheduler.residency.sweep(0.0)
    orders = scheduler.residency.orders[:]
    scheduler.residency.orders.clear()
    return (orders, batch) if orders or batch else None


def take(scheduler: Scheduler, worker: FakeWorker, posted: Posted) -> list[StreamToken]:
    """The worker does what was posted and answers; the tokens accepted."""
    orders, batch = posted
    for order in orders:
        worker.obey(order)
        if (
            isinstance(order, PlaceAdapter)
            and order.epoch == scheduler.epoch
            and (adapter := scheduler.registry.find(order.key))
        ):
            adapter.note_placed(0, 1, 0.0)
    return scheduler.accept_tokens(worker.run(batch), now=1.0) if batch else []


def make_scheduler(
    num_pages: int,
    max_running: int = 8,
    budget: int = 8,
    policy: str = "fcfs",
    evict: EvictionRule = "lru",
) -> Scheduler:
    paths = {name: f"/adapters/{name}" for name in ADAPTERS}
    registry = AdapterRegistry(paths, now=0.0, evict=evict)
    scheduler = Scheduler(registry, policy=policy)
    scheduler.reset(1, limits(num_pages, max_running, budget), 0.0)
    for adapter in registry:
        read(adapter)
    return scheduler


def read(adapter: AdapterRecord) -> None:
    """The workers found it good."""
    adapter.change_state(AdapterState.VALIDATING, 0.0)
    pages = ADAPTERS[adapter.name]
    info = AdapterInfo(adapter.key, adapter.path, 8, ("q_proj",), 1, pages, "digest")
    assert adapter.note_read(0, info, 1, 0.0) and adapter.state is AdapterState.HOST


def limits(num_pages: int, max_running: int = 8, budget: int = 8) -> SchedulerLimits:
    return SchedulerLimits(
        num_pages=num_pages,
        page_size=PAGE,
        max_model_len=64,
        max_running=max_running,
        max_prefill_tokens=budget,
        chunk_tokens=192,
        eos_token_ids=frozenset({EOS}),
    )


def make_request(
    name: str, prompt: list[int], max_tokens: int, adapter: str | None = None, at: float = 0.0
) -> Request:
    return Request(
        request_id=name,
        adapter=adapter,
        prompt_ids=tuple(prompt),
        params=SamplingParams(max_tokens=max_tokens),
        arrived_at=at,
    )


def alone(request: Request) -> list[int]:
    """The answer a request must get whatever runs beside it."""
    tokens = list(request.prompt_ids)
    for _ in range(request.params.max_tokens):
        tokens.append(next_token(tokens, request.adapter))
        if tokens[-1] == EOS:
            break
    return tokens[len(request.prompt_ids) :]


def drive(
    scheduler: Scheduler, worker: FakeWorker, depth: int = 2, first_index: int | None = 0
) -> dict[str, list[int]]:
    """Runs to the end with `depth` steps in flight; output tokens by request."""
    outputs: dict[str, list[int]] = {}
    flight: list[Posted] = []
    while True:
        while len(flight) < depth and (posted := post(scheduler)):
            flight.append(posted)
        if not flight:
            break
        for token in take(scheduler, worker, flight.pop(0)):
            outputs.setdefault(token.request_id, [])
            if first_index is not None:
                assert token.index == first_index + len(outputs[token.request_id])
            outputs[token.request_id].append(token.token_id)
    scheduler.check()
    assert len(scheduler) == 0, "a request never ran"
    placed = {adapter.key for adapter in scheduler.registry if adapter.pages}
    assert set(worker.placed) == placed, "workers and registry differ on what is placed"
    assert scheduler.pool.free + scheduler.pool.adapters == scheduler.pool.total
    return outputs


@pytest.mark.parametrize("depth", [1, 2, 3])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_gets_the_answer_it_gets_alone(depth: int, policy: str) -> None:
    rng = random.Random(depth)
    scheduler = make_scheduler(num_pages=24, policy=policy)
    requests = [
        make_request(
            f"r{i}",
            [rng.randrange(50) for _ in range(rng.randint(1, 30))],
            rng.randint(1, 30),
            rng.choice([None, *ADAPTERS]),
            at=float(i),
        )
        for i in range(60)
    ]
    for request in requests:
        scheduler.check_length(request)
        scheduler.add_request(request, 0.0)
    outputs = drive(scheduler, FakeWorker(24), depth)
    assert outputs == {request.request_id: alone(request) for request in requests}


@pytest.mark.parametrize("seed", range(120))
def test_law_and_answers_hold_under_random_operations(seed: int) -> None:
    """Add, step, abort, load, unload, reload, pin, verify, lose pages to others, lose the worker
    with its KV or without, change the policy, in any order: the pool's law holds after each, and
    who is not aborted gets the tokens it gets alone."""
    rng = random.Random(seed)
    num_pages, budget = rng.randint(17, 26), rng.randint(1, 20)
    policy = rng.choice([*POLICIES])
    scheduler = make_scheduler(num_pages, max_running=5, budget=budget, policy=policy)
    registry, worker = scheduler.registry, FakeWorker(num_pages)
    requests: dict[str, Request] = {}
    outputs: dict[str, list[int]] = {}
    aborted: set[str] = set()
    flight: list[Posted] = []

    def accept() -> None:
        for token in take(scheduler, worker, flight.pop(0)):
            outputs.setdefault(token.request_id, []).append(token.token_id)

    for turn in range(200):
        action = rng.choice(["add", "post", "post", "post", "accept", "accept", "rare"])
        if action == "rare":
            rare = ["abort", "steal", "steal", "reset", "unload", "reload", "load"]
            action = rng.choice([*rare, "pin", "policy", "verify", "verified", "verified"])
        name = rng.choice([*ADAPTERS])
        if action == "add" and len(scheduler) < 10:
            prompt = [rng.randrange(50) for _ in range(rng.randint(1, 24))]
            adapter = rng.choice([None, name])
            request = make_request(f"r{turn}", prompt, rng.randint(1, 20), adapter, turn)
            try:
                scheduler.check_length(request)
            except (AdapterRefused, Overlong):
                continue
            requests[request.request_id] = request
            scheduler.add_request(request, 0.0)
        elif action == "post" and len(flight) < 3:
            if posted := post(scheduler):
                flight.append(posted)
        elif action == "accept" and flight:
            accept()
        elif action == "abort" and requests:
            victim = rng.choice(sorted(requests))
            if scheduler.finish(victim):
                aborted.add(victim)
        elif action == "steal":  # which makes running sequences give way
            give_back(scheduler)
            steal(scheduler, rng.randint(0, num_pages - 9))
        elif action in ("unload", "reload", "load"):
            with contextlib.suppress(AdapterRefused):
                if action == "unload":
                    registry.unregister_adapter(name)
                elif action == "load":
                    read(registry.register_adapter(name, "/again", 0.0, pinned=rng.random() < 0.2))
                else:
                    read(new := registry.register_next(name, 0.0))
                    registry.promote_next(new)
        elif action == "pin":
            with contextlib.suppress(AdapterRefused):
                registry.current(name).pinned = rng.random() < 0.3
        elif action == "policy":
            cap, wait = rng.choice([0, 0, 1]), rng.choice([0, 0, 3])
            scheduler.set_policy(
                SchedulerSettings(
                    policy=rng.choice([*POLICIES]), max_per_adapter=cap, max_wait_tokens=wait
                )
            )
        elif action == "verify" and not scheduler.residency.trials:
            with contextlib.suppress(AdapterRefused):
                scheduler.residency.begin_trial(
                    f"t{turn}", registry.current(name), rng.randint(1, 4)
                )
        elif action == "verified":
            end_trials(scheduler, worker)
        elif action == "reset":
            give_back(scheduler)
            unanswered, heir = None, FakeWorker(num_pages)
            if rng.random() < 0.6:  # it dies in the middle of what it has not answered
                unanswered = [batch for _, batch in flight if batch]
                for posted in flight[: rng.randint(0, len(flight))]:
                    obey_and_run(worker, posted)
                heir.slots = worker.slots
            flight.clear()
            worker = heir
            scheduler.reset(turn + 2, limits(num_pages, 5, budget), 0.0, unanswered)
        scheduler.check()
    give_back(scheduler)
    while flight:
        accept()
    end_trials(scheduler, worker)
    for order in list(scheduler.residency.trials):  # that never found room
        scheduler.residency.end_trial(order)
    for adapter in registry:  # pinned, they may leave no room for who came before
        adapter.pinned = False
    for name, tokens in drive(scheduler, worker, first_index=None).items():
        outputs.setdefault(name, []).extend(tokens)
    for name, request in requests.items():
        if name not in aborted:
            assert outputs[name] == alone(request)


def obey_and_run(worker: FakeWorker, posted: Posted) -> None:
    """The worker does what was posted, and dies before it answers."""
    orders, batch = posted
    for order in orders:
        worker.obey(order)
    if batch:
        worker.run(batch)


def test_new_workers_that_have_the_kv_compute_again_only_what_was_not_answered() -> None:
    scheduler, worker = make_scheduler(num_pages=24, budget=100), FakeWorker(24)
    requests = [make_request(f"r{n}", [n] * 9, 12, at=n) for n in range(3)]
    for request in requests:
        scheduler.add_request(request, 0.0)
    outputs: dict[str, list[int]] = {}
    for _ in range(3):
        posted = post(scheduler)
        assert posted
        for token in take(scheduler, worker, posted):
            outputs.setdefault(token.request_id, []).append(token.token_id)
    lost = [posted for _ in range(2) if (posted := post(scheduler))]
    obey_and_run(worker, lost[0])
    known = {s.request_id: len(s.token_ids) for s in scheduler.running}
    held = {s.request_id: tuple(s.pages) for s in scheduler.running}
    scheduler.reset(2, limits(24), 0.0, [batch for _, batch in lost if batch])
    scheduler.check()
    assert scheduler.pool.kv == sum(map(len, held.values())) and not scheduler.running

    heir = FakeWorker(24)
    heir.slots = worker.slots
    _, batch = post(scheduler) or ([], None)
    assert batch
    names = {s.number: s.request_id for s in scheduler.running}
    for admission, row in zip(batch.admit, batch.rows, strict=True):
        name = names[admission.sequence]
        assert admission.computed == known[name] - 1 and row.num_tokens == 1
        assert row.new_pages[: len(held[name])] == held[name]
    for token in scheduler.accept_tokens(heir.run(batch), 0.0):
        outputs[token.request_id].append(token.token_id)
    for name, tokens in drive(scheduler, heir, first_index=None).items():
        outputs[name] += tokens
    assert outputs == {request.request_id: alone(request) for request in requests}


def test_kv_in_a_pool_of_another_size_is_not_used() -> None:
    scheduler, worker = make_scheduler(num_pages=24, budget=100), FakeWorker(24)
    scheduler.add_request(request := make_request("r", [5] * 9, 12), 0.0)
    batch = scheduler.next_batch(0.0)
    assert batch
    first = scheduler.accept_tokens(worker.run(batch), 0.0)
    scheduler.reset(2, limits(20), 0.0, [])
    scheduler.check()
    assert scheduler.pool.kv == 0
    outputs = drive(scheduler, FakeWorker(20), first_index=None)
    assert [first[0].token_id, *outputs["r"]] == alone(request)


def test_kept_kv_gives_way_to_what_else_could_not_run() -> None:
    """A pinned adapter has taken the room in which the sequences ran: they compute one by one."""
    scheduler, worker = make_scheduler(num_pages=16, budget=100), FakeWorker(16)
    requests = [make_request(f"r{n}", [n] * 20, 8, at=n) for n in range(2)]
    for request in requests:
        scheduler.add_request(request, 0.0)
    batch = scheduler.next_batch(0.0)
    assert batch and len(batch.rows) == 2
    outputs = {t.request_id: [t.token_id] for t in scheduler.accept_tokens(worker.run(batch), 0.0)}
    scheduler.reset(2, limits(16), 0.0, [])
    steal(scheduler, scheduler.pool.free)
    heir = FakeWorker(16)
    heir.slots = worker.slots
    while len(scheduler):
        posted = post(scheduler)
        assert posted, "none can run"
        for token in take(scheduler, heir, posted):
            outputs[token.request_id].append(token.token_id)
        scheduler.check()
    assert outputs == {request.request_id: alone(request) for request in requests}


def end_trials(scheduler: Scheduler, worker: FakeWorker) -> None:
    """The worker answers for sequences that batches have admitted."""
    for name in list(worker.trials):
        worker.end_trial(name)
        scheduler.residency.end_trial(name)


def test_pages_lost_to_others_make_the_youngest_give_way() -> None:
    scheduler = make_scheduler(num_pages=16, budget=100)
    worker = FakeWorker(16)
    old, young = (
        next(r for n in range(50) if len(alone(r := make_request(name, [n] * 8, 16, at=at))) == 16)
        for name, at in (("old", 0), ("young", 1))
    )
    scheduler.add_request(old, 0.0)
    scheduler.add_request(young, 0.0)
    batch = scheduler.next_batch(0.0)
    assert batch
    scheduler.accept_tokens(worker.run(batch), 0.0)
    steal(scheduler, 16)
    while scheduler.preemptions == 0:
        batch = scheduler.next_batch(0.0)
        assert batch
        scheduler.accept_tokens(worker.run(batch), 0.0)
    assert {s.request_id: s.preemptions for s in scheduler.sequences()} == {"old": 0, "young": 1}
    phases = {r.request_id: (r.phase, r.reason) for r in scheduler.view(0.0).requests}
    assert phases["old"][0] == "decode"
    assert phases["young"][0] == "waiting" and phases["young"][1].startswith(
        "waits for KV pages of running requests: "
    )
    give_back(scheduler)
    outputs = drive(scheduler, worker, first_index=None)
    assert outputs["old"] == alone(old)[-len(outputs["old"]) :]
    assert outputs["young"] == alone(young)[-len(outputs["young"]) :]


def steal(scheduler: Scheduler, count: int) -> None:
    """Pages taken by an adapter without requests that may not be evicted."""
    thief = AdapterRecord("thief", "", 0.0, pinned=True)
    scheduler.registry._current["thief"] = thief
    thief.pages = scheduler.pool.allocate_adapter(min(count, scheduler.pool.free))


def give_back(scheduler: Scheduler) -> None:
    if thief := scheduler.registry._current.pop("thief", None):
        scheduler.pool.release_adapter(thief.lose_pages(0.0))


def test_who_does_not_fit_waits_with_the_reason() -> None:
    scheduler = make_scheduler(num_pages=10, max_running=8, budget=100)
    scheduler.add_request(make_request("big", [1] * 20, 16, at=0), 0.0)
    scheduler.add_request(make_request("second", [1] * 20, 16, at=1), 0.0)
    scheduler.add_request(make_request("third", [1], 1, at=2), 0.0)
    assert scheduler.next_batch(0.0) is not None
    big, second, third = scheduler.view(0.0).requests
    assert (big.phase, big.reason) == ("decode", "")
    wanted = "waits for KV pages of running requests: needs up to 19, 10 usable"
    assert (second.phase, second.reason) == ("waiting", wanted)
    assert third.reason == "behind second, which waits for KV pages"
    assert [view.place for view in (big, second, third)] == [0, 1, 2]


def test_a_full_batch_says_who_is_next_and_every_place_in_the_queue() -> None:
    scheduler = make_scheduler(num_pages=100, max_running=1, budget=100)
    for at, name in enumerate(("runs", "first", "second")):
        scheduler.add_request(make_request(name, [1] * 4, 4, at=at), 0.0)
    assert scheduler.next_batch(0.0) is not None
    _, first, second = scheduler.view(0.0).requests
    assert first.reason == "batch is full: 1 request runs"
    assert second.reason == "behind first: the batch is full"
    assert (first.place, second.place) == (1, 2)


@pytest.mark.parametrize(("policy", "places"), [("fcfs", [1, 2]), ("lifo", [2, 1])])
def test_the_place_in_the_queue_is_that_of_the_policy(policy: str, places: list[int]) -> None:
    scheduler = make_scheduler(num_pages=100, max_running=1, budget=100, policy=policy)
    for at, name in enumerate("abc"):
        scheduler.add_request(make_request(name, [1] * 4, 4, at=at), 0.0)
    assert scheduler.next_batch(0.0) is not None
    views = scheduler.view(0.0).requests
    assert [view.place for view in views if view.phase == "waiting"] == places


@pytest.mark.parametrize("policy", ["vtc_fair", "cluster"])
def test_a_policy_that_does_not_go_by_age_promises_no_place(policy: str) -> None:
    scheduler = make_scheduler(num_pages=100, max_running=1, budget=100, policy=policy)
    for at, name in enumerate("abc"):
        scheduler.add_request(make_request(name, [1] * 4, 4, at=at), 0.0)
    assert scheduler.next_batch(0.0) is not None
    assert {view.place for view in scheduler.view(0.0).requests} == {0}


def limit_of_next(scheduler: Scheduler) -> StepLimit:
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    return batch.limit


def test_a_step_says_that_no_request_waits() -> None:
    scheduler = make_scheduler(num_pages=10, budget=100)
    scheduler.add_request(make_request("one", [1] * 4, 4), 0.0)
    assert limit_of_next(scheduler) is StepLimit.NOTHING


def test_a_step_says_that_kv_pages_limit_it_until_they_are_free() -> None:
    scheduler, worker = make_scheduler(num_pages=10, budget=100), FakeWorker(10)
    scheduler.add_request(make_request("big", [1] * 20, 16, at=0), 0.0)
    scheduler.add_request(make_request("second", [1] * 20, 16, at=1), 0.0)
    scheduler.add_request(make_request("third", [1], 1, at=2), 0.0)
    for _ in range(3):  # also in steps that do not examine the queue again
        batch = scheduler.next_batch(0.0)
        assert batch is not None and batch.limit is StepLimit.KV_PAGES
        scheduler.accept_tokens(worker.run(batch), 0.0)
    scheduler.finish("big")
    assert limit_of_next(scheduler) is StepLimit.NOTHING


def test_a_step_says_that_its_rows_are_full() -> None:
    scheduler = make_scheduler(num_pages=40, max_running=2, budget=100)
    for number in range(3):
        scheduler.add_request(make_request(f"r{number}", [1] * 2, 4, at=number), 0.0)
    assert limit_of_next(scheduler) is StepLimit.ROWS
    assert limit_of_next(scheduler) is StepLimit.ROWS


def test_a_step_says_that_prompt_tokens_are_spent_by_others_or_by_the_rest_of_a_prompt() -> None:
    scheduler = make_scheduler(num_pages=40, budget=8)
    scheduler.add_request(make_request("first", [1] * 8, 4, at=0), 0.0)
    scheduler.add_request(make_request("second", [1] * 12, 4, at=1), 0.0)
    assert limit_of_next(scheduler) is StepLimit.PROMPT_TOKENS  # "second" waits
    assert limit_of_next(scheduler) is StepLimit.PROMPT_TOKENS  # it runs, four tokens are left
    assert limit_of_next(scheduler) is StepLimit.NOTHING


@pytest.mark.parametrize("state", [AdapterState.VALIDATING, AdapterState.LOADING])
def test_a_step_says_that_a_request_waits_for_its_adapter(state: AdapterState) -> None:
    registry = AdapterRegistry({"late": "/late"}, now=0.0)
    scheduler = Scheduler(registry)
    scheduler.reset(1, limits(16, budget=100), 0.0)
    next(iter(registry)).change_state(state, 0.0)
    scheduler.add_request(make_request("one", [1, 2], 3, "late", at=0), 0.0)
    scheduler.add_request(make_request("two", [1, 2], 3, None, at=1), 0.0)
    assert limit_of_next(scheduler) is StepLimit.ADAPTER


def test_what_ends_a_pass_counts_before_what_it_passed_over() -> None:
    registry = AdapterRegistry({"late": "/late"}, now=0.0)
    scheduler = Scheduler(registry)
    scheduler.reset(1, limits(10, budget=100), 0.0)
    next(iter(registry)).change_state(AdapterState.LOADING, 0.0)
    scheduler.add_request(make_request("one", [1, 2], 3, "late", at=0), 0.0)
    scheduler.add_request(make_request("two", [1] * 20, 16, at=1), 0.0)
    scheduler.add_request(make_request("three", [1] * 20, 16, at=2), 0.0)
    assert limit_of_next(scheduler) is StepLimit.KV_PAGES


@pytest.mark.parametrize("setting", ["max_per_adapter", "max_wait_tokens", "policy"])
def test_a_step_says_that_the_policy_holds_a_request_back(setting: str) -> None:
    scheduler = make_scheduler(num_pages=40, budget=100)
    worker = FakeWorker(40)
    given = {"policy": "merged"} if setting == "policy" else {setting: 1}
    scheduler.set_policy(SchedulerSettings(**given))  # type: ignore[arg-type]
    scheduler.add_request(make_request("first", [1] * 2, 9, "sql", at=0), 0.0)
    while posted := post(scheduler):  # the adapter is placed, then the request starts
        take(scheduler, worker, posted)
        if scheduler.running:
            break
    assert [s.state.value for s in scheduler.sequences()] == ["running"]
    scheduler.add_request(make_request("second", [1] * 2, 9, "sql", at=1), 0.0)
    if setting == "policy":
        scheduler.finish("second")
        scheduler.add_request(make_request("other", [1] * 2, 9, at=2), 0.0)
    if setting == "max_wait_tokens":
        scheduler._steps_since_admission = 0
    assert limit_of_next(scheduler) is StepLimit.POLICY


def test_a_loading_adapter_lets_others_pass() -> None:
    registry = AdapterRegistry({"late": "/late"}, now=0.0)
    scheduler = Scheduler(registry, policy="fcfs")
    scheduler.reset(1, limits(16), 0.0)
    next(iter(registry)).change_state(AdapterState.LOADING, 0.0)
    scheduler.add_request(make_request("one", [1, 2], 3, "late", at=0), 0.0)
    scheduler.add_request(make_request("two", [1, 2], 3, None, at=1), 0.0)
    batch = scheduler.next_batch(0.0)
    assert batch and len(batch.rows) == 1
    waiting = [r for r in scheduler.view(0.0).requests if r.phase == "waiting"]
    assert [(r.request_id, r.reason) for r in waiting] == [("one", "adapter late is loading")]


def test_a_request_whose_adapter_finds_no_room_is_passed_for_a_while_only() -> None:
    scheduler = make_scheduler(num_pages=12, budget=100)
    worker = FakeWorker(12)

    def step(now: float) -> None:
        batch = scheduler.next_batch(now)
        posted = (scheduler.residency.orders[:], batch)
        scheduler.residency.orders.clear()
        take(scheduler, worker, posted)

    scheduler.add_request(make_request("first", [1] * 12, 4, at=0.0), 0.0)
    scheduler.add_request(make_request("second", [2] * 12, 8, at=0.0), 0.0)
    step(0.0)
    scheduler.add_request(make_request("patient", [3] * 4, 4, "wide", at=0.0), 0.0)
    for turn in range(60):  # without an end, younger requests come that would fit
        scheduler.add_request(make_request(f"young-{turn}", [4] * 12, 8, at=0.1 + turn / 10), 0.0)
        step(turn / 10)
        if turn == 10:
            reasons = {r.request_id: r.reason for r in scheduler.view(0.0).requests}
            assert reasons["patient"] == "no pages for adapter wide: it takes 5"
        if "patient" not in scheduler:
            break
    assert 2.0 < turn / 10 < 5.0
    scheduler.check()


def test_an_adapter_is_evicted_when_its_room_is_needed_the_least_recently_used_first() -> None:
    scheduler = make_scheduler(num_pages=12, budget=100)
    worker = FakeWorker(12)
    states = {adapter.name: adapter for adapter in scheduler.registry}
    for name in ("chat", "sql", "chat"):
        scheduler.add_request(make_request(name, [1, 2], 2, name), 0.0)
        drive(scheduler, worker, first_index=None)
    assert (states["chat"].state, states["sql"].state) == (AdapterState.GPU, AdapterState.GPU)
    scheduler.add_request(make_request("wide", [1] * 16, 8, "wide"), 0.0)
    drive(scheduler, worker, first_index=None)
    assert states["wide"].state is AdapterState.GPU
    assert states["sql"].state is AdapterState.HOST
    assert states["sql"].reason == "evicted for adapter wide"
    assert [(adapter.name, pages) for adapter, pages in scheduler.residency.evicted] == [
        ("sql", 1),
        ("chat", 3),
    ]
    assert states["sql"].view(0.0).evictions == 1 and states["wide"].view(0.0).evictions == 0
    scheduler.check()


@pytest.mark.parametrize(
    ("evict", "asked", "order"),
    [
        ("lru", ("sql", "sql", "chat"), ["sql", "chat"]),
        ("lfu", ("sql", "sql", "chat"), ["chat", "sql"]),
        ("lfu", ("chat", "sql"), ["chat", "sql"]),  # equals: by their last request
        ("largest", ("sql", "chat"), ["chat", "sql"]),
        ("lru", ("sql", "chat"), ["sql", "chat"]),
    ],
)
def test_the_rule_of_eviction_orders_idle_adapters(
    evict: EvictionRule, asked: tuple[str, ...], order: list[str]
) -> None:
    scheduler = make_scheduler(num_pages=12, budget=100, evict=evict)
    worker = FakeWorker(12)
    for number, name in enumerate(asked):
        scheduler.add_request(make_request(f"{name}-{number}", [1, 2], 2, name), 0.0)
        drive(scheduler, worker, first_index=None)
    assert [adapter.name for adapter in scheduler.registry.idle()] == order


def test_an_adapter_evicted_for_kv_says_so_and_an_unloaded_one_is_not_evicted() -> None:
    scheduler = make_scheduler(num_pages=12, budget=100)
    worker = FakeWorker(12)
    sql = scheduler.registry.current("sql")
    scheduler.add_request(make_request("sql", [1, 2], 2, "sql"), 0.0)
    drive(scheduler, worker, first_index=None)
    scheduler.add_request(make_request("big", [1] * 36, 12), 0.0)
    drive(scheduler, worker, first_index=None)
    assert (sql.state, sql.reason) == (AdapterState.HOST, "evicted for KV pages of requests")
    assert [adapter.name for adapter, _ in scheduler.residency.evicted] == ["sql"]
    scheduler.add_request(make_request("again", [1, 2], 2, "sql"), 0.0)
    drive(scheduler, worker, first_index=None)
    assert (sql.state, sql.reason) == (AdapterState.GPU, "")
    scheduler.registry.unregister_adapter("sql")
    scheduler.residency.sweep(0.0)
    assert len(scheduler.residency.evicted) == 1


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_the_adapters_parts_of_the_device_time_add_up_to_it(depth: int) -> None:
    """Whatever happens to the requests meanwhile: long prompts, stops, aborts, preemptions."""
    rng = random.Random(depth)
    scheduler = make_scheduler(num_pages=24, budget=6)
    worker = FakeWorker(24)
    flight: list[Posted] = []
    spent = 0
    for turn in range(400):
        if turn < 300 and len(scheduler) < 6:
            adapter = rng.choice([None, *ADAPTERS])
            prompt = [rng.randrange(50) for _ in range(rng.randint(1, 20))]
            request = make_request(f"r{turn}", prompt, rng.randint(1, 16), adapter, at=turn)
            scheduler.add_request(request, turn)
        if rng.random() < 0.1 and len(scheduler):
            scheduler.finish(rng.choice([s.request.request_id for s in scheduler.sequences()]))
        give_back(scheduler) if turn % 10 == 0 or turn > 350 else None
        if turn % 20 == 10 and turn < 300:
            steal(scheduler, 12)
        while len(flight) < depth and (posted := post(scheduler)):
            flight.append(posted)
        if not flight:
            continue
        orders, batch = flight.pop(0)
        take(scheduler, worker, (orders, None))
        if batch is not None:
            busy_us = rng.randint(100, 9_000)
            spent += busy_us
            answer = worker.run(batch)
            scheduler.accept_tokens(msgspec.structs.replace(answer, busy_us=busy_us), turn)
        scheduler.check()
    tallies = [scheduler.registry.base.tally, *(a.tally for a in scheduler.registry)]
    assert scheduler.preemptions and spent > 100_000
    assert sum(tally.device_us for tally in tallies) == pytest.approx(spent)
    assert all(tally.device_us > 0 for tally in tallies)


def test_a_step_is_paid_by_the_tokens_that_each_row_computes() -> None:
    scheduler = make_scheduler(num_pages=32, budget=100)
    worker = FakeWorker(32)
    scheduler.add_request(make_request("long", [1] * 30, 2, "sql"), 0.0)
    scheduler.add_request(make_request("short", [1] * 10, 2, "chat"), 0.0)
    while (posted := post(scheduler)) and posted[1] is None:
        take(scheduler, worker, posted)
    assert posted and posted[1]
    answer = worker.run(posted[1])
    scheduler.accept_tokens(msgspec.structs.replace(answer, busy_us=4_000), 0.5)
    views = {view.name: view for view in scheduler.registry.views(0.5)}
    assert (views["sql"].device_us, views["chat"].device_us) == (3_000, 1_000)
    assert (views["sql"].kv_pages, views["chat"].kv_pages, views["wide"].kv_pages) == (8, 3, 0)
    assert views["sql"].recent_tokens == 31
    assert (views["sql"].ttft_p50_ms, views["chat"].ttft_p99_ms) == (500.0, 500.0)
    assert views["sql"].wait_p50_ms == 0.0 and views["wide"].ttft_p50_ms is None
    drive(scheduler, worker, first_index=None)
    assert all(view.kv_pages == 0 for view in scheduler.registry.views(1.0))


def test_what_pinned_adapters_leave_no_room_for_is_refused_or_passed() -> None:
    scheduler = make_scheduler(num_pages=12, budget=100)
    registry, worker = scheduler.registry, FakeWorker(12)
    scheduler.add_request(make_request("early", [1] * 20, 16, at=0.0), 0.0)  # nine pages
    registry.unregister_adapter("wide")
    scheduler.residency.sweep(0.0)
    scheduler.residency.orders.clear()
    pinned = registry.register_adapter("wide", "/wide", 0.0, pinned=True)
    read(pinned)
    scheduler.residency.settle(pinned, 0, 0.0)
    assert pinned.state is AdapterState.LOADING
    take(scheduler, worker, (scheduler.residency.orders[:], None))
    scheduler.residency.orders.clear()
    with pytest.raises(Overlong, match="exceed the pool of 48"):
        scheduler.check_length(make_request("late", [1] * 20, 16, "sql"))
    scheduler.add_request(make_request("small", [1, 2], 3, at=1.0), 0.0)
    assert scheduler.next_batch(100.0) is not None, (
        "a request that can run passes one that never can"
    )
    phases = {view.request_id: view.phase for view in scheduler.view(0.0).requests}
    assert phases == {"early": "waiting", "small": "decode"}
    (early,) = [v for v in scheduler.view(0.0).requests if v.request_id == "early"]
    assert early.reason == "needs 9 KV pages, more than pinned adapters leave: unpin one"
    more = registry.register_adapter("chat2", "/chat", 0.0, pinned=True)
    ADAPTERS["chat2"] = 3
    read(more)
    del ADAPTERS["chat2"]
    scheduler.residency.settle(more, 0, 0.0)
    assert more.state is AdapterState.FAILED
    assert more.reason.startswith("pinned adapters would take 8 of the pool's 12 pages")


def test_a_generation_that_is_read_again_must_be_what_it_was() -> None:
    adapter = AdapterRecord("sql", "/sql", 0.0)
    for digests, reason in (
        (("a", "a"), ""),
        (("a", "a"), ""),
        (("a", "b"), "the ranks hold different ones"),
        (("b", "b"), "its files changed since generation 1 was read: reload it"),
    ):
        adapter.change_state(AdapterState.VALIDATING, 0.0)
        for rank, digest in enumerate(digests):
            info = AdapterInfo(adapter.key, "/sql", 8, ("q_proj",), 1, 1, digest)
            assert adapter.note_read(rank, info, 2, 0.0) == (rank == 1)
        assert reason in adapter.reason and (adapter.state is AdapterState.HOST) == (not reason)


def test_an_adapter_that_no_worker_could_place_gives_its_pages_back_and_fails() -> None:
    scheduler = make_scheduler(num_pages=20)
    wide = next(adapter for adapter in scheduler.registry if adapter.name == "wide")
    scheduler.add_request(make_request("x", [1], 2, "wide"), 0.0)
    assert wide.state is AdapterState.LOADING and scheduler.pool.adapters == 5
    for _ in range(2):  # two ranks say so
        scheduler.residency.fail_placement(wide, "no memory", 0.0)
    assert (wide.state, wide.reason) == (AdapterState.FAILED, "no memory")
    assert [type(order) for order in scheduler.residency.orders] == [PlaceAdapter, EvictAdapter]
    assert scheduler.next_batch(0.0) is None
    scheduler.check()


@pytest.mark.parametrize(
    ("num_pages", "rows", "most"),
    [(24, 8, 4), (24, 2, 2), (4, 8, 1), (0, 0, 0)],
    ids=["half the pool", "the rows", "at least one", "no workers yet"],
)
def test_the_adapters_of_a_step_are_as_many_as_fit(num_pages: int, rows: int, most: int) -> None:
    """They take 1, 3 and 5 pages: 3 on average."""
    assert make_scheduler(num_pages).residency.max_adapters(rows) == most


def test_before_an_adapter_is_read_each_row_of_a_step_may_have_one() -> None:
    scheduler = Scheduler(AdapterRegistry({"sql": "/adapters/sql"}, now=0.0))
    scheduler.reset(1, limits(24), 0.0)
    assert scheduler.residency.max_adapters(8) == 8


def test_an_adapter_larger_than_the_pool_fails() -> None:
    scheduler = make_scheduler(num_pages=5)
    wide = next(adapter for adapter in scheduler.registry if adapter.name == "wide")
    scheduler.residency.settle(wide, 0, 0.0)
    assert wide.state is AdapterState.FAILED
    assert wide.reason == "it takes 5 of the pool's 5 pages; see --max-total-tokens"
    with pytest.raises(AdapterRefused, match="failed to load: it takes 5"):
        scheduler.check_length(make_request("x", [1], 1, "wide"))


def test_a_reloaded_adapter_serves_who_came_before_from_the_old_one() -> None:
    scheduler = make_scheduler(num_pages=20, budget=100)
    registry, worker = scheduler.registry, FakeWorker(20)
    scheduler.add_request(make_request("old", [1, 2], 20, "sql"), 0.0)
    for _ in range(2):
        posted = post(scheduler)
        assert posted
        take(scheduler, worker, posted)
    new = registry.register_next("sql", 0.0)
    with pytest.raises(AdapterRefused, match="being reloaded already"):
        registry.register_next("sql", 0.0)
    with pytest.raises(AdapterRefused, match="being reloaded: unload it then"):
        registry.unregister_adapter("sql")
    read(new)
    registry.promote_next(new)
    scheduler.add_request(make_request("new", [1, 2], 20, "sql"), 0.0)
    posted = post(scheduler)
    assert posted and [order.key for order in posted[0]] == ["sql@2"]
    assert [view.state for view in registry.views(0.0) if view.name == "sql"] == [
        AdapterState.LOADING,
        AdapterState.DRAINING,
    ]
    take(scheduler, worker, posted)
    drive(scheduler, worker, first_index=None)
    assert set(worker.placed) == {"sql@2"}
    assert [view.generation for view in registry.views(0.0) if view.name == "sql"] == [2]


def test_an_unloaded_adapter_is_refused_at_once_and_leaves_when_nobody_has_it() -> None:
    scheduler = make_scheduler(num_pages=20, budget=100)
    registry, worker = scheduler.registry, FakeWorker(20)
    scheduler.add_request(request := make_request("last", [1, 2], 5, "chat"), 0.0)
    posted = post(scheduler)
    assert posted
    take(scheduler, worker, posted)
    gone = registry.unregister_adapter("chat")
    with pytest.raises(AdapterRefused, match="no adapter 'chat' is registered"):
        scheduler.add_request(make_request("late", [1, 2], 5, "chat"), 0.0)
    with pytest.raises(AdapterRefused, match="still being unloaded"):
        registry.register_adapter("chat", "/other", 0.0)
    assert drive(scheduler, worker) == {"last": alone(request)}
    assert gone.state is AdapterState.GONE and not gone.pages
    assert scheduler.pool.free == scheduler.pool.total
    registry.register_adapter("chat", "/other", 0.0)


def test_long_prompts_are_cut_to_the_budget_and_decoding_goes_on() -> None:
    scheduler = make_scheduler(num_pages=40, budget=8)
    worker = FakeWorker(40)
    scheduler.add_request(make_request("short", [1, 2], 20, at=0), 0.0)
    scheduler.accept_tokens(worker.run(scheduler.next_batch(0.0) or pytest.fail("no step")), 0.0)
    scheduler.add_request(make_request("long", [3] * 30, 4, at=1), 0.0)
    for chunk in (8, 8, 8, 6):
        batch = scheduler.next_batch(0.0)
        assert batch and sorted(row.num_tokens for row in batch.rows) == sorted((1, chunk))
        scheduler.accept_tokens(worker.run(batch), 0.0)


def test_overlong_requests_are_told_the_numbers() -> None:
    scheduler = make_scheduler(num_pages=10)
    with pytest.raises(
        Overlong,
        match="64 tokens, and the prompt is too long: its 60 tokens and max_tokens 10 make 70",
    ):
        scheduler.check_length(make_request("x", [1] * 60, 10))
    with pytest.raises(Overlong, match="exceed the pool of 40"):
        scheduler.check_length(make_request("x", [1] * 30, 20))


@given(
    st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=12),
    st.sampled_from([1, 4, 16]),
)
def test_demand_covers_every_moment_of_a_lockstep_run(
    entries: list[tuple[int, int]], page: int
) -> None:
    """Simulated: at time t every sequence that is not finished holds h + t tokens."""
    demand = Demand(page)
    for held, remaining in entries[:-1]:
        demand.add_sequence(held, remaining)
    need = demand.with_candidate(*entries[-1])
    for t in range(max(remaining for _, remaining in entries) + 1):
        pages = sum(-(-(held + t) // page) for held, remaining in entries if t <= remaining)
        assert pages <= need


@pytest.mark.parametrize(("prompt", "max_tokens"), [(36, 12), (37, 11), (45, 3)])
def test_a_request_as_long_as_the_pool_runs(prompt: int, max_tokens: int) -> None:
    scheduler = make_scheduler(num_pages=12, budget=100)
    request = make_request("whole", [1] * prompt, max_tokens)
    scheduler.check_length(request)
    scheduler.add_request(request, 0.0)
    outputs = drive(scheduler, FakeWorker(12))
    assert outputs["whole"] == alone(request)


@given(held=st.integers(1, 40), remaining=st.integers(0, 40), page_size=st.integers(1, 16))
def test_demand_of_one_sequence_is_exact(held: int, remaining: int, page_size: int) -> None:
    whole = -(-(held + remaining) // page_size)
    assert Demand(page_size, [(held, remaining)]).pages == whole


def test_demand_is_exact_for_pages_of_one_token() -> None:
    """The worked example of S-LoRA's formula: three long requests and three short ones."""
    demand = Demand(1)
    for held, remaining in [(2047, 2047)] * 3 + [(9, 7)] * 2:
        demand.add_sequence(held, remaining)
    assert demand.with_candidate(9, 7) == 12282


def test_pool_refuses_more_than_it_has_and_keeps_its_law() -> None:
    pool = PageAllocator(4, PAGE)
    pages = pool.allocate(3)
    with pytest.raises(OutOfPages, match="2 pages wanted, 1 free of 4"):
        pool.allocate(2)
    pool.check()
    pool.release(pages)
    pool.check()
    assert pool.free == 4


def test_a_long_prompt_comes_in_small_pieces_only_while_others_decode() -> None:
    scheduler = Scheduler(AdapterRegistry({}, now=0.0), policy="fcfs")
    scheduler.reset(1, replace(limits(64, budget=24), chunk_tokens=4), 0.0)

    def tokens_of(name: str) -> int:
        batch = scheduler.next_batch(0.0)
        assert batch is not None
        number = scheduler._by_request[name].number
        return next(row.num_tokens for row in batch.rows if row.sequence == number)

    scheduler.add_request(make_request("alone", list(range(10, 40)), 4), 0.0)
    assert [tokens_of("alone"), tokens_of("alone")] == [24, 6]
    scheduler.add_request(make_request("beside", list(range(10, 40)), 4), 0.0)
    assert tokens_of("beside") == 4, "the first decodes now"
    scheduler.limits = replace(scheduler.limits, chunk_tokens=1)
    assert tokens_of("beside") == 2, "twice as many as decode"
    scheduler.finish("alone")
    assert tokens_of("beside") == 24


def test_waiting_requests_do_not_take_their_adapters_pages_from_each_other() -> None:
    """Sixty requests, each for its own adapter, whose KV leaves room for a part of them: each is
    copied once or twice, not once a step."""
    names = [f"a{number}" for number in range(60)]
    scheduler = Scheduler(
        AdapterRegistry({name: f"/{name}" for name in names}, now=0.0), policy="fcfs"
    )
    scheduler.reset(1, limits(140, max_running=64, budget=16), 0.0)
    for adapter in scheduler.registry:
        adapter.change_state(AdapterState.VALIDATING, 0.0)
        adapter.note_read(0, AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "digest"), 1, 0.0)
    for number, name in enumerate(names):
        scheduler.add_request(make_request(name, [1] * 10, 40, name, at=float(number)), 0.0)
    worker, places = FakeWorker(140), 0
    while posted := post(scheduler):
        places += sum(isinstance(order, PlaceAdapter) for order in posted[0])
        take(scheduler, worker, posted)
    assert len(scheduler) == 0
    assert places <= 3 * len(names), places

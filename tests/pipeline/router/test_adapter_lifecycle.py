"""What workers and operators hear of adapters that load, fail, merge and are placed, by the core
alone: no process, no socket, no clock."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterPlaced,
    AdapterRead,
    AdapterReply,
    AdapterState,
    DropAdapter,
    LoadAdapter,
    MergeAdapter,
    MergeWeights,
    Message,
    ReadAdapter,
    Refused,
    Request,
    SampledToken,
    SamplingParams,
    Tokens,
    UnloadAdapter,
    WeightsMerged,
    WorkerReady,
)
from loraconsole.pipeline.router.core import RouterCore
from loraconsole.pipeline.router.effects import AdapterFetched, Announcement, FetchAdapter, Send

NOW = 1000.0


def worker_ready(incarnation: int = 1, rank: int = 0) -> WorkerReady:
    return WorkerReady(
        rank=rank,
        incarnation=incarnation,
        device="cpu",
        num_pages=64,
        page_size=16,
        max_model_len=256,
        max_running=64,
        max_prefill_tokens=256,
        chunk_tokens=192,
        vocab_size=300,
        eos_token_ids=(),
    )


def sent(core: RouterCore) -> list[Message]:
    """The messages that have come out since the last call."""
    return [e.message for e in core.effects.take_pending() if isinstance(e, Send)]


def info_of(key: str, pages: int = 2, reason: str = "") -> AdapterInfo:
    return AdapterInfo(key, "", 8, ("q_proj",), 1, pages, "digest", reason)


@pytest.fixture
def make_core() -> Callable[..., RouterCore]:
    def make(*adapters: str, **settings: int) -> RouterCore:
        config = Config(run="/nowhere", adapter=adapters, **settings)  # type: ignore[arg-type]
        return RouterCore(config, incarnation=7_000, now=NOW)

    return make


@pytest.mark.parametrize("reason", ["", "it is no adapter"])
def test_workers_forget_an_adapter_that_failed(
    reason: str, make_core: Callable[..., RouterCore]
) -> None:
    """One of too many pages lies in their memory already. Its name is free again."""
    core = make_core()
    core.handle_message(worker_ready(), NOW)
    order = LoadAdapter(order="1", reply_to="me", name="large", path="/large")
    core.handle_message(order, NOW)
    [adapter] = core.registry
    sent(core)
    core.handle_message(AdapterRead(0, adapter.reading, info_of(adapter.key, 100, reason)), NOW)
    assert adapter.state is AdapterState.FAILED and not adapter.pages
    messages = sent(core)
    assert DropAdapter("large@1") in messages
    [reply] = [message for message in messages if isinstance(message, AdapterReply)]
    assert reply.status == 400 and (reason or "takes 100 of the pool's 64 pages") in reply.text
    assert not reply.adapters and not core.adapter_table(NOW).adapters
    core.handle_message(msgspec.structs.replace(order, order="2"), NOW)  # mended
    [adapter] = core.registry
    assert adapter.key == "large@1" and adapter.state is AdapterState.VALIDATING
    core.handle_message(AdapterRead(0, adapter.reading, info_of(adapter.key)), NOW)
    core.handle_message(msgspec.structs.replace(order, order="3"), NOW)
    replies = [message for message in sent(core) if isinstance(message, AdapterReply)]
    assert [reply.status for reply in replies] == [200, 409]
    assert "'large' is already loaded" in replies[-1].text


def request(request_id: str, adapter: str) -> Request:
    params = SamplingParams(max_tokens=4)
    return Request(
        request_id=request_id, adapter=adapter, prompt_ids=(1, 2), params=params, arrived_at=NOW
    )


def replies_of(core: RouterCore) -> list[AdapterReply]:
    """The answers to orders since the last call."""
    return [message for message in sent(core) if isinstance(message, AdapterReply)]


def test_a_failed_load_leaves_no_name_but_its_requests_get_the_reason(
    make_core: Callable[..., RouterCore],
) -> None:
    core = make_core("good=/good")
    core.handle_message(worker_ready(), NOW)
    [good] = core.registry
    core.handle_message(AdapterRead(0, good.reading, info_of(good.key)), NOW)
    order = LoadAdapter(order="1", reply_to="me", name="bad", path="/bad")
    core.handle_message(order, NOW)
    [bad] = [adapter for adapter in core.registry if adapter.name == "bad"]
    core.handle_message(request("early", "bad"), NOW)
    sent(core)
    info = info_of(bad.key, reason="no adapter_config.json")
    core.handle_message(AdapterRead(0, bad.reading, info), NOW)
    effects = core.effects.take_pending()
    refusals = [e.message for e in effects if isinstance(e, Send) and e.to == "server"]
    [early] = [message for message in refusals if isinstance(message, Refused)]
    assert early.status == 409 and "no adapter_config.json" in early.reason
    said = [e.text for e in effects if isinstance(e, Announcement) and e.level == "error"]
    assert said == ["adapter bad failed: no adapter_config.json"]
    core.handle_message(request("late", "bad"), NOW)
    [late] = [message for message in sent(core) if isinstance(message, Refused)]
    assert late.status == 404 and "known: good;" in late.reason


def test_an_adapter_of_the_start_that_fails_stays_with_its_reason(
    make_core: Callable[..., RouterCore],
) -> None:
    """Also when a load under its name has failed too."""
    core = make_core("old=/old")
    core.handle_message(worker_ready(), NOW)
    for number in range(2):
        [adapter] = core.registry
        info = info_of(adapter.key, reason=f"reason {number}")
        core.handle_message(AdapterRead(0, adapter.reading, info), NOW)
        [view] = core.adapter_table(NOW).adapters
        assert (view.state, view.reason) == (AdapterState.FAILED, f"reason {number}")
        order = LoadAdapter(order=str(number), reply_to="me", name="old", path="/new")
        core.handle_message(order, NOW)


@pytest.mark.parametrize("reason", ["", "it is no adapter"])
def test_a_load_in_place_serves_the_old_files_until_the_new_ones_are_read(
    reason: str, make_core: Callable[..., RouterCore]
) -> None:
    core = make_core("one=/one")
    core.handle_message(worker_ready(), NOW)
    [old] = core.registry
    core.handle_message(AdapterRead(0, old.reading, info_of(old.key)), NOW)
    sent(core)
    order = LoadAdapter(order="1", reply_to="me", name="one", path="/two", pinned=True)
    core.handle_message(order, NOW)
    assert [reply.status for reply in replies_of(core)] == [409]
    core.handle_message(msgspec.structs.replace(order, order="2", replaces=True), NOW)
    [read] = [message for message in sent(core) if isinstance(message, ReadAdapter)]
    assert (read.key, read.path) == ("one@2", "/two")
    assert core.registry.current("one") is old
    core.handle_message(AdapterRead(0, read.order, info_of(read.key, reason=reason)), NOW)
    [reply] = replies_of(core)
    served = core.registry.current("one")
    if reason:
        assert reply.status == 400 and "generation 1 is still served" in reply.text
        assert (served.key, served.path, served.pinned) == ("one@1", "/one", False)
    else:
        assert reply.status == 200
        assert (served.key, served.path, served.pinned) == ("one@2", "/two", True)


def test_a_load_in_place_of_a_new_name_is_a_load(make_core: Callable[..., RouterCore]) -> None:
    core = make_core()
    core.handle_message(worker_ready(), NOW)
    order = LoadAdapter(order="1", reply_to="me", name="new", path="/new", replaces=True)
    core.handle_message(order, NOW)
    [read] = [message for message in sent(core) if isinstance(message, ReadAdapter)]
    core.handle_message(AdapterRead(0, read.order, info_of(read.key)), NOW)
    assert [(reply.status, reply.text) for reply in replies_of(core)] == [
        (200, "adapter new loaded")
    ]


def test_what_a_rank_that_is_gone_has_read_is_read_again(
    make_core: Callable[..., RouterCore],
) -> None:
    """Else an adapter is placed on a rank that does not have it yet, and has failed for good."""
    core = make_core("one=/one", tp=2)
    [adapter] = core.registry

    def come(incarnation: int) -> int:
        """Both ranks are ready; the number of the reading that they are given."""
        sent(core)
        for rank in range(2):
            core.handle_message(worker_ready(incarnation, rank), NOW)
        [number] = {m.order for m in sent(core) if isinstance(m, ReadAdapter)}
        return number

    def answer(rank: int, number: int) -> None:
        core.handle_message(AdapterRead(rank, number, info_of(adapter.key)), NOW)

    first = come(1)
    answer(1, first)  # and rank 0 dies over it
    second = come(2)
    answer(0, first)  # what it said comes late
    answer(0, second)
    assert adapter.state is AdapterState.VALIDATING
    answer(1, second)
    assert adapter.state is AdapterState.LOADING  # on every host, and on its way


def test_a_hub_adapter_is_fetched_before_it_is_read(make_core: Callable[..., RouterCore]) -> None:
    core = make_core("far=org/adapter")
    core.handle_message(worker_ready(), NOW)
    effects = core.effects.take_pending()
    assert FetchAdapter("far@1", "org/adapter") in effects
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, ReadAdapter)]
    core.handle_message(AdapterFetched("far@1", "/cache/adapter"), NOW)
    [read] = [message for message in sent(core) if isinstance(message, ReadAdapter)]
    assert (read.key, read.path) == ("far@1", "/cache/adapter")


def test_a_hub_adapter_that_cannot_be_fetched_fails_with_the_reason(
    make_core: Callable[..., RouterCore],
) -> None:
    core = make_core("far=org/adapter")
    core.handle_message(worker_ready(), NOW)
    core.handle_message(AdapterFetched("far@1", "", "no network"), NOW + 5)
    [adapter] = core.registry
    assert (adapter.state, adapter.reason) == (AdapterState.FAILED, "no network")
    assert adapter.since == NOW + 5


def place(core: RouterCore, now: float) -> None:
    """The one adapter is read and placed, as a worker answers."""
    [adapter] = core.registry
    core.handle_message(AdapterRead(0, adapter.reading, info_of(adapter.key)), now)
    core.handle_message(AdapterPlaced(0, core.scheduler.epoch, adapter.key), now)
    assert adapter.state is AdapterState.GPU


def test_a_hit_is_a_request_that_finds_its_adapter_placed_by_the_time_handed_in(
    make_core: Callable[..., RouterCore],
) -> None:
    """Long after these times, as a replay is: the machine's clock does not count."""
    core = make_core("one=/one")
    core.handle_message(worker_ready(), NOW)

    def ask(name: str, at: float) -> None:
        request = Request(
            request_id=name,
            adapter="one",
            prompt_ids=(1, 2),
            params=SamplingParams(max_tokens=4),
            arrived_at=at,
        )
        core.handle_message(request, at)

    ask("early", NOW + 1)
    place(core, NOW + 2)
    ask("late", NOW + 3)
    assert core.plan_step(NOW + 4) is not None
    [view] = core.adapter_table(NOW + 4).adapters
    assert (view.requests, view.hits, view.since) == (2, 1, NOW + 2)


def test_a_merge_of_workers_that_are_gone_holds_its_adapter_no_longer(
    make_core: Callable[..., RouterCore],
) -> None:
    core = make_core("one=/one")
    core.handle_message(worker_ready(), NOW)
    place(core, NOW)
    [adapter] = core.registry
    core.handle_message(MergeAdapter(order="m", reply_to="me", name="one"), NOW)
    assert adapter.held == 1 and MergeWeights("one@1") in sent(core)
    core.handle_message(worker_ready(incarnation=2), NOW)
    [reply] = [message for message in sent(core) if isinstance(message, AdapterReply)]
    assert (reply.order, reply.status) == ("m", 503)
    assert adapter.held == 0
    core.handle_message(WeightsMerged(0, "one@1"), NOW)  # what the old worker said comes late
    assert not adapter.merged and adapter.held == 0


def events(core: RouterCore) -> list[str]:
    """The events since the last call."""
    pending = core.effects.take_pending()
    return [e.text for e in pending if isinstance(e, Announcement)]


def test_an_eviction_is_an_event_with_its_cause_and_so_is_the_end_of_an_adapter(
    make_core: Callable[..., RouterCore],
) -> None:
    """Each takes 40 of 64 pages, so a request for one evicts the other."""
    core = make_core("one=/one", "two=/two")
    core.handle_message(worker_ready(), NOW)
    for adapter in core.registry:
        answer = AdapterRead(0, adapter.reading, info_of(adapter.key, pages=40))
        core.handle_message(answer, NOW)

    def use(name: str) -> list[str]:
        params = SamplingParams(max_tokens=1)
        request = Request(
            request_id=name, adapter=name, prompt_ids=(1, 2), params=params, arrived_at=NOW
        )
        core.handle_message(request, NOW)
        core.send_adapter_orders()
        core.handle_message(AdapterPlaced(0, core.scheduler.epoch, f"{name}@1"), NOW)
        batch = core.plan_step(NOW)
        assert batch is not None
        tokens = tuple(SampledToken(row.sequence, 7) for row in batch.rows)
        core.handle_message(Tokens(batch.epoch, batch.step, 0, tokens, busy_us=900), NOW)
        core.finish_step(batch.step, NOW)
        return events(core)

    events(core)
    assert use("one") == ["adapter one on device: rank 8, 40 pages"]
    assert use("two") == [
        "adapter one evicted for adapter two: 40 pages",
        "adapter two on device: rank 8, 40 pages",
    ]
    one, two = core.adapter_table(NOW).adapters
    assert (one.reason, one.evictions, one.device_us) == ("evicted for adapter two", 1, 900)
    assert (two.reason, two.evictions, two.device_us) == ("", 0, 900)
    core.handle_message(UnloadAdapter(order="1", reply_to="server", name="two"), NOW)
    core.plan_step(NOW)
    assert events(core) == ["adapter two unloading", "adapter two unloaded"]

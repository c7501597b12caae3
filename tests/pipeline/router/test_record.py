"""A router that continues from the record of an earlier one: by its core alone, and its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from router_core import NOW, ask, sent, worker_ready

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Abort,
    AdapterInfo,
    AdapterOrder,
    AdapterPlaced,
    AdapterRead,
    AdapterReply,
    AdapterState,
    Drain,
    DropAdapter,
    KeptSequence,
    LoadAdapter,
    MergeAdapter,
    MergeWeights,
    Message,
    PinAdapter,
    PlaceAdapter,
    ReadAdapter,
    Ready,
    Refused,
    ReloadAdapter,
    ResumeRequest,
    SetScheduler,
    UnloadAdapter,
    UseMerged,
    WeightsMerged,
    WorkerReady,
)
from loraconsole.pipeline.router.core import RouterCore
from loraconsole.pipeline.router.record import RouterRecord
from loraconsole.pipeline.router.record_file import RecordFile

CONFIG = Config(run="/nowhere", adapter=("one=/one",))


def info_of(key: str, digest: str = "digest") -> AdapterInfo:
    return AdapterInfo(key, "/there", 8, ("q_proj",), 1, 2, digest)


class World:
    """A core, and workers that keep what they have read when the core is replaced."""

    def __init__(self) -> None:
        self.held: dict[str, AdapterInfo] = {}
        self.merged = ""
        self.kept: tuple[KeptSequence, ...] = ()
        self.digest = "digest"
        self.reads: list[str] = []
        self.replies: list[AdapterReply] = []
        self.refusals: list[Refused] = []
        self.answers_reads = True
        self.number = 0
        self.born = NOW
        self.core = RouterCore(CONFIG, 7_000, NOW)
        self.meet_all()

    def worker(self) -> WorkerReady:
        ready = worker_ready()
        held = tuple(self.held.values())
        return msgspec.structs.replace(ready, adapters=held, merged=self.merged, kept=self.kept)

    def meet_all(self) -> None:
        self.give(self.worker())
        for name in ("detokenizer", "server"):
            self.give(Ready(name, 1))

    def give(self, message: Message) -> None:
        self.core.handle_message(message, self.born)
        self.carry_out()

    def carry_out(self) -> None:
        while True:
            if not self.core.steps:
                self.core.plan_step(self.born)
            if not (messages := sent(self.core)):
                return
            for message in messages:
                self.answer(message)

    def answer(self, message: Message) -> None:
        match message:
            case ReadAdapter(order=order, key=key) if self.answers_reads:
                self.reads.append(key)
                self.held[key] = info_of(key, self.digest)
                self.core.handle_message(AdapterRead(0, order, self.held[key]), self.born)
            case PlaceAdapter(epoch=epoch, key=key):
                self.core.handle_message(AdapterPlaced(0, epoch, key), self.born)
            case DropAdapter(key=key):
                self.held.pop(key, None)
            case MergeWeights(key=key) if self.answers_reads:
                self.merged = key
                self.core.handle_message(WeightsMerged(0, key), self.born)
            case AdapterReply():
                self.replies.append(message)
            case Refused():
                self.refusals.append(message)

    def order(self, kind: type[AdapterOrder], **fields: object) -> AdapterOrder:
        self.number += 1
        order: AdapterOrder = kind(order=str(self.number), reply_to="me", **fields)  # type: ignore[arg-type]
        self.give(order)
        return order

    def replace_core(self, *, config: Config = CONFIG, meets: bool = True) -> None:
        """The router dies: another one has only its record."""
        record = self.core.record()
        assert record is not None
        self.born += 10
        data = msgspec.json.encode(record)
        self.core = RouterCore(
            config, 8_000, self.born, record=msgspec.json.decode(data, type=RouterRecord)
        )
        self.reads.clear()
        self.replies.clear()
        if meets:
            self.meet_all()

    def states(self) -> dict[str, tuple[str, bool]]:
        return {a.key: (a.state.value, a.pinned) for a in self.core.registry}


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.core.scheduler.check()


def test_adapters_keep_their_generations_and_pins_and_are_not_read_again(world: World) -> None:
    world.order(LoadAdapter, name="two", path="/two", pinned=True)
    world.order(ReloadAdapter, name="one")
    world.order(LoadAdapter, name="three", path="/three")
    world.order(UnloadAdapter, name="three")
    assert {*world.held} == {"one@2", "two@1"}
    world.replace_core()
    assert world.reads == []
    assert {key: pinned for key, (_, pinned) in world.states().items()} == {
        "one@2": False,
        "two@1": True,
    }
    world.order(ReloadAdapter, name="one")
    assert "one@3" in world.states()


def test_requests_of_an_old_generation_stay_with_it(world: World) -> None:
    world.give(ask("old", adapter="one"))
    world.order(ReloadAdapter, name="one")
    world.give(ask("new", adapter="one"))
    world.replace_core(meets=False)
    for name in ("old", "new"):
        world.give(ResumeRequest(request=ask(name, adapter="one"), token_ids=(7,)))
    world.meet_all()
    users = {s.request_id: s.adapter.key for s in world.core.scheduler.sequences()}
    assert users == {"old": "one@1", "new": "one@2"}
    world.replace_core(meets=False)  # and once more
    for name in ("old", "new"):
        world.give(ResumeRequest(request=ask(name, adapter="one"), token_ids=(7, 7)))
    world.meet_all()
    users = {s.request_id: s.adapter.key for s in world.core.scheduler.sequences()}
    assert users == {"old": "one@1", "new": "one@2"}


def test_requests_go_on_from_the_kv_that_the_workers_have_kept(world: World) -> None:
    for name in ("a", "b"):
        world.give(ask(name, adapter="one"))
    world.replace_core(meets=False)
    world.kept = (
        KeptSequence("a", NOW, "one@1", 9, (3, 5, 6)),
        KeptSequence("b", NOW, "one@9", 8, (9, 10)),
        KeptSequence("ended", NOW, None, 4, (11,)),
    )
    for name in ("a", "b"):
        world.give(ResumeRequest(request=ask(name, adapter="one"), token_ids=(7,) * 5))
    world.give(world.worker())
    assert world.core.scheduler.pool.kv == 6, "pages of requests that may yet come are kept"
    world.core.scheduler.check()
    world.meet_all()
    (step,) = world.core.steps.values()
    admitted = {each.request_id: each for each in step.batch.admit}
    rows = {row.sequence: row for row in step.batch.rows}
    a, b = admitted["a"], admitted["b"]
    assert a.computed == 6 and rows[a.sequence].num_tokens == 1, "its last token, for its logits"
    assert rows[a.sequence].new_pages == (3, 5)
    assert b.computed == 0 and rows[b.sequence].num_tokens == 7, "another generation's KV"
    assert world.core.scheduler.pool.kv == 4


def test_an_old_generation_without_requests_is_gone(world: World) -> None:
    world.give(ask("old", adapter="one"))
    world.order(ReloadAdapter, name="one")
    world.replace_core()
    world.carry_out()
    assert [*world.states()] == ["one@2"] and [*world.held] == ["one@2"]


def test_files_that_changed_are_not_served_in_place_of_those_that_were_read(world: World) -> None:
    """The worker has died too: it must read them again."""
    world.give(ask("a", adapter="one"))
    world.replace_core(meets=False)
    world.held.clear()
    world.digest = "another"
    world.give(ResumeRequest(request=ask("a", adapter="one"), token_ids=(7,)))
    world.meet_all()
    assert world.states()["one@1"][0] == AdapterState.FAILED.value
    [refused] = world.refusals
    assert refused.request_id == "a" and "one" in refused.reason
    assert "its files changed since generation 1 was read" in refused.reason
    world.replace_core()  # what has failed has not become right by that
    assert world.states()["one@1"][0] == AdapterState.FAILED.value


def test_without_a_record_no_adapter_answers_in_place_of_an_unknown_generation(
    world: World,
) -> None:
    """The base has no generations."""
    world.order(ReloadAdapter, name="one")
    world.core = RouterCore(CONFIG, 8_000, NOW + 10)
    world.born = NOW + 10
    for name, adapter in (("a", "one"), ("b", None)):
        request = ask(name, adapter=adapter)
        world.give(ResumeRequest(request=request, token_ids=(7,)))
    world.meet_all()
    [refused] = world.refusals
    assert (refused.request_id, refused.status) == ("a", 503) and "'one'" in refused.reason
    assert [s.request_id for s in world.core.scheduler.sequences()] == ["b"]


def test_an_order_that_comes_again_is_answered_and_not_carried_out_again(world: World) -> None:
    load = world.order(LoadAdapter, name="two", path="/two")
    policy = SetScheduler(order="policy", reply_to="me", policy="lifo")
    world.give(policy)
    first = {reply.order: (reply.status, reply.text) for reply in world.replies}
    world.replace_core()
    for order in (load, policy):
        world.give(order)
    assert {reply.order: (reply.status, reply.text) for reply in world.replies} == first
    assert world.replies[-1].scheduling == world.core.scheduler.settings
    assert world.core.scheduler.settings.policy == "lifo" and not world.reads


def test_orders_that_are_under_way_are_answered_once_by_the_next_router(world: World) -> None:
    world.give(ask("a", adapter="one"))
    unload = world.order(UnloadAdapter, name="one")
    world.answers_reads = False
    load = world.order(LoadAdapter, name="two", path="/two")
    assert not world.replies
    world.replace_core(meets=False)
    world.answers_reads = True
    for again in (load, unload, load):
        world.give(again)
    world.give(ResumeRequest(request=ask("a", adapter="one"), token_ids=(7,)))
    world.meet_all()
    assert {reply.order for reply in world.replies} == {load.order}
    assert world.reads == ["two@1"]
    world.give(ask("late", adapter="one"))
    assert [refused.request_id for refused in world.refusals] == ["late"]
    world.give(Abort("a", "client gone"))
    world.core.plan_step(world.born)
    world.carry_out()
    assert [reply.order for reply in world.replies].count(unload.order) == 1


def test_what_is_merged_by_an_order_stays_merged(world: World) -> None:
    """Workers keep the copy; new ones make it again."""
    world.order(MergeAdapter, name="one")
    assert world.merged == "one@1"
    world.replace_core(meets=False)
    world.core.handle_message(world.worker(), world.born)
    messages = sent(world.core)
    assert UseMerged("one@1") in messages and MergeWeights("one@1") not in messages
    for name in ("detokenizer", "server"):
        world.give(Ready(name, 1))
    assert world.core.adapter_table(NOW).adapters[0].merged
    world.merged = ""
    world.held.clear()
    world.give(msgspec.structs.replace(world.worker(), incarnation=2))
    world.carry_out()
    assert world.merged == "one@1" and world.core.adapter_table(NOW).adapters[0].merged


def test_a_copy_that_is_not_wanted_any_more_is_freed(world: World) -> None:
    world.order(MergeAdapter, name="one")
    world.order(UnloadAdapter, name="one")
    world.merged = "one@1"  # the order to free it was lost
    world.replace_core()
    assert world.merged == ""


def test_a_merge_under_way_is_done_and_answered_by_the_next_router(world: World) -> None:
    world.answers_reads = False
    merge = world.order(MergeAdapter, name="one")
    world.replace_core(meets=False)
    world.answers_reads = True
    world.meet_all()
    world.carry_out()
    assert [(reply.order, reply.status) for reply in world.replies] == [(merge.order, 200)]


@pytest.mark.parametrize("policy", ["vtc_fair", "credit"])
def test_the_policy_goes_on_with_its_counters(world: World, policy: str) -> None:
    world.give(SetScheduler(order="policy", reply_to="me", policy=policy, max_per_adapter=3))
    counted = {"one": 12.5, "": 3.0} if policy == "vtc_fair" else {"one": 0.5}
    world.core.scheduler.policy.restore_counters(counted)
    world.replace_core()
    settings = world.core.scheduler.settings
    assert (settings.policy, settings.max_per_adapter) == (policy, 3)
    assert world.core.scheduler.policy.kept_counters() == counted


def test_draining_goes_on_and_what_was_accepted_is_resumed(world: World) -> None:
    world.give(ask("a"))
    world.give(Drain())
    world.replace_core(meets=False)
    world.give(ResumeRequest(request=ask("a"), token_ids=(7,)))
    world.meet_all()
    world.give(ask("b"))
    assert [s.request_id for s in world.core.scheduler.sequences()] == ["a"]
    assert [refused.request_id for refused in world.refusals] == ["b"]


def test_requests_and_orders_wait_until_the_server_has_named_those_that_run(world: World) -> None:
    """A reload that came first would give running requests other weights."""
    world.give(ask("a", adapter="one"))
    world.replace_core(meets=False)
    world.give(world.worker())
    world.give(Ready("detokenizer", 1))
    world.give(ask("new", adapter="one"))
    world.order(ReloadAdapter, name="one")
    assert [*world.states()] == ["one@1"] and not world.replies and not world.refusals
    assert world.core.record() is None
    world.give(ResumeRequest(request=ask("a", adapter="one"), token_ids=(7,)))
    world.give(Ready("server", 1))
    users = {s.request_id: s.adapter.key for s in world.core.scheduler.sequences()}
    assert users == {"a": "one@1", "new": "one@1"}
    assert [reply.status for reply in world.replies] == [200] and "one@2" in world.states()


def test_the_pin_of_an_order_is_in_the_record_before_its_answer(world: World) -> None:
    world.core.handle_message(
        PinAdapter(order="pin", reply_to="me", name="one", pinned=True), world.born
    )
    assert world.core.effects.record_changed
    record = world.core.record()
    assert record is not None and record.adapters[0].pinned
    assert [answered.order for answered in record.answered] == ["pin"]


# --- the file -------------------------------------------------------------------------------------


def test_a_record_is_written_whole_and_privately_and_only_if_it_changed(
    world: World, tmp_path: Path
) -> None:
    file = RecordFile(tmp_path)
    assert file.read() is None and not file.error
    record = world.core.record()
    assert record is not None
    file.write(record)
    assert [path.name for path in tmp_path.iterdir()] == ["router.json"]
    assert file.path.stat().st_mode & 0o777 == 0o600
    before = file.path.stat().st_ino
    file.write(record)
    assert file.path.stat().st_ino == before
    file.write(msgspec.structs.replace(record, is_draining=True))
    known = RecordFile(tmp_path).read()
    assert known == msgspec.structs.replace(record, is_draining=True)


def test_a_record_that_cannot_be_written_leaves_no_older_one(world: World, tmp_path: Path) -> None:
    file = RecordFile(tmp_path)
    record = world.core.record()
    assert record is not None
    file.write(record)
    (tmp_path / "router.new").mkdir()
    file.write(msgspec.structs.replace(record, is_draining=True))
    assert "cannot write" in file.error and not file.path.exists()
    (tmp_path / "router.new").rmdir()
    file.write(record)
    assert not file.error and RecordFile(tmp_path).read() == record


@pytest.mark.parametrize("content", [b"", b"{", b'{"adapters": 3}'])
def test_a_damaged_record_counts_as_none(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "router.json").write_bytes(content)
    file = RecordFile(tmp_path)
    assert file.read() is None and "cannot read" in file.error

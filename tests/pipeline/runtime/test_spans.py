"""Spans stay balanced whatever interleaves, raises or is cancelled, and are nothing when off."""

from __future__ import annotations

import asyncio
import json
import random
import sys
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Abort,
    Batch,
    Introduce,
    Message,
    Ready,
    Request,
    Reset,
    SampledToken,
    SamplingParams,
    StartSpans,
    ToDetokenizer,
    Tokens,
    ToServer,
    ToWorker,
    WorkerReady,
)
from loraconsole.pipeline.router.router import Router
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.runtime.process import Process
from loraconsole.pipeline.runtime.sockets import Inbox, Outbox, make_context
from loraconsole.pipeline.runtime.spans import CAPTURED, LISTENERS, NOTHING, Nvtx, Spans, load_nvtx

STEPS = 10_000
EVERYWHERE = {
    "wait_to_model_ready",
    "add_req(prompt_len_{}_req_id_{})",
    "abort(request_id_{})",
    "running_batch is null",
    "small_wt_{},mwt_{}",
    "large_wt_{},mwt_{}",
    "new_mini_batch_not_null",
    "new_mini_batch_is_null",
    "_init_batch",
    "_prefill_batch",
    "model_rpcs.prefill_batch",
    "_decode_batch",
    "_filter_batch",
    "_merge_batch",
    "_remove_batch",
    "_handle_finish_req",
    "_filter_runing_batch ...",
    "_add_token_id_to_req",
    "_send_to_detokenization_proc",
    "loop_for_netio_req recv_req",
    "abort_req",
    "clean_up",
    "can add new req, need_max_token_num_{}",
    "gen_new_batch_{}",
    "next_batch{}",
}
"""The names of the S-LoRA fork's sites; `init_model(rank_id_{})` is a worker's."""
PARENTS = {
    "_init_batch": {"_prefill_batch", "_decode_batch"},
    "model_rpcs.prefill_batch": {"_prefill_batch"},
    "model_rpcs.decode_batch": {"_decode_batch"},
    "gen_new_batch_{}": {"next_batch{}"},
    "can add new req, need_max_token_num_{}": {"gen_new_batch_{}"},
    "_merge_batch": {"gen_new_batch_{}"},
    "next_batch{}": {"running_batch is null", "small_wt_{},mwt_{}", "large_wt_{},mwt_{}"},
    "abort(request_id_{})": {"abort_req"},
    "abort_req": {"loop_for_netio_req recv_req"},
    "_filter_batch": {"_handle_finish_req"},
    "_remove_batch": {"_handle_finish_req"},
    "_add_token_id_to_req": {"_prefill_batch", "_decode_batch"},
}


class Ranges:
    """In NVTX's place: a range is started once, and ended once, by what its start returned."""

    def __init__(self) -> None:
        self.live: dict[int, str] = {}
        self.started = 0
        self.sink = Nvtx(self._start, self._end)

    def _start(self, name: str) -> int:
        self.started += 1
        self.live[self.started] = name
        return self.started

    def _end(self, handle: int) -> None:
        del self.live[handle]


def read(path: Path) -> list[dict[str, Any]]:
    events = [json.loads(line) for line in path.read_text().splitlines()]
    return [event for event in events if event["ph"] == "X"]


def parents(events: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any] | None]]:
    """Each event and the one around it in its lane. Asserts that those of a lane lie within each
    other, or apart."""
    found = []
    lanes = defaultdict(list)
    for event in events:
        lanes[event["pid"], event["tid"]].append(event)
    for lane in lanes.values():
        around: list[dict[str, Any]] = []
        for event in sorted(lane, key=lambda e: (e["ts"], -e["dur"])):
            while around and around[-1]["ts"] + around[-1]["dur"] <= event["ts"] + 1e-3:
                around.pop()
            outer = around[-1] if around else None
            if outer:
                assert event["ts"] + event["dur"] <= outer["ts"] + outer["dur"] + 1e-3
            found.append((event, outer))
            around.append(event)
    return found


class Peers:
    """What a router talks to, in its own loop over real sockets. The worker fails now and then."""

    def __init__(self, run: Path) -> None:
        self.context = make_context()
        self.inboxes = {
            name: Inbox(self.context, run, name, accepts)
            for name, accepts in (
                ("worker-0", ToWorker),
                ("detokenizer", ToDetokenizer),
                ("server", ToServer),
            )
        }
        self.router = Outbox(self.context, run, "router")
        self.chance = random.Random(0)
        self.failures = self.num_steps = 0
        self._left: dict[int, int] = {}  # tokens of a prompt still to compute

    async def listen(self, name: str) -> None:
        while True:
            match await self.inboxes[name].receive():
                case Introduce():
                    self.router.send(self._introduction(name))
                case Reset():
                    self._left.clear()
                case Batch() as batch:
                    self.router.send(self._answer(batch))

    def _introduction(self, name: str) -> Message:
        if name != "worker-0":
            return Ready(name, 1)
        return WorkerReady(
            rank=0,
            incarnation=1,
            device="cpu",
            num_pages=40,
            page_size=16,
            max_model_len=256,
            max_running=8,
            max_prefill_tokens=256,
            chunk_tokens=192,
            vocab_size=100,
            eos_token_ids=(2,),
        )

    def _answer(self, batch: Batch) -> Tokens:
        self.num_steps += 1
        for number in batch.release:
            self._left.pop(number, None)
        self._left |= {admission.sequence: len(admission.token_ids) for admission in batch.admit}
        sampled = []
        for row in batch.rows:
            self._left[row.sequence] -= row.num_tokens
            if not self._left[row.sequence]:
                self._left[row.sequence] = 1
                sampled.append(SampledToken(row.sequence, self.chance.randrange(3, 100)))
        if self.chance.random() < 0.005:
            self.failures += 1
            return Tokens(batch.epoch, batch.step, 0, (), "RuntimeError: by chance")
        return Tokens(batch.epoch, batch.step, 0, tuple(sampled))

    async def ask(self, router: Router) -> None:
        """Requests of all sizes, more than run at once now and then, a third of them aborted."""
        number = 0
        while router.core.scheduler.step < STEPS:
            while len(router.core.scheduler) < self.chance.choice((0, 3, 12)):
                name = f"r{number}"
                number += 1
                prompt = tuple(self.chance.choices(range(100), k=self.chance.randint(1, 60)))
                params = SamplingParams(max_tokens=self.chance.randint(1, 60))
                self.router.send(
                    Request(
                        request_id=name,
                        adapter=None,
                        prompt_ids=prompt,
                        params=params,
                        arrived_at=float(number),
                    )
                )
                if self.chance.random() < 0.3:
                    delay = self.chance.random() / 50
                    loop = asyncio.get_running_loop()
                    loop.call_later(delay, self.router.send, Abort(name, "by chance"))
                await asyncio.sleep(0)
            await asyncio.sleep(0.001)

    def close(self) -> None:
        for inbox in self.inboxes.values():
            inbox.close()
        self.router.close()
        self.context.term()


@pytest.mark.slow
def test_ten_thousand_steps_of_the_router_leave_no_span_open(tmp_path: Path) -> None:
    """The real loop, with requests that come, end, are aborted, and fall with steps that fail."""
    run = make_run_directory(tmp_path / "r")
    config = Config(run=str(run), max_running=8)
    ranges = Ranges()

    async def live() -> tuple[Router, Peers]:
        peers, router = Peers(run), Router(config)
        router.spans.start(run / "spans.jsonl", ranges.sink)
        tasks = [asyncio.create_task(peers.listen(name)) for name in peers.inboxes]
        life = asyncio.create_task(router._live())
        try:
            while not router.core.scheduler.epoch:
                await asyncio.sleep(0.01)
            await peers.ask(router)
            while len(router.core.scheduler):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.03)  # until the last abort has been sent
            recording = router.spans.recording
            assert recording and recording.num_open == 0
        finally:
            life.cancel()
            await life
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            router.close()
            peers.close()
        return router, peers

    router, peers = asyncio.run(live())
    assert peers.num_steps >= STEPS * 0.9 and peers.failures > 20 and router.core.aborts > 100
    recording = router._recorded
    assert recording and recording.num_open == recording.dropped == 0
    events = read(run / "spans.jsonl")
    assert len(events) == recording.ended > 10 * STEPS
    assert ranges.live == {} and ranges.started == recording.ended + 1
    assert {event["cat"] for event in events} >= EVERYWHERE
    for event, outer in parents(events):
        if wanted := PARENTS.get(event["cat"]):
            assert outer and outer["cat"] in wanted, (event, outer)
        if outer and event["cat"].startswith("model_rpcs."):
            assert event["args"]["step"] == outer["args"]["step"]
    assert sum(event["cat"] == "model_rpcs.decode_batch" for event in events) > STEPS / 2


def test_interleaved_coroutines_threads_and_errors_each_keep_their_own(tmp_path: Path) -> None:
    spans, ranges = Spans(), Ranges()
    spans.start(tmp_path / "s.jsonl", ranges.sink)
    chance = random.Random(0)

    async def step(number: int) -> None:
        with spans.span("outer {}", number, number=number):
            await asyncio.sleep(chance.random() / 1000)
            with spans.span("inner", number=number):
                if number % 7 == 0:
                    raise ValueError
                await asyncio.sleep(0.01 if number % 5 == 0 else 0)

    def work() -> None:
        for number in range(200):
            with spans.span("outer {}", number, number=number), spans.span("inner", number=number):
                pass

    async def all_steps() -> None:
        steps = [asyncio.create_task(step(number)) for number in range(500)]
        await asyncio.sleep(0.005)
        for victim in steps[::3]:
            victim.cancel()
        await asyncio.gather(*steps, asyncio.to_thread(work), return_exceptions=True)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    asyncio.run(all_steps())
    for thread in threads:
        thread.join()
    recording = spans.stop()
    assert recording and recording.num_open == 0 and ranges.live == {}
    events = read(tmp_path / "s.jsonl")
    assert len(events) == recording.ended == ranges.started - 1
    for event, outer in parents(events):
        assert (outer is None) == (event["cat"] == "outer {}")
        if outer:
            assert event["args"]["number"] == outer["args"]["number"]


def test_a_stop_ends_what_is_open_and_a_start_begins_anew(tmp_path: Path) -> None:
    spans, ranges = Spans(), Ranges()
    assert spans.stop() is None
    first = spans.start(tmp_path / "1.jsonl", ranges.sink)
    assert spans.start(tmp_path / "2.jsonl", layers=True) is first and spans.layers
    assert ranges.live == {1: CAPTURED}
    with spans.span("whole"):
        with spans.span("ended"):
            pass
        with spans.span("cut"):
            spans.stop()
            assert ranges.live == {} and not spans.layers
            spans.start(tmp_path / "2.jsonl")
            with spans.span("of the second"):
                pass
    assert spans.stop() is not first
    told = {event["name"]: event["args"] for event in read(tmp_path / "1.jsonl")}
    assert told == {"ended": {}, "cut": {"cut": True}, "whole": {"cut": True}}
    assert [event["name"] for event in read(tmp_path / "2.jsonl")] == ["of the second"]


def test_what_a_file_may_not_hold_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraconsole.pipeline.runtime.spans.MOST_SPANS", 3)
    spans = Spans()
    spans.start(tmp_path / "s.jsonl")
    for _ in range(5):
        with spans.span("a"):
            pass
    recording = spans.stop()
    assert recording and (recording.ended, recording.dropped) == (5, 2)
    assert len(read(tmp_path / "s.jsonl")) == 3


def test_a_full_disk_loses_spans_and_nothing_else() -> None:
    spans = Spans()
    recording = spans.start(Path("/dev/full"))
    with spans.span("a"):
        pass
    spans.flush()
    assert recording.dropped == recording.ended == 1
    assert recording.error == "cannot write /dev/full: No space left on device"
    assert spans.stop() is recording


def test_off_means_nothing_is_made_and_no_value_is_formatted() -> None:
    class Unspeakable:
        def __format__(self, spec: str) -> str:
            raise AssertionError("formatted while off")

    spans = Spans()
    assert spans.span("a {}", Unspeakable(), step=1) is spans.span("b") is NOTHING
    with spans.span("a"), pytest.raises(ValueError), spans.span("b"):
        raise ValueError


def test_nvtx_ranges_may_overlap() -> None:
    nvtx = load_nvtx()
    assert nvtx
    first, second = nvtx.start("first"), nvtx.start("second")
    nvtx.end(first)
    nvtx.end(second)


def test_nvtx_hears_a_bounded_number_of_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("loraconsole.pipeline.runtime.spans.MOST_NAMES", 2)
    names: list[str] = []
    spans = Spans()
    spans.start(tmp_path / "spans", Nvtx(names.append, lambda handle: None))
    for number in range(4):
        with spans.span("abort(request_id_{})", number):
            pass
    spans.stop()
    whole = ["abort(request_id_0)", "abort(request_id_1)"]
    assert names == [CAPTURED, *whole, *["abort(request_id_{})"] * 2]
    assert '"abort(request_id_3)"' in (tmp_path / "spans").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["", *LISTENERS])
def test_whoever_records_makes_nvtx_ranges_where_a_profiler_listens(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in LISTENERS:
        monkeypatch.delenv(name, raising=False)
    if variable:
        monkeypatch.setenv(variable, "1")
    config = Config(run=str(make_run_directory(tmp_path / "r")))

    async def order(nvtx: bool) -> bool:
        process = Process(config, "router")
        start = StartSpans(order="o", reply_to="server", recording="now", nvtx=nvtx)
        process.order_spans(start)
        recording = process.spans.stop()
        process.close()
        assert recording
        return recording.has_nvtx

    assert asyncio.run(order(nvtx=False)) == bool(variable)
    assert asyncio.run(order(nvtx=True))
    monkeypatch.setitem(sys.modules, "nvtx", None)  # as where it is not installed
    assert not asyncio.run(order(nvtx=True))

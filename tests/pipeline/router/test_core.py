"""The router's decisions by its core alone: messages and times in, effects out."""

from __future__ import annotations

import random
from pathlib import Path

import msgspec
import pytest
from router_core import NOW, answer, ask, make_core, sent, worker_ready

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    END_OF_ANSWER,
    NO_TOKEN,
    Abort,
    AdapterInfo,
    AdapterPlaced,
    AdapterRead,
    AdapterReply,
    AnswerHeard,
    AnswerTimes,
    Batch,
    BatchRow,
    ChatWarning,
    Message,
    OpenStream,
    PlaceAdapter,
    ProcessState,
    ReadAdapter,
    Ready,
    Refused,
    Request,
    RequestsAnswered,
    Reset,
    ResumeRequest,
    SampledToken,
    SamplingParams,
    SetScheduler,
    StopFound,
    StreamToken,
    StreamTokens,
    Tokens,
)
from loraconsole.pipeline.router.core import RouterCore
from loraconsole.pipeline.router.effects import (
    AdapterFetched,
    Announcement,
    DropSteps,
    EnterState,
    FetchAdapter,
    Send,
    ShowStats,
    StepAnswered,
)
from loraconsole.pipeline.router.event_log import EventLog
from loraconsole.pipeline.router.replay import Replay
from loraconsole.pipeline.schedule.pets import LatencyTable


def test_a_step_is_finished_when_all_ranks_have_answered() -> None:
    core = make_core(tp=2)
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None and list(core.steps) == [batch.step]
    core.effects.take_pending()
    answer(core, batch, rank=1)
    answer(core, batch, rank=1)  # said twice counts once
    assert StepAnswered(batch.step) not in core.effects.take_pending()
    answer(core, batch, rank=0)
    assert core.effects.take_pending() == [StepAnswered(batch.step)]
    tokens = core.finish_step(batch.step, NOW)
    assert tokens is not None and [t.token_id for t in tokens.tokens] == [7]
    assert not core.steps


def test_the_server_gets_the_times_of_answers_but_not_of_what_was_given_up() -> None:
    core = make_core()
    for name, tokens in (("short", 2), ("stopped", 9), ("left", 9)):
        core.handle_message(ask(name, tokens=tokens), NOW)
    for planned, answered in ((NOW + 1, NOW + 3), (NOW + 3, NOW + 7)):
        batch = core.plan_step(planned)
        assert batch is not None
        answer(core, batch)
        sent(core)
        core.finish_step(batch.step, answered)
    assert sent(core, "server") == [RequestsAnswered((AnswerTimes(1.0, 2.0, 4.0),))]
    core.handle_message(StopFound("stopped"), NOW + 8)
    core.handle_message(Abort("left", "client gone"), NOW + 8)
    assert sent(core, "server") == [RequestsAnswered((AnswerTimes(1.0, 2.0, 5.0),))]
    core.handle_message(AnswerHeard("stopped"), NOW + 9)  # its times are known
    assert sent(core, "server") == []


def test_times_that_an_earlier_router_has_measured_are_not_made_up() -> None:
    core = make_core()
    params = SamplingParams(max_tokens=2)
    request = Request(
        request_id="old", adapter=None, prompt_ids=(1, 2), params=params, arrived_at=NOW - 60
    )
    core.handle_message(ResumeRequest(request=request, token_ids=(7,)), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch)
    sent(core)
    tokens = core.finish_step(batch.step, NOW)
    assert tokens is not None and tokens.tokens[0].finish_reason == "length"
    assert sent(core, "server") == []


def test_ranks_that_disagree_are_an_error_and_are_reset() -> None:
    """Rank 0's token counts; no request is refused."""
    core = make_core(tp=2)
    core.handle_message(ask("a"), NOW)
    epoch, batch = core.scheduler.epoch, core.plan_step(NOW)
    assert batch is not None
    for rank, token in enumerate((7, 8)):
        answer(core, batch, token, rank)
    core.finish_step(batch.step, NOW)
    effects = core.effects.take_pending()
    [report] = [e for e in effects if isinstance(e, Announcement)]
    assert report.level == "error" and "rank 1 chose other tokens than rank 0" in report.text
    assert DropSteps() in effects and Send("worker-1", Reset(core.scheduler.epoch)) in effects
    assert not [e for e in effects if isinstance(e, Send) and isinstance(e.message, Refused)]
    [sequence] = core.scheduler.sequences()
    assert core.scheduler.epoch != epoch
    assert (sequence.token_ids[-1], core.scheduler.running) == (7, [])


def test_a_failed_rank_answers_for_the_others_and_its_requests_end() -> None:
    """The others may wait for it for ever."""
    core = make_core(tp=2)
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    core.handle_message(ask("b"), NOW)  # not in the step: it goes on
    core.effects.take_pending()
    core.handle_message(Tokens(batch.epoch, batch.step, 1, (), "RuntimeError: no"), NOW)
    assert core.effects.take_pending() == [StepAnswered(batch.step)]
    assert core.finish_step(batch.step, NOW) is None
    messages = sent(core, "server")
    assert messages == [Refused("a", 500, "the step failed: RuntimeError: no")]
    assert "b" in core.scheduler and "a" not in core.scheduler


def test_answers_of_workers_that_are_gone_are_not_heard() -> None:
    core = make_core()
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    core.handle_message(worker_ready(incarnation=2), NOW)
    assert DropSteps() in core.effects.take_pending() and not core.steps
    answer(core, batch)
    assert not [e for e in core.effects.take_pending() if isinstance(e, StepAnswered)]
    again = core.plan_step(NOW)
    assert again is not None and again.admit[0].token_ids == (1, 2)


@pytest.mark.parametrize(
    ("requests", "text"),
    [
        ((), "workers are back"),
        (("a",), "workers are back; 1 request continues by recompute"),
        (("a", "b"), "workers are back; 2 requests continue by recompute"),
    ],
)
def test_workers_that_are_back_say_how_many_requests_continue(
    requests: tuple[str, ...], text: str
) -> None:
    core = make_core()
    for name in requests:
        core.handle_message(ask(name), NOW)
    core.handle_message(worker_ready(incarnation=2), NOW)
    said = [e.text for e in core.effects.take_pending() if isinstance(e, Announcement)]
    assert text in said


@pytest.mark.parametrize("kept", [(True, True), (True, False)])
def test_kv_counts_as_kept_only_if_every_rank_of_new_workers_has_it(
    kept: tuple[bool, bool],
) -> None:
    core = make_core(tp=2)
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    for rank in range(2):
        answer(core, batch, rank=rank)
    core.finish_step(batch.step, NOW)
    lost = core.plan_step(NOW)
    assert lost is not None and lost.rows == (BatchRow(batch.rows[0].sequence, 1),)
    answer(core, lost, rank=1)  # the other rank has not computed it
    core.effects.take_pending()
    for rank in range(2):
        ready = worker_ready(rank, incarnation=2, has_kept_kv=kept[rank])
        core.handle_message(ready, NOW)
    said = [e.text for e in core.effects.take_pending() if isinstance(e, Announcement)]
    again = core.plan_step(NOW)
    assert again is not None
    [admission], [row] = again.admit, again.rows
    assert admission.token_ids == (1, 2, 7)
    if all(kept):
        assert "workers are back; 1 request continues with kept KV" in said
        assert (admission.computed, row.num_tokens) == (2, 1)
        assert row.new_pages == batch.rows[0].new_pages
    else:
        assert "workers are back; 1 request continues by recompute" in said
        assert (admission.computed, row.num_tokens) == (0, 3)


@pytest.mark.parametrize("name", ["max_running", "max_prefill_tokens", "chunk_tokens"])
def test_the_limits_of_a_step_are_those_that_the_worker_reports(name: str) -> None:
    """Also where they differ from the router's own settings, which only the worker resolves."""
    core = RouterCore(Config(run="/nowhere", **{name: 5}), 7_000, NOW)
    core.handle_message(worker_ready(**{name: 3}), NOW)
    assert getattr(core.scheduler.limits, name) == 3


def test_a_detokenizer_that_comes_back_is_given_every_stream_from_its_first_token() -> None:
    """Those that have ended as well, until the server has their text."""
    core = make_core()
    core.handle_message(ask("short", tokens=1), NOW)
    core.handle_message(ask("long"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch)
    core.finish_step(batch.step, NOW)
    sent(core)
    core.handle_message(Ready("detokenizer", 2), NOW)
    messages = sent(core, "detokenizer")
    assert [m.request_id for m in messages if isinstance(m, OpenStream)] == ["long", "short"]
    streams = [m.tokens[-1] for m in messages if isinstance(m, StreamTokens)]
    assert [(t.request_id, t.finish_reason) for t in streams] == [
        ("long", None),
        ("short", "length"),
    ]
    core.handle_message(AnswerHeard("short"), NOW)
    core.handle_message(Ready("detokenizer", 3), NOW)
    messages = sent(core, "detokenizer")
    assert [m.request_id for m in messages if isinstance(m, OpenStream)] == ["long"]


def test_a_new_server_gets_every_stream_again() -> None:
    """Its clients may come back, so nothing is aborted."""
    core = make_core()
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch, token=7)
    core.finish_step(batch.step, NOW)
    core.effects.take_pending()
    core.handle_message(Ready("server", 2), NOW)
    effects = core.effects.take_pending()
    again = [e.message for e in effects if isinstance(e, Send) and e.to == "detokenizer"]
    assert [type(message) for message in again] == [OpenStream, StreamTokens]
    assert isinstance(again[1], StreamTokens)
    assert [(t.request_id, t.index, t.token_id) for t in again[1].tokens] == [("a", 0, 7)]
    assert Announcement("warning", "server restarted; 1 stream sent again") in effects
    assert len(core.scheduler) == 1 and core.aborts == 0


def test_requests_whose_tokens_cannot_be_delivered_are_refused() -> None:
    core = make_core()
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch)
    tokens = core.finish_step(batch.step, NOW)
    assert tokens is not None
    sent(core)
    core.refuse_undelivered(tokens, "detokenizer has not drained its inbox", NOW)
    assert sent(core, "server") == [Refused("a", 503, "detokenizer has not drained its inbox")]
    assert "a" not in core.scheduler


def test_new_settings_are_published_before_they_are_answered() -> None:
    core = make_core()
    core.handle_message(SetScheduler(order="1", reply_to="me", policy="lifo"), NOW + 3)
    effects = core.effects.take_pending()
    [reply] = [e.message for e in effects if isinstance(e, Send)]
    assert isinstance(reply, AdapterReply) and (reply.status, reply.at) == (200, NOW + 3)
    assert effects.index(ShowStats()) < effects.index(Send("me", reply))


def test_a_warning_about_chat_files_changes_the_table_and_no_decision() -> None:
    core = make_core(adapter=("one=/one",))
    core.plan_step(NOW)
    core.effects.adapters_changed = core.effects.step_wanted = False
    core.handle_message(ChatWarning("one", 1, "its template is broken"), NOW)
    assert core.effects.adapters_changed and not core.effects.step_wanted
    assert core.adapter_table(NOW).adapters[0].warning == "its template is broken"


def test_the_core_reads_no_disk_for_its_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    weights = ("/models/base=0.5", "one=2")
    config = Config(model="/models/base", adapter=("one=/one",), fair_weight=weights)
    for reader in ("exists", "isfile", "abspath", "expanduser"):
        monkeypatch.setattr(f"os.path.{reader}", None)
    core = RouterCore(config, 7_000, NOW)
    assert [weight.name for weight in core.scheduler.settings.weights] == ["", "one"]


def test_the_state_says_what_is_still_missing() -> None:
    core = RouterCore(Config(run="/nowhere", adapter=("one=/one",)), 7_000, NOW)
    core.handle_message(Ready("server", 1), NOW)
    core.handle_message(worker_ready(), NOW)
    core.handle_message(Ready("detokenizer", 1), NOW)
    [adapter] = core.registry
    info = AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "digest")
    core.handle_message(AdapterRead(0, adapter.reading, info), NOW)
    states = [e for e in core.effects.take_pending() if isinstance(e, EnterState)]
    assert states == [
        EnterState(ProcessState.STARTING, "waiting for worker-0, detokenizer"),
        EnterState(ProcessState.STARTING, "waiting for detokenizer, 1 adapter"),
        EnterState(ProcessState.STARTING, "waiting for 1 adapter"),
        EnterState(ProcessState.READY, ""),
    ]


class Shift:
    """A core that is given everything by chance, with a worker that computes nothing; each input
    comes a moment after the one before. Its lines go to a log."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.rng, self.now, self.number = random.Random(seed), NOW, 0
        paths = {"one": "/one", "two": "/two", "far": "org/adapter"}
        self.names = (None, *paths)
        adapter = tuple(f"{name}={path}" for name, path in paths.items())
        config = self.config = Config(run=str(directory), adapter=adapter)
        self.core = RouterCore(config, 7_000, NOW)
        self.core.record_lines()
        self.log = EventLog()
        self.log.open(directory, 7_000, config, LatencyTable(), NOW)
        self.computed: dict[int, int] = {}
        self.give(worker_ready(num_pages=32))
        for name in ("server", "detokenizer"):
            self.give(Ready(name, 1))

    def give(self, message: Message | AdapterFetched) -> None:
        self.now += self.rng.random()
        self.core.handle_message(message, self.now)
        self.carry_out()

    def carry_out(self) -> None:
        for effect in self.core.effects.take_pending():
            match effect:
                case Send(message=ReadAdapter() as read):
                    info = AdapterInfo(read.key, read.path, 8, ("q_proj",), 1, 6, "digest")
                    self.give(AdapterRead(0, read.order, info))
                case FetchAdapter(key=key):
                    self.give(AdapterFetched(key, "/cache/adapter"))
                case Send(message=PlaceAdapter() as place):
                    self.give(AdapterPlaced(0, place.epoch, place.key))
                case StepAnswered(step=step):
                    self.now += self.rng.random()
                    self.core.finish_step(step, self.now)
                    self.carry_out()
        assert self.core.effects.lines is not None
        for line in self.core.effects.lines:
            self.log.write_line(line)
        self.core.effects.lines.clear()

    def post_step(self) -> None:
        self.now += self.rng.random()
        batch = self.core.plan_step(self.now)
        self.carry_out()
        if batch is not None:
            self.give(self.compute(batch))

    def compute(self, batch: Batch) -> Tokens:
        for admission in batch.admit:
            self.computed[admission.sequence] = len(admission.token_ids)
        sampled = []
        for row in batch.rows:
            self.computed[row.sequence] -= row.num_tokens
            if not self.computed[row.sequence]:
                self.computed[row.sequence] = 1
                sampled.append(SampledToken(row.sequence, self.rng.randrange(2, 12)))
        error = "RuntimeError: by chance" if self.rng.random() < 0.02 else ""
        return Tokens(batch.epoch, batch.step, 0, () if error else tuple(sampled), error)

    def ask(self) -> None:
        self.number += 1
        params = SamplingParams(
            max_tokens=self.rng.randint(0, 20),
            stop_token_ids=(11,),
            prompt_logprobs=self.rng.choice((None, None, 2)),
        )
        self.give(
            Request(
                request_id=f"r{self.number}",
                adapter=self.rng.choice(self.names),
                prompt_ids=(1,) * self.rng.randint(1, 20),
                params=params,
                arrived_at=self.now,
            )
        )

    def work(self, turns: int) -> None:
        for turn in range(turns):
            match self.rng.randrange(12):
                case 0 | 1 | 2:
                    self.ask()
                case 3:
                    self.give(Abort(f"r{self.rng.randint(1, self.number + 1)}", "by chance"))
                case 4:
                    self.give(StopFound(f"r{self.rng.randint(1, self.number + 1)}"))
                case 5 if turn % 50 == 5:
                    self.give(worker_ready(num_pages=32, incarnation=turn + 2))
                    self.computed.clear()
                case 6 if turn % 10 == 6:
                    policy = self.rng.choice(("fcfs", "lifo", "vtc_fair", "merged"))
                    self.give(SetScheduler(order=f"s{turn}", reply_to="me", policy=policy))
                case _:
                    self.post_step()

    def replace_core(self) -> None:
        """The router dies; of each request the server has some of the tokens."""
        record, live = self.core.record(), [*self.core.scheduler.sequences()]
        assert record is not None
        kept = tuple(a.info for a in self.core.registry if a.digest and a.info is not None)
        self.log.close()
        self.core = RouterCore(self.config, 9_000, self.now, record=record)
        self.core.record_lines()
        self.log = EventLog()
        self.log.open(
            Path(self.config.run), 9_000, self.config, LatencyTable(), self.now, record=record
        )
        self.computed.clear()
        for sequence in live:
            outputs = sequence.token_ids[sequence.num_prompt :]
            known = tuple(outputs[: self.rng.randint(0, len(outputs))])
            self.give(ResumeRequest(request=sequence.request, token_ids=known))
        self.give(Ready("detokenizer", 1))
        self.ask()
        self.give(msgspec.structs.replace(worker_ready(num_pages=32), adapters=kept))
        self.give(Ready("server", 1))
        assert {s.request_id for s in live} <= {
            s.request_id for s in self.core.scheduler.sequences()
        }


@pytest.mark.parametrize("seed", range(4))
def test_a_log_is_decided_again_with_the_same_counts_of_every_adapter(
    seed: int, tmp_path: Path
) -> None:
    """Hits among them, which depend on times that only the log has."""
    shift = Shift(seed, tmp_path)
    shift.work(600)
    shift.log.close()
    assert shift.log.path is not None
    replay = Replay(shift.log.path)
    assert replay.play() == ""
    assert replay.player is not None and replay.player.admitted > 50
    before, after = (core.adapter_table(NOW) for core in (shift.core, replay.player.core))
    assert after == before
    assert sum(view.hits for view in after.adapters) > 5


@pytest.mark.parametrize("seed", range(4))
def test_a_router_that_continues_loses_no_request_and_its_log_is_decided_again(
    seed: int, tmp_path: Path
) -> None:
    shift = Shift(seed, tmp_path)
    shift.work(200)
    shift.replace_core()
    shift.work(400)
    shift.log.close()
    shift.core.scheduler.check()
    assert shift.log.path is not None
    replay = Replay(shift.log.path)
    assert replay.play() == ""
    assert replay.player is not None and replay.player.admitted > 30
    assert replay.player.core.adapter_table(NOW) == shift.core.adapter_table(NOW)


def test_a_complete_answer_ends_without_a_token_and_again_for_a_new_detokenizer() -> None:
    core = make_core()
    core.handle_message(ask("a"), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    answer(core, batch, 7)
    found = core.finish_step(batch.step, NOW)
    assert found == StreamTokens((StreamToken("a", 0, 7),))
    following = core.plan_step(NOW)
    assert following is not None
    answer(core, following, END_OF_ANSWER)
    end = StreamToken("a", 1, NO_TOKEN, (), "stop")
    assert core.finish_step(following.step, NOW) == StreamTokens((end,))
    assert not len(core.scheduler)
    sent(core)
    core.handle_message(Ready("detokenizer", 2), NOW)
    assert sent(core, "detokenizer")[-1] == StreamTokens((StreamToken("a", 0, 7), end))


def test_a_request_that_its_own_settings_leave_no_token_ends_alone_with_the_reason() -> None:
    core = make_core()
    for name in ("a", "b"):
        core.handle_message(ask(name), NOW)
    batch = core.plan_step(NOW)
    assert batch is not None
    stuck, other = (row.sequence for row in batch.rows)
    tokens = (SampledToken(stuck, NO_TOKEN, (), "too complex"), SampledToken(other, 7))
    core.handle_message(Tokens(batch.epoch, batch.step, 0, tokens), NOW)
    assert core.finish_step(batch.step, NOW) == StreamTokens((StreamToken("b", 0, 7),))
    assert Refused("a", 400, "too complex") in sent(core, "server")
    assert len(core.scheduler) == 1 and not core.registry.base.tally.broken

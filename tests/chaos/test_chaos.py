"""The short form of the chaos harness, by a fixed seed; no time is a bound."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos.answers import Answer
from chaos.asks import Ask, make_asks
from chaos.bodies import HttpCase, answer_faults, make_case
from chaos.body_run import BodyRun
from chaos.client import Outcome
from chaos.faults import RING, fault_of
from chaos.frame_run import FrameRun
from chaos.frames import ACCEPTS, make_frame
from chaos.hand_ring import HandRing
from chaos.kills import KillOptions, Kills
from chaos.pipeline import Pipeline
from chaos.report import faults_of, kill_table

SEED = 7
ROUNDS = 8
"""Of the ten of the first deck: every process is hit, alone or with another."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pipeline]:
    with Pipeline(tmp_path_factory.mktemp("c") / "run") as pipeline:
        yield pipeline
    assert pipeline.leftovers() == []


@pytest.mark.processes
@pytest.mark.slow
def test_kills_of_every_process_lose_no_request(pipeline: Pipeline, tmp_path: Path) -> None:
    options = KillOptions(SEED, width=6, asks=12, tokens=(20, 50), stops=False)

    async def run() -> list[dict[str, object]]:
        kills = Kills(pipeline, options, tmp_path)
        await kills.prepare()
        for number in range(ROUNDS):
            await kills.run_round(number)
        return await kills.finish()

    lines = asyncio.run(run())
    assert faults_of(lines) == [], kill_table(lines)
    rounds = [line for line in lines if "round" in line]
    hit = {name for line in rounds for name in line["details"]["names"]}
    assert len(rounds) == ROUNDS and hit == set(RING)
    assert all(line["accepted"] for line in rounds)


@pytest.mark.processes
@pytest.mark.slow
def test_hostile_frames_are_counted_and_change_nothing(pipeline: Pipeline) -> None:
    frames = FrameRun(pipeline, SEED)
    try:
        line = asyncio.run(frames.run(0, 3000))
    finally:
        frames.close()
    assert line["faults"] == []
    assert all(f"{inbox} refused" in line["sent"] for inbox in ACCEPTS)


@pytest.mark.processes
@pytest.mark.slow
def test_hostile_requests_are_answered_and_change_nothing(tmp_path: Path) -> None:
    async def run() -> tuple[dict[str, object], list[str]]:
        async with HandRing(tmp_path) as ring:
            line = await BodyRun(ring, SEED).run(0, 3000)
        return line, ring.leftovers()

    line, leftovers = asyncio.run(run())
    assert line["faults"] == [] and leftovers == []
    assert line["neighbours"]
    assert {"200", "400", "404"} <= set(line["statuses"])


# --- the harness itself


def test_a_round_is_repeated_by_its_number_and_every_process_is_hit() -> None:
    first = [fault_of(3, number) for number in range(22)]
    assert first == [fault_of(3, number) for number in range(22)]
    assert first != [fault_of(4, number) for number in range(22)]
    alone = {fault.names[0] for fault in first if len(fault.names) == 1}
    pairs = {frozenset(fault.names) for fault in first if len(fault.names) == 2}
    assert alone == set(RING) and len(pairs) == 10


def test_cases_are_repeated_by_their_number() -> None:
    assert [make_case(1, n) for n in range(50)] == [make_case(1, n) for n in range(50)]
    assert [make_frame(1, n) for n in range(50)] == [make_frame(1, n) for n in range(50)]
    assert len({make_case(1, n).body for n in range(200)}) > 100


def test_a_lost_a_cut_and_a_wrong_answer_are_seen() -> None:
    ask = Ask("completions", "m", "p", 2, is_streamed=True)

    def outcome(*texts: str, finish: str | None = "length", done: bool = True) -> Outcome:
        answer = Answer(ask)
        head = {"id": "a", "created": 1, "model": "m"}
        for text in texts:
            answer.fold_event({**head, "choices": [_choice(text, None)]})
        answer.fold_event({**head, "choices": [_choice("", finish)]})
        if done:
            answer.fold_done()
        answer.end_of_events()
        out = Outcome(ask, "r", 0.0, answer, accepted_at=0.1, ended_at=1.0, status=200)
        out.expected = {(("ab", "length", (), ()),)}
        return out

    assert outcome("a", "b").verdict == "complete"
    assert outcome("a").verdict == "wrong"
    assert outcome("a", "b", "b").verdict == "wrong"
    assert outcome("a", "b", finish=None).verdict == "wrong"  # [DONE] before an end
    assert outcome("a", finish=None, done=False).verdict == "lost"


def _choice(text: str, finish: str | None) -> dict[str, object]:
    return {"index": 0, "text": text, "finish_reason": finish, "logprobs": None}


def test_an_answer_of_two_heads_or_beyond_its_end_is_a_fault() -> None:
    ask = make_asks(1, ("m",), 1, (2, 3))[0]
    answer = Answer(Ask("completions", "m", "p", 2, is_streamed=True))
    answer.fold_event({"id": "a", "created": 1, "model": "m", "choices": [_choice("a", "stop")]})
    answer.fold_event({"id": "b", "created": 1, "model": "m", "choices": [_choice("b", None)]})
    answer.end_of_events()
    assert len(answer.faults) == 2
    assert ask.content == ask


@pytest.mark.parametrize(
    ("status", "body", "is_right"),
    [
        (500, b'{"error":{"message":"m","type":"t","param":null,"code":500}}', False),
        (400, b'{"error":{"message":"m","type":"t","param":null,"code":400}}', True),
        (400, b'{"error":{"message":"m","type":"t","param":null,"code":404}}', False),
        (400, b"Bad Request", False),
        (
            404,
            b'{"error":{"message":"' + b"a" * 9000 + b'","type":"t","param":null,"code":404}}',
            False,
        ),
    ],
)
def test_an_answer_that_is_not_openais_is_a_fault(status: int, body: bytes, is_right: bool) -> None:
    case = HttpCase("POST", "/v1/completions", b"{}")
    assert (answer_faults(case, status, "application/json", body) == []) is is_right

"""Texts are tokenised beside the event loop, with a bound on how many wait."""

from __future__ import annotations

import asyncio
import functools
import threading

import pytest

from loraconsole.pipeline.server.gateway import text_workers, work_queue
from loraconsole.pipeline.server.gateway.text_workers import TextWorkers
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.server.http.request_limits import SHORT_TEXT

LONG = SHORT_TEXT + 1


def test_the_loop_goes_on_and_short_texts_pass_long_ones() -> None:
    async def main() -> str:
        workers, gate = TextWorkers(), threading.Event()
        long = asyncio.create_task(workers.run(LONG, "a", lambda: gate.wait(30)))
        short = await workers.run(SHORT_TEXT, "a", lambda: "short")
        assert not long.done()
        gate.set()
        assert await long
        return short

    assert asyncio.run(main()) == "short"


def test_a_full_queue_refuses_and_one_client_has_half_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(text_workers, "MOST_LONG_TEXTS", 4)

    async def main() -> list[int]:
        workers, gate = TextWorkers(), threading.Event()
        refused = []

        def start(client: str) -> asyncio.Task[bool]:
            return asyncio.create_task(workers.run(LONG, client, lambda: gate.wait(30)))

        jobs = [start(client) for client in "aaabbc"]
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        for job in jobs:
            if job.done() and isinstance(error := job.exception(), BadRequest):
                refused.append(error.status)
        gate.set()
        done = await asyncio.gather(*jobs, return_exceptions=True)
        assert sum(one is True for one in done) == 4
        assert await workers.run(LONG, "a", lambda: True), "what has ended makes room"
        return refused

    assert asyncio.run(main()) == [429, 503]


def test_a_text_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(work_queue, "TEXT_SECONDS", 0.05)

    async def main() -> int:
        workers, gate = TextWorkers(), threading.Event()
        try:
            with pytest.raises(BadRequest) as refused:
                await workers.run(LONG, "a", lambda: gate.wait(30))
            return refused.value.status
        finally:
            gate.set()

    assert asyncio.run(main()) == 503


def test_no_text_waits_for_grammars(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_workers, "MOST_GRAMMARS", 8)

    async def main() -> list[str]:
        workers, gate = TextWorkers(), threading.Event()
        compile_ = functools.partial(workers.compile, work=lambda: gate.wait(30))
        jobs = [asyncio.create_task(compile_(client)) for client in "aaaabbbb"]
        await asyncio.sleep(0)
        assert await workers.run(1, "a", lambda: True) and await workers.run(LONG, "a", lambda: 1)
        reasons = []
        for client in "ac":
            with pytest.raises(BadRequest, match="8 forms of answers wait to be comp") as refused:
                await compile_(client)
            reasons.append(refused.value.reason)
        gate.set()
        assert all(await asyncio.gather(*jobs))
        return reasons

    assert len(asyncio.run(main())) == 2

"""The whole ring with `--tp 2`: real ranks, over HTTP, and what happens when one dies."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from driver import save_adapter
from ring import Ring, tiny_model

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterRead,
    AdapterState,
    Event,
    Message,
    ReadAdapter,
    Request,
    SampledToken,
    SamplingParams,
    Tokens,
    WorkerReady,
)
from loraconsole.pipeline.router.router import Router

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(
        torch.cuda.device_count() == 1, reason="each rank takes a GPU where there is one"
    ),
]

ASKED = [("", "ab"), ("one", "ab"), ("two", "ab"), ("one", "the sea"), ("", "x")]


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(root)
    adapters = []
    for seed, (name, rank) in enumerate({"one": 4, "two": 13}.items()):
        adapters += ["--adapter", f"{name}={save_adapter(root / name, model, seed, r=rank)}"]
    return ("--dummy", "--dtype", "float32", "--model", str(model), *adapters)


@pytest.fixture(scope="module")
def alone(
    options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], str]:
    """What one rank says."""
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        return {ask: complete(ring, *ask) for ask in ASKED}


@pytest.fixture(scope="module")
def ring(options: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("r"), *options, "--tp", "2") as ring:
        yield ring


def complete(ring: Ring, model: str, prompt: str, max_tokens: int = 24) -> str:
    body = {"model": model, "prompt": prompt, "max_tokens": max_tokens}
    more = {"temperature": 0, "ignore_eos": True}
    response = ring.http.post("/v1/completions", json=body | more, timeout=90)
    assert response.status_code == 200, response.text
    return str(response.json()["choices"][0]["text"])


def all_at_once(ring: Ring, max_tokens: int = 24) -> dict[tuple[str, str], str]:
    with ThreadPoolExecutor(len(ASKED)) as pool:
        said = pool.map(lambda ask: complete(ring, *ask, max_tokens), ASKED)
        return dict(zip(ASKED, said, strict=True))


def test_two_ranks_answer_as_one(ring: Ring, alone: dict[tuple[str, str], str]) -> None:
    assert all_at_once(ring) == alone
    assert len(set(alone.values())) == len(ASKED)


def test_adapters_are_verified_merged_and_reloaded_on_all_ranks(
    ring: Ring, alone: dict[tuple[str, str], str]
) -> None:
    """While a stream runs, so that all of it happens between steps."""
    running = threading.Thread(target=complete, args=(ring, "", "y", 300))
    running.start()
    verified = ring.http.post("/v1/adapters/one/verify")
    assert verified.status_code == 200 and "as its merged weights do" in verified.text
    assert ring.http.post("/v1/adapters/one/merge").status_code == 200
    assert ring.http.post("/v1/adapters/two/reload").status_code == 200
    assert all_at_once(ring) == alone
    running.join()
    assert complete(ring, "one", "ab") == alone["one", "ab"]  # alone, over the merged copy
    assert ring.http.request("DELETE", "/v1/adapters/one/merge").status_code == 200
    assert complete(ring, "one", "ab") == alone["one", "ab"]


@pytest.mark.parametrize("victim", [1, 0])
def test_streams_survive_a_killed_rank(ring: Ring, victim: int) -> None:
    """All ranks start again together, and the streams go on by recompute."""
    undisturbed = all_at_once(ring, max_tokens=400)
    before = [ring.process(f"worker-{rank}")["pid"] for rank in range(2)]
    said: dict[tuple[str, str], str] = {}
    asking = threading.Thread(target=lambda: said.update(all_at_once(ring, max_tokens=400)))
    asking.start()
    running = f"loraconsole_requests_running {len(ASKED)}.0"
    while running not in ring.http.get("/metrics").text:
        assert asking.is_alive(), "they never ran together"
        time.sleep(0.01)
    os.kill(before[victim], signal.SIGKILL)  # not `ring.kill`, which asks for the pid: a second
    asking.join()
    assert said == undisturbed
    ring.wait_ready()
    after = [ring.process(f"worker-{rank}")["pid"] for rank in range(2)]
    assert not set(before) & set(after)
    assert re.search("requests? continues? by recompute", ring.cli("logs", "router").stdout)
    assert len(list(ring.run.glob("ranks-*"))) == 1


class Deaf:
    """An outbox of nobody's."""

    def send(self, message: Message) -> None: ...

    def send_frame(self, frame: bytes) -> None: ...


def test_ranks_are_stopped_and_started_together(ring: Ring) -> None:
    before = complete(ring, "one", "ab")
    ring.cli("stop", "worker-1")
    ranks = [ring.process(f"worker-{rank}") for rank in range(2)]
    assert [(row["state"], row["held"], row["pid"]) for row in ranks] == [("stopped", True, 0)] * 2
    ring.cli("start", "worker-0")
    ring.wait_ready()
    assert complete(ring, "one", "ab") == before


def introduce(router: Router, incarnation: int) -> None:
    """Both ranks are ready."""
    for rank in range(2):
        router._handle(
            WorkerReady(
                rank=rank,
                incarnation=incarnation,
                device="cpu",
                num_pages=64,
                page_size=16,
                max_model_len=256,
                vocab_size=300,
                eos_token_ids=(),
            )
        )


def test_ranks_that_disagree_are_an_error_and_are_told_anew(tmp_path: Path) -> None:
    """Rank 0's token counts; nobody is refused."""

    heard: list[Message] = []

    async def disagree() -> tuple[int, int]:
        router = Router(Config(run=str(tmp_path), tp=2))
        router.outbox = lambda name: Deaf()  # type: ignore[method-assign,assignment,return-value]
        router.beacon.publish = heard.append  # type: ignore[method-assign]
        introduce(router, 1)
        router._handle(
            Request(
                request_id="a",
                adapter=None,
                prompt_ids=(1, 2),
                params=SamplingParams(max_tokens=9),
                arrived_at=0.0,
            )
        )
        epoch, batch = router.scheduler.epoch, router.scheduler.next_batch(0.0)
        assert batch is not None
        step = asyncio.create_task(router._run_step(batch, decodes=False))
        await asyncio.sleep(0)
        for rank, token in enumerate((7, 8)):
            found = (SampledToken(batch.rows[0].sequence, token),)
            router._handle(Tokens(epoch, batch.step, rank, found))
        await step
        [sequence] = router.scheduler.sequences()
        router.close()
        assert router.scheduler.epoch != epoch
        return sequence.token_ids[-1], len(router.scheduler.running)

    token, running = asyncio.run(disagree())
    assert (token, running) == (7, 0)
    [event] = [m for m in heard if isinstance(m, Event) and m.level == "error"]
    assert "rank 1 chose other tokens than rank 0" in event.text


def test_what_a_rank_that_is_gone_has_read_is_read_again(tmp_path: Path) -> None:
    """Else an adapter is placed on a rank that does not have it yet, and has failed for good."""

    async def main() -> None:
        router = Router(Config(run=str(tmp_path), tp=2, adapter=(f"one={tmp_path}",)))
        told: dict[str, list[Message]] = {}
        router.send = lambda name, message: told.setdefault(name, []).append(message)  # type: ignore[method-assign]
        router.beacon.publish = lambda message: None  # type: ignore[method-assign]
        [adapter] = router.registry

        def come(incarnation: int) -> int:
            """Both ranks are ready; the order to read the adapter."""
            told.clear()
            introduce(router, incarnation)
            [order] = {m.order for m in told["worker-1"] if isinstance(m, ReadAdapter)}
            return order

        def answer(rank: int, order: int) -> None:
            info = AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "digest")
            router._handle(AdapterRead(rank, order, info))

        first = come(1)
        answer(1, first)  # and rank 0 dies over it
        second = come(2)
        answer(0, first)  # what it said comes late
        answer(0, second)
        assert adapter.state is AdapterState.VALIDATING
        answer(1, second)
        assert adapter.state is AdapterState.LOADING  # on every host, and on its way
        router.close()

    asyncio.run(main())


def test_a_model_that_cannot_be_cut_does_not_start(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="does not divide this model's 9 heads"):
        Ring(tmp_path / "r", "--tp", "2").__enter__()
    Ring(tmp_path / "r").cli("down", "--now", check=False)

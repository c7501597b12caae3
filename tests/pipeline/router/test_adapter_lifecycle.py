"""What the router tells workers of adapters that failed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterInfo,
    AdapterRead,
    AdapterReply,
    AdapterState,
    DropAdapter,
    LoadAdapter,
    Message,
    WorkerReady,
)
from loraconsole.pipeline.router.router import Router

READY = WorkerReady(
    rank=0,
    incarnation=1,
    device="cpu",
    num_pages=64,
    page_size=16,
    max_model_len=256,
    vocab_size=300,
    eos_token_ids=(),
)


@pytest.mark.parametrize("reason", ["", "it is no adapter"])
def test_workers_forget_an_adapter_that_failed(reason: str, tmp_path: Path) -> None:
    """One of too many pages lies in their memory already, and its next load has another key."""

    async def main() -> None:
        router = Router(Config(run=str(tmp_path)))
        told: list[Message] = []
        router.send = lambda name, message: told.append(message)  # type: ignore[method-assign]
        router.beacon.publish = lambda message: None  # type: ignore[method-assign]
        router._handle(READY)
        order = LoadAdapter(order="1", reply_to="me", name="large", path=str(tmp_path))
        router.desk.order(order)
        [adapter] = router.registry
        info = AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 100, "digest", reason)
        router._handle(AdapterRead(0, adapter.reading, info))
        assert adapter.state is AdapterState.FAILED and not adapter.pages
        assert DropAdapter("large@1") in told
        [reply] = [message for message in told if isinstance(message, AdapterReply)]
        assert reply.status == 400 and (reason or "takes 100 of the pool's 64 pages") in reply.text
        router.desk.order(order)  # once more, mended
        [adapter] = router.registry
        assert adapter.key == "large@2" and adapter.state is AdapterState.VALIDATING
        fine = AdapterInfo(adapter.key, "", 8, ("q_proj",), 1, 2, "digest")
        router._handle(AdapterRead(0, adapter.reading, fine))
        router.desk.order(order)
        replies = [message for message in told if isinstance(message, AdapterReply)]
        assert [reply.status for reply in replies] == [400, 200, 409]
        assert "'large' is loaded already" in replies[-1].text
        router.close()

    asyncio.run(main())

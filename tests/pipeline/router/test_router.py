"""The process around the core: in which order its effects leave."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from router_core import ask

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    Batch,
    BatchRow,
    EvictAdapter,
    Message,
    OpenStream,
    Refused,
    ToWorker,
    WorkerReady,
)
from loraconsole.pipeline.router.core import StepInFlight
from loraconsole.pipeline.router.router import Router
from loraconsole.pipeline.runtime.sockets import InboxFull

READY = WorkerReady(
    rank=0,
    incarnation=1,
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


class Recorder:
    """In an outbox's place: the messages in the order in which they were sent."""

    def __init__(self) -> None:
        self.messages: list[Message] = []

    def send(self, message: Message) -> None:
        self.messages.append(message)

    def send_frame(self, frame: bytes) -> None:
        self.messages.append(msgspec.msgpack.decode(frame, type=ToWorker))


def test_a_batch_is_sent_before_what_the_next_plan_does_to_adapters(tmp_path: Path) -> None:
    """Two steps are planned in one go where none is under way. An adapter that the second plan
    evicts, or places into pages of a preempted sequence, may be used by the first batch."""

    async def main() -> list[Message]:
        router, outbox = Router(Config(run=str(tmp_path))), Recorder()
        router.outbox = lambda name: outbox  # type: ignore[method-assign,assignment,return-value]
        router.handle_message(READY)
        outbox.messages.clear()
        core = router.core

        def plan_step(now: float) -> Batch | None:
            number = len(core.steps)
            core.effects.send_workers(EvictAdapter(f"by the plan of step {number}"))
            batch = Batch(core.scheduler.epoch, number, (), (), (BatchRow(1, 1),))
            core.steps[number] = StepInFlight(batch)
            return batch

        core.plan_step = plan_step  # type: ignore[method-assign]
        posting = asyncio.create_task(router._post_forever())
        for _ in range(10):
            await asyncio.sleep(0)
        posting.cancel()
        for task in router._steps.values():
            task.cancel()
        router.close()
        return outbox.messages

    messages = asyncio.run(main())
    said = [m.key if isinstance(m, EvictAdapter) else m.step for m in messages]  # type: ignore[attr-defined]
    assert said == ["by the plan of step 0", 0, "by the plan of step 1", 1]


class FullOnce(Recorder):
    """In an outbox's place: full while a stream is opened."""

    def send(self, message: Message) -> None:
        if isinstance(message, OpenStream):
            raise InboxFull("detokenizer has not drained its inbox")
        super().send(message)


def test_a_request_whose_stream_cannot_be_opened_is_refused(tmp_path: Path) -> None:
    """Its tokens would be made, and its client would wait for them for ever."""

    async def main() -> list[Message]:
        router, outbox = Router(Config(run=str(tmp_path))), FullOnce()
        router.outbox = lambda name: outbox  # type: ignore[method-assign,assignment,return-value]
        router.handle_message(READY)
        outbox.messages.clear()
        router.handle_message(ask("r"))
        assert not len(router.core.scheduler)
        router.close()
        return outbox.messages

    (refused,) = [m for m in asyncio.run(main()) if isinstance(m, Refused)]
    assert (refused.request_id, refused.status) == ("r", 503)
    assert "has not drained its inbox" in refused.reason

"""What every process does with its inbox: real sockets, no ring."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import CloseStream, Introduce, ToDetokenizer
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.runtime.process import Process
from loraconsole.pipeline.runtime.sockets import Outbox


class Detokenizing(Process):
    accepts = ToDetokenizer


@pytest.mark.parametrize("is_known", [True, False])
def test_the_last_messages_of_an_earlier_router_are_dropped(tmp_path: Path, is_known: bool) -> None:
    """Also in a process that hears of the new router first: both died at once, and the old one's
    last frames come by a connection of their own."""

    async def hear() -> None:
        process = Detokenizing(Config(run=str(make_run_directory(tmp_path / "r"))), "detokenizer")
        outbox = Outbox(process.context, process.run, "detokenizer")
        old, new = process.incarnation, process.incarnation + 1
        if is_known:
            outbox.send(Introduce(router=old))
            assert await process.receive() == Introduce(router=old)
        outbox.send(Introduce(router=new))
        outbox.send(CloseStream("a", router=old))
        outbox.send(CloseStream("b", router=new))
        assert await process.receive() == Introduce(router=new)
        assert await asyncio.wait_for(process.receive(), 10) == CloseStream("b", router=new)
        outbox.close()
        process.close()

    asyncio.run(hear())

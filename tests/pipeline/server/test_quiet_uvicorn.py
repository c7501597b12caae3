"""Signals stay the process's own while uvicorn serves, with or without `capture_signals`."""

import asyncio
import os
import signal
import socket
from typing import Any

import pytest
import uvicorn

from loraconsole.pipeline.server.http.quiet_uvicorn import QuietUvicorn, why_signals_are_shared


def test_the_installed_uvicorn_is_one_that_leaves_signals_alone() -> None:
    assert why_signals_are_shared() == ""


@pytest.mark.parametrize("captures", [False, True], ids=["left alone", "captured all the same"])
def test_a_signal_reaches_the_loop_and_does_not_end_the_server(
    captures: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if captures:  # as with a uvicorn that does not ask for `capture_signals`
        monkeypatch.setattr(QuietUvicorn, "capture_signals", uvicorn.Server.capture_signals)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        """Answers nothing."""

    async def main() -> None:
        heard = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, heard.set)
        server = QuietUvicorn(uvicorn.Config(app, lifespan="off", log_config=None))
        with socket.create_server(("127.0.0.1", 0)) as listening:
            serving = asyncio.create_task(server.serve([listening]))
            while not server.started:
                await asyncio.sleep(0.01)
            os.kill(os.getpid(), signal.SIGTERM)
            await asyncio.wait_for(heard.wait(), 5.0)
            assert not server.should_exit and not serving.done()
            server.should_exit = True
            await serving

    asyncio.run(main())


def test_a_uvicorn_that_takes_signals_otherwise_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(uvicorn.Server, "capture_signals")
    assert why_signals_are_shared() == "", "handle_exit is overridden as well"
    monkeypatch.delattr(uvicorn.Server, "handle_exit")
    assert "Server.handle_exit" in why_signals_are_shared()

"""A console's telemetry without a console: it fills a store; tests wait for a board."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from loraconsole.console.client.telemetry import TelemetryClient
from loraconsole.console.state.alerts import AlertLimits, findings
from loraconsole.console.state.board import Board
from loraconsole.console.state.store import Store
from loraconsole.pipeline.config import Config


@asynccontextmanager
async def listening(
    config: Config, source: Callable[..., TelemetryClient] = TelemetryClient, **named: Any
) -> AsyncIterator[tuple[TelemetryClient, Store]]:
    """Runs a telemetry client made by `source(config, store, **named)`."""
    store = Store(config.run)
    telemetry = source(config, store, **named)
    async with running(telemetry):
        yield telemetry, store


@asynccontextmanager
async def running(telemetry: TelemetryClient) -> AsyncIterator[None]:
    """Runs a telemetry client, and ends it at the end."""
    task = asyncio.create_task(telemetry.run())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(store: Store, holds: Callable[[Board], bool], seconds: float = 30.0) -> Board:
    """The first board for which `holds` is true."""
    deadline = time.monotonic() + seconds
    while not holds(board := store.board(time.time())):
        wrong = findings(board, AlertLimits())
        what = f"not within {seconds} s: {board.condition}, {wrong}, {board.link_age_s}"
        assert time.monotonic() < deadline, what
        await asyncio.sleep(0.05)
    return board

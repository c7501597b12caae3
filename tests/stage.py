"""A console on a stage: a story instead of sockets, a clock that stands still, no terminal."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fake_ring import Scenario, Story
from textual.pilot import Pilot

from loraconsole.console.app import ConsoleApp
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Order

START = 1_790_000_000.0
RUN = "/run/loraconsole"
"""It does not exist: the console's own sockets find nobody."""
KEYS = {
    "Overview": "1",
    "Batch": "2",
    "Latency": "3",
    "Adapters": "4",
    "Prompt": "5",
    "Logs": "7",
    "Processes": "8",
}


class StagedApp(ConsoleApp):
    """A console whose clock is set by hand and whose ledger hears a story."""

    def __init__(
        self, scenario: Scenario | None = "busy", seconds: float = 30.0, theme: str | None = "dark"
    ) -> None:
        os.environ["TZ"] = "UTC"
        time.tzset()
        self.now = START
        super().__init__(Config(run=RUN), theme=theme, clock=lambda: self.now)
        self.story = Story(scenario, start=START) if scenario else None
        self.ordered: list[Order] = []
        """Orders to the router, in the order they were given; the story obeys at once."""
        self.telemetry.order = self._obey  # type: ignore[method-assign]
        self.advance(seconds)
        self.ledger.drain_events()

    def _obey(self, order: Order) -> None:
        self.ordered.append(order)
        if self.story and (reply := self.story.obey(order)):
            self.call_later(self.orders.answered, reply)

    def advance(self, seconds: float) -> None:
        """The story goes on; what it tells is heard, and drawn where something is mounted."""
        for _ in range(round(seconds * 5)):
            self.now += 0.2
            for _, message in self.story.advance(self.now) if self.story else ():
                self.ledger.take(message, self.now)
        self.board = self.ledger.board(self.now)

    def show(self) -> None:
        """One frame, now."""
        self.paint(self.ledger.board(self.now))


@asynccontextmanager
async def staged(
    scenario: Scenario | None = "busy",
    size: tuple[int, int] = (120, 40),
    panel: str = "Overview",
    seconds: float = 10.0,
) -> AsyncIterator[tuple[StagedApp, Pilot[str]]]:
    """A running console with a panel on top."""
    app = StagedApp(scenario, seconds)
    async with app.run_test(size=size, notifications=True) as pilot:
        await pilot.press(KEYS[panel])
        await pilot.pause()
        yield app, pilot


def screen_text(app: ConsoleApp) -> str:
    """What is to be seen, without its styles."""
    return "\n".join(strip.text.rstrip() for strip in app.screen._compositor.render_strips())

"""`driver_class`: the choice of the driver that writes to the terminal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from textual.app import App
from textual.driver import Driver

from ...pipeline.runtime.library import find
from .driver import LINUX_DRIVER, why_driver_is_off


def driver_class(usual: type[Driver]) -> type[Driver]:
    """The driver to use instead of Textual's choice `usual`, which in a browser or a test is not a
    terminal driver."""
    if usual is find(LINUX_DRIVER) and not why_driver_is_off():
        from .console_driver import ConsoleDriver

        return ConsoleDriver
    return leaving(usual) if usual.__name__ == "WebDriver" else usual


def leaving(usual: type[Driver]) -> type[Driver]:
    """A web driver that ends the console when its web server ends: Textual's only stops reading,
    and the console would run forever."""

    class LeavingDriver(usual):  # type: ignore[valid-type, misc]
        def __init__(self, app: App[Any], **options: Any) -> None:
            super().__init__(app, **options)
            self._console, self._own_loop = app, asyncio.get_running_loop()

        def run_input_thread(self) -> None:
            super().run_input_thread()
            with suppress(RuntimeError):  # the loop and the console have ended
                self._own_loop.call_soon_threadsafe(self._console.exit, "leave")

    return LeavingDriver

"""`driver_class`: which driver writes to the terminal."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

from textual.app import App
from textual.driver import Driver

from ...pipeline.runtime.library import find
from .driver import LINUX_DRIVER, why_driver_is_off


def driver_class(usual: type[Driver]) -> type[Driver]:
    """The driver to take where Textual would take `usual`, which in a browser or a test is no
    terminal's."""
    if usual is find(LINUX_DRIVER) and not why_driver_is_off():
        from .console_driver import ConsoleDriver

        return ConsoleDriver
    return leaving(usual) if usual.__name__ == "WebDriver" else usual


def leaving(usual: type[Driver]) -> type[Driver]:
    """A browser's driver with which the console ends when the server of its pages does: Textual's
    stops reading then, and would stay for ever."""

    class LeavingDriver(usual):  # type: ignore[valid-type, misc]
        def __init__(self, app: App[Any], **options: Any) -> None:
            super().__init__(app, **options)
            self._console, self._own_loop = app, asyncio.get_running_loop()

        def run_input_thread(self) -> None:
            super().run_input_thread()
            with suppress(RuntimeError):  # the loop has ended, and so has the console
                self._own_loop.call_soon_threadsafe(self._console.exit, "leave")

    return LeavingDriver

"""`PatientDriver`: Textual's driver, whose thread of keys sleeps until there is one.

Textual's looks ten times a second whether it is to end, and whether an escape was a key by itself:
0.1 % of a core, more than a third of what an idle console took. Here the second is looked for
only after something was typed, and for the first there is an alarm.
"""

from __future__ import annotations

import os
import selectors
import threading
from typing import Any

from textual import constants
from textual.driver import Driver
from textual.drivers import linux_driver

SOON_S = 0.1
LOOKS = 2 + round(constants.ESCAPE_DELAY / SOON_S)
"""Looks in a row until an escape that nothing followed is taken for a key."""


class PatientDriver(linux_driver.LinuxDriver):
    """Where another Textual waits in another way, it does as that one does."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.exit_event = self._alarm = Alarm()

    def run_input_thread(self) -> None:
        linux_driver.selectors = Selectors(self._alarm)  # type: ignore[assignment, attr-defined]
        super().run_input_thread()


def patient(driver: type[Driver]) -> type[Driver]:
    """The driver to take where Textual would take this one: in a browser or a test it is no
    terminal's."""
    return PatientDriver if driver is linux_driver.LinuxDriver else driver


class Alarm(threading.Event):
    """An event that wakes a selector."""

    def __init__(self) -> None:
        super().__init__()
        self.reader, self._writer = os.pipe()

    def set(self) -> None:
        super().set()
        os.write(self._writer, b"!")

    def clear(self) -> None:
        os.read(self.reader, 64)
        super().clear()

    def __del__(self) -> None:
        os.close(self.reader)
        os.close(self._writer)


class Selectors:
    """The module of that name, but for one class."""

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm

    def __getattr__(self, name: str) -> Any:
        return getattr(selectors, name)

    def SelectSelector(self) -> PatientSelector:
        return PatientSelector(self._alarm)


class PatientSelector(selectors.SelectSelector):
    """Waits for a key or the alarm, however short a time it was told to wait."""

    def __init__(self, alarm: Alarm) -> None:
        super().__init__()
        self._alarm = alarm.reader
        self._looks = 0
        self.register(self._alarm, selectors.EVENT_READ)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._looks -= 1
        ready = super().select(SOON_S if self._looks > 0 else None)
        keys = [(key, mask) for key, mask in ready if key.fd != self._alarm]
        if keys:
            self._looks = LOOKS
        return keys

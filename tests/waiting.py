"""Waiting for a condition, instead of a sleep that is usually long enough."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], seconds: float = 60.0, every: float = 0.1) -> Found:
    """The first true result of `look`; fails the test after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {found!r}"
        time.sleep(every)
    return found

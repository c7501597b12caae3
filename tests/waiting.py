"""Waiting for what a test needs to be true, in place of a sleep that is long enough most times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_for(look: Callable[[], Found], seconds: float = 20.0, every: float = 0.1) -> Found:
    """The first result of `look` that is true; fails the test after that many seconds."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {seconds} s: {found!r}"
        time.sleep(every)
    return found

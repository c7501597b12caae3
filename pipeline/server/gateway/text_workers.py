"""`TextWorkers`: threads that tokenise, render chats and compile grammars, so that the event loop
goes on.

Knows no tokenizer and no request. Short texts never wait for long ones, nor any for a grammar.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from ..http.request_limits import MOST_GRAMMARS, MOST_LONG_TEXTS, MOST_SHORT_TEXTS, SHORT_TEXT
from .work_queue import WorkQueue

T = TypeVar("T")

SWITCH_SECONDS = 0.001
"""How long a chat template in a thread may keep the event loop waiting, at each system call of the
loop; the interpreter's own value is 5 ms."""
COMPILERS = 2
"""Grammars compiled at once."""


class TextWorkers:
    """A thread for short texts, one for long ones and two for grammars, each with a bounded
    queue."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        tokenised = "to be tokenised"
        self._short = WorkQueue("short-text", 1, MOST_SHORT_TEXTS, "texts", tokenised)
        self._long = WorkQueue("long-text", 1, MOST_LONG_TEXTS, "texts", tokenised)
        self._grammars = WorkQueue(
            "grammar", COMPILERS, MOST_GRAMMARS, "forms of answers", "to be compiled"
        )

    async def run(self, length: int, client: str, work: Callable[[], T]) -> T:
        """The result of `work` on a text of `length` characters. Raises what it raises, and
        `BadRequest`: 429 if `client` has half of the queue, 503 if the queue is full or the wait
        too long."""
        queue = self._short if length <= SHORT_TEXT else self._long
        return await queue.run(client, work)

    async def compile(self, client: str, work: Callable[[], T]) -> T:
        """As `run`, for work on a grammar."""
        return await self._grammars.run(client, work)

    def close(self) -> None:
        """Drops what waits; the work under way ends with the process."""
        for queue in (self._short, self._long, self._grammars):
            queue.close()

"""`TextWorkers`: threads that tokenise and render chats, so that the event loop goes on.

Knows no tokenizer and no request. Short texts never wait for long ones.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import sys
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from ..http.bad_request import BadRequest
from ..http.request_limits import MOST_LONG_TEXTS, MOST_SHORT_TEXTS, SHORT_TEXT, TEXT_SECONDS

T = TypeVar("T")

SWITCH_SECONDS = 0.001
"""How long a chat template in a thread may keep the event loop waiting, at each system call of the
loop; the interpreter's own value is 5 ms."""


class TextWorkers:
    """Two threads, one for short texts and one for long ones, each with a bounded queue."""

    def __init__(self) -> None:
        sys.setswitchinterval(SWITCH_SECONDS)
        self._short = _Queue("short-text", MOST_SHORT_TEXTS)
        self._long = _Queue("long-text", MOST_LONG_TEXTS)

    async def run(self, length: int, client: str, work: Callable[[], T]) -> T:
        """The result of `work` on a text of `length` characters. Raises what it raises, and
        `BadRequest`: 429 if `client` has half of the queue, 503 if the queue is full or the wait
        too long."""
        queue = self._short if length <= SHORT_TEXT else self._long
        future = asyncio.wrap_future(queue.submit(client, work))
        try:
            async with asyncio.timeout(TEXT_SECONDS):
                return await future
        except TimeoutError:
            raise BadRequest(
                f"overloaded: the text was not tokenised within {TEXT_SECONDS:.0f} s", status=503
            ) from None

    def close(self) -> None:
        """Drops what waits; the work under way ends with the process."""
        self._short.close()
        self._long.close()


class _Queue:
    """One thread and the number of its jobs, by client."""

    def __init__(self, name: str, most: int) -> None:
        self._thread = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix=name)
        self._most = most
        self._jobs: Counter[str] = Counter()

    def submit(self, client: str, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Starts `work` when its turn comes. Raises `BadRequest` if the queue is full."""
        if self._jobs.total() >= self._most:
            raise BadRequest(f"overloaded: {self._most} texts wait to be tokenised", status=503)
        if self._jobs[client] >= self._most // 2:
            raise BadRequest(
                f"{self._most // 2} texts of this client wait to be tokenised: send fewer at once",
                status=429,
            )
        loop = asyncio.get_running_loop()

        def end(_: concurrent.futures.Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process exits
                loop.call_soon_threadsafe(self._end_job, client)

        self._jobs[client] += 1
        future = self._thread.submit(work)
        future.add_done_callback(end)
        return future

    def _end_job(self, client: str) -> None:
        self._jobs[client] -= 1
        if not self._jobs[client]:
            del self._jobs[client]

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

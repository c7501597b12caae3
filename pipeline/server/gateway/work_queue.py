"""`WorkQueue`: a few threads and a bounded queue of work for them, shared fairly by clients."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

from ..http.bad_request import BadRequest
from ..http.request_limits import TEXT_SECONDS

T = TypeVar("T")


class WorkQueue:
    """Work that waits for its threads, counted by client. Used from one event loop."""

    def __init__(self, name: str, threads: int, most: int, things: str, purpose: str) -> None:
        """`most`: work that may wait or be under way. `things` ("texts") wait for `purpose` ("to be
        tokenised"), in refusals."""
        self._threads = concurrent.futures.ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._most, self._things, self._purpose = most, things, purpose
        self._jobs: Counter[str] = Counter()

    async def run(self, client: str, work: Callable[[], T]) -> T:
        """The result of `work`. Raises what it raises, and `BadRequest`: 429 if `client` has half
        of the queue, 503 if the queue is full or the wait too long."""
        future = asyncio.wrap_future(self._submit(client, work))
        try:
            async with asyncio.timeout(TEXT_SECONDS):
                return await future
        except TimeoutError:
            raise BadRequest(
                f"overloaded: {self._things} waited {TEXT_SECONDS:.0f} s {self._purpose}",
                status=503,
            ) from None

    def _submit(self, client: str, work: Callable[[], T]) -> concurrent.futures.Future[T]:
        """Starts `work` when its turn comes. Raises `BadRequest` if the queue is full."""
        if self._jobs.total() >= self._most:
            raise BadRequest(
                f"overloaded: {self._most} {self._things} wait {self._purpose}", status=503
            )
        if self._jobs[client] >= self._most // 2:
            raise BadRequest(
                f"{self._most // 2} {self._things} of this client wait {self._purpose}: send "
                "fewer at once",
                status=429,
            )
        loop = asyncio.get_running_loop()

        def end(_: concurrent.futures.Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: the process exits
                loop.call_soon_threadsafe(self._end_job, client)

        self._jobs[client] += 1
        future = self._threads.submit(work)
        future.add_done_callback(end)
        return future

    def _end_job(self, client: str) -> None:
        self._jobs[client] -= 1
        if not self._jobs[client]:
            del self._jobs[client]

    def close(self) -> None:
        """Drops what waits; the work under way ends with the process."""
        self._threads.shutdown(wait=False, cancel_futures=True)

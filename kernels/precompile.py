"""Kernels made side by side before they are needed: a start that finds none of them in Triton's
cache would wait for one after the other."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from triton import AsyncCompileMode
from triton.runtime.jit import JITFunction

MOST_THREADS = 16
"""Most of a compilation runs without the interpreter's lock."""


class Compilers(ThreadPoolExecutor):
    """Threads that call `begun` and `made` for each kernel that they compile."""

    def __init__(self, begun: Callable[[], object], made: Callable[[], object]) -> None:
        super().__init__(min(MOST_THREADS, os.cpu_count() or 1), "compile")
        self._begun, self._made = begun, made

    def submit(self, work: Any, /, *args: Any, **options: Any) -> Future[Any]:
        self._begun()
        future = super().submit(work, *args, **options)
        future.add_done_callback(lambda _: self._made())
        return future


@contextmanager
def compiled_ahead(begun: Callable[[], object], made: Callable[[], object]) -> Iterator[None]:
    """A context in which a launch only compiles its kernel, in another thread, and computes
    nothing: outputs keep what was in them. When it ends, all kernels are made. `made` is called
    from other threads. Raises what a compilation raised."""
    launch = JITFunction.run

    def make(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return launch(kernel, *args, grid=grid, warmup=True, **options)

    with Compilers(begun, made) as threads, AsyncCompileMode(threads):
        JITFunction.run = make
        try:
            yield
        finally:
            JITFunction.run = launch

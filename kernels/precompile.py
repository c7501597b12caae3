"""Kernels made side by side before they are needed: a start that finds none of them in Triton's
cache would wait for one after the other. All that reaches into Triton's insides."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

from triton.runtime.jit import JITFunction

try:
    from triton import AsyncCompileMode
except ImportError:  # another Triton: kernels are made one after the other, as they are launched
    AsyncCompileMode = None

MOST_THREADS = 16
"""Most of a compilation runs without the interpreter's lock."""


def why_off() -> str:
    """What the installed Triton has not for making kernels ahead; "" where it has all."""
    if AsyncCompileMode is None:
        return "triton has no AsyncCompileMode"
    try:
        parameters = list(inspect.signature(JITFunction.run).parameters)
    except (AttributeError, TypeError, ValueError):
        parameters = []
    is_same = parameters == ["self", "args", "grid", "warmup", "kwargs"]
    return "" if is_same else "triton calls JITFunction.run in another way"


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
    from other threads. If `why_off` has a reason, launches compute and neither is called. Raises
    what a compilation raised."""
    if why_off():
        yield
        return
    launch = JITFunction.run

    def make(kernel: JITFunction[Any], *args: Any, grid: Any, warmup: bool, **options: Any) -> Any:
        return launch(kernel, *args, grid=grid, warmup=True, **options)

    with Compilers(begun, made) as threads, AsyncCompileMode(threads):
        JITFunction.run = make
        try:
            yield
        finally:
            JITFunction.run = launch

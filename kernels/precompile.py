"""Compiles kernels in parallel before they are needed: with an empty Triton cache, a start would
otherwise compile them one by one. The only place that uses Triton internals."""

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
except ImportError:  # another Triton version: kernels are compiled one by one, when launched
    AsyncCompileMode = None

MOST_THREADS = 16
"""Threads that compile; most of a compilation runs without the interpreter's lock."""


def why_off() -> str:
    """Why the installed Triton cannot compile kernels ahead; "" if it can."""
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
    nothing: outputs are not written. At its exit all kernels are compiled. `begun` and `made` are
    called per kernel, `made` from other threads. If `why_off` has a reason, launches compute as
    usual and neither is called. Re-raises a compilation's exception."""
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

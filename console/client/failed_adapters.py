"""Adapters of a pipeline that could not be loaded, as `up` and `status` report them.

Knows the router's table of adapters, no file and no screen.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import Any

from ...pipeline.errors import OperatorError
from ...pipeline.messages import UNREAD, AdapterState, AdapterTable, AdapterView
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from ..text import units
from .remote import Remote

TABLE_SECONDS = 10.0
"""The router sends its table every two seconds and on change, so READY may arrive before it."""


class AdaptersFailed(OperatorError):
    """The error of a start in which adapters could not be loaded."""

    def __init__(self, failed: Iterable[AdapterView], num_given: int, run: str) -> None:
        self.failed = tuple(failed)
        of = "" if num_given == len(self.failed) else f" of {num_given}"
        super().__init__(
            f"{counted(len(self.failed), 'adapter')}{of} could not be loaded, so the pipeline in "
            f"{run} was stopped again",
            "repair them or leave them out; --ignore-failed-adapters starts without them",
        )

    @property
    def document(self) -> dict[str, Any]:
        """Additional fields of the error's JSON document."""
        return {"failed_adapters": documents(self.failed)}


async def failed_at_start(remote: Remote) -> tuple[AdapterView, ...]:
    """The adapters that the pipeline was started with and that failed; waits until all have been
    read. Raises `OperatorError` if the router does not list them."""
    given = remote.config.adapters()
    deadline = time.monotonic() + TABLE_SECONDS
    while given:
        table = (await remote.snapshot()).adapters
        views = {view.name: view for view in table.adapters} if table else {}
        known = [views[name] for name in given if name in views]
        # An adapter that was unloaded meanwhile is not in the table, and has not failed.
        if table and not any(view.state in UNREAD for view in known):
            return failed_of(known)
        if time.monotonic() > deadline:
            hint = f"see: {spell('adapters list', remote.config.run)}"
            raise OperatorError("the router does not list its adapters", hint)
        await asyncio.sleep(0.1)
    return ()


def failed_of(views: Iterable[AdapterView]) -> tuple[AdapterView, ...]:
    """The views of failed adapters."""
    return tuple(view for view in views if view.state is AdapterState.FAILED)


def failed_in(table: AdapterTable | None) -> tuple[AdapterView, ...]:
    """The failed adapters in the router's table; none if there is no table yet."""
    return failed_of(table.adapters) if table else ()


def describe_failure(view: AdapterView) -> str:
    """`adapter sql failed: REASON (PATH)`, without the path if the reason contains it."""
    reason = view.reason or "see the logs"
    path = "" if view.path in reason else f" ({view.path})"
    return units.visible(f"adapter {view.name} failed: {reason}{path}")


def documents(views: Iterable[AdapterView]) -> list[dict[str, str]]:
    """The failures as JSON objects."""
    return [{"name": view.name, "path": view.path, "reason": view.reason} for view in views]

"""Adapters of a pipeline that could not be loaded, as `up` and `status` report them.

Knows the router's table of adapters, no file and no screen.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.messages import UNREAD, AdapterState, AdapterTable, AdapterView, Snapshot
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from ..text import units
from .remote import Remote

TABLE_SECONDS = 10.0
"""The router sends its table every two seconds and on change, so READY may arrive before it."""


class FailedAdapter(msgspec.Struct, frozen=True):
    """An adapter that could not be loaded."""

    name: str
    path: str
    reason: str


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


async def failed_at_start(remote: Remote) -> tuple[AdapterView, ...]:
    """The adapters that the pipeline was started with and that failed; waits until all have been
    read. Raises `OperatorError` if the router does not list them."""
    given = remote.config.adapters()
    if not given:
        return ()

    def failed(snapshot: Snapshot) -> tuple[AdapterView, ...] | None:
        if snapshot.adapters is None:
            return None
        # An adapter that was unloaded meanwhile is not in the table, and has not failed.
        views = {view.name: view for view in snapshot.adapters.adapters}
        known = [views[name] for name in given if name in views]
        return None if any(view.state in UNREAD for view in known) else failed_of(known)

    try:
        async with asyncio.timeout(TABLE_SECONDS):
            return await remote.when(failed)
    except TimeoutError:
        hint = f"see: {spell('adapters list', remote.config.run)}"
        raise OperatorError("the router does not list its adapters", hint) from None


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


def documents(views: Iterable[AdapterView]) -> tuple[FailedAdapter, ...]:
    """The failures, for JSON."""
    return tuple(FailedAdapter(view.name, view.path, view.reason) for view in views)

"""Single questions to a running pipeline: a snapshot, its address, a request by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import ProcessState, ProcessTable, Snapshot
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from .remote import Remote

T = TypeVar("T")
FIRST_REPORT_SECONDS = 5.0
"""How long to wait for what a process first reports up to two seconds after READY."""


async def first_report(
    remote: Remote, pick: Callable[[Snapshot], T | None], process: str, what: str
) -> T:
    """What `pick` takes from a snapshot, once that is not None. Raises `OperatorError`, "the
    `process` has not reported `what`", after `FIRST_REPORT_SECONDS`."""
    try:
        async with asyncio.timeout(FIRST_REPORT_SECONDS):
            return await remote.when(pick)
    except TimeoutError:
        hint = f"see: {spell(f'logs {process}', remote.config.run)}"
        raise OperatorError(f"the {process} has not reported {what}", hint) from None


async def server_url(remote: Remote) -> str:
    """The server's address, which is in its first statistics after READY."""
    return await first_report(
        remote, lambda s: (s.server and s.server.url) or None, "server", "its address"
    )


def request_ids(snapshot: Snapshot) -> list[str]:
    """The ids of live requests; none before the router's first report."""
    return [row.request_id for row in snapshot.batch.requests] if snapshot.batch else []


def find_request(name: str, ids: list[str]) -> str:
    """The id that equals `name` or ends with it: screens show only the end. Raises `OperatorError`
    if none or several do."""
    found = [name] if name in ids else [id for id in ids if id.endswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OperatorError(f"{len(found)} requests end with {name!r}", "give more of the id")
    live = counted(len(ids), "request", "are")
    raise OperatorError(f"no live request {name!r}", f"{live} live; Batch lists them")


def take_snapshot(config: Config, steps: int = 0) -> Snapshot:
    """The supervisor's snapshot, with the last `steps` steps. Raises as `Remote` does."""

    async def ask() -> Snapshot:
        async with Remote(config) as remote:
            return await remote.snapshot(steps=steps)

    return asyncio.run(ask())


def undone_by(table: ProcessTable, run: str) -> str:
    """A hint at the command that undoes a stop or a drain of the pipeline in `run`; "" if neither
    is in effect."""
    for row in table.processes:
        if row.held:
            return f"{row.name} is started by: {spell(f'start {row.name}', run)}"
        if row.name == "router" and row.state is ProcessState.DRAINING:
            return f"requests are admitted again by: {spell('drain --resume', run)}"
    return ""

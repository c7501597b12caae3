"""Single questions to a running pipeline: a snapshot, its address, a request by its id."""

from __future__ import annotations

import asyncio

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import ProcessState, ProcessTable, Snapshot
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from .remote import Remote


async def server_url(remote: Remote) -> str:
    """The server's address, which is in its first statistics after READY."""
    for _ in range(20):
        snapshot = await remote.snapshot()
        if snapshot.server and snapshot.server.url:
            return snapshot.server.url
        await asyncio.sleep(0.1)
    hint = f"see: {spell('logs server', remote.config.run)}"
    raise OperatorError("the server has not reported its address", hint)


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

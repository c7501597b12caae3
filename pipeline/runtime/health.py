"""Health of a ring: the rules that `/health`, the supervisor, `status` and the console's header and
alerts share. Knows no clock: ages are given.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ..messages import Heartbeat, ProcessState, ProcessTable, ProcessView

LATE_SECONDS = 1.6
"""A process sends two heartbeats a second; after three missed ones the operator is warned."""
GONE_SECONDS = 3.0
"""A process whose last heartbeat is older than this counts as gone."""
BEATING = frozenset(
    {
        ProcessState.STARTING,
        ProcessState.READY,
        ProcessState.DRAINING,
        ProcessState.STOPPING,
    }
)
"""States in which a process sends heartbeats."""


def ring_state(
    ring: Sequence[ProcessState],
    fetch: ProcessState = ProcessState.DONE,
    is_held: bool = False,
    is_stopping: bool = False,
    is_recovering: bool = False,
) -> ProcessState:
    """The state of a pipeline from its `ring` of processes and the `fetch` before them. `is_held`:
    an operator keeps one of them stopped. `is_recovering`: the fall of one is not mended yet."""
    if is_stopping:
        return ProcessState.STOPPING
    if ProcessState.FAILED in (fetch, *ring):
        return ProcessState.FAILED
    if is_held:
        return ProcessState.STOPPED
    if is_recovering:
        return ProcessState.STARTING
    if all(state is ProcessState.READY for state in ring):
        return ProcessState.READY
    if ProcessState.DRAINING in ring:
        return ProcessState.DRAINING
    return ProcessState.STARTING


def is_late(state: ProcessState, age_s: float | None) -> bool:
    """Whether a process that should send heartbeats has missed some. `age_s` is the age of the last
    one, None before the first."""
    return state in BEATING and age_s is not None and age_s > LATE_SECONDS


def describe_process(process: ProcessView) -> str:
    """`worker-0 is starting: reading weights`, `worker-0 is stopped by an operator`,
    `worker-0 died (killed by SIGKILL) and is restarting: reading weights`."""
    if process.held and process.state is ProcessState.STOPPED:
        return f"{process.name} is {process.reason}"
    if process.is_recovering and process.state is not ProcessState.FAILED:
        why = f" ({process.fall_reason})" if process.fall_reason else ""
        return f"{process.name} died{why} and {_mending(process)}"
    return f"{process.name} is {process.state.value}: {process.reason}".rstrip(": ")


def _mending(process: ProcessView) -> str:
    """What is done about a fall, as a predicate: `is restarting: reading weights`."""
    if process.state in (ProcessState.READY, ProcessState.DRAINING):
        return "is back, but the pipeline is not ready"
    if process.state is ProcessState.STARTING:
        return f"is restarting: {process.reason}".rstrip(": ")
    return "will be restarted"


def find_fault(
    names: Iterable[str],
    table: ProcessTable | None,
    heartbeats: Mapping[str, Heartbeat],
    now: float,
) -> str:
    """Why the processes `names` cannot take a request at `now`, unix seconds; "" if they can.

    `table` is the supervisor's, `heartbeats` are the newest by process.
    """
    names = tuple(names)
    for process in table.processes if table else ():
        is_up = process.state in (ProcessState.READY, ProcessState.DRAINING)
        if process.name in names and (process.is_recovering or not is_up):
            return describe_process(process)
    for name in names:
        heartbeat = heartbeats.get(name)
        if heartbeat is None:
            return f"no heartbeat from {name} yet"
        if now - heartbeat.at > GONE_SECONDS:
            return f"no heartbeat from {name} for {now - heartbeat.at:.0f} s"
        if heartbeat.state is not ProcessState.READY:
            return f"{name} is {heartbeat.state.value}: {heartbeat.reason}".rstrip(": ")
    return ""


def is_mending(names: Collection[str], table: ProcessTable | None) -> bool:
    """Whether what `find_fault` has found ends by itself, as far as is known: a process died and is
    restarted, is silent, or was not heard yet. Not so during the first start, nor if an operator or
    the supervisor keeps a process down. `table` is None in a process that has just started."""
    if table is None:
        return True
    if table.state is ProcessState.STARTING:
        return any(process.is_recovering for process in table.processes if process.name in names)
    return table.state is ProcessState.READY


def lost_process(table: ProcessTable) -> str:
    """Why open requests cannot continue; "" if they can: a process is given up. One that restarts,
    or that an operator starts again, finds the requests with the others."""
    for process in table.processes:
        if process.state is ProcessState.FAILED:
            return f"{process.name} died: {process.reason or 'see its log'}"
    return ""

"""One verdict on a ring: its state of its processes' states, and why it can take no request."""

import pytest

from loraconsole.pipeline.messages import (
    Heartbeat,
    ProcessState,
    ProcessTable,
    ProcessView,
)
from loraconsole.pipeline.runtime.health import (
    GONE_SECONDS,
    LATE_SECONDS,
    find_fault,
    is_late,
    is_mending,
    ring_state,
)

READY, STARTING, FAILED = ProcessState.READY, ProcessState.STARTING, ProcessState.FAILED
DRAINING, STOPPED, BACKOFF = ProcessState.DRAINING, ProcessState.STOPPED, ProcessState.BACKOFF


def heartbeat(name: str, at: float, state: ProcessState = READY, reason: str = "") -> Heartbeat:
    return Heartbeat(
        name=name,
        pid=1,
        incarnation=1,
        at=at,
        state=state,
        reason=reason,
        rss_bytes=0,
        cpu_seconds=0.0,
        loop_lag_ms=0.0,
        hops=(),
    )


def table(*views: ProcessView) -> ProcessTable:
    return ProcessTable(100.0, READY, views)


@pytest.mark.parametrize(
    ("ring", "state"),
    [
        ((READY, READY), READY),
        ((READY, STARTING), STARTING),
        ((READY, BACKOFF), STARTING),
        ((READY, DRAINING), DRAINING),
        ((DRAINING, FAILED), FAILED),
    ],
)
def test_a_ring_is_as_its_processes_are(
    ring: tuple[ProcessState, ...], state: ProcessState
) -> None:
    assert ring_state(ring) is state


def test_what_failed_to_be_fetched_is_a_failed_ring_and_what_is_held_a_stopped_one() -> None:
    assert ring_state((STARTING,), fetch=FAILED) is FAILED
    assert ring_state((READY, STOPPED), is_held=True) is STOPPED
    assert ring_state((FAILED, STOPPED), is_held=True) is FAILED
    assert ring_state((FAILED,), is_stopping=True) is ProcessState.STOPPING


def test_only_what_should_send_heartbeats_can_be_late() -> None:
    assert is_late(READY, LATE_SECONDS + 0.1)
    assert not is_late(READY, LATE_SECONDS - 0.1) and not is_late(READY, None)
    assert not is_late(BACKOFF, 60.0)


def test_a_fault_names_the_process_and_says_why() -> None:
    names, now = ("router", "worker-0"), 100.0
    beats = {name: heartbeat(name, now) for name in names}
    assert find_fault(names, None, beats, now) == ""
    assert find_fault(names, None, {}, now) == "no heartbeat from router yet"
    late = {**beats, "worker-0": heartbeat("worker-0", now - GONE_SECONDS - 1)}
    assert find_fault(names, None, late, now) == "no heartbeat from worker-0 for 4 s"
    busy = {**beats, "worker-0": heartbeat("worker-0", now, STARTING, "reading weights")}
    assert find_fault(names, None, busy, now) == "worker-0 is starting: reading weights"
    held = ProcessView("router", STOPPED, 0, 0, 0.0, "stopped by an operator", None, held=True)
    assert find_fault(names, table(held), beats, now) == "router is stopped by an operator"
    other = ProcessView("fetch", STOPPED, 0, 0, 0.0, "", None)
    assert find_fault(names, table(other), beats, now) == ""


def view(name: str, state: ProcessState, *, is_recovering: bool = False) -> ProcessView:
    return ProcessView(
        name=name,
        pid=1,
        state=state,
        reason="",
        restarts=0,
        exit_code=None,
        since=0.0,
        is_recovering=is_recovering,
    )


@pytest.mark.parametrize(
    ("state", "views", "mends"),
    [
        (READY, (view("router", READY),), True),  # it is silent, or was not heard yet
        (STARTING, (view("router", BACKOFF, is_recovering=True),), True),
        (STARTING, (view("router", READY, is_recovering=True),), True),
        (STARTING, (view("fetch", STARTING, is_recovering=True),), False),
        (STARTING, (view("router", STARTING),), False),  # the first start
        (STOPPED, (view("router", STOPPED),), False),
        (DRAINING, (view("router", DRAINING),), False),
        (FAILED, (view("router", FAILED, is_recovering=True),), False),
    ],
)
def test_a_fault_ends_by_itself_unless_it_was_wanted_or_given_up(
    state: ProcessState, views: tuple[ProcessView, ...], mends: bool
) -> None:
    assert is_mending(("router", "server"), ProcessTable(100.0, state, views)) is mends
    assert is_mending(("router", "server"), None)

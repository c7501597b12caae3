"""The stack that a process left in its log, as the details page shows it."""

from __future__ import annotations

import subprocess
import sys

import pytest

from loraconsole.console.state.crash import is_stack_line, last_crash
from loraconsole.console.state.log_reference import LogReference, find_line
from loraconsole.pipeline.messages import LogLine

pytestmark = pytest.mark.processes

PROGRAM = """
import faulthandler, os, signal, threading
faulthandler.enable()
threading.Thread(target=threading.Event().wait, daemon=True).start()
def inner():
    os.kill(os.getpid(), signal.{signal})
def outer():
    inner()
outer()
"""
BROKEN = """
def inner():
    raise ValueError("no rank")
def outer():
    inner()
outer()
"""


def lines_of(program: str, before: str = "router: fine") -> list[LogLine]:
    """The log of a process `router` that ran `program`, and of the supervisor beside it."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    texts = [before, *done.stderr.splitlines()]
    logs = [LogLine(at, 100.0, "router", "ERROR", text) for at, text in enumerate(texts)]
    died = LogLine(len(logs), 100.1, "supervisor", "ERROR", "supervisor: router died (by a signal)")
    return [*logs, died]


@pytest.mark.parametrize("name", ["SIGSEGV", "SIGABRT", "SIGBUS", "SIGFPE"])
def test_a_fatal_signal_leaves_the_stack_of_the_thread_that_it_hit(name: str) -> None:
    logs = lines_of(PROGRAM.format(signal=name))
    crash = last_crash("router", logs)
    assert crash is not None
    assert crash.frames[:2] == ("inner (<string>:6)", "outer (<string>:8)")
    assert crash.other_threads == 1
    assert crash.error in {"Segmentation fault", "Aborted", "Bus error", "Floating point exception"}
    assert last_crash("server", logs) is None
    found = find_line(LogReference("router", 100.0), logs)
    assert found is not None and found.text == f"Fatal Python error: {crash.error}"


def test_an_exception_leaves_its_frames_and_its_message() -> None:
    crash = last_crash("router", lines_of(BROKEN))
    assert crash is not None
    assert crash.error == "ValueError: no rank"
    assert crash.frames == ("inner (<string>:3)", "outer (<string>:5)", "<module> (<string>:6)")


def test_what_the_next_process_writes_does_not_belong_to_the_stack() -> None:
    logs = lines_of(PROGRAM.format(signal="SIGSEGV"))
    after = LogLine(len(logs), 102.0, "router", "INFO", "router: waiting for worker-0")
    assert last_crash("router", [*logs, after]) == last_crash("router", logs)


def test_a_dump_that_an_operator_asked_for_is_no_crash() -> None:
    program = "import faulthandler; faulthandler.dump_traceback(all_threads=True)"
    logs = lines_of(program)
    assert any(is_stack_line(entry.text) for entry in logs)
    assert last_crash("router", logs) is None

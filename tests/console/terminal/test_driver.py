"""The console on a real pseudo-terminal: it comes up, follows a resize, and leaves no trace."""

import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from session import Session

pytestmark = pytest.mark.processes


@pytest.fixture(params=[True, False], ids=["answers", "silent"])
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    """A terminal that answers, and one that does not (tmux 3.3)."""
    session = Session(answers=request.param)
    yield session
    session.close()


def test_it_comes_up_follows_a_resize_and_gives_the_terminal_back(session: Session) -> None:
    session.wait_for("CONNECTING")
    session.wait_for("q Quit")
    session.press("2")
    session.wait_for("no request is live")
    session.resize(80, 24)
    os.kill(session.pid, signal.SIGWINCH)
    session.read(1.0)
    lines = session.text.splitlines()
    assert len(lines) == 24 and lines[2].startswith("╭─ live batch") and lines[2].endswith("╮")
    assert lines[-1].strip().startswith("/ Filter")
    session.press("q")
    session.wait_for("Leave it running")
    session.press("l")
    assert session.exit_code() == 0
    for mode in (b"1049", b"1000", b"1003", b"2004"):
        last = [m for m in re.findall(rb"\x1b\[\?" + mode + rb"([hl])", session.raw)][-1]
        assert last == b"l", mode
    assert session.raw.rindex(b"\x1b[?25h") > session.raw.rindex(b"\x1b[?25l")
    assert b"answer: leave" in session.raw


def test_the_title_is_there_before_textual_is_imported(session: Session) -> None:
    started = time.monotonic()
    while b"loraconsole" not in session.raw:
        session.read(0.005)
        assert time.monotonic() - started < 5
    assert b"\x1b[?1049h" in session.raw
    assert b"\x1b[?1003h" not in session.raw  # Textual's own first words come later


def wakes(pid: int) -> int:
    """How often the threads of Python, but for the first, have gone to sleep."""
    found = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        if int(thread.name) != pid and (thread / "comm").read_text().startswith("python"):
            [count] = re.findall(
                r"\nvoluntary_ctxt_switches:\s*(\d+)", (thread / "status").read_text()
            )
            found += int(count)
    return found


def test_the_thread_of_keys_sleeps_until_there_is_one(session: Session) -> None:
    """Textual's own wakes ten times a second. An escape by itself is still heard as a key, and the
    console still ends at once."""
    session.wait_for("q Quit")
    session.read(1.0)
    before = wakes(session.pid)
    session.read(2.0)
    assert wakes(session.pid) - before < 15
    session.press("?")
    session.wait_for("esc closes")
    session.press("\x1b")
    while "esc closes" in session.text:
        session.read(0.1)
    session.press("ql")
    assert session.exit_code() == 0

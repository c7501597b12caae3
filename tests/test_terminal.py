"""The console on a real pseudo-terminal: it comes up, follows a resize, and leaves no trace."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyte
import pytest

CODE = (
    "from loraconsole.console.terminal.splash import raise_curtain; raise_curtain('loraconsole');"
    "from loraconsole.console.ui.app import ConsoleApp;"
    "from loraconsole.pipeline.config import Config;"
    "print('answer:', ConsoleApp(Config(run='/run/loraconsole')).run())"
)
SYNC_QUESTION = b"\x1b[?2026$p"


class Session:
    """A console under a pty, with a terminal emulator at the other end."""

    def __init__(self, *, answers: bool) -> None:
        self._answers = answers
        self.raw = b""
        self.screen = pyte.Screen(100, 30)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", COLUMNS="", LINES="")
            os.execv(sys.executable, [sys.executable, "-P", "-c", CODE])
        self.resize(100, 30)

    def resize(self, columns: int, lines: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.screen.resize(lines, columns)

    def press(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def read(self, seconds: float) -> None:
        """Takes what comes for a while, answering the one question that paces frames."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                return
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # Linux' way to say that the other end is closed
                return
            self.raw += data
            if self._answers:
                for _ in range(data.count(SYNC_QUESTION)):
                    self.press("\x1b[?2026;2$y")
            # pyte does not know these and would print them.
            self._stream.feed(re.sub(rb"\x1b\[[?<>=]?[0-9;]*(\$p|u|t)", b"", data))

    def wait_for(self, text: str, seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"no {text!r} on:\n{self.text}"
            self.read(0.1)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def exit_code(self, seconds: float = 10.0) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it does not end")

    def close(self) -> None:
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


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

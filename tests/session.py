"""A console under a pseudo-terminal, with a terminal emulator at the other end."""

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
from contextlib import suppress

import pyte

CODE = (
    "from loraconsole.console.terminal.splash import show_title; show_title('loraconsole');"
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
        """Reads output for up to `seconds`, and replies to the query that paces frames."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            if not select.select([self.fd], [], [], left)[0]:
                return
            try:
                data = os.read(self.fd, 65536)
            except OSError:  # the other end is closed, on Linux
                return
            self.raw += data
            if self._answers:
                for _ in range(data.count(SYNC_QUESTION)):
                    self.press("\x1b[?2026;2$y")
            # pyte does not know these and would print them.
            self._stream.feed(re.sub(rb"\x1b\[[?<>=]?[0-9;]*(\$p|u|t)", b"", data))

    def wait_for(self, text: str, seconds: float = 30.0) -> None:
        end = time.monotonic() + seconds
        while text not in self.text:
            assert time.monotonic() < end, f"no {text!r} on:\n{self.text}"
            self.read(0.1)

    @property
    def text(self) -> str:
        return "\n".join(self.screen.display)

    def exit_code(self, seconds: float = 30.0) -> int:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.read(0.05)
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
        raise AssertionError("it does not end")

    def close(self) -> None:
        with suppress(ChildProcessError):  # its exit code was read: the pid may be another's now
            os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)

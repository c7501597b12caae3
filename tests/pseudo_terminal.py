"""`PseudoTerminal`: a program on a pty, with a simulated terminal at the other end.

While the program runs, this only reads, replies and takes times; pyte reconstructs the screen
afterwards, so that it takes no time from the program.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import statistics
import struct
import termios
import time
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress

import pyte

QUESTIONS = re.compile(rb"\x1b\[\?(\d+)\$p|\x1b\[(0?)c|\x1b\[(6)n|\x1b\](11);\?\x07")
UNKNOWN = re.compile(
    rb"\x1b\[[?<>=][0-9;]*u|\x1b\[[?<>=]?[0-9;]*(?:\$p|t)|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"
)
SEQUENCES = re.compile(rb"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[@-_]")
Cells = list[list[tuple[object, ...]]]


class PseudoTerminal:
    """Starts `command`. `drain` limits reading to this many bytes a second, as a slow link does;
    with `answers` False the terminal replies to no query (tmux 3.3). `background` is what it says
    of its background, `rgb:ffff/ffff/ffff`; "" if it does not know that question."""

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int] = (120, 40),
        environment: Mapping[str, str] | None = None,
        *,
        answers: bool = True,
        drain: float = 0.0,
        answer_delay_s: float = 0.0,
        background: str = "",
    ) -> None:
        self.size = size
        self._answers, self._drain, self._delay_s = answers, drain, answer_delay_s
        self._background = background
        self._due: list[tuple[float, bytes]] = []
        self._tail = b""
        self._allowance, self._filled_at = 0.0, time.monotonic()
        self.chunks: list[tuple[float, bytes]] = []
        self.started_at = time.monotonic()
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", size[1], size[0], 0, 0))
            for name in ("NO_COLOR", "SSH_CONNECTION"):
                os.environ.pop(name, None)
            # readline, which pytest imports, exports its own size, which Python does not see.
            os.environ.update({"COLUMNS": "", "LINES": ""})
            os.environ.update({"TERM": "xterm-256color", "COLORTERM": "truecolor"})
            os.environ.update(environment or {})
            os.execvp(command[0], list(command))
        self.resize(*size)

    # -- input and link

    def send(self, keys: str) -> None:
        os.write(self.fd, keys.encode())

    def resize(self, columns: int, lines: int) -> None:
        self.size = (columns, lines)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def pump(self, seconds: float) -> None:
        """Lets the program run for `seconds`, reading its output."""
        end = time.monotonic() + seconds
        while (now := time.monotonic()) < end and self.is_alive:
            self.read(min(0.05, end - now))

    def read(self, seconds: float) -> bytes:
        """Reads the output that arrives within `seconds`, at the link's rate."""
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            with suppress(OSError):
                os.write(self.fd, self._due.pop(0)[1])
        most = 65536
        if self._drain:
            self._allowance += (now - self._filled_at) * self._drain
            self._allowance, self._filled_at = min(self._allowance, self._drain / 20), now
            most = int(self._allowance)
            if most < 64:
                time.sleep(0.005)
                return b""
        if self._due:
            seconds = min(seconds, max(0.0, self._due[0][0] - now))
        if not select.select([self.fd], [], [], seconds)[0]:
            return b""
        try:
            data = os.read(self.fd, most)
        except OSError:  # the other end is closed, on Linux
            time.sleep(0.005)
            return b""
        now = time.monotonic()
        self._allowance -= len(data)
        self.chunks.append((now, data))
        if self._answers:
            self._answer(data, now)
        return data

    def _answer(self, data: bytes, now: float) -> None:
        data = self._tail + data
        end = 0
        for match in QUESTIONS.finditer(data):
            end = match.end()
            if match[1] is not None:
                known = b"2" if match[1] == b"2026" else b"0"
                reply = b"\x1b[?" + match[1] + b";" + known + b"$y"
            elif match[4]:
                reply = f"\x1b]11;{self._background}\x1b\\".encode() if self._background else b""
            else:
                reply = b"\x1b[1;1R" if match[3] else b"\x1b[?62;22c"
            self._due.append((now + self._delay_s, reply))
        self._tail = data[max(end, len(data) - 16) :]

    def wait_for(self, text: str, seconds: float = 60.0) -> float:
        """Waits until `text` has been written; returns the seconds since the start."""
        seen = b"".join(data for _, data in self.chunks)
        end = time.monotonic() + seconds
        while text.encode() not in SEQUENCES.sub(b"", seen):
            if time.monotonic() > end or not self.is_alive:
                raise AssertionError(f"no {text!r} on:\n{self.text}")
            seen += self.read(0.05)
        return self.chunks[-1][0] - self.started_at

    def echo_ms(self, key: str, expected: str, seconds: float = 5.0) -> float | None:
        """Milliseconds from a key to output that matches `expected`; None if there is none."""
        sent_at, seen = time.monotonic(), b""
        self.send(key)
        while time.monotonic() - sent_at < seconds:
            seen += self.read(0.01)
            if re.search(expected.encode(), SEQUENCES.sub(b"", seen)):
                return (self.chunks[-1][0] - sent_at) * 1e3
        return None

    # -- end

    @property
    def is_alive(self) -> bool:
        with suppress(ChildProcessError):
            return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        return False

    def exit_code(self, seconds: float = 30.0) -> int:
        end = time.monotonic() + seconds
        while self.is_alive:
            assert time.monotonic() < end, "it does not end"
            self.read(0.02)
        while self.read(0.02):
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    def hang_up(self) -> None:
        """Closes the terminal."""
        os.close(self.fd)
        self.fd = -1

    def close(self) -> None:
        with suppress(ChildProcessError):  # its exit code was read: the pid may be another's now
            if self.is_alive:
                os.kill(self.pid, signal.SIGCONT)
                os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.fd >= 0:
            os.close(self.fd)

    # -- measurements

    def bytes_between(self, begin: float, end: float) -> bytes:
        return b"".join(data for at, data in self.chunks if begin <= at <= end)

    def compressed_between(self, begin: float, end: float) -> int:
        """Bytes that `ssh -C` would send, one packet per burst."""
        packer = zlib.compressobj(6)
        total, last = 0, begin
        for at, data in self.chunks:
            if begin <= at <= end:
                if at - last > 0.004:
                    total += len(packer.flush(zlib.Z_SYNC_FLUSH))
                total += len(packer.compress(data))
                last = at
        return total + len(packer.flush(zlib.Z_SYNC_FLUSH))

    def least_between(self, begin: float, end: float, fps: float) -> int:
        """Fewest bytes for the same pictures `fps` times a second: each changed cell written once,
        one SGR per change of style."""
        screen, stream = _emulator(self.size)
        total, due, old = 0, begin + 1.0 / fps, None
        for at, data in self.chunks:
            if at > end:
                break
            if at >= due:
                new = _cells(screen)
                if old is not None:
                    total += _least_bytes(old, new)
                old, due = new, at + 1.0 / fps
            elif at < begin:
                old = None
            stream.feed(UNKNOWN.sub(b"", data))
            if at < begin:
                continue
            if old is None:
                old = _cells(screen)
        return total

    @property
    def text(self) -> str:
        """The current text of the screen."""
        screen, stream = _emulator(self.size)
        for _, data in self.chunks:
            stream.feed(UNKNOWN.sub(b"", data))
        return "\n".join(screen.display)

    def cpu_seconds(self) -> float:
        """Processor time of the program's threads so far."""
        total = 0
        for thread in os.listdir(f"/proc/{self.pid}/task"):
            with suppress(OSError), open(f"/proc/{self.pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
        return total / 1e9

    def rss_mib(self) -> float:
        with open(f"/proc/{self.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def percentiles(values: Sequence[float]) -> tuple[float, float]:
    """p50 and p95 by nearest rank."""
    ordered = sorted(values)
    return statistics.median(ordered), ordered[min(len(ordered) - 1, int(len(ordered) * 0.95))]


def _emulator(size: tuple[int, int]) -> tuple[pyte.Screen, pyte.ByteStream]:
    screen = pyte.Screen(*size)
    return screen, pyte.ByteStream(screen)


def _cells(screen: pyte.Screen) -> Cells:
    buffer = screen.buffer
    columns = range(screen.columns)
    return [[tuple(buffer[y][x])[:8] for x in columns] for y in range(screen.lines)]


def _least_bytes(old: Cells, new: Cells) -> int:
    total, style = 0, None
    for before, after in zip(old, new, strict=True):
        last = -9
        for x, (was, cell) in enumerate(zip(before, after, strict=True)):
            if was == cell:
                continue
            if x != last + 1:
                total += 7 if last < 0 else 4
            if cell[1:] != style:
                style = cell[1:]
                total += 4 + sum(16 for color in style[:2] if color != "default")
            total += len(str(cell[0]).encode())
            last = x
    return total

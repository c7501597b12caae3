"""`last_crash`: the stack that a process left in its log when it crashed: faulthandler's after a
fatal signal, or the traceback of an exception. Knows log lines, no file."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ...pipeline.messages import LogLine

FATAL, TRACEBACK = "Fatal Python error: ", "Traceback (most recent call last):"
_THREAD, _CURRENT = "Thread 0x", "Current thread 0x"
_FRAME = re.compile(r' +File "(?P<path>[^"]*)", line (?P<line>\d+),? in (?P<function>.*)')


class Crash(NamedTuple):
    """The end of a process: `error` says what ended it, `frames` where, innermost first:
    `forward (llama.py:88)`."""

    at: float
    """Unix time of its first line in the log."""
    error: str
    frames: tuple[str, ...]
    other_threads: int
    """Threads whose stacks are only in the log."""


def is_stack_line(text: str) -> bool:
    """Whether a log line belongs to faulthandler's stacks, below their first line."""
    starts = (_THREAD, _CURRENT, "Extension modules: ", "  <no Python frame>")
    return text.startswith(starts) or _FRAME.fullmatch(text) is not None


def last_crash(source: str, logs: Sequence[LogLine]) -> Crash | None:
    """The newest crash of process `source` in `logs`, which are in order; None if it has left
    none."""
    below: list[str] = []
    for entry in reversed(logs):
        if entry.source != source:
            continue
        if entry.text.startswith(FATAL):
            return _of_signal(entry, below[::-1])
        if entry.text.startswith(TRACEBACK):
            return _of_exception(entry, below[::-1])
        below.append(entry.text)
    return None


def _of_signal(first: LogLine, lines: Iterable[str]) -> Crash:
    threads: dict[str, list[str]] = {}
    name = current = ""
    for line in lines:
        if line.startswith((_THREAD, _CURRENT)):
            name = line
            threads[name] = []
            current = name if line.startswith(_CURRENT) else current
        elif frame := _frame(line):
            threads.setdefault(name, []).append(frame)
        elif line.strip() and not is_stack_line(line):
            break  # what the next process writes
    current = current or next(iter(threads), "")
    frames = tuple(threads.get(current, ()))
    error = first.text.removeprefix(FATAL).strip()
    return Crash(first.at, error, frames, max(0, len(threads) - 1))


def _of_exception(first: LogLine, lines: Iterable[str]) -> Crash:
    found: list[str] = []
    error = ""
    for line in lines:
        if frame := _frame(line):
            found.append(frame)
        elif line and not line.startswith(" "):
            error = line
            break
    return Crash(first.at, error, tuple(reversed(found)), 0)


def _frame(line: str) -> str:
    """`forward (llama.py:88)` of a line of a stack; "" of another."""
    match = _FRAME.fullmatch(line)
    if match is None:
        return ""
    return f"{match['function']} ({match['path'].rpartition('/')[2]}:{match['line']})"

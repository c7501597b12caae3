"""API keys on their way to a process: given as text, `@FILE` or in an environment variable, handed
on in files and pipes.

Every user of the machine can read a command line, so a key on it is overwritten at once. Knows no
route; `server/access.py` compares keys.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from .errors import UsageError

KEY_VARIABLES = {"api_key": "LORACONSOLE_API_KEY", "admin_key": "LORACONSOLE_ADMIN_KEY"}
"""The environment variable of each setting that is a key."""
BENCH_VARIABLE = "LORACONSOLE_BENCH_API_KEY"
KEY_FLAGS = ("--api-key", "--admin-key")
SHORTEST_FLAG = "--a"
LONGEST_KEY = 4096
HIDDEN = "(hidden)"
"""Shown instead of a key."""


def read_key(given: str, source: str) -> str:
    """The key: `given` itself, or the content of FILE for `@FILE`, without the line end. `source`
    is the flag or variable. Raises `UsageError` if there is no key, or if it cannot be sent."""
    key = given
    if given.startswith("@"):
        path = Path(given[1:]).expanduser()
        try:
            with path.open("rb") as file:
                key = file.read(LONGEST_KEY + 2).decode().rstrip("\r\n")
        except OSError as error:
            raise UsageError(f"{source}: cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise UsageError(f"{source}: {path} is not UTF-8 text") from error
        if not key:
            raise UsageError(f"{source}: {path} is empty", "it must hold one key")
    if len(key) > LONGEST_KEY or not re.fullmatch(r"[!-~]*", key):
        raise UsageError(
            f"{source}: a key is one line of at most {LONGEST_KEY} ASCII characters without spaces",
            "clients cannot send others; make one with: openssl rand -hex 32",
        )
    return key


def without_keys(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for a child: it reads keys from `RUN/config.json`, which is its owner's."""
    keys = {*KEY_VARIABLES.values(), BENCH_VARIABLE}
    return {name: value for name, value in environment.items() if name not in keys}


@contextlib.contextmanager
def key_pipe(key: str) -> Iterator[tuple[tuple[str, ...], tuple[int, ...]]]:
    """Yields the arguments by which a child gets a key, and the descriptors it must inherit: a pipe
    that holds it. None without a key."""
    if not key:
        yield (), ()
        return
    reader, writer = os.pipe()
    try:
        os.write(writer, key.encode())
        os.close(writer)
        yield (KEY_FLAGS[0], f"@/dev/fd/{reader}"), (reader,)
    finally:
        os.close(reader)


def hide_key_arguments() -> None:
    """Overwrites keys on this process's command line, as `ps` and /proc show it. No effect where
    there is no /proc."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        fields = Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()
        start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end, proc_pid_stat(5)
        words = Path("/proc/self/cmdline").read_bytes()
        if len(words) == end - start:
            for at, length in _key_spans(words):
                ctypes.memset(start + at, ord("*"), length)


def _key_spans(words: bytes) -> Iterator[tuple[int, int]]:
    """(offset, length) of each key among arguments that end with zero bytes; a file's name is
    none."""
    at, is_key = 0, False
    for word in words.split(b"\0"):
        flag, equals, value = word.decode(errors="replace").partition("=")
        is_flag = len(flag) >= len(SHORTEST_FLAG) and any(
            name.startswith(flag) for name in KEY_FLAGS
        )
        if is_key and not word.startswith(b"@"):
            yield at, len(word)
        elif is_flag and equals and not value.startswith("@"):
            before = word.index(b"=") + 1
            yield at + before, len(word) - before
        is_key = is_flag and not equals and not is_key
        at += len(word) + 1

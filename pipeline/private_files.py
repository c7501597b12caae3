"""Files that only their owner may read, whatever the umask of the shell.

A process of ours sets its umask once; files that a user has chosen a place for, and the hub's cache
that other programs share, are made with the user's umask. Knows no format.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

PRIVATE = 0o077
"""The umask under which files have mode 0600 at most, directories and sockets 0700."""
UMASK_VARIABLE = "LORACONSOLE_UMASK"
"""Environment variable in which a process gives its children the user's umask, in octal."""


def keep_files_private() -> None:
    """Makes all files of this process and of its children private from now on."""
    users = os.umask(PRIVATE)
    os.environ.setdefault(UMASK_VARIABLE, f"{users:o}")


@contextlib.contextmanager
def private_umask() -> Iterator[None]:
    """Files that the block makes are private, in a process that did not ask for it."""
    before = os.umask(PRIVATE)
    try:
        yield
    finally:
        os.umask(before)


@contextlib.contextmanager
def users_umask() -> Iterator[None]:
    """Files that the block makes have the modes that the user's shell asks for."""
    before = os.umask(PRIVATE)
    try:
        os.umask(int(os.environ.get(UMASK_VARIABLE, f"{before:o}"), 8))
        yield
    finally:
        os.umask(before)


def write_private(path: Path, content: bytes) -> None:
    """Replaces a file at once, and makes its missing directories: a reader sees the old content or
    the new. Raises `OSError`."""
    with private_umask():
        path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)  # mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


def replace_private(path: Path, content: bytes) -> None:
    """Replaces a file at once, by way of one that ends in `.new` and that the next call overwrites
    if a kill leaves it. Makes no directory. Raises `OSError`, and then leaves the old content."""
    new = path.with_suffix(".new")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
    try:
        with open(os.open(new, flags, 0o600), "wb") as file:
            file.write(content)
        new.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # the directory is gone or read-only
            new.unlink()
        raise

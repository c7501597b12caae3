"""Opens files of an adapter, which may come from anywhere: only regular files, and only inside
--adapter-root. Knows no format and no tensor.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path


class AdapterError(Exception):
    """The files are not an adapter for this model; names the file, key and shape."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Text from untrusted files: terminal control characters are escaped."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def brief(text: str) -> str:
    """Text from a file; its middle is cut out if it has more than 200 characters."""
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"


def read_bounded(directory: str, name: str, most: int, roots: Sequence[str] = ()) -> bytes | None:
    """The bytes of a file in an adapter's directory; None if there is no such file. Raises
    `AdapterError` if it is longer than `most` bytes, not a regular file, or outside `roots`."""
    path = Path(directory) / name
    if not os.path.lexists(path):
        return None
    with open_guarded(path, directory, roots) as file:
        if (size := file_size(file)) > most:
            raise AdapterError(f"{path} has {size} bytes, more than {most}")
        try:
            # Reads one byte too many: files in /proc and the like report no size.
            content = file.read(most + 1)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from error
    if content is None or len(content) > most:
        raise AdapterError(f"{path} has no size, and more than {most} bytes")
    return content


def open_guarded(path: Path, directory: str, roots: Sequence[str]) -> io.FileIO:
    """Opens a regular file. If there are `roots`, it must be in one of them, links followed."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a fifo must not wait for a writer
    try:
        where = str(path)
        if roots:
            resolve_inside(directory, roots)
            # O_NOFOLLOW: a link that replaces the file after the check is not followed.
            where, flags = resolve_inside(where, roots), flags | os.O_NOFOLLOW
        _check_regular(path, os.stat(where).st_mode)  # first: opening a device has side effects
        file = io.FileIO(os.open(where, flags))
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # an impossible file name
        raise AdapterError(f"{path}: {error}") from error
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def resolve_inside(place: str, roots: Sequence[str]) -> str:
    """The real path of `place`, links followed. Raises `AdapterError` if it is outside `roots`."""
    real = os.path.realpath(place)
    for root in map(os.path.realpath, roots):
        if os.path.commonpath((real, root)) == root:
            return real
    shown = place if real == place else f"{place}, which is {real},"
    raise AdapterError(f"{shown} lies outside --adapter-root {', '.join(roots)}")


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    raise AdapterError(f"{path} is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")


def file_size(file: io.FileIO) -> int:
    return os.fstat(file.fileno()).st_size

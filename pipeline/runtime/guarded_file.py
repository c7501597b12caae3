"""Opening the files of an adapter, which may come from anywhere: regular files alone, and none
outside --adapter-root. Knows no format and no tensor.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path


class AdapterError(Exception):
    """The files are no adapter for this model; names the file, key and shape."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Files choose part of the words: what would steer a terminal is written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def brief(text: str) -> str:
    """Words from a file, cut in the middle where they are too long to be read."""
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"


def read_bounded(directory: str, name: str, most: int, roots: Sequence[str] = ()) -> bytes | None:
    """The bytes of a file of an adapter's directory; None where there is no such file. Raises
    `AdapterError` where it is longer than `most` bytes, not a file, or outside `roots`."""
    path = Path(directory) / name
    if not os.path.lexists(path):
        return None
    with open_guarded(path, directory, roots) as file:
        if (size := file_size(file)) > most:
            raise AdapterError(f"{path} has {size} bytes, more than {most}")
        try:
            # Once more than is allowed: files of the kernel's own have no size to look at.
            content = file.read(most + 1)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from error
    if content is None or len(content) > most:
        raise AdapterError(f"{path} is no file that ends")
    return content


def open_guarded(path: Path, directory: str, roots: Sequence[str]) -> io.FileIO:
    """A regular file that lies, links followed, in one of `roots`, where there are any."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a fifo must not wait for a writer
    try:
        where = str(path)
        if roots:
            resolve_inside(directory, roots)
            # What was checked is what is opened: a link put there in between is not followed.
            where, flags = resolve_inside(where, roots), flags | os.O_NOFOLLOW
        _check_regular(path, os.stat(where).st_mode)  # before: opening a device may do things
        file = io.FileIO(os.open(where, flags))
    except OSError as error:
        raise AdapterError(f"{path}: {error.strerror}") from error
    except ValueError as error:  # a name that no file can have
        raise AdapterError(f"{path}: {error}") from error
    try:
        _check_regular(path, os.fstat(file.fileno()).st_mode)
    except BaseException:
        file.close()
        raise
    return file


def resolve_inside(place: str, roots: Sequence[str]) -> str:
    """The real path of a place, links followed: in one of `roots`."""
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

"""Files that come from anywhere, opened and read with bounds: an adapter's, a tokenizer's.

Nothing here follows a link out of the given roots, waits for a fifo or reads a file without an end.
Knows file systems; not what a file means.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Sequence
from pathlib import Path


class AdapterError(Exception):
    """These files are no adapter for this model; says which file, key and shape."""

    def __init__(self, text: str) -> None:
        super().__init__(printable(text))


def printable(text: str) -> str:
    """Files choose part of the words: what would steer a terminal is written as an escape."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def brief(text: str) -> str:
    """Words from a file, cut in the middle where they are longer than 200 characters."""
    return text if len(text) <= 200 else f"{text[:120]}…{text[-60:]}"


def read_file(path: Path, most_bytes: int, directory: str, roots: Sequence[str] = ()) -> bytes:
    """A file's bytes, at most `most_bytes`. `directory` and the file must lie in one of `roots`, if
    there are any. Raises `AdapterError`."""
    with open_file(path, directory, roots) as file:
        if (size := file_size(file)) > most_bytes:
            raise AdapterError(f"{path} has {size} bytes: more than {most_bytes} are not read")
        try:
            # Once more than is allowed: files of the kernel's own have no size to look at.
            content = file.read(most_bytes + 1)
        except OSError as error:
            raise AdapterError(f"{path}: {error.strerror}") from error
    if content is None or len(content) > most_bytes:
        raise AdapterError(f"{path} is no file that ends")
    return content


def open_file(path: Path, directory: str, roots: Sequence[str]) -> io.FileIO:
    """A regular file that lies, links followed, in one of `roots`, where there are any."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # opening a fifo must not wait for a writer
    try:
        where = str(path)
        if roots:
            inside_roots(directory, roots)
            # What was checked is what is opened: a link put there in between is not followed.
            where, flags = inside_roots(where, roots), flags | os.O_NOFOLLOW
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


def inside_roots(place: str, roots: Sequence[str]) -> str:
    """Where a place really is, links followed: in one of `roots`."""
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

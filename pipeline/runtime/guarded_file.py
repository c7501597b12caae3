"""Opens files of an adapter, which may come from anywhere: only regular files, and only inside
--adapter-root, also if its files are swapped between the check and the opening. A hard link cannot
be told from the file. Knows no format and no tensor.
"""

from __future__ import annotations

import io
import itertools
import os
import stat
from collections.abc import Sequence
from pathlib import Path

from .text_output import visible


class AdapterError(Exception):
    """The files are not an adapter for this model; names the file, key and shape."""

    def __init__(self, text: str) -> None:
        super().__init__(visible(text))


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
    # Opening a fifo must not wait for a writer.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW
    try:
        if roots:
            resolve_inside(directory, roots)
            descriptor = _open_below(path, resolve_inside(str(path), roots), roots, flags)
        else:
            _check_regular(path, os.stat(path).st_mode)  # first: opening a device has side effects
            descriptor = os.open(path, flags & ~os.O_NOFOLLOW)
        file = io.FileIO(descriptor)
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


def names_in(real: Path, roots: Sequence[str], most: int) -> list[str]:
    """The first `most` entries of a directory that was resolved, sorted; none if it is no directory
    any more, or no longer in `roots`."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY
    descriptor = -1
    try:
        descriptor = (
            _open_below(real, resolve_inside(str(real), roots), roots, flags | os.O_NOFOLLOW)
            if roots
            else os.open(real, flags)
        )
        with os.scandir(descriptor) as entries:
            return sorted(entry.name for entry in itertools.islice(entries, most))
    except (AdapterError, OSError):
        return []
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def resolve_inside(place: str, roots: Sequence[str]) -> str:
    """The real path of `place`, links followed. Raises `AdapterError` if it is outside `roots`."""
    real = os.path.realpath(place)
    if _root_of(real, roots) is not None:
        return real
    shown = place if real == place else f"{place}, which is {real},"
    raise AdapterError(f"{shown} lies outside --adapter-root {', '.join(roots)}")


def _root_of(real: str, roots: Sequence[str]) -> str | None:
    """The real path of the first root that holds a real path; None if none does."""
    resolved = map(os.path.realpath, roots)
    return next((root for root in resolved if os.path.commonpath((real, root)) == root), None)


def _open_below(path: Path, real: str, roots: Sequence[str], flags: int) -> int:
    """Opens `real`, which is resolved, part by part from its root. There is no link in it, so one
    that is met was put there after the check: it is not followed. Raises `OSError`, and
    `AdapterError` for a device, which is not opened."""
    root = _root_of(real, roots)
    if root is None:
        raise AdapterError(f"{path} no longer lies in --adapter-root")
    *parents, name = os.path.relpath(real, root).split(os.sep)
    through = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    at = os.open(root, through)
    try:
        for parent in parents:
            below = os.open(parent, through | os.O_NOFOLLOW, dir_fd=at)
            os.close(at)
            at = below
        if not flags & os.O_DIRECTORY:
            _check_regular(path, os.stat(name, dir_fd=at, follow_symlinks=False).st_mode)
        return os.open(name, flags, dir_fd=at)
    finally:
        os.close(at)


def _check_regular(path: Path, mode: int) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "fifo", stat.S_IFSOCK: "socket"}
    kinds[stat.S_IFLNK] = "link that was just put there"
    raise AdapterError(f"{path} is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file")


def file_size(file: io.FileIO) -> int:
    return os.fstat(file.fileno()).st_size

"""The cache of model directories: its path, and the creation of one, whole or not at all.
`FetchReport` gets the progress of a fetch. Knows no model and no source of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from tqdm import tqdm

from ..errors import OperatorError
from ..gguf.header import read_header, write_files
from ..private_files import private_umask

log = logging.getLogger(__name__)

LAYOUT = 2
"""Incremented when the files made from a GGUF change, so that older cached ones are made again."""
PARTIAL = ".partial-"
"""Prefix of the name of an unfinished directory."""
STALE_SECONDS = 24 * 3600.0
"""Age after which a killed fetch's unfinished directory is removed; a running one may be slow."""
PIECE_BYTES = 1 << 20


class FetchReport:
    """Gets the progress of a fetch. This one draws bars on stderr and logs messages."""

    def bar(self, label: str, total: float | None) -> tqdm[Any]:
        """A bar of bytes; `total` None if the length is unknown."""
        return tqdm(total=total, desc=label, unit="B", unit_scale=True)

    def say(self, text: str) -> None:
        """Reports a warning to the operator; the fetch continues."""
        log.warning("%s", text)


def cache_directory() -> Path:
    """`$XDG_CACHE_HOME/loraconsole/models`, by default in `~/.cache`; created if missing."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    cache = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    models = cache / "loraconsole" / "models"
    try:
        with private_umask():
            models.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _unwritable(models, error) from error
    return models


@contextlib.contextmanager
def new_directory(final: Path) -> Iterator[Path]:
    """A temporary directory that is renamed to `final` if the block succeeds, else removed.

    Raises `OperatorError` if the cache is full or cannot be written.
    """
    _remove_stale(final.parent)
    try:
        partial = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=final.parent))
        try:
            yield partial
            if not final.exists():  # else another fetch has made the same
                partial.rename(final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise _unwritable(final.parent, error) from error


def require_space(models: Path, num_bytes: int) -> None:
    """Raises `OperatorError` if the disk has no room for a download."""
    free = shutil.disk_usage(models).free
    if free < num_bytes:
        raise OperatorError(
            f"{models} has {free >> 20} MB free, {num_bytes >> 20} MB are needed",
            "free space, or point XDG_CACHE_HOME to a larger disk",
        )


def copy(source: IO[bytes], target: IO[bytes] | None, bar: tqdm[Any]) -> str:
    """Copies `source` to `target`, or only reads it if that is None; returns its sha256 in hex."""
    digest = hashlib.sha256()
    while piece := source.read(PIECE_BYTES):
        digest.update(piece)
        if target is not None:
            target.write(piece)
        bar.update(len(piece))
    return digest.hexdigest()


def advance_to(bar: tqdm[Any], count: float) -> None:
    """Moves a bar to `count`, never back."""
    bar.update(max(0, count - bar.n))


def convert(gguf: Path, directory: Path, report: FetchReport) -> None:
    """Writes the files that a GGUF's header describes. It takes seconds, which the cache saves the
    next time."""
    with report.bar(f"reading {gguf.name}", None) as bar:
        write_files(read_header(gguf), directory)
        bar.update(gguf.stat().st_size)


def _remove_stale(models: Path) -> None:
    for path in models.glob(f"{PARTIAL}*"):
        with contextlib.suppress(FileNotFoundError):  # another fetch may remove it too
            if time.time() - path.stat().st_mtime > STALE_SECONDS:
                shutil.rmtree(path, ignore_errors=True)


def _unwritable(models: Path, error: OSError) -> OperatorError:
    return OperatorError(
        f"cannot write the model cache {models}: {error.strerror or error}",
        "free space or give write permission, or point XDG_CACHE_HOME elsewhere",
    )

"""`UiState`: the theme and the sorting of tables of last time.

The settings' file, flags and the environment come first; this fills what they leave open.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from ..paths import state_directory


class UiStateFile(Struct):
    """The contents of the file."""

    theme: str = ""
    sorts: dict[str, str] = {}
    """By the title of a table: the column's, with - in front where the order is reversed."""


class UiState:
    """Saved as soon as a part changes; without a path it is kept in memory only."""

    def __init__(self, kept: UiStateFile | None = None, path: Path | None = None) -> None:
        self._kept = kept or UiStateFile()
        self._path = path

    @classmethod
    def remembered(cls) -> UiState:
        """The state of last time; empty where the file is missing or broken."""
        path = state_directory() / "habits.json"
        kept = None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode(path.read_bytes(), type=UiStateFile)
        return cls(kept, path)

    @property
    def theme(self) -> str:
        """ "" where none was ever chosen."""
        return self._kept.theme

    @theme.setter
    def theme(self, name: str) -> None:
        self._kept.theme = name
        self._save()

    def sort_of(self, table: str) -> tuple[str, bool]:
        """The title of the column that a table is sorted by, "" for the natural order, and whether
        that is reversed."""
        kept = self._kept.sorts.get(table, "")
        return kept.removeprefix("-"), kept.startswith("-")

    def keep_sort(self, table: str, column: str, is_reversed: bool) -> None:
        self._kept.sorts[table] = ("-" if is_reversed else "") + column
        self._save()

    def _save(self) -> None:
        """Writes the file; a home that cannot be written to is no error."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_bytes(msgspec.json.encode(self._kept))

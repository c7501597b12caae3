"""`UiState`: the theme, the sorting of tables and whether a hint was shown, saved across runs.

The settings file, flags and the environment take precedence.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from ...pipeline.private_files import write_private
from ..paths import state_directory


class UiStateFile(Struct):
    """The contents of the file."""

    theme: str = ""
    sorts: dict[str, str] = {}
    """Title of the sort column by title of the table; a leading - reverses the order."""
    has_had_hint: bool = False
    """Whether the hint for new users was shown."""


class UiState:
    """The saved state, written at every change; without a path it is kept in memory only."""

    def __init__(self, kept: UiStateFile | None = None, path: Path | None = None) -> None:
        self._kept = kept or UiStateFile()
        self._path = path

    @classmethod
    def remembered(cls) -> UiState:
        """Reads the saved state; empty if the file is missing or invalid."""
        path = state_directory() / "habits.json"
        kept = None
        with contextlib.suppress(OSError, msgspec.MsgspecError):
            kept = msgspec.json.decode(path.read_bytes(), type=UiStateFile)
        return cls(kept, path)

    @property
    def is_new(self) -> bool:
        """Whether the user has never seen the console; False if the state is not saved."""
        return self._path is not None and not self._kept.has_had_hint

    def forget_new(self) -> None:
        """Records that the hint for new users was shown."""
        self._kept.has_had_hint = True
        self._save()

    @property
    def theme(self) -> str:
        """The last chosen theme; "" if none was."""
        return self._kept.theme

    @theme.setter
    def theme(self, name: str) -> None:
        self._kept.theme = name
        self._save()

    def sort_of(self, table: str) -> tuple[str, bool]:
        """A table's sort column by title, "" for the natural order; and whether it is reversed."""
        kept = self._kept.sorts.get(table, "")
        return kept.removeprefix("-"), kept.startswith("-")

    def keep_sort(self, table: str, column: str, is_reversed: bool) -> None:
        self._kept.sorts[table] = ("-" if is_reversed else "") + column
        self._save()

    def _save(self) -> None:
        """Writes the file; an unwritable home directory is not an error."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                write_private(self._path, msgspec.json.encode(self._kept))

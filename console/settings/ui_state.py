"""`UiState`: what a person came to last time and finds again: the theme, and how tables are sorted.

The settings' file, a flag and the environment say what is to be; this only fills what they leave
open.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from msgspec import Struct

from ..paths import state_directory


class UiStateFile(Struct):
    """The file."""

    theme: str = ""
    sorts: dict[str, str] = {}
    """By the title of a table: the column's, with - in front where the order is reversed."""


class UiState:
    """Written as soon as one changes; without a path only remembered while it runs."""

    def __init__(self, kept: UiStateFile | None = None, path: Path | None = None) -> None:
        self._kept = kept or UiStateFile()
        self._path = path

    @classmethod
    def remembered(cls) -> UiState:
        """Those of last time; none where the file is missing or broken."""
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
        """A column's title, "" for the natural order, and whether it is reversed."""
        kept = self._kept.sorts.get(table, "")
        return kept.removeprefix("-"), kept.startswith("-")

    def keep_sort(self, table: str, column: str, is_reversed: bool) -> None:
        self._kept.sorts[table] = ("-" if is_reversed else "") + column
        self._save()

    def _save(self) -> None:
        """A home that cannot be written to is no reason to stop."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self._path.write_bytes(msgspec.json.encode(self._kept))

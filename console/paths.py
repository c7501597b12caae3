"""Paths of the user's files: settings, themes, transcripts, the console's saved state."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

SHIPPED_THEMES = Path(__file__).parents[1] / "themes"


def config_directory() -> Path:
    """`$XDG_CONFIG_HOME/loraconsole`, by default under `~/.config`: files that users write."""
    return _under("XDG_CONFIG_HOME", ".config")


def data_directory() -> Path:
    """`$XDG_DATA_HOME/loraconsole`, by default under `~/.local/share`: transcripts, benchmark
    results, pictures."""
    return _under("XDG_DATA_HOME", ".local/share")


def state_directory() -> Path:
    """`$XDG_STATE_HOME/loraconsole`, by default under `~/.local/state`: saved state."""
    return _under("XDG_STATE_HOME", ".local/state")


def user_themes() -> Path:
    """The directory of the user's theme files."""
    return config_directory() / "themes"


def theme_files() -> Iterator[Path]:
    """Theme files: the package's, the default first, then the user's."""
    shipped = SHIPPED_THEMES.glob("*.toml")
    yield from sorted(shipped, key=lambda file: (file.name != "dark.toml", file.name))
    yield from sorted(user_themes().glob("*.toml"))


def _under(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable)
    # The XDG specification says that relative paths are ignored.
    base = Path(given) if given and os.path.isabs(given) else Path.home() / otherwise
    return base / "loraconsole"

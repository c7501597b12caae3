"""`home`: where the console keeps a person's files: settings, themes, what it remembers."""

from __future__ import annotations

import os
from pathlib import Path


def config_directory() -> Path:
    """`$XDG_CONFIG_HOME/loraconsole`, by default under `~/.config`: what people write."""
    return _under("XDG_CONFIG_HOME", ".config")


def state_directory() -> Path:
    """`$XDG_STATE_HOME/loraconsole`, by default under `~/.local/state`: what is remembered."""
    return _under("XDG_STATE_HOME", ".local/state")


def _under(variable: str, otherwise: str) -> Path:
    given = os.environ.get(variable)
    # The specification of these variables has relative paths ignored.
    base = Path(given) if given and os.path.isabs(given) else Path.home() / otherwise
    return base / "loraconsole"

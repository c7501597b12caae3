"""`theme`: theme files (TOML) made into Textual themes. Colours are data; this file holds none.

A file names its own colours and may leave most out: what is missing is derived from the three
that it must have. `read_themes` looks in the package and then in `$XDG_CONFIG_HOME`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import NamedTuple

import msgspec
from textual.color import Color, ColorParseError
from textual.theme import Theme

from .. import themes

HEAT, TINTS = 5, 8
PARTS = ("host", "copy", "launch", "busy", "sync")


TEXT_STYLES = {"none", "bold", "dim", "italic", "reverse", "underline", "not"}
ANSI_VARIABLES = {"ansi-background", "ansi-foreground"}
"""Textual's stylesheet asks for them in an ansi theme and gives them no value of its own."""


class Colors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The colours every Textual widget knows."""

    foreground: str
    background: str
    primary: str
    secondary: str | None = None
    accent: str | None = None
    success: str | None = None
    warning: str | None = None
    error: str | None = None
    surface: str | None = None
    panel: str | None = None


class InkColors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The colours of the console's own drawing; what is left out follows from `Colors`."""

    dim: str | None = None
    """Text of second rank."""
    border: str | None = None
    cursor: str | None = None
    """The ground of the selected row."""
    bar: str | None = None
    """The ground of the status line and of the footer."""
    heat: tuple[str, ...] = ()
    """Five colours of a plot, from low to high."""
    parts: tuple[str, ...] = ()
    """A step's parts: host, copy, launch, busy, sync."""
    prefill: str | None = None
    rest: str | None = None
    """What is free or still to come in a bar."""
    base: str | None = None
    adapters: tuple[str, ...] = ()
    """Eight colours, one an adapter."""


class ThemeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A theme as it is written."""

    name: str
    colors: Colors
    dark: bool = True
    ansi: bool = False
    """Colours are the terminal's own sixteen (`ansi_green`), left to its palette."""
    inks: InkColors = InkColors()
    variables: dict[str, str] = {}
    """Textual's own variables, for whoever wants to go further."""

    def theme(self) -> Theme:
        """Raises `ValueError` naming the colour that cannot be read."""
        colors = {
            name: value
            for name, value in msgspec.structs.asdict(self.colors).items()
            if value is not None
        }
        for name, value in colors.items():
            _parse(name, value)
        for name, value in self.variables.items():
            if not name.endswith("text-style"):
                _parse(name, value)
            elif not set(value.split()) <= TEXT_STYLES:
                raise ValueError(f"{name}: {value!r} is not a text style")
        if self.ansi and not set(self.variables) >= ANSI_VARIABLES:
            missing = ", ".join(sorted(ANSI_VARIABLES - set(self.variables)))
            raise ValueError(f"an ansi theme must say what these variables are: {missing}")
        return Theme(
            name=self.name,
            dark=self.dark,
            ansi=self.ansi,
            variables={**self._ink_variables(), **self.variables},
            **colors,
        )

    def _ink_variables(self) -> dict[str, str]:
        colors, inks = self.colors, self.inks
        ground, text = colors.background, colors.foreground
        good = colors.success or colors.primary
        warn = colors.warning or colors.accent or colors.primary
        bad = colors.error or warn
        named = {
            "dim": inks.dim or _blend(text, ground, 0.35),
            "border": inks.border or _blend(text, ground, 0.75),
            "cursor": inks.cursor or _blend(ground, colors.primary, 0.22),
            "bar": inks.bar or _blend(ground, text, 0.08),
            "rest": inks.rest or _blend(text, ground, 0.8),
            "prefill": inks.prefill or colors.secondary or colors.primary,
            "base": inks.base or text,
        }
        heat = inks.heat or (
            *(good, _blend(good, warn, 0.5), warn),
            *(_blend(warn, bad, 0.5), bad),
        )
        palette = (colors.primary, warn, good, bad, colors.secondary or colors.accent or text)
        lists = {
            "heat": (heat, HEAT),
            "part": (inks.parts or palette, len(PARTS)),
            "adapter": (
                inks.adapters or (*palette, *(_blend(c, text, 0.5) for c in palette)),
                TINTS,
            ),
        }
        for name, (values, wanted) in lists.items():
            if len(values) < wanted:
                raise ValueError(f"{name} needs {wanted} colours, {len(values)} are given")
            keys = PARTS if name == "part" else range(1, wanted + 1)
            named |= {f"{name}-{key}": value for key, value in zip(keys, values, strict=False)}
        for name, value in named.items():
            _parse(name, value)
        return {f"ink-{name}": value for name, value in named.items()}


class Broken(NamedTuple):
    """A theme file that cannot be used, and why."""

    path: str
    why: str


def user_directory() -> Path:
    """`$XDG_CONFIG_HOME/loraconsole/themes`, by default under `~/.config`."""
    home = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(home) / "loraconsole" / "themes"


def read_themes() -> tuple[dict[str, Theme], list[Broken]]:
    """Every theme that can be read, by name, and the files that cannot.

    Those of the package come first, dark before light; a user's file of the same name wins.
    """
    found: dict[str, Theme] = {}
    broken: list[Broken] = []
    for file in _theme_files():
        try:
            text = file.read_text(encoding="utf-8")
            theme = msgspec.toml.decode(text, type=ThemeFile).theme()
        except (OSError, UnicodeDecodeError, ValueError) as error:
            broken.append(Broken(str(file), str(error)))
        else:
            found[theme.name] = theme
    return found, broken


def _theme_files() -> Iterator[Traversable | Path]:
    shipped = [file for file in files(themes).iterdir() if file.name.endswith(".toml")]
    yield from sorted(shipped, key=lambda file: (file.name != "dark.toml", file.name))
    if user_directory().is_dir():
        yield from sorted(user_directory().glob("*.toml"))


def _parse(name: str, value: str) -> Color:
    try:
        return Color.parse(value)
    except ColorParseError as error:
        raise ValueError(f"{name}: {value!r} is not a colour") from error


def _blend(value: str, towards: str, share: float) -> str:
    """A colour between two; those of a terminal's own palette cannot be mixed."""
    first, second = _parse("colour", value), _parse("colour", towards)
    if first.ansi is not None or second.ansi is not None:
        return value
    return first.blend(second, share).hex

"""`theme_files`: TOML files made into Textual themes. Colours are data; this file holds none.

A theme file must give three colours; missing ones are derived from them. A `ThemeShelf` holds the
themes of the package and of `$XDG_CONFIG_HOME`, rereads changed files, and reports mistakes by
line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from textual.color import Color, ColorParseError
from textual.theme import Theme

from ...pipeline.runtime.step_statistics import PARTS
from ..paths import theme_files
from .toml_document import Document, DocumentError, Problem

HEAT, NUM_COLORS = 5, 8
LEAST_CONTRAST = 4.5
"""WCAG 2, level AA, for text."""
TEXTS: Mapping[str, str] = {
    **{"text": "foreground", "key": "accent", "brand": "primary", "good": "success"},
    **{"warn": "warning", "bad": "error", "info": "primary", "dim": "ink-dim", "base": "ink-base"},
    **{f"adapter-{number}": f"ink-adapter-{number}" for number in range(1, NUM_COLORS + 1)},
}
"""The theme variable of each text style."""
GROUNDS: Mapping[str, str] = {
    "background": "background",
    "cursor": "ink-cursor",
    "bar": "ink-bar",
}
BADGES = ("success", "warning", "error", "ink-dim")
"""Grounds of badges, whose text is in the background's colour."""
TEXT_STYLES = {"none", "bold", "dim", "italic", "reverse", "underline", "not"}
ANSI_VARIABLES = {"ansi-background", "ansi-foreground"}
"""Variables of Textual's stylesheet that an ansi theme must set itself."""


class Colors(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The colours of Textual's own widgets."""

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
    """The colours of the console's own drawing; those left out are derived from `Colors`."""

    dim: str | None = None
    """Secondary text."""
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
    """The free part of a bar."""
    base: str | None = None
    adapters: tuple[str, ...] = ()
    """Eight colours, one an adapter."""


class ThemeFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of a theme file."""

    name: str
    colors: Colors
    dark: bool = True
    ansi: bool = False
    """Whether the colours are the terminal's own sixteen (`ansi_green`), from its palette."""
    inks: InkColors = InkColors()
    variables: dict[str, str] = {}
    """Textual's own variables by name."""

    def theme(self) -> Theme:
        """The Textual theme. Raises `ValueError` naming the colour that cannot be parsed."""
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
                raise ColourError(name, f"{value!r} is not a text style")
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
        cursor = inks.cursor or _blend(ground, colors.primary, 0.22)
        bar = inks.bar or _blend(ground, text, 0.08)
        named = {
            "dim": inks.dim or _dimmed(text, (ground, cursor, bar)),
            "border": inks.border or _blend(text, ground, 0.75),
            "cursor": cursor,
            "bar": bar,
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
                NUM_COLORS,
            ),
        }
        for name, (values, wanted) in lists.items():
            if len(values) < wanted:
                raise ColourError(name, f"needs {wanted} colours, {len(values)} are given")
            keys = PARTS if name == "part" else range(1, wanted + 1)
            named |= {f"{name}-{key}": value for key, value in zip(keys, values, strict=False)}
        for name, value in named.items():
            _parse(name, value)
        return {f"ink-{name}": value for name, value in named.items()}


class ColourError(ValueError):
    """A colour, or a list of colours, is invalid."""

    def __init__(self, name: str, why: str) -> None:
        super().__init__(f"{name}: {why}")
        self.name = name


class ThemeShelf:
    """Every valid theme by name: the package's first, `dark` before the others; a user's file of
    the same name takes precedence."""

    def __init__(self) -> None:
        self.themes: dict[str, Theme] = {}
        self.problems: list[Problem] = []
        """Mistakes in the current files."""
        self._known: dict[str, tuple[object, Theme | None, list[Problem]]] = {}
        """By file: its stamp when read, its last valid theme, and its problems."""

    def refresh(self) -> bool:
        """Reads new and changed files; returns whether any was new, changed or deleted. A file that
        has become invalid keeps its last theme. Twelve unchanged files take 60 us."""
        before, self._known = self._known, {}
        has_changed = False
        for file in theme_files():
            path, stamp = str(file), _stamp(file)
            known = before.pop(path, None)
            if known is None or known[0] != stamp:
                has_changed = True
                theme, problems = _read(file)
                known = (stamp, theme or (known[1] if known else None), problems)
            self._known[path] = known
        if has_changed or before:
            found = [theme for _, theme, _ in self._known.values() if theme is not None]
            self.themes = {theme.name: theme for theme in found}
            self.problems = [p for _, _, problems in self._known.values() for p in problems]
        return has_changed or bool(before)


def _read(file: Path) -> tuple[Theme | None, list[Problem]]:
    try:
        document = Document.read(file)
    except DocumentError as error:
        return None, [error.problem]
    try:
        theme = msgspec.convert(document.values, ThemeFile).theme()
    except msgspec.ValidationError as error:
        return None, [_misfit(document, str(error))]
    except ColourError as error:
        return None, [_at_colour(document, error.name, str(error))]
    except ValueError as error:
        return None, [document.problem((), str(error))]
    faint = faint_texts(theme)
    if not faint:
        return theme, []
    name, least, contrast = min(faint, key=lambda pair: pair[2])
    more = f" (and {len(faint) - 1} more)" if len(faint) > 1 else ""
    what = f"{name} is hard to read on {least}: contrast {contrast:.1f}, text needs"
    return theme, [_at_colour(document, name, f"{what} {LEAST_CONTRAST}{more}")]


def _misfit(document: Document, message: str) -> Problem:
    """The problem of msgspec's ``Expected `str`, got `int` - at `$.colors.primary` ``."""
    what, _, where = message.partition(" - at ")
    names = re.findall(r"[\w-]+", where)
    unknown = re.search(r"unknown field `([^`]+)`", what)
    if unknown:
        names.append(unknown[1])
    table = ".".join(names) + ": " if names and not unknown else ""
    return document.problem(names, table + what[:1].lower() + what[1:])


def _at_colour(document: Document, name: str, what: str) -> Problem:
    """The problem of an invalid colour, at its line in one of three tables, maybe in a list."""
    bare = name.removeprefix("ink-")
    for key in (bare, f"{bare}s", re.sub(r"-[a-z0-9]+$", "s", bare), bare.partition("-")[0]):
        for table in ("colors", "inks", "variables"):
            if (found := document.problem((table, key), what)).line and key in document.values.get(
                table, {}
            ):
                return found
    return document.problem((), what)


def faint_texts(theme: Theme) -> list[tuple[str, str, float]]:
    """Text and ground variables whose contrast is below `LEAST_CONTRAST`, with that contrast.
    Colours of the terminal's own palette are left out: they are unknown."""
    variables = {
        **{name: value for name, value in vars(theme).items() if isinstance(value, str)},
        **theme.variables,
    }
    for name in ("success", "warning", "accent", "error"):
        variables.setdefault(name, variables["primary"])
    pairs = [(text, ground) for text in TEXTS.values() for ground in GROUNDS.values()]
    pairs += [("background", badge) for badge in BADGES]
    found = []
    for text, ground in dict.fromkeys(pairs):
        one, other = Color.parse(variables[text]), Color.parse(variables[ground])
        if one.ansi is None and other.ansi is None:
            contrast = contrast_of(one, other)
            if contrast < LEAST_CONTRAST:
                found.append((text, ground, contrast))
    return found


def contrast_of(one: Color, other: Color) -> float:
    """WCAG 2: `(lighter + 0.05) / (darker + 0.05)` of relative luminances, 1 to 21."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4
        for part in color.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def _stamp(file: Path) -> object:
    """A value that changes when the file is written; None without the file."""
    try:
        status = file.stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size)


def _parse(name: str, value: str) -> Color:
    try:
        return Color.parse(value)
    except ColorParseError as error:
        raise ColourError(
            name, f"{value!r} is not a colour; write #rrggbb, a name, or ansi_green"
        ) from error


def _blend(value: str, towards: str, share: float) -> str:
    """A mix of two colours; `value` unchanged if either is of the terminal's palette."""
    first, second = _parse("colour", value), _parse("colour", towards)
    if first.ansi is not None or second.ansi is not None:
        return value
    return first.blend(second, share).hex


def _dimmed(text: str, grounds: Sequence[str]) -> str:
    """The dimmest variant of `text` that is readable on all of `grounds`."""
    for share in (0.35, 0.3, 0.25, 0.2, 0.15, 0.1, 0.05):
        found = _blend(text, grounds[0], share)
        seen = [(Color.parse(found), Color.parse(ground)) for ground in grounds]
        if all(contrast_of(one, other) >= LEAST_CONTRAST for one, other in seen):
            return found
    return text

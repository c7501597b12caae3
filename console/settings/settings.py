"""`Settings`: the user's settings for the console, from one TOML file.

An invalid entry is reported with its line and the allowed values, and its default is used. `Chosen`
has the origin of every value.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from ...pipeline.errors import UsageError
from ...pipeline.runtime.ascii_drawing import ASCII_DRAWING
from ..paths import config_directory, theme_files
from ..state.alerts import AlertLimits
from ..terminal.frame_pacer import THIN_FPS
from ..terminal.splash import BROWSER
from ..text.near_words import did_you_mean, with_choices
from .toml_document import Document, DocumentError, Problem


class Settings(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The file's tables and keys."""

    theme: Annotated[str, Meta(description="theme; t selects the next one")] = "dark"
    fps: Annotated[
        float, Meta(ge=0.5, le=30, description="frames per second while the screen changes")
    ] = 5.0
    low_bandwidth: Annotated[
        bool, Meta(description="at most 5 frames/s, sweeping plots, shows the rate")
    ] = False
    ascii: Annotated[bool, Meta(description="borders, bars and plots in plain ASCII")] = False
    mouse: Annotated[
        bool, Meta(description="mouse in the console, else the terminal's; needs a restart")
    ] = True
    bell: Annotated[
        Literal["off", "bell", "osc9"],
        Meta(description="on an alert: the bell, or a desktop notification (OSC 9)"),
    ] = "off"
    title: Annotated[bool, Meta(description="pipeline state in the terminal's title")] = True
    keys: dict[str, str] = {}
    """Keys by binding id, as in the file; `keymap.with_known_keys` checks them."""
    alerts: AlertLimits = AlertLimits()


class SettingRow(NamedTuple):
    """One setting with its value and origin."""

    name: str
    value: Any
    origin: str
    """`default`, `console.toml:3`, `--theme`, `NO_COLOR`."""
    default: Any
    help: str
    allowed: str


class Chosen(NamedTuple):
    """Settings, their origins, and the problems found in the file."""

    settings: Settings
    origins: Mapping[str, str]
    problems: tuple[Problem, ...] = ()
    path: str = ""
    """The settings file; "" if there is none."""

    @property
    def table(self) -> tuple[SettingRow, ...]:
        """Every setting, including alerts and remapped keys, in the order of the record."""
        rows = []
        for name, (_, default, help, _) in setting_fields().items():
            value: Any = self.settings
            for part in name.split("."):
                value = getattr(value, part)
            origin = self.origins.get(name, "default")
            rows.append(SettingRow(name, value, origin, default, help, allowed_words(name)))
        for id, keys in self.settings.keys.items():
            name = f"keys.{id}"
            origin = self.origins.get(name, "default")
            rows.append(SettingRow(name, keys, origin, "", "a key map's entry", "keys"))
        return tuple(rows)

    def line_of(self, name: str) -> int | None:
        """The line of the settings file that sets `name`; None if the file does not set it."""
        _, _, line = self.origins.get(name, "").partition(":")
        return int(line) if line.isdigit() else None

    def with_flag(self, name: str, value: Any, flag: str) -> Chosen:
        """A copy with `value` from `flag`, or an environment variable; None changes nothing."""
        if value is None:
            return self
        settings = msgspec.structs.replace(self.settings, **{name: value})
        return self._replace(settings=settings, origins={**self.origins, name: flag})


def settings_path() -> Path:
    """`$XDG_CONFIG_HOME/loraconsole/console.toml`, by default under `~/.config`."""
    return config_directory() / "console.toml"


def settings_stamp() -> object:
    """A value that changes when the settings file is written; None without the file."""
    try:
        status = settings_path().stat()
    except OSError:
        return None
    return (status.st_mtime_ns, status.st_size)


def read_settings(path: Path | None = None) -> Chosen:
    """The settings of the file, with defaults for invalid or missing ones."""
    path = path or settings_path()
    if not path.exists():
        return Chosen(Settings(), {})
    try:
        document = Document.read(path)
    except DocumentError as error:
        return Chosen(Settings(), {}, (error.problem,))
    return _chosen(document)


def choose(
    theme: str | None = None,
    fps: float | None = None,
    ascii: bool = False,
    no_mouse: bool = False,
    low_bandwidth: bool | None = None,
    path: Path | None = None,
) -> Chosen:
    """Settings from flags, the environment and the file, in this order of precedence; but `TERM`,
    `SSH_CONNECTION` and the encoding only replace defaults. Raises `UsageError` for a bad flag."""
    kind, _, _, allowed = setting_fields()["fps"]
    if fps is not None:
        try:
            msgspec.convert(fps, kind)
        except msgspec.ValidationError as error:
            raise UsageError(f"--fps: {fps:g} is not {allowed}") from error
    chosen = read_settings(path)
    if "theme" not in chosen.origins and has_few_colors():
        chosen = chosen.with_flag("theme", "terminal", f"TERM={os.environ.get('TERM', '')}")
    if os.environ.get("NO_COLOR") is not None:
        chosen = chosen.with_flag("theme", "monochrome", "NO_COLOR")
    if "low_bandwidth" not in chosen.origins and os.environ.get("SSH_CONNECTION"):
        chosen = chosen.with_flag("low_bandwidth", True, "SSH_CONNECTION")
    flag = "--low-bandwidth" if low_bandwidth else "--no-low-bandwidth"
    chosen = chosen.with_flag("low_bandwidth", low_bandwidth, flag)
    if chosen.settings.low_bandwidth and chosen.settings.fps > THIN_FPS:
        chosen = chosen.with_flag("fps", THIN_FPS, "low_bandwidth")
    if "ascii" not in chosen.origins and (encoding := encoding_without_drawing()):
        chosen = chosen.with_flag("ascii", True, f"the terminal's encoding, {encoding}")
    chosen = chosen.with_flag("theme", theme, "--theme").with_flag("fps", fps, "--fps")
    chosen = chosen.with_flag("ascii", True if ascii else None, "--ascii")
    return chosen.with_flag("mouse", False if no_mouse else None, "--no-mouse")


def has_few_colors() -> bool:
    """Whether the terminal has only sixteen colours, by rich's rule. Other colours reduced to these
    are hard to read; the terminal's own are not."""
    if os.environ.get("COLORTERM", "").lower() in ("truecolor", "24bit"):
        return False
    return os.environ.get("TERM", "").rpartition("-")[2].lower() not in ("256color", "kitty")


def encoding_without_drawing() -> str:
    """The terminal's encoding if it lacks characters that the console draws with; else "".
    Textual writes to standard error; in a browser always UTF-8."""
    stream = None if os.environ.get(BROWSER) else sys.__stderr__
    encoding = stream.encoding if stream is not None else "utf-8"
    try:
        "".join(ASCII_DRAWING).encode(encoding)
    except UnicodeEncodeError:
        return encoding
    return ""


def missing_theme(chosen: Chosen, known: Sequence[str]) -> list[Problem]:
    """A problem at the line that names a theme which does not exist; empty if it exists."""
    wanted = chosen.settings.theme
    if wanted in known:
        return []
    origin, _, line = chosen.origins.get("theme", "").partition(":")
    path = chosen.path if line else origin
    what = f"theme: no theme {wanted!r}; {with_choices(did_you_mean(wanted, known), known)}"
    return [Problem(path, int(line) if line.isdigit() else None, what)]


def _chosen(document: Document) -> Chosen:
    """The settings of a file, checked one by one: an invalid value does not affect the others."""
    known = setting_fields()
    values: dict[str, Any] = {}
    problems: list[Problem] = []
    origins: dict[str, str] = {}
    lines = document.lines
    short = document.path.rpartition("/")[2]

    def origin(*names: str) -> str:
        return f"{short}:{lines.get(names) or lines.get(names[:1]) or '?'}"

    def complain(names: tuple[str, ...], what: str) -> None:
        problems.append(document.problem(names, f"{'.'.join(names)}: {what}"))

    for name, given in document.values.items():
        if name == "keys":
            values["keys"] = _key_map(given, complain)
            origins |= {f"keys.{id}": origin("keys", id) for id in values["keys"]}
        elif name == "alerts":
            if not isinstance(given, dict):
                complain(("alerts",), "is a table: write [alerts] and its limits below")
                continue
            for limit, value in given.items():
                if _try(known, f"alerts.{limit}", value, complain):
                    values.setdefault("alerts", {})[limit] = value
                    origins[f"alerts.{limit}"] = origin("alerts", limit)
        elif _try(known, name, given, complain):
            values[name] = given
            origins[name] = origin(name)
    problems.sort(key=lambda problem: problem.line or 0)
    settings = msgspec.convert(values, Settings)
    return Chosen(settings, origins, tuple(problems), document.path)


def _try(known: Mapping[str, Any], name: str, value: Any, complain: Any) -> bool:
    names = tuple(name.split("."))
    if name not in known:
        table = f"{names[0]}." if len(names) > 1 else ""
        allowed = [n.removeprefix(table) for n in known if n.startswith(table)]
        if not table:
            allowed = [*dict.fromkeys(n.partition(".")[0] for n in allowed), "keys"]
        meant = did_you_mean(names[-1], allowed)
        complain(names, f"no such setting; {with_choices(meant, allowed)}")
        return False
    kind = known[name][0]
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        shown = f"{value!r}" if not isinstance(value, bool) else str(value).lower()
        complain(names, f"{shown[:40]} is not {allowed_words(name)}")
        return False
    return True


def _key_map(given: Any, complain: Any) -> dict[str, str]:
    if not isinstance(given, dict):
        complain(("keys",), 'is a table: write [keys] and below it id = "key"')
        return {}
    wanted = {}
    for id, keys in given.items():
        if isinstance(keys, list) and keys and all(isinstance(key, str) for key in keys):
            keys = ",".join("comma" if key == "," else key for key in keys)
        if not isinstance(keys, str) or not keys:
            complain(("keys", id), "is a key or a list of keys, as text")
        else:
            wanted[id] = keys
    return wanted


# --- the fields, read off the records -----------------------------------------------------------


@cache
def setting_fields() -> dict[str, tuple[Any, Any, str, str]]:
    """Type, default, help and allowed values in words, by a setting's dotted name."""
    found = {}
    for prefix, record in (("", Settings), ("alerts.", AlertLimits)):
        kinds = get_type_hints(record, include_extras=True)
        for field in msgspec.structs.fields(record):
            kind = kinds[field.name]
            if get_origin(kind) is Annotated:  # not so the tables `keys` and `alerts`
                (meta,) = kind.__metadata__
                help = meta.description or ""
                found[prefix + field.name] = (kind, field.default, help, words_for(kind, meta))
    return found


def theme_names() -> list[str]:
    """Names of the theme files."""
    return [file.stem for file in theme_files()]


def allowed_words(name: str) -> str:
    """The allowed values of a setting in words."""
    if name == "theme":  # from file names: parsing the files would import Textual
        return f"one of {', '.join(theme_names())}"
    return setting_fields()[name][3]


def words_for(kind: Any, meta: Meta) -> str:
    """The values that an annotated type allows, in words."""
    kind = get_args(kind)[0]
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(f'"{value}"' for value in get_args(kind))
    word = {bool: "true or false", str: "a text", float: "a number", int: "a whole number"}[kind]
    if meta.ge is None:
        return word
    return f"{word}, {meta.ge:g} {f'to {meta.le:g}' if meta.le is not None else 'or more'}"


def example() -> str:
    """A settings file with every setting at its default, each explained in a comment."""
    from .toml_edit import toml_value  # the first frame does without it

    rows = [
        "# Settings of the console and their defaults. Copy the lines you change to",
        "# ~/.config/loraconsole/console.toml; `loraconsole settings --check` checks them.",
        "",
    ]
    table = ""
    for name, (_, default, help, _) in setting_fields().items():
        head, _, tail = name.rpartition(".")
        if head != table:
            rows += ["", f"[{head}]  # 0 turns a rule off"]
            table = head
        rows.append(f"{tail} = {toml_value(default)}  # {help}; {allowed_words(name)}")
    rows += ["", '[keys]  # id = "key" or ["key", "key"]; `loraconsole settings --keys` lists ids']
    rows.append('# pause = "p"')
    return "\n".join(rows) + "\n"

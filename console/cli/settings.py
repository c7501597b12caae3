"""`loraconsole settings`: the console's settings, their origins, and errors in them."""

from __future__ import annotations

import sys
from typing import Any

import msgspec

from ..commands.inspect import SettingsCommand
from ..settings import settings as records
from ..settings.toml_document import Problem
from .printing import print_json


class PathDocument(msgspec.Struct, frozen=True):
    """`settings --path`."""

    path: str


class ExampleDocument(msgspec.Struct, frozen=True):
    """`settings --example`: the text of a file with all settings."""

    example: str


class ProblemsDocument(msgspec.Struct, frozen=True):
    """`settings --check`; exit status 1 if there are any."""

    problems: tuple[Problem, ...]


class SettingDocument(msgspec.Struct, frozen=True, rename={"origin": "from"}):
    """One setting."""

    value: Any
    origin: str
    """`default`, `console.toml:3`, `--theme`, `NO_COLOR`."""


class SettingsDocument(msgspec.Struct, frozen=True):
    """`settings`: those in force, by name."""

    path: str
    settings: dict[str, SettingDocument]
    problems: tuple[Problem, ...]


class KeyDocument(msgspec.Struct, frozen=True):
    """One binding of the console."""

    id: str
    keys: tuple[str, ...]
    does: str
    where: str


class KeysDocument(msgspec.Struct, frozen=True):
    """`settings --keys`."""

    keys: tuple[KeyDocument, ...]


def settings(command: SettingsCommand) -> int:
    """Prints settings; with --check, exit status 1 if any is wrong."""
    path = str(records.settings_path())
    if command.path:
        return _print(PathDocument(path), path, command)
    if command.example:
        text = records.example().rstrip("\n")
        return _print(ExampleDocument(text), text, command)
    if command.keys:
        return _print_keys(command)
    chosen = records.choose()
    if chosen.settings.keys:
        from ..settings.keymap import with_known_keys
        from ..ui.bindings import catalogue

        chosen = with_known_keys(chosen, catalogue())
    problems = [*chosen.problems, *theme_problems(chosen)]
    if command.check:
        lines = [str(problem) for problem in problems] or ["no errors"]
        _print(ProblemsDocument(tuple(problems)), "\n".join(lines), command)
        return 1 if problems else 0
    if command.json:
        table = {row.name: SettingDocument(row.value, row.origin) for row in chosen.table}
        print_json(SettingsDocument(path, table, tuple(problems)))
        return 0
    width = max(len(setting.name) for setting in chosen.table)
    for setting in chosen.table:
        origin = "" if setting.origin == "default" else setting.origin
        print(f"{setting.name:<{width}}  {_shown(setting.value):<12} {origin}".rstrip())
    for problem in problems:
        print(problem, file=sys.stderr)
    return 0


def theme_problems(chosen: records.Chosen) -> list[Problem]:
    """Problems of the theme files, and one if the wanted theme does not exist."""
    from ..settings.theme_files import ThemeShelf

    shelf = ThemeShelf()
    shelf.refresh()
    return [*shelf.problems, *records.missing_theme(chosen, list(shelf.themes))]


def _print_keys(command: SettingsCommand) -> int:
    from ..ui.bindings import catalogue

    keys = [key for key in catalogue() if key.id]
    document = KeysDocument(
        tuple(KeyDocument(key.id, key.keys, key.description, key.group) for key in keys)
    )
    width = max(len(key.id) for key in keys)
    rows: list[str] = []
    group = ""
    for key in keys:
        if key.group != group:
            rows += ["", key.group] if rows else [key.group]
            group = key.group
        rows.append(
            f"  {key.id:<{width}}  {','.join(key.keys):<24} {key.tooltip or key.description}"
        )
    return _print(document, "\n".join(rows), command)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def _print(document: msgspec.Struct, text: str, command: SettingsCommand) -> int:
    if command.json:
        print_json(document)
    else:
        print(text)
    return 0

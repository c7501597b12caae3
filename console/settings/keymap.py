"""`KeyBinding`: one key binding; also names of keys, groups of bindings, and a user's key map.

Imports no widget: `ui/bindings.py` lists the bindings that a key map is checked against.
"""

from __future__ import annotations

import string
import unicodedata
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import msgspec
from textual.app import App
from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import (
    ASCII_KEY_NAMES,
    KEY_NAME_REPLACEMENTS,
    Keys,
    format_key,
)

from ..text.near_words import did_you_mean
from .settings import Chosen
from .toml_document import Problem

GROUPS: Mapping[str, str] = {
    "TablePane": "every table",
    "FilterPane": "every list",
    "PlotPane": "every plot",
    "MainScreen": "moving about",
    "FilterInput": "while filtering",
    "CommandInput": "on the command line",
    "ChoiceDialog": "in a question",
    "LiveDialog": "in a dialog",
    "AdapterDialog": "in adapters",
    "ProcessDialog": "in processes",
    "ScrollPane": "in a text",
    "AdapterForm": "in a form",
    "PathInput": "in a path",
    "SettingInput": "in a setting",
    "PaletteDialog": "in the palette",
    "JumpScreen": "while jumping",
    "PlaybackKeys": "in a recording",
    "MultilineInput": "in a text of several lines",
    "PromptEditor": "in the prompt",
    "SystemEditor": "in the system prompt",
    "ParameterInput": "in a parameter",
    "AnswerPane": "in an answer",
    "ModelsPane": "in the model list",
    "PickerInput": "while picking models",
    "ModelPicker": "in the model picker",
    "RecallDialog": "in the recall dialog",
    "BenchDialog": "in the bench dialog",
    "FileDialog": "in the file dialog",
    "SaveDialog": "in the save dialog",
    "QuitDialog": "in the quit dialog",
    "RequestDialog": "in a request",
}
MODIFIERS = ("ctrl", "alt", "shift", "super", "hyper", "meta")


class KeyBinding(NamedTuple):
    """One binding: its id, its default keys, and the widget where it works."""

    id: str
    keys: tuple[str, ...]
    description: str
    tooltip: str
    action: str
    group: str
    node: type[DOMNode]

    @property
    def shown(self) -> str:
        return " ".join(show_key(key) for key in self.keys)


GENERAL = frozenset({"every table", "every list", "every plot", "moving about", "everywhere"})
"""Headings of keys that are not a screen's own."""


def group_of(node: type[DOMNode]) -> str:
    """`in live batch`, `everywhere`: the heading above a widget's keys."""
    if node.__name__ in GROUPS:
        return GROUPS[node.__name__]
    if issubclass(node, App):
        return "everywhere"
    if title := getattr(node, "TITLE", "") or "":
        return f"in {title.lower()}"
    name = node.__name__
    for end in ("Panel", "Pane", "Table", "Dialog"):
        name = name.removesuffix(end)
    return f"in {name.lower()}"


def declared_by(node: type[DOMNode], action: str) -> type[DOMNode]:
    """The class among `node` and its bases that declares the binding of `action`."""
    for kind in node.__mro__:
        bindings = Binding.make_bindings(kind.__dict__.get("BINDINGS", ()))
        if any(binding.action == action for binding in bindings):
            return kind
    return node


# --- names of keys ------------------------------------------------------------------------------


@cache
def _known_names() -> frozenset[str]:
    printable = [c for c in string.printable if c.isprintable()]
    return frozenset(
        {key.value for key in Keys if not key.value.startswith("<")}
        | {character_key(character) for character in printable}
        | set(KEY_NAME_REPLACEMENTS.values())
        | set(ASCII_KEY_NAMES.values())
    )


def character_key(character: str) -> str:
    """Textual's name of the key that types this character: `question_mark`, `a`. Equals Textual's
    own function for bound keys, which is private."""
    name = character
    if not character.isalnum():
        named = unicodedata.name(character, "").lower().replace("-", "_").replace(" ", "_")
        name = named or ASCII_KEY_NAMES.get(character, character)
    return KEY_NAME_REPLACEMENTS.get(name, name)


def key_name(key: str) -> str | None:
    """Textual's name of a key as people write it (`?`, `ctrl+x`, `F5`); None if it is not a key."""
    key = key.strip() or key
    if len(key) == 1:
        return character_key(key)
    *modifiers, last = key.split("+")
    if len(last) > 1 or modifiers:
        last = last.lower()
    if any(modifier.lower() not in MODIFIERS for modifier in modifiers):
        return None
    if len(last) == 1:
        last = character_key(last)
    name = "+".join((*(m.lower() for m in modifiers), last))
    return name if last in _known_names() or name in _known_names() else None


def is_typed(key: str) -> bool:
    """Whether the key types a character, so that an input consumes it."""
    return "+" not in key and (
        len(key) == 1 or key in {character_key(c) for c in string.punctuation + " "}
    )


def show_key(key: str) -> str:
    """`?` for `question_mark`, `^p` for `ctrl+p`."""
    *modifiers, last = key.split("+")
    shown = format_key(last)
    if modifiers == ["ctrl"]:
        return f"^{shown}"
    return "+".join((*modifiers, shown))


# --- a user's key map ---------------------------------------------------------------------------


def with_known_keys(chosen: Chosen, bindings: Sequence[KeyBinding]) -> Chosen:
    """`chosen` with the valid entries of its key map only; invalid ones are added to its problems,
    and those bindings keep their default keys."""
    if not chosen.settings.keys:
        return chosen
    good, wrong = check_key_map(chosen.settings.keys, bindings)
    problems = [
        Problem(chosen.path, chosen.line_of(f"keys.{id}"), f"keys.{id}: {what}")
        for id, what in wrong.items()
    ]
    problems = sorted((*chosen.problems, *problems), key=lambda problem: problem.line or 0)
    return chosen._replace(
        settings=msgspec.structs.replace(chosen.settings, keys=good),
        origins={name: at for name, at in chosen.origins.items() if name[5:] not in wrong},
        problems=tuple(problems),
    )


def check_key_map(
    wanted: Mapping[str, str], bindings: Sequence[KeyBinding]
) -> tuple[dict[str, str], dict[str, str]]:
    """Valid entries, as Textual's key names by binding id; and for every other id the problem."""
    known: dict[str, list[KeyBinding]] = {}
    for key in bindings:
        if key.id:
            known.setdefault(key.id, []).append(key)
    good: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for id, text in wanted.items():
        if id not in known:
            near = did_you_mean(id, known)
            near = f"{near} " if near else ""
            wrong[id] = f"no binding {id!r}; {near}loraconsole settings --keys lists them"
            continue
        names = []
        for part in text.replace(",,", "comma,").split(","):
            name = key_name(part)
            if name is None:
                wrong[id] = f"{part.strip()!r} is no key; keys are like x, ?, ctrl+x, f5, pagedown"
                break
            names.append(name)
        else:
            if any(map(is_typed, names)) and not any(
                is_typed(k) for key in known[id] for k in key.keys
            ):
                wrong[id] = f"{text!r} is typed in lines of text too; take ctrl+… or a function key"
            else:
                good[id] = ",".join(names)
    for id, text in list(good.items()):
        if other := _taken(id, text.split(","), known, good, bindings):
            wrong[id] = f"{text} is {other}'s already where both work; give {other} another one"
            del good[id]
    return good, wrong


def _taken(
    id: str,
    keys: Sequence[str],
    known: Mapping[str, list[KeyBinding]],
    map: Mapping[str, str],
    bindings: Sequence[KeyBinding],
) -> str | None:
    """The id of another binding of the same widget that uses one of `keys`, else None. A pane's key
    may hide one that works everywhere."""
    for mine in known[id]:
        for key in bindings:
            if not key.id or key.id == id:
                continue
            theirs = map[key.id].split(",") if key.id in map else key.keys
            meets = issubclass(key.node, mine.node) or issubclass(mine.node, key.node)
            if meets and not set(theirs).isdisjoint(keys):
                return key.id
    return None

"""`keymap`: every key of the console, read off the bindings themselves, and what may replace it.

The help, `docs/keys.md`, the check of a user's key map: all of them ask here.
"""

from __future__ import annotations

import importlib
import pkgutil
import string
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import NamedTuple

from textual.binding import Binding
from textual.dom import DOMNode
from textual.keys import (
    ASCII_KEY_NAMES,
    KEY_NAME_REPLACEMENTS,
    Keys,
    _character_to_key,
    format_key,
)

from ..ui import panels
from ..ui.help import group_of

MODIFIERS = ("ctrl", "alt", "shift", "super", "hyper", "meta")


class Key(NamedTuple):
    """One binding: its id, the keys it has by default, and where it works."""

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


@cache
def catalogue() -> tuple[Key, ...]:
    """Every binding of the console's own widgets, in the order of their modules. Imports all
    panels: for whoever has a reason to pay for that."""
    ui = panels.__name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(panels.__path__):
        importlib.import_module(f"{panels.__name__}.{module.name}")
    for name in ("app", "jump"):
        importlib.import_module(f"{ui}.{name}")
    found: dict[tuple[str, str], Key] = {}
    for node in sorted(set(_subclasses(DOMNode)), key=_place):
        if not node.__module__.startswith(f"{ui}."):
            continue
        for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())):
            at = (node.__name__, binding.id or binding.action)
            known = found.get(at)
            keys = (*(known.keys if known else ()), binding.key)
            found[at] = Key(
                binding.id or "",
                keys,
                binding.description,
                binding.tooltip,
                binding.action,
                group_of(node),
                node,
            )
    return tuple(found.values())


def _subclasses(node: type[DOMNode]) -> Iterator[type[DOMNode]]:
    for child in node.__subclasses__():
        yield child
        yield from _subclasses(child)


def _place(node: type[DOMNode]) -> tuple[bool, str, str]:
    return (group_of(node) != "everywhere", node.__module__, node.__name__)


# --- names of keys ------------------------------------------------------------------------------


@cache
def _known_names() -> frozenset[str]:
    printable = [c for c in string.printable if c.isprintable()]
    return frozenset(
        {key.value for key in Keys if not key.value.startswith("<")}
        | {_character_to_key(character) for character in printable}
        | set(KEY_NAME_REPLACEMENTS.values())
        | set(ASCII_KEY_NAMES.values())
    )


def key_name(key: str) -> str | None:
    """The name Textual has for what a person wrote (`?`, `ctrl+x`, `F5`); None for no key."""
    key = key.strip() or key
    if len(key) == 1:
        return _character_to_key(key)
    *modifiers, last = key.split("+")
    if len(last) > 1 or modifiers:
        last = last.lower()
    if any(modifier.lower() not in MODIFIERS for modifier in modifiers):
        return None
    if len(last) == 1:
        last = _character_to_key(last)
    name = "+".join((*(m.lower() for m in modifiers), last))
    return name if last in _known_names() or name in _known_names() else None


def is_typed(key: str) -> bool:
    """Does it write a character, so that a line to type in wants it?"""
    return "+" not in key and (
        len(key) == 1 or key in {_character_to_key(c) for c in string.punctuation + " "}
    )


def show_key(key: str) -> str:
    """`?` for `question_mark`, `^p` for `ctrl+p`."""
    *modifiers, last = key.split("+")
    shown = format_key(last)
    if modifiers == ["ctrl"]:
        return f"^{shown}"
    return "+".join((*modifiers, shown))


# --- a user's key map ---------------------------------------------------------------------------


def check_key_map(wanted: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What of a user's key map can be used, and for the rest by id: what is wrong with it."""
    known: dict[str, list[Key]] = {}
    for key in catalogue():
        if key.id:
            known.setdefault(key.id, []).append(key)
    good: dict[str, str] = {}
    wrong: dict[str, str] = {}
    for id, text in wanted.items():
        if id not in known:
            near = _nearest(id, known)
            wrong[id] = f"no binding {id!r}{near}; loraconsole settings --keys lists them"
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
        if other := _taken(id, text.split(","), known, good):
            wrong[id] = f"{text} is {other}'s already where both work; give {other} another one"
            del good[id]
    return good, wrong


def _taken(
    id: str, keys: Sequence[str], known: Mapping[str, list[Key]], map: Mapping[str, str]
) -> str | None:
    """Another binding with one of these keys, of the same widget. That a pane's key hides one
    that works everywhere is as it should be."""
    for mine in known[id]:
        for key in catalogue():
            if not key.id or key.id == id:
                continue
            theirs = map[key.id].split(",") if key.id in map else key.keys
            meets = issubclass(key.node, mine.node) or issubclass(mine.node, key.node)
            if meets and not set(theirs).isdisjoint(keys):
                return key.id
    return None


def _nearest(id: str, known: Mapping[str, object]) -> str:
    import difflib

    near = difflib.get_close_matches(id, known, 1)
    return f"; is it {near[0]!r}?" if near else ""

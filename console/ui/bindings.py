"""`catalogue`: every key of the console, from the bindings of its widgets.

`docs/keys.md` and the check of a user's key map are made from it.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from functools import cache

from textual.binding import Binding
from textual.dom import DOMNode

from ..settings.keymap import KeyBinding, group_of
from . import panels
from .widgets.dialogs import RowDialog


@cache
def catalogue() -> tuple[KeyBinding, ...]:
    """Every binding of the console's own widgets, in the order of their modules. Imports all
    panels, which takes a moment."""
    ui = panels.__name__.rpartition(".")[0]
    for module in pkgutil.iter_modules(panels.__path__):
        importlib.import_module(f"{panels.__name__}.{module.name}")
    for name in ("app", "jump", "palette", "playback_keys", "quitting"):
        importlib.import_module(f"{ui}.{name}")
    found: dict[tuple[str, str], KeyBinding] = {}
    for node in sorted(set(_subclasses(DOMNode)), key=_place):
        if not node.__module__.startswith(f"{ui}.") or issubclass(node, RowDialog):
            continue  # the bindings of a row's details are those of its table
        for binding in Binding.make_bindings(node.__dict__.get("BINDINGS", ())):
            at = (node.__name__, binding.id or binding.action)
            known = found.get(at)
            keys = (*(known.keys if known else ()), binding.key)
            found[at] = KeyBinding(
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

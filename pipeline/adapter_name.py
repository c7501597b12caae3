"""The one rule for adapters' names, on the command line, in a configuration file and over HTTP."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

LONGEST_NAME = 200
SIGNS = "-_./+"
"""Characters of a name beside letters and digits of any script. Not among them: `:` (base:adapter
is a name in requests), `@` (name@generation), `=` (NAME=PATH), `,` and spaces (they separate names
in lists)."""
BASE = "base"
"""Name of the base model in metrics and on the screen."""
ORDERS = ("reload", "pin", "merge", "verify")
"""Last parts of routes: DELETE /v1/adapters/NAME/pin is an order about NAME."""

NAMES_SHOWN = 8
"""Most names listed in the refusal of an unknown name."""

RULE = (
    f"letters, digits and {SIGNS}, at most {LONGEST_NAME} characters, the first a letter, a digit "
    "or _"
)


def objection(name: str, base_names: tuple[str, ...] = ()) -> str:
    """Why `name` cannot name an adapter, beside the names of the base model; empty if it can."""
    shown = repr(name if len(name) <= LONGEST_NAME else f"{name[:60]}…")
    if name and name in (*base_names, BASE):
        return f"{shown} cannot name an adapter: it means the base model"
    if not name or len(name) > LONGEST_NAME or not all(map(_is_allowed, name)) or name[0] in "-./+":
        return f"{shown} cannot name an adapter: a name is {RULE}"
    if name != normal(name):
        return f"{shown} cannot name an adapter: in Unicode's form NFC it is {normal(name)!r}"
    if ((last := name.rpartition("/")[2]) in ORDERS and "/" in name) or last in ("", ".", ".."):
        return f"{shown} cannot name an adapter: /{last} at its end means something else"
    return ""


def not_registered(name: str, served: Sequence[str], base: str) -> str:
    """The refusal of a request for an adapter that is not registered; `served` are those that it
    might mean, `base` is the base model's name, if it is known."""
    shown = name if len(name) <= LONGEST_NAME else f"{name[:60]}…"
    known = ", ".join(served[:NAMES_SHOWN]) or "none"
    rest = len(served) - NAMES_SHOWN
    more = f" and {rest} more" if rest > 0 else ""
    model = f"; the base model is {base!r}" if base else ""
    return f"no adapter {shown!r} is registered; known: {known}{more}{model}"


def normal(name: str) -> str:
    """The name in Unicode's form NFC, as it is registered: an accented letter is one character;
    some keyboards and file systems write two."""
    return unicodedata.normalize("NFC", name)


def _is_allowed(character: str) -> bool:
    """Letters, marks, digits and `SIGNS`. Hindi and Thai write vowels with marks."""
    return character in SIGNS or unicodedata.category(character)[0] in "LNM"

"""`without_anchors`: a regular expression without the `^` and `$` that a match of the whole text
makes needless.

llguidance reads them as places in a longer text, which never come: such an expression compiles and
matches nothing.
"""

from __future__ import annotations


class AnchorInside(ValueError):
    """An anchor that is not at the beginning or the end of an alternative."""


def without_anchors(pattern: str) -> str:
    r"""The same expression for whole texts. Removes `^` and `\A` at the beginning of an outermost
    alternative, `$`, `\z` and `\Z` at its end. Raises `AnchorInside` for one anywhere else, and
    leaves errors of another kind to the compiler."""
    atoms = list(_atoms(pattern))
    kept: list[str] = []
    depth = 0
    for number, atom in enumerate(atoms):
        depth += (atom == "(") - (atom == ")")
        before = atoms[number - 1] if number else "|"
        after = atoms[number + 1] if number + 1 < len(atoms) else "|"
        begins = atom in ("^", r"\A")
        ends = atom in ("$", r"\z", r"\Z")
        if not begins and not ends:
            kept.append(atom)
        elif depth or (begins and before != "|") or (ends and after != "|"):
            place = sum(map(len, atoms[:number])) + 1
            raise AnchorInside(
                f"{atom} at character {place} of the regular expression stands inside it; the "
                "whole answer is matched, so leave it out"
            )
    return "".join(kept)


def _atoms(pattern: str) -> list[str]:
    """Characters, escapes and classes ([…]) of an expression, in order."""
    found, at = [], 0
    while at < len(pattern):
        size = 2 if pattern[at] == "\\" else 1
        if pattern[at] == "[":
            size = _class_length(pattern, at)
        found.append(pattern[at : at + size])
        at += size
    return found


def _class_length(pattern: str, start: int) -> int:
    """Length of the class that begins at `start`; classes may be nested."""
    at, depth = start, 0
    while at < len(pattern):
        character = pattern[at]
        if character == "\\":
            at += 1
        elif character == "[":
            depth += 1
            at += 1 if pattern[at + 1 : at + 2] == "^" else 0
            at += 1 if pattern[at + 1 : at + 2] == "]" else 0  # first in a class: itself
        elif character == "]":
            depth -= 1
            if not depth:
                return at + 1 - start
        at += 1
    return len(pattern) - start

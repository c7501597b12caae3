"""`Field`: how a field of a body is treated, and the check of a body against a table of fields.

Knows no types: the bodies check the values of honoured fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import msgspec

from ..http.bad_request import BadRequest, shortened

Kind: TypeAlias = Literal["honoured", "harmless", "refused"]
OFF: tuple[Any, ...] = (False, [], {}, "")


class Field(msgspec.Struct, frozen=True):
    """How a field is treated. In every field null counts as absent."""

    kind: Kind
    note: str
    """Honoured: its effect. Harmless: why it changes nothing. Refused: what to do instead."""
    off: tuple[Any, ...] = OFF
    """Values with which a refused field is accepted, since they change nothing."""


Table: TypeAlias = Mapping[str, Field]


def honoured(note: str) -> Field:
    return Field("honoured", note)


def harmless(note: str) -> Field:
    return Field("harmless", note)


def refused(note: str, *off: Any) -> Field:
    """A refused field; `off` adds to `OFF`."""
    return Field("refused", note, (*OFF, *off))


def only(value: Any, note: str) -> Field:
    """A field that is refused with any other value."""
    return Field("refused", note, (value,))


def honoured_fields(body: Mapping[str, Any], table: Table, at: str = "") -> dict[str, Any]:
    """The honoured fields of `body`, without nulls.

    `at` is the path of an object inside a body ("parameters."). Raises `BadRequest` naming a
    refused or unknown field.
    """
    found: dict[str, Any] = {}
    for name, value in body.items():
        if value is None:
            continue
        field = table.get(name)
        if field is None:
            raise BadRequest(_unknown(name, table, at), param=at + shortened(name))
        if field.kind == "honoured":
            found[name] = value
        elif field.kind == "refused" and not any(_same(value, off) for off in field.off):
            raise BadRequest(f"{at}{name} is not supported: {field.note}", param=at + name)
    return found


def check_object(given: Mapping[str, Any], table: Table, at: str) -> None:
    """Checks the names in an object inside a body, whose path is `at` ("tools[0]"). Raises
    `BadRequest` naming a refused or unknown field."""
    honoured_fields(given, table, f"{at}.")


def _unknown(name: str, table: Table, at: str) -> str:
    usable = [known for known, field in table.items() if field.kind == "honoured"]
    near = difflib.get_close_matches(shortened(name), usable, n=1, cutoff=0.75)
    hint = f"did you mean {near[0]}?" if near else "docs/http.md lists the fields"
    return f"{at + shortened(name)!r} is not a field of this request: {hint}"


def _same(value: Any, off: Any) -> bool:
    """JSON equality: 1 equals 1.0 but not true; a null in an object counts as absent."""
    if isinstance(value, dict):
        value = {name: part for name, part in value.items() if part is not None}
    return isinstance(value, bool) == isinstance(off, bool) and bool(value == off)


def page_of(table: Table) -> str:
    """The table in Markdown, a row per field: honoured, then harmless, then refused."""
    lines = ["| field | | |", "|---|---|---|"]
    for kind in ("honoured", "harmless", "refused"):
        for name, field in table.items():
            if field.kind == kind:
                lines.append(f"| `{name}` | {kind} | {field.note} |")
    return "\n".join(lines)

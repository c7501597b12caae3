"""Changes one value in the text of a TOML file; every comment, blank line and order stays.

Knows nothing of the keys' meaning. The result is parsed again: it has the wanted value and all
others as before, or the change is refused.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections.abc import Sequence
from typing import Any

from .toml_document import Document, DocumentError, Problem

_TABLE = re.compile(r"^\s*\[")


def set_value(document: Document, names: Sequence[str], value: bool | float | str) -> str:
    """The text of the document with a value set; a key that it lacks is added to its table, or with
    the table at the end. Raises `DocumentError` if the text would have to be rewritten: the value
    takes several lines, or is inside braces."""
    rows = document.text.splitlines()
    written = toml_value(value)
    if at := document.lines.get(tuple(names)):
        rows[at - 1] = _replaced(document, names, rows[at - 1], at, written)
    else:
        _insert(document, names, rows, written)
    wanted = copy.deepcopy(document.values)
    _table_of(wanted, names)[names[-1]] = value
    return _checked(document, names, rows, wanted)


def drop_value(document: Document, names: Sequence[str]) -> str:
    """The text of the document without a key, whose line goes. Raises `DocumentError` as
    `set_value` does."""
    rows = document.text.splitlines()
    at = document.lines.get(tuple(names))
    if at is None:
        return document.text
    _value_in(document, names, rows[at - 1], at)
    del rows[at - 1]
    wanted = copy.deepcopy(document.values)
    del _table_of(wanted, names)[names[-1]]
    return _checked(document, names, rows, wanted)


def toml_value(value: bool | float | str) -> str:
    """A value as TOML writes it: `true`, `0.5`, `5`, `"dark"`."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    is_whole = isinstance(value, int) or (value.is_integer() and abs(value) < 1e15)
    return f"{value:.0f}" if is_whole else repr(value)


def _replaced(document: Document, names: Sequence[str], row: str, at: int, written: str) -> str:
    """The row with another value, before the same comment."""
    before, _, after = _value_in(document, names, row, at)
    return before + written + after


def _value_in(document: Document, names: Sequence[str], row: str, at: int) -> tuple[str, str, str]:
    """The row's text before the value, the value, and the blanks and the comment after it."""
    before, equals, rest = row.partition("=")
    blanks = len(rest) - len(rest.lstrip())
    for end in range(len(rest), blanks, -1):
        value, after = rest[blanks:end], rest[end:]
        if value != value.rstrip() or not re.fullmatch(r"\s*(#.*)?", after):
            continue
        try:
            found = tomllib.loads(f"x = {value}")
        except tomllib.TOMLDecodeError:
            continue
        if found == {"x": _table_of(document.values, names)[names[-1]]}:
            shortest = _without_comment(value)
            return before + equals + rest[:blanks], shortest, value[len(shortest) :] + after
    what = f"{'.'.join(names)}: this line can only be changed by hand"
    raise DocumentError(Problem(document.path, at, what))


def _without_comment(value: str) -> str:
    """The shortest beginning of `value` that is the same value: a comment may have been taken as
    a part of it."""
    whole = tomllib.loads(f"x = {value}")
    for place in (found.start() for found in re.finditer("#", value)):
        begin = value[:place].rstrip()
        try:
            if tomllib.loads(f"x = {begin}") == whole:
                return begin
        except tomllib.TOMLDecodeError:
            continue
    return value


def _insert(document: Document, names: Sequence[str], rows: list[str], written: str) -> None:
    """Adds the key after the last one of its table; without one after the table's head, else with a
    new table at the end."""
    lines, (*table, key) = document.lines, names
    own = [
        at
        for path, at in lines.items()
        if path[:-1] == tuple(table) and not _TABLE.match(rows[at - 1])
    ]
    head = lines.get(tuple(table), 0) if table else 0
    has_head = head > 0 and _TABLE.match(rows[head - 1]) is not None
    if own:
        name = key if has_head or not table else ".".join(names)
        rows.insert(max(own), f"{name} = {written}")
    elif has_head:
        rows.insert(head, f"{key} = {written}")
    elif table:
        rows += [""] * bool(rows and rows[-1].strip())
        rows += [f"[{'.'.join(table)}]", f"{key} = {written}"]
    else:
        first = next((at for at, row in enumerate(rows) if _TABLE.match(row)), len(rows))
        above = first  # of the comment on the first table
        while above and rows[above - 1].startswith("#"):
            above -= 1
        first = above or first
        new = [f"{key} = {written}"]
        rows[first:first] = [*new, ""] if first < len(rows) else new


def _table_of(values: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The table that holds the last name, made if it is missing."""
    for name in names[:-1]:
        values = values.setdefault(name, {})
    return values


def _checked(
    document: Document, names: Sequence[str], rows: Sequence[str], wanted: dict[str, Any]
) -> str:
    text = "\n".join(rows) + "\n"
    try:
        found = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        found = None
    empty = {name: value for name, value in wanted.items() if value != {}}
    if found is None or {n: v for n, v in found.items() if v != {}} != empty:
        what = f"{'.'.join(names)}: the file can only be changed by hand here"
        raise DocumentError(Problem(document.path, document.lines.get(tuple(names)), what))
    return text

"""`Body`: a JSON object of a request, and its conversion from bytes.

A body is checked once here, and every refusal names the field. `request_fields` lists the accepted
and the refused fields.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, TypeVar, get_args, get_origin, get_type_hints

import msgspec

from ..http.bad_request import BadRequest, shortened
from .field_table import Table, honoured_fields

BodyT = TypeVar("BodyT", bound="Body")

MOST_REASON = 200
"""Most characters of a decoder's reason that a refusal repeats."""

MISSING = re.compile(r"missing required field `(\w+)`")
IN_MAP = re.compile(r"`(?:key` in `\$\.(\w+)|\$\.(\w+)\[\.\.\.\])`")
"""A decoder's path that does not say which entry of an object is wrong."""
UNPAIRED = re.compile(rb"\\u[dD][89a-fA-F][\da-fA-F]{2}")
PAIRED = re.compile(rb"\\\\|\\u[dD][89abAB][\da-fA-F]{2}\\u[dD][c-fC-F][\da-fA-F]{2}")
"""What holds no unpaired surrogate: an escaped backslash, and the escape of a whole character."""


class Body(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object of a request; it has a field for every honoured field of `table`."""

    table: ClassVar[Table]
    nested: ClassVar[dict[str, type[Body]]] = {}
    """Fields that are bodies themselves."""


def decode_body(body: bytes, kind: type[BodyT]) -> BodyT:
    """Decodes JSON to a body. Raises `BadRequest` naming the field."""
    return convert_body(decode_object(body), kind)


def decode_object(body: bytes) -> dict[str, Any]:
    """Decodes a JSON object. Raises `BadRequest`."""
    try:
        raw = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        if half := UNPAIRED.search(PAIRED.sub(b"", body)):
            raise BadRequest(
                f"the body is not JSON: {half[0].decode()} is half of a character: escapes of "
                "surrogates come in pairs"
            ) from error
        raise BadRequest(f"the body is not JSON: {error}") from error
    except RecursionError as error:
        raise BadRequest("the body is nested too deeply") from error
    if not isinstance(raw, dict):
        raise BadRequest("the body is not a JSON object")
    return raw


def convert_body(raw: dict[str, Any], kind: type[BodyT], at: str = "") -> BodyT:
    """Makes a body of its JSON object, at the path `at` of another one ("parameters."). Raises
    `BadRequest` naming the field."""
    return _convert(raw, kind, at)


def _convert(raw: dict[str, Any], kind: type[BodyT], at: str) -> BodyT:
    """Converts an object at the path `at` of the body, and the objects in it."""
    given = honoured_fields(raw, kind.table, at)
    for name, value in list(given.items()):
        if name in kind.nested and isinstance(value, dict):
            if all(part is None for part in value.values()):
                del given[name]
                continue
            given[name] = _convert(value, kind.nested[name], f"{at}{name}.")
        if isinstance(value, float) and value.is_integer() and name in _integer_fields(kind):
            given[name] = int(value)
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at ")
        reason = shortened(reason, MOST_REASON)  # it may quote the value
        field = _wrong_entry(path, given, kind) or path.strip("`$.")
        if missing := MISSING.search(reason):
            name = at + missing.group(1)
            raise BadRequest(f"{name} is missing", param=name) from error
        if not field:
            raise BadRequest(reason) from error
        if reason.startswith("Invalid enum value") and field in kind.__struct_fields__:
            reason = f"{reason}, expected {' or '.join(_words(_hints(kind)[field]))}"
        raise BadRequest(f"{reason} (in {at}{field})", param=at + field) from error


def _wrong_entry(path: str, given: Mapping[str, Any], kind: type[Body]) -> str:
    """The path of the entry of an object that does not fit, where the decoder's says only that some
    does; "" otherwise."""
    found = IN_MAP.fullmatch(path)
    field = (found[1] or found[2]) if found else ""
    entries = given.get(field)
    if not isinstance(entries, dict):
        return ""
    field_type = _hints(kind)[field]
    for name, value in entries.items():
        try:
            msgspec.convert({name: value}, field_type)
        except msgspec.ValidationError:
            return f"{field}.{shortened(name)}"
    return ""


@functools.cache
def _hints(kind: type[Body]) -> dict[str, Any]:
    """The types of a body's fields."""
    return get_type_hints(kind, include_extras=True)


def _words(field_type: Any) -> list[str]:
    """The texts that a field takes."""
    if get_origin(field_type) is Literal:
        return [word for word in get_args(field_type) if isinstance(word, str)]
    return [word for part in get_args(field_type) for word in _words(part)]


@functools.cache
def _integer_fields(kind: type[Body]) -> frozenset[str]:
    """The fields that take an integer, for which JSON's 5.0 is 5. None of them takes floats."""
    info = msgspec.inspect.type_info(kind)
    assert isinstance(info, msgspec.inspect.StructType)
    found = set()
    for field in info.fields:
        one = field.type
        kinds = one.types if isinstance(one, msgspec.inspect.UnionType) else (one,)
        if any(isinstance(kind, msgspec.inspect.IntType) for kind in kinds):
            found.add(field.name)
    return frozenset(found)

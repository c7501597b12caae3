"""The parts of a JSON schema, and a schema as llguidance reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""`format` of a string that is enforced. JSON Schema lets others be ignored."""
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
OF_OTHERS = (
    "additionalProperties",
    "patternProperties",
    "unevaluatedProperties",
    "propertyNames",
    "dependentSchemas",
)
"""Keywords about properties that `properties` does not list."""
OF_OBJECTS = ("properties", "required", "minProperties", *OF_OTHERS)
SCHEMA_MAPS = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
SCHEMA_LISTS = ("allOf", "anyOf", "oneOf", "prefixItems", "items")
SCHEMAS = (
    "items",
    "additionalProperties",
    "additionalItems",
    "unevaluatedItems",
    "unevaluatedProperties",
    "propertyNames",
    "contains",
    "not",
    "if",
    "then",
    "else",
    "contentSchema",
)


def enforceable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as llguidance reads it: without each `format` that is not in `FORMATS`, and with whole
    numbers where a bound is written 2.0."""
    found: dict[str, Any] = copy.deepcopy(dict(schema))
    for _, part in subschemas(found):
        if isinstance(part.get("format"), str) and part["format"] not in FORMATS:
            del part["format"]
        for key in COUNTS:
            value = part.get(key)
            if isinstance(value, float) and value.is_integer():
                part[key] = int(value)
    return found


def subschemas(schema: Any, place: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """(JSON pointer, schema) of a schema and of all in it, the outer ones first. References are not
    followed."""
    if not isinstance(schema, dict):
        return
    yield place, schema
    for key, value in schema.items():
        if key in SCHEMA_MAPS and isinstance(value, dict):
            for name, part in value.items():
                yield from subschemas(part, f"{place}/{key}/{_escaped(name)}")
        elif key in SCHEMA_LISTS and isinstance(value, list):
            for index, part in enumerate(value):
                yield from subschemas(part, f"{place}/{key}/{index}")
        elif key in SCHEMAS:
            yield from subschemas(value, f"{place}/{key}")


def _escaped(name: str) -> str:
    return name.replace("~", "~0").replace("/", "~1")


def most_optional(schema: Mapping[str, Any]) -> int:
    """The largest number of properties of an object, one after the other, that may be left out:
    the parser looks for each of them at once."""
    properties, required = schema.get("properties"), schema.get("required")
    if not isinstance(properties, dict):
        return 0
    names = (
        set(name for name in required if isinstance(name, str))
        if isinstance(required, list)
        else set()
    )
    most = run = 0
    for name in properties:
        run = 0 if name in names else run + 1
        most = max(most, run)
    return most


def close_objects(schema: dict[str, Any], *, all_of_them: bool = False) -> None:
    """Forbids, in place, other properties in each object that lists its properties and says nothing
    of others: small models add some until their answer is cut. Those that are one thing with other
    schemas (`allOf`, a reference with siblings) stay open, unless `all_of_them` are to be closed,
    since each would forbid what the others list."""
    parts = [part for _, part in subschemas(schema)]
    merged = set() if all_of_them else _merged(schema, parts)
    for part in parts:
        properties, required = part.get("properties"), part.get("required")
        if not isinstance(properties, dict) or id(part) in merged:
            continue
        names = required if isinstance(required, list) else []
        least = part.get("minProperties")
        has_room = isinstance(least, int) and least > len(properties)
        says_more = has_room or any(key in part for key in OF_OTHERS)
        if all_of_them or not (says_more or any(name not in properties for name in names)):
            part.setdefault("additionalProperties", False)


def _merged(schema: dict[str, Any], parts: list[dict[str, Any]]) -> set[int]:
    """The ids of schemas that describe one value together with others, and of all in them."""
    found: set[int] = set()
    references = References(schema)
    waiting = [part for part in parts if _merges(part)]
    while waiting:
        for _, part in subschemas(waiting.pop()):
            if id(part) in found:
                continue
            found.add(id(part))
            target = references.target_of(part)
            if target is None:  # another kind of reference, perhaps to any of them
                return {id(one) for one in parts}
            waiting.append(target)
    return found


def _merges(part: Mapping[str, Any]) -> bool:
    """Whether a value has to follow several schemas with properties."""
    together = len(part["allOf"]) if isinstance(part.get("allOf"), list) else 0
    together += sum(key in part for key in ("anyOf", "oneOf", "$ref"))
    return together + any(key in part for key in OF_OBJECTS) > 1


class References:
    """What the references in a schema lead to."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._schema = schema
        named = ((part.get("$anchor"), part) for _, part in subschemas(schema))
        self._anchors = {f"#{name}": part for name, part in named if isinstance(name, str)}
        own = schema.get("$id")
        self._id = own.removesuffix("#") if isinstance(own, str) else ""

    def target_of(self, part: dict[str, Any]) -> dict[str, Any] | None:
        """The schema that a part refers to, or itself; None if it cannot be found."""
        reference = part.get("$ref")
        if reference is None:
            return part
        if not isinstance(reference, str):
            return None
        if self._id:
            reference = reference.removeprefix(self._id) or "#"
        if reference in self._anchors:
            return self._anchors[reference]
        if reference != "#" and not reference.startswith("#/"):
            return None
        found: Any = self._schema
        for step in reference.split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                found = found.get(name) if isinstance(found, dict) else None
        return found if isinstance(found, dict) else None

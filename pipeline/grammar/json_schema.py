"""The parts of a JSON schema, and a schema as llguidance reads it."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

FORMATS = frozenset(
    ("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri")
)
"""`format` of a string that is enforced. JSON Schema lets others be ignored."""
COUNTS = ("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties")
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

"""`endless_place`: whether each value that a JSON schema allows would contain another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .json_schema import subschemas, target_of

MOST_PASSES = 50
"""Passes over a schema. What is not decided then counts as one that ends."""


def endless_place(schema: dict[str, Any]) -> str | None:
    """The JSON pointer of the part by which a schema contains itself without an end; None if some
    value of it ends, or if that is not certain.

    The least fixed point of "a value of it can end": a part has one if all that it must contain
    have one. Only what `$ref`, `allOf`, `anyOf`, `oneOf`, `required` and `minItems` demand is
    looked at.
    """
    places: dict[int, str] = {}
    waiting: dict[int, dict[str, Any]] = {}
    """Those of which it is not known whether they end."""
    for place, inner_part in subschemas(schema):
        places.setdefault(id(inner_part), place)
        waiting[id(inner_part)] = inner_part
    for number in range(MOST_PASSES):
        before = len(waiting)
        # Inner parts first, then outer ones first: references lead either way.
        order = list(waiting.values())
        for part in order if number % 2 else reversed(order):
            if _needed(schema, part, waiting) is None:
                del waiting[id(part)]
        if id(schema) not in waiting:
            return None
        if len(waiting) == before:
            break
    else:
        return None
    part, passed = schema, set[int]()
    while (inner := _needed(schema, part, waiting)) is not None and id(inner) not in passed:
        passed.add(id(part))
        part = inner
    return places[id(part)]


def _needed(
    schema: dict[str, Any], part: dict[str, Any], waiting: Mapping[int, dict[str, Any]]
) -> dict[str, Any] | None:
    """One of `waiting` that every value of `part` contains or follows, or None."""
    together = part.get("allOf")
    together = together if isinstance(together, list) else []
    for inner in (target_of(schema, part) if "$ref" in part else None, *together):
        if id(inner) in waiting:
            return waiting[id(inner)]
    for key in ("anyOf", "oneOf"):
        choices = part.get(key)
        if isinstance(choices, list) and choices and all(id(one) in waiting for one in choices):
            return waiting[id(choices[0])]
    kinds = part.get("type")
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if "enum" in part or "const" in part or not isinstance(kinds, list):
        return None
    found = None
    for kind in kinds:
        inside = {"object": _inside_object, "array": _inside_array}.get(str(kind))
        found = next((one for one in inside(part) if id(one) in waiting), None) if inside else None
        if found is None:
            return None
    return found


def _inside_object(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    properties, required = part.get("properties"), part.get("required")
    if isinstance(properties, dict) and isinstance(required, list):
        for name in required:
            inner = properties.get(name) if isinstance(name, str) else None
            if isinstance(inner, dict):
                yield inner


def _inside_array(part: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    least, items = part.get("minItems"), part.get("items")
    if not isinstance(least, int) or least < 1:
        return
    first = items if isinstance(items, list) else part.get("prefixItems")
    first = first if isinstance(first, list) else []
    yield from (inner for inner in first[:least] if isinstance(inner, dict))
    others = part.get("additionalItems") if isinstance(items, list) else items
    if isinstance(others, dict) and least > len(first):
        yield others

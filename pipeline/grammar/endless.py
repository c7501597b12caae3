"""`endless_place`: whether each value that a JSON schema allows would contain another one;
`circular_place`: whether a part of it refers to itself."""

from __future__ import annotations

import graphlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeAlias

from .json_schema import References, subschemas

MOST_PASSES = 50
"""Passes over a schema. What is not decided then counts as one that ends."""
MOST_TOGETHER = 16
"""Most schemas that are read as one; what further ones demand of the same value is not seen."""
PLAIN_PATTERN = re.compile(r"(\^?)([\w/ -]*)(\$|\.\*\$?)?")
"""A regular expression that finds a word, perhaps at the beginning or at the end."""

MOST_LOOKED_UP = 100_000
"""Most properties and patterns that are looked up, in 40 ms; what is left counts as nothing."""

Group: TypeAlias = Sequence[Any]
"""Schemas of which each value contains or follows at least one."""


class Demands(NamedTuple):
    """What the values of a schema contain or follow."""

    groups: list[Group]
    of_types: list[list[Group]]
    """Of each type that they may have. Empty if some type is not looked at."""

    def unmet(self, waiting: Mapping[int, dict[str, Any]]) -> dict[str, Any] | None:
        """One of `waiting` by which the values have no end; None if some value may end."""
        if (found := _first_unmet(self.groups, waiting)) is not None:
            return found
        for groups in self.of_types:
            found = _first_unmet(groups, waiting)
            if found is None:
                return None
        return found


def circular_place(schema: dict[str, Any]) -> str | None:
    """The JSON pointer of the first part that is the same as itself by `$ref` and `allOf`, without
    a value between; None if there is none."""
    references, places = References(schema), _places(schema)
    graph = {
        place: [places[id(one)] for one in _followed(references, part) if id(one) in places]
        for place, part in subschemas(schema)
    }
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        circle = set(error.args[1])
        return next(place for place in graph if place in circle)
    return None


def endless_place(schema: dict[str, Any]) -> str | None:
    """The JSON pointer of the part by which a schema contains itself without an end; None if some
    value of it ends, or if that is not certain.

    The least fixed point of "a value of it can end": a part has one if all that it must contain
    have one. Only what `$ref`, `allOf`, `anyOf`, `oneOf`, `required`, `minProperties` and
    `minItems` demand is looked at.
    """
    references, places = References(schema), _places(schema)
    waiting = {id(part): part for _, part in subschemas(schema)}
    """Those of which it is not known whether they end."""
    reader = DemandReader(references)
    demands = {key: reader.demands(part) for key, part in waiting.items()}
    for number in range(MOST_PASSES):
        before = len(waiting)
        # Inner parts first, then outer ones first: references lead either way.
        order = list(waiting)
        for key in order if number % 2 else reversed(order):
            if demands[key].unmet(waiting) is None:
                del waiting[key]
        if id(schema) not in waiting:
            return None
        if len(waiting) == before:
            break
    else:
        return None
    part, passed = schema, set[int]()
    while (inner := demands[id(part)].unmet(waiting)) is not None and id(inner) not in passed:
        passed.add(id(part))
        part = inner
    return places[id(part)]


def _places(schema: dict[str, Any]) -> dict[int, str]:
    """The JSON pointers of its parts."""
    found: dict[int, str] = {}
    for place, part in subschemas(schema):
        found.setdefault(id(part), place)
    return found


def _first_unmet(
    groups: Sequence[Group], waiting: Mapping[int, dict[str, Any]]
) -> dict[str, Any] | None:
    for group in groups:
        if all(id(one) in waiting for one in group):
            return waiting[id(group[0])]
    return None


def _followed(references: References, part: dict[str, Any]) -> list[Any]:
    """What each value of a part follows, too."""
    together = part.get("allOf")
    target = [references.target_of(part)] if "$ref" in part else []
    return [*target, *(together if isinstance(together, list) else [])]


def _together(references: References, part: dict[str, Any]) -> list[dict[str, Any]]:
    """A part and what each of its values follows, too, directly or through others."""
    found = [part]
    for one in found:  # which grows
        for other in _followed(references, one):
            is_new = isinstance(other, dict) and not any(other is each for each in found)
            if is_new and len(found) < MOST_TOGETHER:
                found.append(other)
    return found


class DemandReader:
    """Reads what the parts of one schema demand."""

    def __init__(self, references: References) -> None:
        self._references = references
        self._left = MOST_LOOKED_UP

    def demands(self, part: dict[str, Any]) -> Demands:
        """What the values of a part contain or follow."""
        parts = _together(self._references, part)
        groups: list[Group] = [[one] for one in parts[1:]]
        types: list[list[str]] = []
        is_listed = False
        for one in parts:
            choices = (one.get(key) for key in ("anyOf", "oneOf"))
            groups += [each for each in choices if isinstance(each, list) and each]
            is_listed |= "enum" in one or "const" in one
            kinds = one.get("type")
            if kinds is not None:
                types.append([kinds] if isinstance(kinds, str) else kinds)
        if is_listed or not types or not all(isinstance(kinds, list) for kinds in types):
            return Demands(groups, [])
        common = [kind for kind in types[0] if all(kind in kinds for kinds in types)]
        inside = {"object": self._inside_object, "array": _inside_array}
        if not all(isinstance(kind, str) and kind in inside for kind in common):
            return Demands(groups, [])
        return Demands(groups, [list(inside[kind](parts)) for kind in common])

    def _inside_object(self, parts: Sequence[dict[str, Any]]) -> Iterator[Group]:
        required = [one["required"] for one in parts if isinstance(one.get("required"), list)]
        for name in (name for names in required for name in names if isinstance(name, str)):
            if self._left < 0:
                break
            for one in parts:
                yield from ([inner] for inner in self._property_schemas(one, name))
        least = [one.get("minProperties") for one in parts]
        if not any(isinstance(count, int) and count > 0 for count in least):
            return
        for one in parts:
            if "additionalProperties" in one:
                maps = (_map(one, key).values() for key in ("patternProperties", "properties"))
                values = [one["additionalProperties"], *(inner for each in maps for inner in each)]
                if group := [inner for inner in values if inner is not False]:
                    yield group

    def _property_schemas(self, part: dict[str, Any], name: str) -> Iterator[Any]:
        """What a schema says of the property `name`, as far as it is certain."""
        properties, patterns = _map(part, "properties"), _map(part, "patternProperties")
        self._left -= 1 + len(patterns)
        if self._left < 0:
            return
        found = {pattern: _finds(pattern, name) for pattern in patterns}
        yield from (patterns[pattern] for pattern, is_found in found.items() if is_found)
        if name in properties:
            yield properties[name]
        elif all(is_found is False for is_found in found.values()):
            yield part.get("additionalProperties")


def _map(part: dict[str, Any], key: str) -> dict[str, Any]:
    found = part.get(key)
    return found if isinstance(found, dict) else {}


def _finds(pattern: str, name: str) -> bool | None:
    """Whether a pattern is found in a name; None if that is not plain. Python's own search would
    take very long for some patterns."""
    plain = PLAIN_PATTERN.fullmatch(pattern)
    if plain is None:
        return None
    at_start, word, end = plain.groups()
    if at_start and end == "$":
        return name == word
    if at_start:
        return name.startswith(word)
    return name.endswith(word) if end == "$" else word in name


def _inside_array(parts: Sequence[dict[str, Any]]) -> Iterator[Group]:
    counts = (one.get("minItems") for one in parts)
    least = max((count for count in counts if isinstance(count, int)), default=0)
    for one in parts if least > 0 else ():
        items = one.get("items")
        first = items if isinstance(items, list) else one.get("prefixItems")
        first = first if isinstance(first, list) else []
        yield from ([inner] for inner in first[:least])
        others = one.get("additionalItems") if isinstance(items, list) else items
        if least > len(first):
            yield [others]

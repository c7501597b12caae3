"""`Tool`: a function that a request offers to the model."""

from __future__ import annotations

from typing import Any

import msgspec

JSON_TYPES = {"string", "number", "integer", "boolean", "null", "object", "array"}
MOST_REFERENCES = 16
"""References that are followed from one to the next."""


class Tool(msgspec.Struct, frozen=True):
    """Its name and the JSON Schema of its arguments; {} if it takes none."""

    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)

    def types_of(self, argument: str) -> set[str]:
        """The JSON types that an argument's schema allows; none if it does not say. An integer is a
        number too."""
        return self._types_in(self.properties.get(argument), set())

    def choices_of(self, argument: str) -> list[str]:
        """The texts that an argument must be one of; none if it may be another."""
        schema: Any = self.properties.get(argument)
        for _ in range(MOST_REFERENCES):
            if isinstance(schema, dict) and isinstance(reference := schema.get("$ref"), str):
                schema = self._find(reference)
        choices = schema.get("enum") if isinstance(schema, dict) else None
        if not isinstance(choices, list) or not all(isinstance(one, str) for one in choices):
            return []
        return choices

    def _types_in(self, schema: Any, followed: set[str]) -> set[str]:
        """`followed`: references that were followed; none is followed twice."""
        if not isinstance(schema, dict):
            return set()
        if "enum" in schema or "const" in schema:
            values = schema.get("enum", [schema.get("const")])
            if isinstance(values, list) and all(isinstance(value, str) for value in values):
                return {"string"}
        given = schema.get("type")
        kinds = [given] if isinstance(given, str) else given if isinstance(given, list) else []
        found = {kind for kind in kinds if kind in JSON_TYPES}
        for name in ("anyOf", "oneOf", "allOf"):
            alternatives = schema.get(name)
            for one in alternatives if isinstance(alternatives, list) else ():
                found |= self._types_in(one, followed)
        if isinstance(reference := schema.get("$ref"), str) and reference not in followed:
            followed.add(reference)
            found |= self._types_in(self._find(reference), followed)
        return found | ({"number"} if "integer" in found else set())

    def _find(self, reference: str) -> Any:
        """The schema that `#/$defs/NAME` names."""
        found: Any = self.parameters
        for key in reference.removeprefix("#/").split("/"):
            found = found.get(key) if isinstance(found, dict) else None
        return found

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of its arguments, by name."""
        found = self.parameters.get("properties")
        return found if isinstance(found, dict) else {}

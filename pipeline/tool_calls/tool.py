"""`Tool`: a function that a request offers to the model."""

from __future__ import annotations

from typing import Any

import msgspec


class Tool(msgspec.Struct, frozen=True):
    """Its name and the JSON Schema of its arguments; {} if it takes none."""

    name: str
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)

    @property
    def properties(self) -> dict[str, Any]:
        """The schemas of its arguments, by name."""
        found = self.parameters.get("properties")
        return found if isinstance(found, dict) else {}

"""`ModelBody`: a body that names its model: the base, or an adapter in one of several fields."""

from __future__ import annotations

from .body import Body
from .value_types import Name, Source


class ModelBody(Body, frozen=True, kw_only=True):
    """The fields that name a model."""

    model: Name = ""
    adapter_id: Name | None = None
    adapter_source: Source | None = None
    lora_path: Name | None = None

    def adapters(self) -> dict[str, str]:
        """Adapters named by fields other than `model`, by field."""
        named = {"adapter_id": self.adapter_id, "lora_path": self.lora_path}
        return {field: name for field, name in named.items() if name}

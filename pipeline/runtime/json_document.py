"""`to_document`: messages and rows as JSON values whose fields have names.

Rows are positional arrays inside the ring's frames; what a user or a script reads never is.
"""

from __future__ import annotations

import base64
import enum
from collections.abc import Mapping
from typing import Any

import msgspec


def to_document(value: object) -> Any:
    """The value as dicts, lists, strings and numbers. Structs and named tuples become dicts by
    field name, without a message's tag; enums become their values, bytes base64. Raises
    `TypeError` for a value of another type."""
    match value:
        case None | bool() | int() | float() | str():
            return value
        case msgspec.Struct():
            names = zip(value.__struct_fields__, value.__struct_encode_fields__, strict=True)
            return {shown: to_document(getattr(value, name)) for name, shown in names}
        case enum.Enum():
            return value.value
        case Mapping():
            return {str(key): to_document(item) for key, item in value.items()}
        case tuple() if hasattr(value, "_fields"):
            return {name: to_document(getattr(value, name)) for name in value._fields}
        case list() | tuple() | set() | frozenset():
            return [to_document(item) for item in value]
        case bytes():
            return base64.b64encode(value).decode()
    raise TypeError(f"{type(value).__name__} has no form in JSON")

"""`with_instructions`: a conversation after the system text that a request has in a field of its
own."""

from __future__ import annotations

from typing import Any


def with_instructions(
    instructions: str | None, conversation: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The conversation after its instructions. System messages at its start become one: many chat
    templates read no second one."""
    heads = [instructions] if instructions else []
    rest = list(conversation)
    while rest and rest[0]["role"] == "system":
        heads.append(_joined(rest.pop(0)["content"]))
    return [*([{"role": "system", "content": "\n\n".join(heads)}] if heads else []), *rest]


def _joined(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content)

"""Anthropic's messages as a chat's."""

from __future__ import annotations

from typing import Any, TypeAlias

from ..http.bad_request import BadRequest, shortened
from .instructions import with_instructions

Message: TypeAlias = dict[str, Any]


def read_messages(system: str | list[Any] | None, messages: list[Any]) -> list[Message]:
    """A chat's messages: the system text first, and each result of a tool as a message of its own.
    Raises `BadRequest` naming the block."""
    found: list[Message] = []
    for index, message in enumerate(messages):
        at = f"messages[{index}]"
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if role not in ("user", "assistant", "system"):
            raise BadRequest(f"{at} needs a role: user or assistant", param=f"{at}.role")
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        if not isinstance(blocks, list):
            place = f"{at}.content"
            raise BadRequest(f"{place} is neither a text nor a list of blocks", param=place)
        if role == "assistant":
            found.append(_read_answer(blocks, f"{at}.content"))
        else:
            found += _read_user(role, blocks, f"{at}.content")
    return with_instructions(_text(system, "system") if system else None, found)


def _read_answer(blocks: list[Any], at: str) -> Message:
    text: list[str] = []
    thinking: list[str] = []
    calls = []
    for index, block in enumerate(blocks):
        place = f"{at}[{index}]"
        match _kind_of(block):
            case "text":
                text.append(_string(block, "text", place))
            case "thinking":
                thinking.append(_string(block, "thinking", place))
            case "redacted_thinking":
                pass  # what it hides cannot be read here
            case "tool_use":
                name, given = _string(block, "name", place), block.get("input") or {}
                function = {"name": name, "arguments": given}
                call_id = _string(block, "id", place)
                calls.append({"id": call_id, "type": "function", "function": function})
            case kind:
                raise _unsupported(kind, place, "text, thinking and tool_use are")
    message: Message = {"role": "assistant", "content": "".join(text)}
    if thinking:
        message["reasoning_content"] = "".join(thinking)
    if calls:
        message["tool_calls"] = calls
    return message


def _read_user(role: str, blocks: list[Any], at: str) -> list[Message]:
    """The messages of one of the user: its text and results of tools, in their order."""
    found: list[Message] = []
    for index, block in enumerate(blocks):
        place = f"{at}[{index}]"
        match _kind_of(block):
            case "text":
                text = _string(block, "text", place)
                if found and found[-1]["role"] == role:
                    found[-1]["content"] += "\n" + text
                else:
                    found.append({"role": role, "content": text})
            case "tool_result":
                content = _text(block.get("content") or "", f"{place}.content")
                call_id = _string(block, "tool_use_id", place)
                found.append({"role": "tool", "tool_call_id": call_id, "content": content})
            case kind:
                raise _unsupported(kind, place, "text and tool_result are")
    return found


def _text(content: str | list[Any], at: str) -> str:
    """A text, or text blocks, a line each."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{at} is neither a text nor a list of blocks", param=at)
    lines = []
    for index, block in enumerate(content):
        place = f"{at}[{index}]"
        if _kind_of(block) != "text":
            raise _unsupported(_kind_of(block), place, "text is")
        lines.append(_string(block, "text", place))
    return "\n".join(lines)


def _kind_of(block: Any) -> Any:
    return block.get("type") if isinstance(block, dict) else None


def _string(block: dict[str, Any], name: str, at: str) -> str:
    found = block.get(name)
    if not isinstance(found, str):
        raise BadRequest(f"{at} needs {name} (a string)", param=f"{at}.{name}")
    return found


def _unsupported(kind: Any, at: str, others: str) -> BadRequest:
    reason = f"{at} of type {shortened(str(kind))!r} is not supported; {others}"
    return BadRequest(reason, param=at)

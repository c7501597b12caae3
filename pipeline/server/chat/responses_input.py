"""The input of OpenAI's /v1/responses as a chat's messages.

Items that together are one answer of the model (its reasoning, its text, its calls) become one
message, as chat templates read them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from ..bodies.field_table import check_object
from ..bodies.responses_fields import ITEMS, PART
from ..http.bad_request import BadRequest, shortened

TEXT_PARTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")
Message: TypeAlias = dict[str, Any]


def read_input(
    given: str | list[Any], find_item: Callable[[str], dict[str, Any] | None]
) -> list[Message]:
    """The messages of an input. `find_item` returns an earlier output item by its id. Raises
    `BadRequest` naming the item."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    reader = _ItemReader(find_item)
    for index, item in enumerate(given):
        reader.read_item(item, f"input[{index}]")
    reader.finish_answer()
    return reader.messages


class _ItemReader:
    """Makes messages of items, in order."""

    def __init__(self, find_item: Callable[[str], dict[str, Any] | None]) -> None:
        self.messages: list[Message] = []
        self._find_item = find_item
        self._answer: Message = {}
        """The parts so far of one answer of the model."""

    def read_item(self, item: Any, at: str) -> None:
        if not isinstance(item, dict):
            raise BadRequest(f"{at} is not an object", param=at)
        kind = item.get("type") or "message"
        if table := ITEMS.get(kind) if isinstance(kind, str) else None:
            check_object(item, table, at)
        match kind:
            case "message":
                self._read_message(item, at)
            case "reasoning":
                parts = item.get("content") or item.get("summary") or []
                self._extend("reasoning_content", _text(parts, f"{at}.content"), "\n")
            case "function_call":
                for name in ("call_id", "name", "arguments"):
                    if not isinstance(item.get(name), str):
                        raise BadRequest(f"{at} needs {name} (a string)", param=f"{at}.{name}")
                function = {"name": item["name"], "arguments": item["arguments"]}
                call = {"id": item["call_id"], "type": "function", "function": function}
                self._answer.setdefault("tool_calls", []).append(call)
            case "function_call_output":
                self.finish_answer()
                if not isinstance(item.get("call_id"), str):
                    raise BadRequest(f"{at} needs call_id (a string)", param=f"{at}.call_id")
                content = _text(item.get("output", ""), f"{at}.output")
                self.messages.append(
                    {"role": "tool", "tool_call_id": item["call_id"], "content": content}
                )
            case "item_reference":
                found = self._find_item(str(item.get("id")))
                if found is None:
                    raise BadRequest(
                        f"{at}: item {shortened(str(item.get('id')))!r} not found: its response "
                        "was not kept, or was given up; send the item itself",
                        status=404,
                        param=at,
                    )
                self.read_item(found, at)
            case _:
                raise BadRequest(
                    f"{at} of type {shortened(str(kind))!r} is not supported; messages, reasoning, "
                    "function calls and their outputs are",
                    param=at,
                )

    def _read_message(self, item: dict[str, Any], at: str) -> None:
        role = item.get("role")
        if role not in ("user", "assistant", "system", "developer"):
            raise BadRequest(
                f"{at} needs a role: user, assistant, system or developer", param=f"{at}.role"
            )
        text = _text(item.get("content"), f"{at}.content")
        if role == "assistant":
            if "content" in self._answer or "tool_calls" in self._answer:
                self.finish_answer()
            self._answer["content"] = text
            return
        self.finish_answer()
        # Few chat templates know developer, OpenAI's newer name of system.
        self.messages.append({"role": "system" if role == "developer" else role, "content": text})

    def _extend(self, name: str, text: str, joint: str) -> None:
        if "content" in self._answer or "tool_calls" in self._answer:
            self.finish_answer()
        before = self._answer.get(name)
        self._answer[name] = f"{before}{joint}{text}" if before else text

    def finish_answer(self) -> None:
        """Ends the message of an answer of the model."""
        if self._answer:
            self.messages.append({"role": "assistant", "content": "", **self._answer})
            self._answer = {}


def _text(content: Any, at: str) -> str:
    """A text, or the parts of one. Raises `BadRequest` naming the part that is none."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise BadRequest(f"{at} is neither a text nor a list of parts", param=at)
    found = []
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        name = "refusal" if kind == "refusal" else "text"
        if kind not in (*TEXT_PARTS, "refusal") or not isinstance(part.get(name), str):
            place = f"{at}[{index}]"
            raise BadRequest(
                f"{place} of type {shortened(str(kind))!r} is not supported; text is", param=place
            )
        check_object(part, PART, f"{at}[{index}]")
        found.append(part[name])
    return "\n".join(found)

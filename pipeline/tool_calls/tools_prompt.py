"""Tools for a model whose chat template knows none: as a text, in the default format."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

PROMPT = """You can call functions. These are defined, each as JSON:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON between tags, a pair of tags for each \
call:
<tool_call>
{{"name": "NAME", "arguments": {{"ARGUMENT": "VALUE"}}}}
</tool_call>
The results come back between <tool_response> tags. If no function helps, answer in words."""


def tools_prompt(tools: Sequence[Mapping[str, Any]]) -> str:
    """The text that introduces tools, which are as OpenAI's clients send them."""
    lines = (json.dumps(tool.get("function", tool), ensure_ascii=False) for tool in tools)
    return PROMPT.format(tools="\n".join(lines))


def with_prompt(
    messages: Sequence[dict[str, Any]], prompt: str, *, has_system: bool
) -> list[dict[str, Any]]:
    """The messages with the prompt in the system message, a new one if there is none, or without
    `has_system` before the first message's text."""
    if has_system and messages[0]["role"] != "system":
        return [{"role": "system", "content": prompt}, *messages]
    first, content = messages[0], messages[0].get("content") or ""
    if isinstance(content, list):
        part = {"type": "text", "text": prompt}
        content = [*content, part] if has_system else [part, *content]
    else:
        pair = (content, prompt) if has_system else (prompt, content)
        content = "\n\n".join(text for text in pair if text)
    return [{**first, "content": content}, *messages[1:]]


def as_plain_text(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with tool calls as the assistant's text, and results as the user's. Results that
    follow each other become one message."""
    found: list[dict[str, Any]] = []
    is_after_result = False
    for message in messages:
        is_result = message["role"] == "tool"
        if is_result:
            text = f"<tool_response>\n{_text_of(message)}\n</tool_response>"
            if is_after_result:
                found[-1] = {"role": "user", "content": f"{found[-1]['content']}\n{text}"}
            else:
                found.append({"role": "user", "content": text})
        elif calls := message.get("tool_calls"):
            texts = [_text_of(message), *map(_call_text, calls)]
            others = {key: value for key, value in message.items() if key != "tool_calls"}
            found.append({**others, "content": "\n".join(text for text in texts if text)})
        else:
            found.append(message)
        is_after_result = is_result
    return found


def _call_text(call: Mapping[str, Any]) -> str:
    function = call["function"]
    fields = {"name": function.get("name"), "arguments": function.get("arguments") or {}}
    return f"<tool_call>\n{json.dumps(fields, ensure_ascii=False)}\n</tool_call>"


def _text_of(message: Mapping[str, Any]) -> str:
    content = message.get("content") or ""
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)

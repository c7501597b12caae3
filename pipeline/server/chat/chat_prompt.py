"""`chat_prompt`: converts a chat's messages to the model's prompt.

Checks the structure of each message; the chat template gets it whole. Knows no sampling.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ...text.chat_template import MOST_CHARACTERS, RESERVED, ChatTemplate, TextError, TooMuchText
from ...text.tokenizer import Tokenizer
from ...tool_calls.tools_prompt import as_plain_text, tools_prompt, with_prompt
from ..bodies.field_table import Table, check_object, harmless, honoured
from ..http.bad_request import BadRequest, shortened

DEVELOPER = "developer"
"""OpenAI's newer name of the role system, which few templates know."""
COMMON_ROLES = ("system", "user", "assistant")
"""Roles that every chat template supports; many drop messages of other roles silently."""


TEXT_PART: Table = {
    "type": honoured("`text`"),
    "text": honoured("the text"),
    "cache_control": harmless("no prompt is cached"),
    "prompt_cache_breakpoint": harmless("no prompt is cached"),
    "id": harmless("clients repeat it from an answer"),
    "index": harmless("clients repeat it from an answer"),
    "annotations": harmless("clients repeat it from an answer"),
    "citations": harmless("clients repeat it from an answer"),
    "logprobs": harmless("clients repeat it from an answer"),
}
"""A part of a message's content."""

OLD_CALL_ID = "call00000"
"""The id of calls and results of the old form, which have none; Mistral's templates want nine
characters."""


class ChatPrompt(NamedTuple):
    """A conversation as the model gets it."""

    token_ids: list[int]
    text: str


def conversation(messages: Sequence[Any]) -> list[dict[str, Any]]:
    """The messages as a template reads them: arguments of tool calls are objects, all other fields
    are unchanged. Raises `BadRequest` naming the field."""
    if not messages:
        raise BadRequest("messages is empty", param="messages")
    return [_message(message, f"messages[{index}]") for index, message in enumerate(messages)]


def _message(given: Any, at: str) -> dict[str, Any]:
    if not isinstance(given, dict):
        raise BadRequest(f"{at} is not an object", param=at)
    message: dict[str, Any] = given
    if not isinstance(message.get("role"), str) or not message["role"]:
        raise BadRequest(f"{at} needs a role (a string)", param=at)
    if message.get("audio"):
        raise BadRequest(f"{at}.audio is not supported; only text is", param=f"{at}.audio")
    calls = message.get("tool_calls")
    has_reasoning = message.get("reasoning_content") or message.get("reasoning")
    has_calls = calls or message.get("function_call")
    if message.get("content") is None and not has_calls and not has_reasoning:
        raise BadRequest(f"{at} has no content", param=at)
    _check_content(message.get("content"), f"{at}.content")
    if message["role"] == "function":
        message = {"tool_call_id": OLD_CALL_ID, **message, "role": "tool"}
    place = f"{at}.tool_calls"
    if (old := message.get("function_call")) and not calls:
        calls, place = (
            [{"id": OLD_CALL_ID, "type": "function", "function": old}],
            f"{at}.function_call",
        )
        message = {key: value for key, value in message.items() if key != "function_call"}
    # Many templates read the content of every message.
    content = message.get("content") or ""
    if not calls:
        return {**message, "content": content} if has_reasoning else message
    return {**message, "content": content, "tool_calls": _tool_calls(calls, place)}


def _check_content(content: Any, at: str) -> None:
    """Raises `BadRequest` unless content is a text, null, or a list of text parts."""
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise BadRequest(f"{at} is neither a text nor a list of parts", param=at)
    for index, part in enumerate(content):
        kind = part.get("type") if isinstance(part, dict) else None
        if kind != "text" or not isinstance(part.get("text"), str):
            place = f"{at}[{index}]"
            raise BadRequest(
                f"{place} of type {shortened(str(kind))!r} is not supported; text is", param=place
            )
        check_object(part, TEXT_PART, f"{at}[{index}]")


def _tool_calls(calls: Any, at: str) -> list[dict[str, Any]]:
    """Tool calls with their arguments as objects, as templates expect; OpenAI's are JSON in a
    string."""
    if not isinstance(calls, list):
        raise BadRequest(f"{at} is not a list", param=at)
    found: list[dict[str, Any]] = []
    for index, call in enumerate(calls):
        place = f"{at}[{index}]"
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict):
            raise BadRequest(f"{place} needs a function (an object)", param=place)
        arguments = function.get("arguments")
        if isinstance(arguments, str):
            try:
                arguments = json.loads(arguments or "{}")
            except (ValueError, RecursionError) as error:
                place = f"{place}.function.arguments"
                raise BadRequest(f"{place} is not JSON: {error}", param=place) from error
        found.append({**call, "function": {**function, "arguments": arguments}})
    return found


def chat_prompt(
    tokenizer: Tokenizer,
    messages: Sequence[Any],
    *,
    tools: Sequence[dict[str, Any]] | None = None,
    documents: list[Any] | None = None,
    template_kwargs: Mapping[str, Any] | None = None,
    add_generation_prompt: bool | None = None,
    continue_final_message: bool = False,
    add_special_tokens: bool = False,
    chat_template: ChatTemplate | None = None,
    most_characters: int = MOST_CHARACTERS,
) -> ChatPrompt:
    """A conversation, ready for the answer. `chat_template`, an adapter's own, replaces the
    model's. For a template that reads no tools they become text, and for one without the role
    developer a message of it becomes one of the system. A conversation of more than
    `most_characters` as text is refused. Raises `BadRequest` naming the field."""
    checked = conversation(messages)
    if continue_final_message and add_generation_prompt:
        raise BadRequest(
            "continue_final_message continues the last message, add_generation_prompt begins "
            "another: leave one of them out",
            param="continue_final_message",
        )

    if taken := sorted(RESERVED & set(template_kwargs or ())):
        raise BadRequest(
            f"chat_template_kwargs may not set {', '.join(taken)}: the request has fields for that",
            param="chat_template_kwargs",
        )
    template = chat_template or tokenizer.chat_template
    if template is not None and any(message["role"] == DEVELOPER for message in checked):
        checked = _without_developer(checked, template)
    if template is not None and not template.reads("tools"):
        checked = _without_tools(checked, template, tools)
        tools = None

    def render(documents: list[Any] | None) -> str:
        try:
            return tokenizer.render_chat(
                checked,
                not continue_final_message and add_generation_prompt is not False,
                tools=tools,
                documents=documents,
                template_kwargs=template_kwargs,
                continue_final_message=continue_final_message,
                chat_template=chat_template,
                most_characters=most_characters,
            )
        except TooMuchText:
            raise
        except TextError as error:
            raise BadRequest(str(error), param="messages") from error

    text = render(documents)
    if documents and text == render(None):
        raise BadRequest(
            "the chat template reads no documents: put them into a message", param="documents"
        )
    _check_rendered(checked, text)
    return ChatPrompt(tokenizer.encode(text, add_special_tokens), text)


def _without_developer(
    messages: list[dict[str, Any]], template: ChatTemplate
) -> list[dict[str, Any]]:
    """The messages of a developer as those of the system, if the template knows only that role."""
    if template.has_role(DEVELOPER) or not template.takes_system:
        return messages
    return [
        {**message, "role": "system"} if message["role"] == DEVELOPER else message
        for message in messages
    ]


def _without_tools(
    messages: list[dict[str, Any]], template: ChatTemplate, tools: Sequence[dict[str, Any]] | None
) -> list[dict[str, Any]]:
    """The messages for a template that reads no tools: these become text, and so do calls and
    results if it does not know them either."""
    if "tool" not in template.text:
        messages = as_plain_text(messages)
    if not tools:
        return messages
    return with_prompt(messages, tools_prompt(tools), has_system=template.takes_system)


def _check_rendered(messages: list[dict[str, Any]], text: str) -> None:
    """Raises `BadRequest` if the template left out a message's tool calls, or the text of a message
    with a less common role."""
    rendered = _RenderedText(text)
    for index, message in enumerate(messages):
        _check_calls_rendered(message, f"messages[{index}].tool_calls", rendered)
        if message["role"] in COMMON_ROLES:
            continue
        content = message.get("content") or ""
        parts = [content] if isinstance(content, str) else [part["text"] for part in content]
        # Unchanged, or as `tojson` writes it.
        if not all(
            rendered.has(part.strip()) or rendered.has(json.dumps(part, ensure_ascii=False)[1:-1])
            for part in parts
        ):
            at = f"messages[{index}]"
            raise BadRequest(
                f"the chat template leaves out {at}: it does not know the role "
                f"{shortened(message['role'])!r}; use system, user or assistant",
                param=at,
            )


def _check_calls_rendered(message: Mapping[str, Any], at: str, rendered: _RenderedText) -> None:
    for call in message.get("tool_calls") or ():
        if not rendered.has(str(call["function"].get("name") or "")):
            raise BadRequest(
                f"the chat template leaves out {at}: it reads no tool calls; write them into the "
                "content",
                param=at,
            )


class _RenderedText:
    """The text of a chat, in which the messages are sought one after the other: thousands of
    searches from the start would take seconds."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        """Where the last one was found."""

    def has(self, part: str) -> bool:
        found = self._text.find(part, self._at)
        if found < 0:
            return part in self._text
        self._at = found
        return True

"""The bodies of Anthropic's /v1/messages and /v1/messages/count_tokens, and the chat they ask
for."""

from __future__ import annotations

from typing import Any, ClassVar

from ..http.bad_request import BadRequest, shortened
from . import anthropic_fields
from .body import convert_body
from .field_table import Table, check_object
from .model_body import ModelBody
from .openai_bodies import ChatBody
from .value_types import Count, Seed, Temperature, TopK, TopP

CHAT_NAMES = {
    "stop": "stop_sequences",
    "response_format": "output_config.format",
    "response_format.json_schema": "output_config.format",
    "tools[].function": "tools[]",
    "tools[].function.parameters": "tools[].input_schema",
    "reasoning_effort": "output_config",
    "enable_thinking": "thinking",
}
"""Fields of a chat to fields of this body, for refusals."""
THINKING = {"enabled": True, "adaptive": None, "disabled": False}


class CountTokensBody(ModelBody, frozen=True, kw_only=True):
    """POST /v1/messages/count_tokens"""

    table: ClassVar[Table] = anthropic_fields.COUNT_TOKENS

    messages: list[Any]
    system: str | list[Any] | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    chat_template_kwargs: dict[str, Any] | None = None

    def chat(self, messages: list[dict[str, Any]]) -> ChatBody:
        """The chat that answers it. Raises `BadRequest` in the names of a chat's fields, which
        `CHAT_NAMES` translates."""
        return convert_body(self._chat_fields(messages), ChatBody)

    def _chat_fields(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        names = ("model", "adapter_id", "adapter_source", "lora_path")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names}
        fields["messages"] = messages
        if messages and messages[-1]["role"] == "assistant":
            fields |= {"continue_final_message": True, "add_generation_prompt": False}
        fields["chat_template_kwargs"] = self.chat_template_kwargs
        fields["enable_thinking"] = self._enable_thinking()
        fields["include_reasoning"] = (self.thinking or {}).get("display") != "omitted"
        if self.tools:
            fields["tools"] = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools)]
            fields |= self._choice()
        return fields

    def _enable_thinking(self) -> bool | None:
        """Whether the model is to reason; None: as it likes."""
        if self.thinking is None:
            return None
        check_object(self.thinking, anthropic_fields.THINKING, "thinking")
        kind = self.thinking.get("type")
        if kind not in THINKING:
            raise BadRequest(
                f"thinking of type {shortened(str(kind))!r} is not supported; enabled, adaptive "
                "and disabled are",
                param="thinking",
            )
        if self.thinking.get("display") not in (None, "summarized", "omitted"):
            raise BadRequest(
                "thinking.display must be summarized or omitted", param="thinking.display"
            )
        return THINKING[kind]

    def _choice(self) -> dict[str, Any]:
        """A chat's fields about the choice of tools."""
        given = self.tool_choice or {}
        check_object(given, anthropic_fields.TOOL_CHOICE, "tool_choice")
        fields: dict[str, Any] = {}
        if given.get("disable_parallel_tool_use"):
            fields["parallel_tool_calls"] = False
        match given.get("type", "auto"):
            case "auto" | "none" as kind:
                fields["tool_choice"] = kind
            case "any":
                fields["tool_choice"] = "required"
            case "tool" if not isinstance(given.get("name"), str):
                raise BadRequest(
                    'tool_choice names no tool: it must be {"type": "tool", "name": …}',
                    param="tool_choice",
                )
            case "tool":
                name = {"name": given.get("name")}
                fields["tool_choice"] = {"type": "function", "function": name}
            case kind:
                raise BadRequest(
                    f"tool_choice of type {shortened(str(kind))!r} is not supported; auto, any, "
                    "tool and none are",
                    param="tool_choice",
                )
        return fields


class MessagesBody(CountTokensBody, frozen=True, kw_only=True):
    """POST /v1/messages"""

    table: ClassVar[Table] = anthropic_fields.MESSAGES

    max_tokens: Count | None = None
    stop_sequences: list[str] | None = None
    stream: bool = False
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    output_config: dict[str, Any] | None = None
    output_format: dict[str, Any] | None = None

    def _chat_fields(self, messages: list[dict[str, Any]]) -> dict[str, Any]:
        fields = super()._chat_fields(messages)
        for name in ("stream", "temperature", "top_p", "top_k", "seed"):
            fields[name] = getattr(self, name)
        fields |= {"max_completion_tokens": self.max_tokens, "stop": self.stop_sequences}
        config = self.output_config or {}
        check_object(config, anthropic_fields.OUTPUT_CONFIG, "output_config")
        fields["reasoning_effort"] = config.get("effort")
        for form, at in (
            (self.output_format, "output_format"),
            (config.get("format"), "output_config.format"),
        ):
            if form:
                fields["response_format"] = _response_format(form, at)
        return fields


def _response_format(given: Any, at: str) -> Any:
    """A format as a chat's `response_format`. Raises `BadRequest` naming an unknown field."""
    if not isinstance(given, dict) or given.get("type") != "json_schema":
        return given
    check_object(given, anthropic_fields.JSON_OUTPUT, at)
    schema = {"name": "answer", "schema": given.get("schema"), "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _tool(given: dict[str, Any], at: str) -> dict[str, Any]:
    """A tool as a chat has it. Raises `BadRequest` for one that a server would call itself."""
    kind = given.get("type", "custom")
    if kind != "custom" or "input_schema" not in given or not isinstance(given.get("name"), str):
        what = "needs a name and an input_schema"
        if kind != "custom":
            what = (
                f"of type {shortened(str(kind))!r} is not supported; tools with an input_schema, "
                "which the client calls, are"
            )
        raise BadRequest(f"{at} {what}", param=at)
    check_object(given, anthropic_fields.TOOL, at)
    function = {"name": given["name"], "parameters": given["input_schema"]}
    for name in ("description", "strict"):
        if given.get(name) is not None:
            function[name] = given[name]
    return {"type": "function", "function": function}

"""The body of OpenAI's /v1/responses, and the chat that it asks for."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

from msgspec import Meta

from ..http.bad_request import BadRequest, shortened
from . import responses_fields
from .body import Body, convert_body
from .field_table import Table, check_object
from .model_body import ModelBody
from .openai_bodies import ChatBody
from .value_types import (
    Count,
    Name,
    Penalty,
    Repetition,
    Seed,
    Temperature,
    TopK,
    TopLogprobs,
    TopP,
    Unit,
)

LOGPROBS = "message.output_text.logprobs"
INCLUDED = frozenset(
    {
        LOGPROBS,
        "reasoning.encrypted_content",
        "file_search_call.results",
        "web_search_call.results",
        "web_search_call.action.sources",
        "message.input_image.image_url",
        "computer_call_output.output.image_url",
        "code_interpreter_call.outputs",
    }
)
"""Values of `include`; all but the first add nothing, since nothing here has them."""
CHAT_NAMES = {
    "messages": "input",
    "max_completion_tokens": "max_output_tokens",
    "response_format": "text.format",
    "response_format.json_schema": "text.format",
    "tools[].function": "tools[]",
    "reasoning_effort": "reasoning",
}
"""Fields of a chat to fields of this body, for refusals."""
PASSED_ON = (
    "model",
    "adapter_id",
    "adapter_source",
    "lora_path",
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "seed",
    "stop",
    "ignore_eos",
    "chat_template_kwargs",
    "stream",
)
"""Fields that mean the same in a chat."""


class ResponsesText(Body, frozen=True, kw_only=True):
    table: ClassVar[Table] = responses_fields.RESPONSES_TEXT

    format: dict[str, Any] | None = None


class ResponsesReasoning(Body, frozen=True, kw_only=True):
    table: ClassVar[Table] = responses_fields.RESPONSES_REASONING

    effort: str | None = None


class ResponsesBody(ModelBody, frozen=True, kw_only=True):
    """POST /v1/responses"""

    table: ClassVar[Table] = responses_fields.RESPONSES
    nested: ClassVar[dict[str, type[Body]]] = {
        "text": ResponsesText,
        "reasoning": ResponsesReasoning,
    }

    input: str | list[Any]
    instructions: str | None = None
    previous_response_id: Name | None = None
    store: bool = True
    background: bool = False
    max_output_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    min_p: Unit | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Repetition | None = None
    seed: Seed | None = None
    stop: str | list[str] | None = None
    ignore_eos: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    text: ResponsesText = ResponsesText()
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ResponsesReasoning = ResponsesReasoning()
    include: list[str] | None = None
    top_logprobs: TopLogprobs | None = None
    metadata: Annotated[dict[str, str], Meta(max_length=16)] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    stream: bool = False

    @property
    def with_logprobs(self) -> bool:
        """Whether the response has logprobs."""
        return bool(self.top_logprobs) or LOGPROBS in (self.include or ())

    def check(self) -> None:
        """Raises `BadRequest` for what no chat has."""
        for name in self.include or ():
            if name not in INCLUDED:
                raise BadRequest(f"include has no {shortened(name)!r}", param="include")
        if self.background and not self.store:
            reason = "background needs store: true: the response is read later"
            raise BadRequest(reason, param="background")

    def chat(self, messages: list[dict[str, Any]]) -> ChatBody:
        """The chat that answers it. Raises `BadRequest` in the names of a chat's fields, which
        `CHAT_NAMES` translates."""
        fields: dict[str, Any] = {name: getattr(self, name) for name in PASSED_ON}
        fields |= {"messages": messages, "max_completion_tokens": self.max_output_tokens}
        fields |= {"reasoning_effort": self.reasoning.effort}
        if self.with_logprobs:
            fields |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.text.format is not None:
            fields["response_format"] = _response_format(self.text.format)
        if self.tools:
            choice, allowed = self._choice()
            tools = [_tool(tool, f"tools[{at}]") for at, tool in enumerate(self.tools)]
            if allowed is not None:
                tools = [tool for tool in tools if tool["function"]["name"] in allowed]
            fields |= {"tools": tools, "tool_choice": choice}
            fields["parallel_tool_calls"] = self.parallel_tool_calls
        elif self.tool_choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice needs tools", param="tool_choice")
        return convert_body(fields, ChatBody)

    def _choice(self) -> tuple[Any, set[str] | None]:
        """(a chat's tool_choice, the names of the tools that may be called; None is all)."""
        given = self.tool_choice
        if not isinstance(given, dict):
            return given, None
        match given.get("type"):
            case "function" if isinstance(given.get("name"), str):
                check_object(given, responses_fields.NAMED_CHOICE, "tool_choice")
                return {"type": "function", "function": {"name": given.get("name")}}, None
            case "allowed_tools" if isinstance(given.get("tools"), list):
                check_object(given, responses_fields.ALLOWED_CHOICE, "tool_choice")
                named = {str(tool.get("name")) for tool in given["tools"] if isinstance(tool, dict)}
                return given.get("mode", "auto"), named
        raise BadRequest(
            'tool_choice must be none, auto, required, {"type": "function", "name": …} or '
            '{"type": "allowed_tools", "mode": …, "tools": […]}',
            param="tool_choice",
        )

    def repeated(self) -> dict[str, Any]:
        """The fields of the response that repeat the request's."""
        return {
            "background": self.background,
            "instructions": self.instructions,
            "max_output_tokens": self.max_output_tokens,
            "max_tool_calls": None,
            "metadata": self.metadata or {},
            "parallel_tool_calls": self.parallel_tool_calls is not False,
            "previous_response_id": self.previous_response_id,
            "prompt_cache_key": self.prompt_cache_key,
            "reasoning": {"effort": self.reasoning.effort, "summary": None},
            "safety_identifier": self.safety_identifier,
            "service_tier": "default",
            "store": self.store,
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "text": {"format": self.text.format or {"type": "text"}, "verbosity": "medium"},
            "tool_choice": self.tool_choice or "auto",
            "tools": self.tools or [],
            "top_logprobs": self.top_logprobs or 0,
            "top_p": 1.0 if self.top_p is None else self.top_p,
            "truncation": "disabled",
            "user": self.user,
        }


def _response_format(given: dict[str, Any]) -> dict[str, Any]:
    """`text.format` as a chat's `response_format`, in which the schema is an object of its own."""
    if given.get("type") != "json_schema":
        return given
    schema = {name: value for name, value in given.items() if name != "type"}
    return {"type": "json_schema", "json_schema": schema}


def _tool(given: dict[str, Any], at: str) -> dict[str, Any]:
    """A tool as a chat has it. Raises `BadRequest` for one that a server would call itself."""
    kind = given.get("type")
    if kind != "function" or not isinstance(given.get("name"), str):
        what = "has no name" if kind == "function" else f"of type {shortened(str(kind))!r}"
        raise BadRequest(
            f"{at} {what} is not supported; only functions, which the client calls, are",
            param=at,
        )
    check_object(given, responses_fields.TOOL, at)
    return {
        "type": "function",
        "function": {
            name: given[name]
            for name in ("name", "description", "parameters", "strict")
            if given.get(name) is not None
        },
    }

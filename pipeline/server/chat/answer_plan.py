"""`AnswerPlan`: how the answer to a chat is to be read, and the grammar that it must follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

import msgspec

from ...grammar.json_schema import close_objects, enforceable
from ...grammar.wanted_grammar import WantedGrammar
from ...text.chat_template import ChatTemplate
from ...text.tokenizer import Tokenizer
from ...tool_calls.answer_parser import Reading
from ...tool_calls.constraint import AnswerShape
from ...tool_calls.formats import DEFAULT_FORMAT, TOOL_FORMATS, find_tool_format
from ...tool_calls.reasoning import REASONING_FORMATS, find_reasoning_format
from ...tool_calls.tool import Tool
from ..bodies.tool_fields import ChatTools
from ..http.bad_request import BadRequest

CONTENT = ("json_schema", "json_object", "regex", "choice")
"""Kinds of grammars that describe an answer's content, without reasoning."""


ONE_CALL = "single tool-calls"
"""In the refusal of a chat template that takes one call in a message."""


class ChatFormats(NamedTuple):
    """The formats of the answers to one chat template; "" is none."""

    tools: str
    reasoning: str
    takes_one_call: bool = False
    """Whether the template refuses a message with several calls, as Llama 3's does."""


class AnswerPlan(NamedTuple):
    """What follows for the answer from a chat's tools and template."""

    reading: Reading | None = None
    """None: all of the text is content."""
    shape: AnswerShape | None = None
    """What a grammar of the answer must leave room for; None: nothing."""
    is_constrained: bool = False
    """Whether the answer must follow `shape` even if the request asks for no form."""
    schemas: tuple[tuple[str, dict[str, Any]], ...] = ()
    """The schemas of tools that the grammar has, each with its field."""
    shown_special_ids: tuple[int, ...] = ()
    """Special tokens that are marks, so the text must have them."""

    def reading_of(self, wanted: WantedGrammar | None) -> Reading | None:
        """How an answer is read whose content has the form `wanted`: calls come in its place."""
        is_form = wanted is not None and wanted.kind in CONTENT
        if self.reading is None or not is_form:
            return self.reading
        return msgspec.structs.replace(self.reading, ends_with_calls=True)

    def whole_grammar(self, wanted: WantedGrammar | None) -> WantedGrammar | None:
        """The grammar of the text, of which `wanted` describes the content. A grammar that the
        request has written describes all of the text. Raises `BadRequest` for a form of content
        where there must be calls."""
        shape = self.shape
        if wanted is None:
            is_needed = shape is not None and self.is_constrained
            if not shape or not is_needed:
                return None
            return WantedGrammar("lark", shape.grammar(), "tools", schemas=self.schemas)
        if shape is None:
            return wanted
        if shape.must_call:
            raise BadRequest(
                f"{wanted.field} describes a text, and the answer must be a tool call: use "
                f"tool_choice auto, or leave {wanted.field} out",
                param=wanted.field,
            )
        if wanted.kind not in CONTENT:
            return wanted
        return replace(wanted, frame=shape.grammar, schemas=self.schemas)


PLAIN = AnswerPlan()
"""Of an answer that is text alone."""


def find_formats(template: ChatTemplate | None, tools: str, reasoning: str) -> ChatFormats:
    """The formats that `--tool-format` and `--reasoning-format` name, or the template shows. A
    template that reads no tools gets them as a text, which names the default format."""
    text = template.text if template else ""
    if template is None or not template.reads("tools"):
        tools = DEFAULT_FORMAT
    elif tools == "auto":
        tools = find_tool_format(text) or DEFAULT_FORMAT
    if reasoning == "auto":
        reasoning = find_reasoning_format(text)
    return ChatFormats(tools, "" if reasoning == "none" else reasoning, ONE_CALL in text)


def plan_answer(
    tokenizer: Tokenizer,
    prompt: str,
    tools: ChatTools | None,
    formats: ChatFormats,
    *,
    separates_reasoning: bool = True,
    hides_reasoning: bool = False,
) -> AnswerPlan:
    """The plan for the answer to a rendered prompt."""
    reads_calls = tools is not None and tools.choice != "none"
    reasoning = REASONING_FORMATS[formats.reasoning] if formats.reasoning else None
    reading = Reading()
    marks: list[str] = []
    is_open = False
    if reasoning is not None:
        is_open = reasoning.is_open_after(prompt)
        marks += reasoning.opening, reasoning.closing
        if separates_reasoning:
            reading = Reading(
                reasoning_format=formats.reasoning,
                is_reasoning_open=is_open,
                hides_reasoning=hides_reasoning,
            )
    shape = AnswerShape(reasoning=reasoning, is_reasoning_open=is_open)
    if tools is None or not reads_calls:
        if reasoning is None:
            return AnswerPlan()
        special = _special_ids(tokenizer, marks)
        return AnswerPlan(
            reading,
            replace(shape, token_ids=special),
            shown_special_ids=tuple(special.values()),
        )
    form = TOOL_FORMATS[formats.tools]
    is_parallel = tools.is_parallel and not formats.takes_one_call
    special = _special_ids(tokenizer, [*marks, *form.markers])
    known = tools.tools if form.reads_schemas else tuple(Tool(tool.name) for tool in tools.tools)
    reading = msgspec.structs.replace(
        reading,
        tool_format=formats.tools,
        tools=known,
        is_parallel=is_parallel,
        # Reasoning that is not separated is content.
        has_no_content=tools.must_call and (reasoning is None or separates_reasoning),
    )
    shape = replace(
        shape,
        calls=form.shape,
        tools=_constrained(tools),
        must_call=tools.must_call,
        is_parallel=is_parallel,
        token_ids=special,
    )
    is_constrained = tools.must_call or bool(tools.strict and form.shape.trigger)
    schemas = tuple(
        (field, dict(tool.parameters))
        for field, tool in zip(tools.fields, tools.tools, strict=True)
        if tools.must_call or tool.name in tools.strict
    )
    return AnswerPlan(reading, shape, is_constrained, schemas, tuple(special.values()))


def _constrained(tools: ChatTools) -> tuple[Tool, ...]:
    """The tools as the grammar has them: in an answer that may also be text, only strict ones have
    their schema."""
    found = []
    for tool in tools.tools:
        schema: dict[str, Any] = {"type": "object"}
        if tools.must_call or tool.name in tools.strict:
            schema = enforceable(tool.parameters)
            close_objects(schema)
        found.append(Tool(tool.name, schema))
    return tuple(found)


def _special_ids(tokenizer: Tokenizer, marks: list[str]) -> dict[str, int]:
    """The marks that are special tokens, with their ids."""
    found = {}
    for mark in marks:
        token_id = tokenizer.token_id(mark)
        if token_id is not None and tokenizer.is_special(token_id):
            found[mark] = token_id
    return found

"""`AnswerShape`: answers with reasoning and tool calls, as a grammar in llguidance's Lark.

Plain text: it is compiled elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .call_shape import CallShape
from .qwen_xml import PARAMETER, PARAMETER_END
from .reasoning import ReasoningFormat
from .tool import Tool

MOST_CALLS = 16
"""Calls in one answer that must have some: a small model might never stop."""
SPACING = {"whitespace_flexible": False, "item_separator": ", ", "key_separator": ": "}
"""JSON as models are trained to write it; any other white space a small model may repeat."""


@dataclass(frozen=True)
class AnswerShape:
    """What the text of an answer may or must have: reasoning, calls, and a form of its content."""

    calls: CallShape | None = None
    """How calls are written; None allows none."""
    tools: tuple[Tool, ...] = ()
    must_call: bool = False
    is_parallel: bool = True
    reasoning: ReasoningFormat | None = None
    """How reasoning is marked, which may come first."""
    is_reasoning_open: bool = False
    """Whether the answer begins inside it."""
    token_ids: Mapping[str, int] = field(default_factory=dict)
    """Marks that are special tokens, which no text in a grammar matches."""

    def grammar(self, form: str = "") -> str:
        """The grammar of such answers, each call with arguments by its schema.

        `form` is a grammar of the content; calls may come in its place. Without it the content is
        free, and calls are held to their schemas once their mark has come, which `calls` then
        needs.
        """
        return _GrammarWriter(self).write(form)


class _GrammarWriter:
    """The rules of one grammar."""

    def __init__(self, answer: AnswerShape) -> None:
        self._answer, self._token_ids = answer, answer.token_ids
        self._rules: list[str] = []

    def write(self, form: str) -> str:
        answer = self._answer
        thought = self._add_reasoning(answer.reasoning, answer.is_reasoning_open)
        if form:
            self._rules.append(form.replace("start:", "content:", 1))
        if answer.calls is None:
            body = "content"
        elif answer.must_call or form:
            calls = self._add_calls(answer.calls, "")
            body = f"({calls} | content)" if form else calls
        else:
            mark = answer.calls.trigger
            self._add_text_before("lead", mark)
            calls = self._add_calls(answer.calls, mark)
            self._rules += [f"calls: lead {calls}", r"TAIL: /(.|\n)*/"]
            body = "calls* TAIL" if answer.is_parallel else "(calls | TAIL)"
        return "\n".join([f"start: {thought} {body}", *self._rules]) + "\n"

    def _add_calls(self, shape: CallShape, mark: str) -> str:
        """The calls; `mark`, with which they begin, belongs to the rule of the text before it."""
        answer = self._answer
        begin, before_name = (part.removeprefix(mark) for part in (shape.begin, shape.before_name))
        for number, tool in enumerate(answer.tools):
            head = self._text(before_name + tool.name + shape.before_arguments)
            arguments = self._add_arguments(f"args_{number}", tool)
            end = self._text(shape.after_arguments)
            self._rules.append(f"call_{number}: {head} {arguments} {end}")
        self._rules.append("call: " + " | ".join(f"call_{i}" for i in range(len(answer.tools))))
        more = ""
        if answer.is_parallel and (not mark or shape.begin):
            more = f"({self._text(shape.between)} call){{0,{MOST_CALLS - 1}}}"
        return f"{self._text(begin)} call {more} {self._text(shape.end)}"

    def _text(self, text: str) -> str:
        """Literals for a text; its special tokens by id."""
        found = []
        while text:
            at, mark = min(
                ((text.find(m), m) for m in self._token_ids if m in text), default=(len(text), "")
            )
            if at:
                found.append(json.dumps(text[:at], ensure_ascii=False))
            if mark:
                found.append(f"<[{self._token_ids[mark]}]>")
            text = text[at + len(mark) :]
        return " ".join(found)

    def _add_reasoning(self, reasoning: ReasoningFormat | None, is_open: bool) -> str:
        """The rule for reasoning that may come first; "" if there is none."""
        if reasoning is None:
            return ""
        self._add_text_before("thought", reasoning.closing)
        self._rules.append(r"GAP: /\n{1,2}/")
        if is_open:
            return "thought GAP?"
        return f"({self._text(reasoning.opening)} thought GAP?)?"

    def _add_text_before(self, rule: str, mark: str) -> None:
        """A rule of any text up to a mark, and the mark."""
        if mark in self._token_ids:
            self._rules.append(f"{rule}: /(.|\\n)*/ <[{self._token_ids[mark]}]>")
        else:
            self._rules.append(f"{rule}[lazy]: /(.|\\n)*/ {json.dumps(mark, ensure_ascii=False)}")

    def _add_arguments(self, rule: str, tool: Tool) -> str:
        """The name of the rule for a tool's arguments."""
        schema = closed_schema(tool.parameters)
        assert self._answer.calls is not None
        kind = self._answer.calls.arguments
        properties = schema.get("properties")
        if kind == "json":
            self._rules.append(f"{rule}: {json_rule(schema)}")
            return rule
        properties = properties if isinstance(properties, dict) else {}
        required = schema.get("required")
        names = [required] if isinstance(required, str) else required or []
        parts = []
        for number, name in enumerate(properties):
            part = f"{rule}_{number}"
            write = self._python_argument if kind == "python" else self._xml_argument
            self._rules.append(f"{part}: {write(part, name, tool)}")
            parts.append((part, name in names))
        between = json.dumps(", ") if kind == "python" else ""
        self._rules.append(f"{rule}: {sequence_rule(parts, between)}")
        return rule

    def _python_argument(self, rule: str, name: str, tool: Tool) -> str:
        head = json.dumps(f"{name}=", ensure_ascii=False)
        return f"{head} {json_rule(_property(tool, name))}"

    def _xml_argument(self, rule: str, name: str, tool: Tool) -> str:
        head = json.dumps(f"{PARAMETER}{name}>\n", ensure_ascii=False)
        end = json.dumps(f"\n{PARAMETER_END}\n")
        types = tool.types_of(name)
        if types and "string" not in types:
            return f"{head} {json_rule(_property(tool, name))} {end}"
        if choices := tool.choices_of(name):
            texts = " | ".join(json.dumps(one, ensure_ascii=False) for one in choices)
            return f"{head} ({texts}) {end}"
        self._rules.append(f"{rule}_text[lazy]: /(.|\\n)*/ {end}")
        return f"{head} {rule}_text"


def json_rule(schema: Mapping[str, Any]) -> str:
    """The body of a rule for JSON by a schema."""
    return "%json " + json.dumps({**schema, "x-guidance": SPACING}, ensure_ascii=False)


def closed_schema(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The schema of an object of arguments; {} has none. One that lists its properties allows no
    others unless it says so."""
    schema: dict[str, Any] = {"type": "object", **(parameters or {"properties": {}})}
    others = ("additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref")
    if "properties" in schema and not any(name in schema for name in others):
        schema["additionalProperties"] = False
    return schema


def _property(tool: Tool, name: str) -> dict[str, Any]:
    """A property's schema by itself, with the definitions that its references name."""
    root, schema = tool.parameters, tool.properties.get(name)
    found = dict(schema) if isinstance(schema, dict) else {}
    return {**{key: root[key] for key in ("$defs", "definitions") if key in root}, **found}


def sequence_rule(parts: Sequence[tuple[str, bool]], between: str) -> str:
    """The body of a rule for parts in their order, of which some (False) may be left out, with a
    text between two."""
    return " ".join(_sequence(list(parts), between)) or '""'


def _sequence(parts: list[tuple[str, bool]], between: str) -> Iterator[str]:
    if not between:
        yield from (name if needed else f"{name}?" for name, needed in parts)
        return
    # The first that is there, then each other with the text before it.
    choices = []
    for index, (name, needed) in enumerate(parts):
        rest = (
            f"{between} {other}" if must else f"({between} {other})?"
            for other, must in parts[index + 1 :]
        )
        choices.append(" ".join([name, *rest]))
        if needed:
            break
    optional = "?" if not any(needed for _, needed in parts) else ""
    if choices:
        yield f"({' | '.join(choices)}){optional}"

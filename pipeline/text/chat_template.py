"""`ChatTemplate`: renders a conversation as text, like transformers.

Compiles and runs the Jinja of a model or of an adapter, in jinja2's sandbox. Knows no file and
no token id.
"""

from __future__ import annotations

import datetime
import functools
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

MOST_LOOP_STEPS = 500_000
"""Most loop steps; a template with more counts as endless. The longest chats take thousands. A step
costs one to two microseconds."""
MOST_CHARACTERS = 64 << 20
"""Most characters of a rendered chat, unless its caller knows that fewer fit."""
MOST_SECONDS = 10.0
"""Longest time that a template may take; its loops look at the clock."""
RESERVED = frozenset(
    {
        "add_generation_prompt",
        "chat_template",
        "continue_final_message",
        "conversation",
        "documents",
        "messages",
        "tokenize",
        "tools",
    }
)
"""Names that template_kwargs may not set, since they are arguments of the rendering itself."""
CONTINUED = "\N{START OF TEXT}CONTINUE FINAL MESSAGE\N{END OF TEXT}"
"""Marks the end of the last message; it is removed again with all that follows."""
REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
"""Fields in which clients send an answer's reasoning. Templates read the first, gpt-oss's reads the
second."""


class TextError(ValueError):
    """A text or conversation cannot be tokenised, by the sender's mistake (HTTP 400)."""


class TooMuchText(TextError):
    """A conversation is longer than the model's length."""


class ChatTemplate:
    """The templates of one directory, by name; most have only "default".

    `variables` are the special tokens by name (bos_token, …), as text. `origin` is their owner
    ("the model", "adapter NAME") for errors that clients read. A template that does not compile has
    the reason in `fault` and refuses to render.
    """

    def __init__(self, sources: Mapping[str, str], variables: Mapping[str, str], origin: str):
        self.sources = dict(sources)
        self.variables = dict(variables)
        self.origin = origin
        self._compiled: dict[str, jinja2.Template] = {}
        self._takes_parts: dict[str, bool] = {}
        self._faults: dict[str, str] = {}
        self._read: set[str] = set()
        for name, source in self.sources.items():
            try:
                tree = _environment().parse(source)
                self._read |= {one.name for one in tree.find_all(nodes.Name) if one.ctx == "load"}
                self._takes_parts[name] = _iterates_over_content(tree)
                self._compiled[name] = _environment().from_string(tree)
            except jinja2.TemplateSyntaxError as error:
                self._faults[name] = f"line {error.lineno}: {error.message}"
            except (RecursionError, SyntaxError, ValueError, OverflowError) as error:
                self._faults[name] = f"{type(error).__name__}: {error}"

    @classmethod
    def broken(cls, origin: str, reason: str) -> ChatTemplate:
        """A template that could not be read: it refuses to render, with this reason."""
        template = cls({"default": ""}, {}, origin)
        template._faults["default"] = reason
        return template

    @property
    def fault(self) -> str:
        """Why templates do not compile, with the line; "" if all do."""
        return "; ".join(
            fault if name == "default" else f"{name}: {fault}"
            for name, fault in self._faults.items()
        )

    @functools.cached_property
    def text(self) -> str:
        """The Jinja of all templates."""
        return "\n".join(self.sources.values())

    def reads(self, variable: str) -> bool:
        """Whether a template reads a variable, such as tools."""
        return variable in self._read

    def has_role(self, role: str) -> bool:
        """Whether a template names a role."""
        return any(role in source for source in self.sources.values())

    @functools.cached_property
    def takes_system(self) -> bool:
        """Whether it writes the system message."""
        mark = "a system message"
        messages = [{"role": "system", "content": mark}, {"role": "user", "content": "hello"}]
        try:
            return mark in self.render(messages)
        except TextError:
            return False

    def choose(self, tools: object, documents: object) -> str:
        """The name of the template for a request: "tool_use" with tools, "rag" with documents,
        else "default". Raises `TextError` if there is no default."""
        if tools is not None and "tool_use" in self.sources:
            return "tool_use"
        if documents is not None and "rag" in self.sources:
            return "rag"
        if "default" in self.sources:
            return "default"
        names = ", ".join(sorted(self.sources))
        raise TextError(f"{self.origin} has the chat templates {names}, and none named default")

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        most_characters: int = MOST_CHARACTERS,
    ) -> str:
        """The conversation as text, of at most `most_characters`.

        Null fields of a message are left out, as in transformers. Content in text parts stays a
        list if the template iterates over it, else its texts are joined by line ends. Raises
        `TextError` naming the line and the reason if the template fails.
        """
        name = self.choose(tools, documents)
        if fault := self._faults.get(name):
            raise TextError(f"the chat template of {self.origin} cannot be used: {fault}")
        if taken := sorted(RESERVED & set(template_kwargs or ())):
            raise TextError(f"a template's variable may not be named {', '.join(taken)}")
        chat = [_message(message, self._takes_parts[name]) for message in messages]
        if continue_final_message:
            if add_generation_prompt:
                raise TextError("a final message is continued without a generation prompt")
            _mark_end(chat)
        variables = {
            **self.variables,
            **(template_kwargs or {}),
            "messages": chat,
            "tools": tools,
            "documents": documents,
            "add_generation_prompt": add_generation_prompt,
        }
        text = self._run(name, variables, most_characters)
        return _cut_at_mark(text, chat[-1]) if continue_final_message else text

    def _run(self, name: str, variables: dict[str, Any], most_characters: int) -> str:
        pieces, length = [], 0
        steps = StepCounter()
        try:
            for piece in self._compiled[name].generate({**variables, STEP: steps}):
                length += len(piece)
                if length > most_characters:
                    raise TooMuchText(
                        f"the chat as text has more than the {most_characters} characters that fit"
                    )
                pieces.append(piece)
        except TooMuchText:
            raise
        except TemplateRefusal as error:
            raise TextError(f"the chat template refuses the chat: {error.message}") from error
        # A template is code, so it can raise any exception.
        except Exception as error:
            line = _line_of(error)
            reason = str(error) or type(error).__name__
            raise TextError(f"the chat template of {self.origin} fails{line}: {reason}") from error
        return "".join(pieces)


# --- messages for a template --------------------------------------------------------------------


def _message(message: Mapping[str, Any], takes_parts: bool) -> dict[str, Any]:
    """The message for the template. Raises `TextError` on content that is not text."""
    found = {name: value for name, value in message.items() if value is not None}
    for name in REASONING_FIELDS:
        if name in found:
            found = {"thinking": found[name], **found, "reasoning_content": found[name]}
            break
    content = found.get("content")
    if content is None or isinstance(content, str):
        return found
    if not isinstance(content, list):
        raise TextError(f"content must be text or a list of parts, not {type(content).__name__}")
    texts = []
    for part in content:
        kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
        if kind != "text" or not isinstance(part.get("text"), str):
            raise TextError(f"a content part of type {kind!r} is not supported; only text is")
        texts.append(part["text"])
    return {**found, "content": [dict(p) for p in content] if takes_parts else "\n".join(texts)}


def _mark_end(chat: list[dict[str, Any]]) -> None:
    """Appends `CONTINUED` to the text of the last message."""
    content = chat[-1].get("content") if chat else None
    if isinstance(content, str):
        chat[-1]["content"] = content + CONTINUED
    elif content:
        content[-1]["text"] += CONTINUED
    else:
        raise TextError("there is no final message with text to continue")


def _cut_at_mark(text: str, message: Mapping[str, Any]) -> str:
    end = text.rfind(CONTINUED)
    if end < 0:
        raise TextError("the chat template leaves out the final message: it cannot be continued")
    return text[:end]


def _iterates_over_content(tree: nodes.Template) -> bool:
    """Whether a template iterates over the parts of a message's content."""
    names = {"content"}
    for assign in tree.find_all(nodes.Assign):
        if isinstance(assign.target, nodes.Name) and _is_content(assign.node, names):
            names.add(assign.target.name)
    for macro in tree.find_all(nodes.Macro):
        names |= {argument.name for argument in macro.args if "content" in argument.name}
    return any(_is_content(loop.iter, names) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node, names: set[str]) -> bool:
    """Whether a node is `message.content`, `message["content"]` or one of `names`, with or without
    filters."""
    while isinstance(node, nodes.Filter) and node.node is not None:
        node = node.node
    if isinstance(node, nodes.Getattr):
        return node.attr == "content"
    if isinstance(node, nodes.Getitem):
        return isinstance(node.arg, nodes.Const) and node.arg.value == "content"
    return isinstance(node, nodes.Name) and node.name in names


# --- transformers' Jinja environment, bounded ---------------------------------------------------

STEP = "loraconsole_step"
"""The variable that each loop calls in each iteration."""


class StepCounter:
    """Raises after `MOST_LOOP_STEPS` iterations of all loops of a template, or `MOST_SECONDS`."""

    def __init__(self) -> None:
        self._steps = 0
        self._ends_at = time.monotonic() + MOST_SECONDS

    def __call__(self) -> None:
        self._steps += 1
        if self._steps > MOST_LOOP_STEPS:
            raise jinja2.TemplateRuntimeError(f"its loops took {MOST_LOOP_STEPS} turns")
        if self._steps % 64 == 0 and time.monotonic() > self._ends_at:
            raise jinja2.TemplateRuntimeError(f"it took more than {MOST_SECONDS:.0f} s")


class TemplateRefusal(jinja2.TemplateError):
    """The error that a template raises by raise_exception."""


class GenerationBlock(Extension):
    """`{% generation %} … {% endgeneration %}`, which marks the assistant's text for training. Its
    body is rendered unchanged."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node | list[nodes.Node]:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        # A scope, as in transformers' own tag: variables set inside are unknown after it.
        return nodes.Scope(body).set_lineno(line)


class ChatEnvironment(ImmutableSandboxedEnvironment):
    """The sandbox, with a counter in every loop and bounds on the results of `*` and `**`."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def parse(
        self, source: str, name: str | None = None, filename: str | None = None
    ) -> nodes.Template:
        """The tree for `from_string`, with counters; `from_string` of a text would leave them
        out."""
        tree = super().parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            call = nodes.Call(nodes.Name(STEP, "load"), [], [], None, None)
            loop.body.insert(0, nodes.ExprStmt(call).set_lineno(loop.lineno))
        return tree

    def call_binop(
        self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any
    ) -> Any:
        if operator == "**" and abs(right) > 64:
            raise jinja2.TemplateRuntimeError("an exponent above 64")
        if operator == "*":
            for many, count in ((left, right), (right, left)):
                if isinstance(many, (str, list, tuple)) and len(many) * count > MOST_CHARACTERS:
                    raise jinja2.TemplateRuntimeError("a text or list repeated too often")
        return super().call_binop(context, operator, left, right)


@functools.cache
def _environment() -> ChatEnvironment:
    """Jinja set up as in transformers. Sandboxed, since templates come with models and adapters of
    any author."""
    environment = ChatEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[GenerationBlock, "jinja2.ext.loopcontrols"],
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    return environment


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """The filter `tojson`. Jinja's own escapes HTML characters, which would change the prompt."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> None:
    raise TemplateRefusal(message)


def _line_of(error: BaseException) -> str:
    """ " in line N": the line of the template that raised; "" if unknown."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename in ("<template>", "<unknown>"):
            line = trace.tb_lineno
        trace = trace.tb_next
    return f" in line {line}" if line else ""

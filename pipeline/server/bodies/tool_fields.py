"""`ChatTools`: the tools of a chat, from `tools` and `tool_choice` or, of old, `functions` and
`function_call`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeGuard

import msgspec

from ...tool_calls.tool import Tool
from ..http.bad_request import BadRequest, shortened
from .field_table import Table, check_object, harmless, honoured

MOST_TOOLS = 1024
NAME = re.compile(r"[\w.:/-]{1,128}", re.ASCII)
CHOICES = ("none", "auto", "required")

FUNCTION: Table = {
    "name": honoured("1 to 128 letters, digits and _ - . : /"),
    "description": honoured("a text for the model"),
    "parameters": honoured("a JSON schema"),
    "strict": honoured("whether a call follows its schema"),
    "return": honoured("transformers: goes to the chat template"),
    "response": honoured("FunctionGemma: goes to the chat template"),
    "type": harmless("functions alone are supported"),
    "cache_control": harmless("no prompt is cached"),
}

TOOL: Table = {
    "type": honoured("`function`"),
    "function": honoured("its fields are those of a function"),
    "cache_control": harmless("no prompt is cached"),
}

NAMED_CHOICE: Table = {
    "type": honoured("`function`"),
    "function": honoured("an object with the name"),
}

FUNCTION_NAME: Table = {"name": honoured("of one of the functions given")}

ALLOWED_CHOICE: Table = {
    "type": honoured("`allowed_tools`"),
    "allowed_tools": honoured("an object with mode and tools"),
}

ALLOWED_TOOLS: Table = {
    "mode": honoured("`auto` or `required`"),
    "tools": honoured("tools of which the names count"),
}


class ChatTools(msgspec.Struct, frozen=True):
    """What the model may call, and whether it must."""

    given: tuple[dict[str, Any], ...]
    """As chat templates read them: `{"type": "function", "function": {…}}`."""
    tools: tuple[Tool, ...]
    fields: tuple[str, ...]
    """The field of each tool's schema."""
    strict: frozenset[str] = frozenset()
    """Names of tools whose arguments must follow their schemas."""
    choice: str = "auto"
    """none, auto or required."""
    is_named: bool = False
    """Whether the only tool was named in the choice."""
    is_parallel: bool = True
    is_old: bool = False
    """Whether they came as `functions`, and calls are answered so."""

    @property
    def must_call(self) -> bool:
        return self.choice == "required"


def read_tools(
    tools: list[Any] | None, choice: Any, *, is_parallel: bool = True
) -> ChatTools | None:
    """The tools of `tools` and `tool_choice`; None if there are none. Raises `BadRequest` naming
    the field."""
    if not tools:
        if choice not in (None, "none", "auto"):
            raise BadRequest("tool_choice needs tools", param="tool_choice")
        return None
    if len(tools) > MOST_TOOLS:
        raise BadRequest(f"tools has {len(tools)} entries; at most {MOST_TOOLS}", param="tools")
    given = [_checked_tool(tool, f"tools[{index}]") for index, tool in enumerate(tools)]
    found = _read_functions(given, "tools", ".function")
    found = msgspec.structs.replace(found, is_parallel=is_parallel)
    if choice is None or choice in CHOICES:
        return msgspec.structs.replace(found, choice=choice or "auto")
    if not isinstance(choice, dict):
        raise BadRequest(
            f"tool_choice is {shortened(str(choice))!r}; it must be none, auto, required or the "
            "object of a function",
            param="tool_choice",
        )
    if choice.get("type") == "allowed_tools":
        check_object(choice, ALLOWED_CHOICE, "tool_choice")
        return _allowed(found, choice.get("allowed_tools"))
    function = choice.get("function")
    if choice.get("type", "function") != "function" or not _has_name(function):
        raise BadRequest(
            'tool_choice names no function: it must be {"type": "function", "function": '
            '{"name": …}}',
            param="tool_choice",
        )
    check_object(choice, NAMED_CHOICE, "tool_choice")
    check_object(function, FUNCTION_NAME, "tool_choice.function")
    return _named(found, function["name"], "tool_choice")


def read_old_functions(functions: list[Any] | None, choice: Any) -> ChatTools | None:
    """The same of `functions` and `function_call`."""
    if not functions:
        if choice not in (None, "none", "auto"):
            raise BadRequest("function_call needs functions", param="function_call")
        return None
    tools = [{"type": "function", "function": function} for function in functions]
    for index, tool in enumerate(tools):
        _checked_function(tool["function"], f"functions[{index}]")
    found = _read_functions(tools, "functions", "")
    found = msgspec.structs.replace(found, is_parallel=False, is_old=True)
    if choice is None or choice in ("none", "auto"):
        return msgspec.structs.replace(found, choice=choice or "auto")
    if not isinstance(choice, dict) or not _has_name(choice):
        raise BadRequest('function_call must be none, auto or {"name": …}', param="function_call")
    check_object(choice, FUNCTION_NAME, "function_call")
    return _named(found, choice["name"], "function_call")


def _checked_tool(tool: Any, at: str) -> dict[str, Any]:
    if not isinstance(tool, dict):
        raise BadRequest(f"{at} is not an object", param=at)
    if tool.get("type", "function") != "function":
        raise BadRequest(
            f"{at} of type {shortened(str(tool['type']))!r} is not supported; function is",
            param=f"{at}.type",
        )
    check_object(tool, TOOL, at)
    _checked_function(tool.get("function"), f"{at}.function")
    return {"type": "function", **tool}


def _checked_function(function: Any, at: str) -> None:
    if not isinstance(function, dict):
        raise BadRequest(f"{at} is not an object", param=at)
    check_object(function, FUNCTION, at)
    name = function.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise BadRequest(
            f"{at}.name must be 1 to 128 letters, digits and _ - . : /", param=f"{at}.name"
        )
    for field, kind, name in (
        ("parameters", dict, "an object"),
        ("description", str, "a text"),
        ("strict", bool, "true or false"),
    ):
        if not isinstance(function.get(field), kind | None):
            raise BadRequest(f"{at}.{field} is not {name}", param=f"{at}.{field}")


def _read_functions(given: list[dict[str, Any]], field: str, inside: str) -> ChatTools:
    functions = [tool["function"] for tool in given]
    tools = tuple(Tool(one["name"], one.get("parameters") or {}) for one in functions)
    names = [tool.name for tool in tools]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise BadRequest(f"{field} has two functions named {twice}", param=field)
    strict = frozenset(one["name"] for one in functions if one.get("strict"))
    fields = tuple(f"{field}[{index}]{inside}.parameters" for index in range(len(tools)))
    return ChatTools(tuple(given), tools, fields, strict)


def _has_name(function: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(function, dict) and isinstance(function.get("name"), str)


def _named(found: ChatTools, name: str, field: str) -> ChatTools:
    return msgspec.structs.replace(
        _only(found, {name}, field), choice="required", is_named=True, is_parallel=False
    )


def _allowed(found: ChatTools, allowed: Any) -> ChatTools:
    """OpenAI's choice among some of the tools: the model gets no others."""
    field = "tool_choice.allowed_tools"
    mode = allowed.get("mode") if isinstance(allowed, dict) else None
    tools = allowed.get("tools") if isinstance(allowed, dict) else None
    if mode not in ("auto", "required") or not isinstance(tools, list) or not tools:
        raise BadRequest(f"{field} needs a mode, auto or required, and tools", param=field)
    check_object(allowed, ALLOWED_TOOLS, field)
    names = set()
    for index, tool in enumerate(tools):
        place = f"{field}.tools[{index}]"
        function = tool.get("function") if isinstance(tool, dict) else None
        if not _has_name(function):
            raise BadRequest(f"{place} names no function", param=place)
        check_object(tool, TOOL, place)
        check_object(function, FUNCTION, f"{place}.function")
        names.add(function["name"])
    return msgspec.structs.replace(_only(found, names, field), choice=mode)


def _only(found: ChatTools, names: set[Any], field: str) -> ChatTools:
    known = {tool.name for tool in found.tools}
    for name in names:
        if name not in known:
            raise BadRequest(
                f"{field} names {shortened(str(name))!r}, which is none of the functions given",
                param=field,
            )
    given = tuple(tool for tool in found.given if _name(tool) in names)
    tools = tuple(tool for tool in found.tools if tool.name in names)
    named = zip(found.tools, found.fields, strict=True)
    fields = tuple(field for tool, field in named if tool.name in names)
    return msgspec.structs.replace(found, given=given, tools=tools, fields=fields)


def _name(tool: Mapping[str, Any]) -> str:
    return str(tool["function"]["name"])

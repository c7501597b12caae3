"""The tools of a chat, in OpenAI's new and old form, and what it says of reasoning."""

from __future__ import annotations

from typing import Any

import pytest

from loraconsole.pipeline.server.bodies.thinking_fields import read_thinking
from loraconsole.pipeline.server.bodies.tool_fields import read_old_functions, read_tools
from loraconsole.pipeline.server.chat.thinking_variables import thinking_variables
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.text.chat_template import ChatTemplate


def tool(name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


def named(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def allowed(mode: str, *names: str) -> dict[str, Any]:
    tools = [named(name) for name in names]
    return {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": tools}}


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        (None, "auto", ["f", "g"]),
        ("auto", "auto", ["f", "g"]),
        ("none", "none", ["f", "g"]),
        ("required", "required", ["f", "g"]),
        (named("g"), "required", ["g"]),
        (allowed("auto", "g"), "auto", ["g"]),
        (allowed("required", "f", "g"), "required", ["f", "g"]),
    ],
)
def test_a_choice_says_which_tools_may_or_must_be_called(
    choice: Any, expected: str, names: list[str]
) -> None:
    found = read_tools([tool(), tool("g", strict=True)], choice)
    assert found is not None
    assert found.choice == expected
    assert [one.name for one in found.tools] == names
    assert [one["function"]["name"] for one in found.given] == names
    assert found.strict == {"g"}
    assert found.is_named == (choice == named("g"))
    assert found.is_parallel != found.is_named


@pytest.mark.parametrize(
    ("tools", "choice", "param"),
    [
        ([3], None, "tools[0]"),
        ([{"type": "web_search"}], None, "tools[0].type"),
        ([{"type": "function"}], None, "tools[0].function"),
        ([tool(""), tool()], None, "tools[0].function.name"),
        ([tool(), tool("a b")], None, "tools[1].function.name"),
        ([tool(parameters=3)], None, "tools[0].function.parameters"),
        ([tool(strict="yes")], None, "tools[0].function.strict"),
        ([tool(), tool()], None, "tools"),
        ([tool()], "any", "tool_choice"),
        ([tool(paramters={})], None, "tools[0].function.paramters"),
        ([{**tool(), "functon": 1}], None, "tools[0].functon"),
        ([tool()], {**named("f"), "mode": "auto"}, "tool_choice.mode"),
        ([tool()], {"function": {"name": "f", "x": 1}}, "tool_choice.function.x"),
        ([tool()], {**allowed("auto", "f"), "x": 1}, "tool_choice.x"),
        ([tool()], {"type": "function", "name": "f"}, "tool_choice"),
        ([tool()], {**named("f"), "type": "custom"}, "tool_choice"),
        ([tool()], named("g"), "tool_choice"),
        ([tool()], {"type": "function"}, "tool_choice"),
        ([tool()], allowed("auto", "g"), "tool_choice.allowed_tools"),
        ([tool()], allowed("none", "f"), "tool_choice.allowed_tools"),
        (None, "required", "tool_choice"),
        ([], named("f"), "tool_choice"),
    ],
)
def test_wrong_tools_are_named(tools: Any, choice: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_tools(tools, choice)
    assert refused.value.param == param


def test_a_name_in_the_wrong_place_is_answered_with_the_right_one() -> None:
    with pytest.raises(BadRequest) as refused:
        read_tools([tool()], {"type": "function", "name": "f"})
    assert '{"type": "function", "function": {"name": …}}' in refused.value.reason


def test_harmless_and_null_fields_of_a_tool_are_accepted() -> None:
    given = {**tool(cache_control={"type": "ephemeral"}, zz=None), "cache_control": {}, "zz": None}
    assert read_tools([given], {**named("f"), "zz": None}) is not None
    assert read_old_functions([{"name": "f", "zz": None}], {"name": "f", "zz": None}) is not None


def test_no_tools_are_none() -> None:
    for choice in (None, "auto", "none"):
        assert read_tools(None, choice) is None
        assert read_tools([], choice) is None
        assert read_old_functions(None, choice) is None


def test_functions_of_old_are_tools_with_one_call() -> None:
    functions = [{"name": "f"}, {"name": "g", "parameters": {"type": "object"}}]
    found = read_old_functions(functions, {"name": "g"})
    assert found is not None
    assert (found.is_old, found.is_named, found.is_parallel) == (True, True, False)
    assert [one.name for one in found.tools] == ["g"]
    assert read_old_functions(functions, "auto") == read_old_functions(functions, None)
    with pytest.raises(BadRequest) as refused:
        read_old_functions(functions, "required")
    assert refused.value.param == "function_call"
    with pytest.raises(BadRequest) as refused:
        read_old_functions([{"name": "f", "parameters": 3}], None)
    assert refused.value.param == "functions[0].parameters"
    for given, choice, param in (
        ({"name": "f", "paramters": {}}, None, "functions[0].paramters"),
        ({"name": "f"}, {"name": "f", "x": 1}, "function_call.x"),
    ):
        with pytest.raises(BadRequest) as refused:
            read_old_functions([given], choice)
        assert refused.value.param == param


def template(source: str) -> ChatTemplate:
    return ChatTemplate({"default": source}, {}, "here")


SWITCH = template("{% if enable_thinking %}<think>{% endif %}")
EFFORT = template("{{ reasoning_effort }}")
ALWAYS = template("<think>")


@pytest.mark.parametrize(
    ("fields", "where", "variables"),
    [
        ((None, None, None, None), SWITCH, {}),
        ((None, False, None, None), SWITCH, {"enable_thinking": False}),
        ((None, None, {"type": "enabled"}, None), SWITCH, {"enable_thinking": True}),
        ((None, None, False, None), template("{{ thinking }}"), {"thinking": False}),
        ((None, None, {"type": "auto"}, None), SWITCH, {}),
        (("none", None, None, None), SWITCH, {"enable_thinking": False}),
        (("high", None, None, None), EFFORT, {"reasoning_effort": "high"}),
        (
            (None, None, None, {"effort": "low", "enabled": None}),
            EFFORT,
            {"reasoning_effort": "low"},
        ),
        ((None, None, None, {"enabled": True}), SWITCH, {"enable_thinking": True}),
    ],
)
def test_reasoning_is_turned_on_and_off_by_the_templates_variable(
    fields: Any, where: ChatTemplate, variables: dict[str, Any]
) -> None:
    thinking = read_thinking(*fields)
    assert thinking_variables(where, thinking, can_reason=True) == variables


@pytest.mark.parametrize(
    ("fields", "where", "param"),
    [
        (("high", None, None, None), SWITCH, "reasoning_effort"),
        ((None, False, None, None), ALWAYS, "enable_thinking"),
        (("none", None, None, None), ALWAYS, "reasoning_effort"),
        ((None, None, None, {"effort": "low"}), ALWAYS, "reasoning.effort"),
        ((None, None, "yes", None), SWITCH, "thinking"),
        (
            (None, None, {"type": "enabled", "budget_tokens": 3}, None),
            SWITCH,
            "thinking.budget_tokens",
        ),
        ((None, None, None, {"max_tokens": 3}), SWITCH, "reasoning.max_tokens"),
        (("much", None, None, None), EFFORT, "reasoning_effort"),
    ],
)
def test_what_a_template_cannot_do_is_refused_by_name(
    fields: Any, where: ChatTemplate, param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        thinking_variables(where, read_thinking(*fields), can_reason=True)
    assert refused.value.param == param


def test_no_reasoning_may_be_asked_of_a_model_that_has_none() -> None:
    plain = template("{{ messages }}")
    off = read_thinking("none", False, None, None)
    assert thinking_variables(plain, off, can_reason=False) == {}
    with pytest.raises(BadRequest):
        thinking_variables(plain, read_thinking(None, True, None, None), can_reason=False)

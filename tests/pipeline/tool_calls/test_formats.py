"""The format of calls and reasoning is found in a chat template's text."""

from __future__ import annotations

from typing import get_args, get_type_hints

import pytest

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.tool_calls import deepseek
from loraconsole.pipeline.tool_calls.formats import TOOL_FORMATS, find_tool_format
from loraconsole.pipeline.tool_calls.reasoning import REASONING_FORMATS, find_reasoning_format

TEMPLATES = {
    "hermes": 'write <tool_call>\\n{"name": …, "arguments": …}\\n</tool_call>',
    "qwen_xml": "<tool_call>\\n<function=f>\\n<parameter=a>\\n1\\n</parameter>",
    "llama3": 'Respond as {"name": function name, "parameters": dictionary of arguments}',
    "mistral": "{{ '[TOOL_CALLS] [' }}",
    "mistral_args": "[TOOL_CALLS]' + name + '[ARGS]'",
    "pythonic": "[func_name1(params_name1=params_value1), func_name2(params)]",
    "deepseek_v3": f"{deepseek.CALL_BEGIN}function{deepseek.SEPARATOR}' + name + '\\n```json\\n'",
    "deepseek_v31": f"{deepseek.CALL_BEGIN}' + name + '{deepseek.SEPARATOR}'",
    "": "{{ messages }}",
}


@pytest.mark.parametrize(("name", "text"), TEMPLATES.items())
def test_a_template_shows_the_format_of_calls(name: str, text: str) -> None:
    assert find_tool_format(f"{{% if tools %}}{text}{{% endif %}}") == name


def test_every_format_has_a_template_here() -> None:
    assert TEMPLATES.keys() == {*TOOL_FORMATS, ""}


def test_a_template_shows_how_reasoning_is_marked() -> None:
    assert find_reasoning_format("{{ content.split('</think>') }}") == "think"
    assert find_reasoning_format("[THINK]{{ text }}[/THINK]") == "mistral"
    assert find_reasoning_format("{{ content }}") == ""


def test_the_prompt_shows_whether_the_answer_begins_inside_the_reasoning() -> None:
    think = REASONING_FORMATS["think"]
    assert think.is_open_after("<|im_start|>assistant\n<think>\n")
    assert not think.is_open_after("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not think.is_open_after("<|im_start|>assistant\n")
    assert REASONING_FORMATS["deepseek_r1"].is_open_after("<|im_start|>assistant\n")


def test_the_settings_name_every_format() -> None:
    hints = get_type_hints(Config)
    assert set(get_args(hints["tool_format"])) == {"auto", *TOOL_FORMATS}
    assert set(get_args(hints["reasoning_format"])) == {"auto", "none", *REASONING_FORMATS}

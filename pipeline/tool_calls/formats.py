"""`ToolFormat`: how models of one kind write calls; the table of them, and how the one of a chat
template is found."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from . import deepseek, hermes, llama3, mistral, pythonic, qwen_xml
from .call_shape import CallShape
from .text_source import Steps, TextSource
from .tool import Tool


@dataclass(frozen=True)
class ToolFormat:
    """How to read calls, and how to have a model write them."""

    read: Callable[[TextSource, Mapping[str, Tool]], Steps[None]]
    shape: CallShape
    markers: tuple[str, ...]
    """Texts that are special tokens in some vocabularies, and must not be left out of the text."""
    signs: tuple[tuple[str, ...], ...]
    """Texts of a chat template: all of one entry show that it is of this format."""
    reads_schemas: bool = False
    """Whether reading needs the schemas of the arguments."""
    id_length: int = 24
    """Characters of a call's id after its prefix; Mistral's templates take nine without any."""


JSON_ARGUMENTS = '", "arguments": '
TOOL_FORMATS: Mapping[str, ToolFormat] = {
    "qwen_xml": ToolFormat(
        qwen_xml.read_qwen_xml,
        CallShape(
            "<tool_call>\n<function=",
            ">\n",
            "</function>\n</tool_call>",
            between="\n",
            arguments="xml",
            trigger=hermes.OPEN,
        ),
        (hermes.OPEN, hermes.CLOSE),
        ((qwen_xml.FUNCTION, qwen_xml.PARAMETER),),
        reads_schemas=True,
    ),
    "deepseek_v3": ToolFormat(
        deepseek.read_deepseek,
        CallShape(
            f"{deepseek.CALL_BEGIN}function{deepseek.SEPARATOR}",
            "\n```json\n",
            f"\n```{deepseek.CALL_END}",
            begin=deepseek.CALLS_BEGIN,
            between="\n",
            end=deepseek.CALLS_END,
            trigger=deepseek.CALLS_BEGIN,
        ),
        deepseek.MARKERS,
        ((deepseek.CALL_BEGIN, deepseek.FENCE),),
    ),
    "deepseek_v31": ToolFormat(
        deepseek.read_deepseek,
        CallShape(
            deepseek.CALL_BEGIN,
            deepseek.SEPARATOR,
            deepseek.CALL_END,
            begin=deepseek.CALLS_BEGIN,
            end=deepseek.CALLS_END,
            trigger=deepseek.CALLS_BEGIN,
        ),
        deepseek.MARKERS,
        ((deepseek.CALL_BEGIN,),),
    ),
    "mistral_args": ToolFormat(
        mistral.read_mistral,
        CallShape(mistral.MARKER, mistral.ARGUMENTS_MARKER, "", trigger=mistral.MARKER),
        mistral.MARKERS,
        ((mistral.MARKER, mistral.ARGUMENTS_MARKER),),
        id_length=9,
    ),
    "mistral": ToolFormat(
        mistral.read_mistral,
        CallShape(
            '{"name": "',
            JSON_ARGUMENTS,
            "}",
            begin=f"{mistral.MARKER}[",
            between=", ",
            end="]",
            trigger=mistral.MARKER,
        ),
        mistral.MARKERS,
        ((mistral.MARKER,),),
        id_length=9,
    ),
    "hermes": ToolFormat(
        hermes.read_hermes,
        CallShape(
            '<tool_call>\n{"name": "',
            JSON_ARGUMENTS,
            "}\n</tool_call>",
            between="\n",
            trigger=hermes.OPEN,
        ),
        (hermes.OPEN, hermes.CLOSE),
        ((hermes.OPEN,),),
    ),
    "pythonic": ToolFormat(
        pythonic.read_pythonic,
        CallShape("", "(", ")", begin="[", between=", ", end="]", arguments="python"),
        (*pythonic.OPENINGS, *pythonic.CLOSINGS),
        (("func_name1(",), ("<|tool_call_start|>",), ("<|python_start|>",)),
    ),
    "llama3": ToolFormat(
        llama3.read_llama3,
        CallShape('{"name": "', '", "parameters": ', "}", between="; "),
        (llama3.MARKER,),
        ((llama3.MARKER,), ('"parameters": ',), ('\\"parameters\\": ',)),
    ),
}
"""By the name that `--tool-format` takes, in the order in which a template's text is searched."""

DEFAULT_FORMAT = "hermes"
"""For templates that show no format, and for the tools prompt of those that read no tools."""


@functools.lru_cache(maxsize=64)
def find_tool_format(template: str) -> str:
    """The name of the format that a chat template's text shows; "" if it shows none."""
    for name, form in TOOL_FORMATS.items():
        if any(all(sign in template for sign in signs) for signs in form.signs):
            return name
    return ""

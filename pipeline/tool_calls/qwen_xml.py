"""The format of Qwen 3.5 and Qwen3-Coder, an element for each argument:
`<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from .hermes import CLOSE, OPEN
from .json_call import LONGEST_KEY
from .pieces import Piece
from .text_source import Steps, TextSource
from .tool import Tool

FUNCTION, PARAMETER = "<function=", "<parameter="
FUNCTION_END, PARAMETER_END = "</function>", "</parameter>"
PYTHON_CONSTANTS = {"True": True, "False": False, "None": None}
TAG_END = re.compile("[>\n]")


def read_qwen_xml(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer. The model may leave out `<tool_call>`."""
    call = 0
    while marker := (yield from source.read_before((OPEN, FUNCTION), "content")):
        source.start_record()
        if marker == OPEN:
            source.take(len(OPEN))
            yield from source.read_space()
        name = yield from _read_tag(source, FUNCTION)
        if not name:
            yield Piece("content", source.end_record())
            continue
        source.end_record()
        yield Piece("call", name, call)
        yield from _read_parameters(source, call, tools.get(name) or Tool(name))
        call += 1
        yield from source.read_space()
        yield from source.accept(CLOSE)


def _read_tag(source: TextSource, beginning: str) -> Steps[str]:
    """Reads `<function=NAME>`; "" if it does not come next."""
    if not (yield from source.accept(beginning)):
        return ""
    name = yield from source.read_until(TAG_END, LONGEST_KEY)
    return name.strip() if (yield from source.accept(">")) else ""


def _read_parameters(source: TextSource, call: int, tool: Tool) -> Steps[None]:
    """Yields the arguments up to the function's end, as the parts of a JSON object."""
    count = 0
    yield Piece("arguments", "{", call)
    while True:
        yield from source.read_space()
        name = yield from _read_tag(source, PARAMETER)
        if not name:
            break
        comma = ", " if count else ""
        yield Piece("arguments", f"{comma}{json.dumps(name, ensure_ascii=False)}: ", call)
        yield from _read_parameter(source, call, tool.types_of(name))
        count += 1
    # Unless the text ends here.
    if (yield from source.accept(FUNCTION_END)) or source.rest:
        yield Piece("arguments", "}", call)


def _read_parameter(source: TextSource, call: int, types: set[str]) -> Steps[None]:
    """Yields a value as JSON; one that must be a string as it comes."""
    yield from source.accept("\n")
    ends = ("\n" + PARAMETER_END, PARAMETER_END, FUNCTION_END, PARAMETER)
    parts = source.read_before(ends, "content")
    is_text = types == {"string"}
    value = []
    if is_text:
        yield Piece("arguments", '"', call)
    try:
        while True:
            part = next(parts)
            if part is None:
                yield None
            elif is_text:
                yield Piece("arguments", json.dumps(part.text, ensure_ascii=False)[1:-1], call)
            else:
                value.append(part.text)
    except StopIteration as stop:
        end = stop.value
    if is_text:
        yield Piece("arguments", '"' if end else "", call)
    elif end:
        yield Piece("arguments", json_value("".join(value), types), call)
    if end.endswith(PARAMETER_END):
        source.take(len(end))


def json_value(text: str, types: set[str]) -> str:
    """The text of an element as JSON: as it is if that is a value of one of `types` (none: of any),
    else as a string."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = PYTHON_CONSTANTS.get(text.strip(), text)
    if not isinstance(value, str) and (not types or _type_name(value) in types):
        return json.dumps(value) if text.strip() in PYTHON_CONSTANTS else text.strip()
    return json.dumps(text, ensure_ascii=False)


def _type_name(value: Any) -> str:
    """The JSON type of a value that is no string; "number" for integers too."""
    if value is None:
        return "null"
    for kind, name in ((bool, "boolean"), ((int, float), "number"), (list, "array")):
        if isinstance(value, kind):
            return name
    return "object"

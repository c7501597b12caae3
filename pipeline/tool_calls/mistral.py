"""The formats of Mistral: `[TOOL_CALLS][{"name": "f", "arguments": {…}}, …]`, and the later
`[TOOL_CALLS]f[ARGS]{…}`, with a marker for each call."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .json_call import LONGEST_KEY, read_arguments, read_json_call, read_json_calls
from .pieces import Piece
from .text_source import Steps, TextSource
from .tool import Tool

MARKER, ARGUMENTS_MARKER, ID_MARKER = "[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"
MARKERS = (MARKER, ARGUMENTS_MARKER, ID_MARKER)
AFTER_NAME = re.compile(r"[\[{]")


def read_mistral(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer in either format."""
    call = 0
    while (yield from source.read_before((MARKER,), "content")):
        source.start_record()
        source.take(len(MARKER))
        yield from source.read_space()
        if (yield from source.starts_with("[")):
            count = yield from read_json_calls(source, call, None)
        elif (yield from source.starts_with("{")):
            count = int((yield from read_json_call(source, call, None)))
        else:
            count = int((yield from _read_named(source, call)))
        text = source.end_record()
        if not count:
            yield Piece("content", text)
        call += count


def _read_named(source: TextSource, call: int) -> Steps[bool]:
    """Reads `f[ARGS]{…}` or `f{…}`; False if it is neither."""
    name = yield from source.read_until(AFTER_NAME, LONGEST_KEY)
    if (yield from source.accept(ID_MARKER)):
        yield from source.read_until(AFTER_NAME, LONGEST_KEY)
    yield from source.accept(ARGUMENTS_MARKER)
    yield from source.read_space()
    if not name.strip() or not (yield from source.starts_with("{")):
        return False
    yield Piece("call", name.strip(), call)
    yield from read_arguments(source, call)
    return True

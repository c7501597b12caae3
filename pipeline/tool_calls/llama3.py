"""The format of Llama 3: `{"name": "f", "parameters": {…}}` at the beginning of the answer or after
`<|python_tag|>`; several calls are separated by `;`."""

from __future__ import annotations

from collections.abc import Mapping

from .json_call import read_json_call
from .pieces import Piece
from .text_source import Steps, TextSource
from .tool import Tool

MARKER = "<|python_tag|>"


def read_llama3(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer. Without the marker, JSON is a call only at the beginning and
    if it names one of `tools`."""
    call = yield from _read_calls(source, 0, tools)
    while (yield from source.read_before((MARKER,), "content")):
        call = yield from _read_calls(source, call, tools)


def _read_calls(source: TextSource, call: int, tools: Mapping[str, Tool]) -> Steps[int]:
    """Reads the marker, if it comes next, and the calls that follow. Returns the next call's
    number."""
    source.start_record()
    yield from source.read_space()
    is_marked = yield from source.accept(MARKER)
    if is_marked:
        yield from source.read_space()
    while (yield from read_json_call(source, call, None if is_marked else tools)):
        call += 1
        source.start_record()
        yield from source.read_space()
        if not (yield from source.accept(";")):
            break
        yield from source.read_space()
    yield Piece("content", source.end_record())
    return call

"""The format of Hermes, Qwen 2.5, Qwen 3 and SmolLM 3:
`<tool_call>{"name": "f", "arguments": {…}}</tool_call>`, an element for each call."""

from __future__ import annotations

from collections.abc import Mapping

from .json_call import read_json_call
from .pieces import Piece
from .text_source import Steps, TextSource
from .tool import Tool

OPEN, CLOSE = "<tool_call>", "</tool_call>"


def read_hermes(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer. Any function's name is taken: the marker says that it is a
    call."""
    call = 0
    while (yield from source.read_before((OPEN,), "content")):
        source.start_record()
        source.take(len(OPEN))
        yield from source.read_space()
        while (yield from read_json_call(source, call, None)):
            call += 1
            source.start_record()
            yield from source.read_space()
        text = source.end_record()
        if text.strip():  # no call, or after one something else
            yield Piece("content", text)
        else:
            yield from source.accept(CLOSE)

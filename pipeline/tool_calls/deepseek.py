"""The formats of DeepSeek V3, R1 and V3.1, between the marks `tool_call_begin` and `tool_call_end`:
`function`, the mark `tool_sep`, `f`, and the arguments as a ```json block; or `f`, the mark and
`{…}`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .json_call import LONGEST_KEY, read_arguments
from .pieces import Piece
from .text_source import Steps, TextSource
from .tool import Tool


def _mark(words: str) -> str:
    """`<|tool_sep|>` with the characters that DeepSeek's tokenizers have for `|` and `_`."""
    bar, space = "\N{FULLWIDTH VERTICAL LINE}", "\N{LOWER ONE EIGHTH BLOCK}"
    return f"<{bar}{words.replace('_', space)}{bar}>"


CALLS_BEGIN, CALLS_END = _mark("tool_calls_begin"), _mark("tool_calls_end")
CALL_BEGIN, CALL_END = _mark("tool_call_begin"), _mark("tool_call_end")
SEPARATOR = _mark("tool_sep")
FENCE = "```json"
MARKERS = (CALLS_BEGIN, CALLS_END, CALL_BEGIN, SEPARATOR, CALL_END)
BEFORE_SEPARATOR, LINE_END = re.compile("<"), re.compile("\n")


def read_deepseek(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer in either format."""
    call = 0
    while marker := (
        yield from source.read_before((CALLS_BEGIN, CALL_BEGIN, CALLS_END), "content")
    ):
        source.start_record()
        source.take(len(marker))
        if marker == CALL_BEGIN:
            is_call = yield from _read_call(source, call)
            call += is_call
            if not is_call:
                yield Piece("content", source.end_record())
        source.end_record()


def _read_call(source: TextSource, call: int) -> Steps[bool]:
    """Reads one call after its marker; False if it is none."""
    name = yield from source.read_until(BEFORE_SEPARATOR, LONGEST_KEY)
    if not (yield from source.accept(SEPARATOR)):
        return False
    is_fenced = name.strip() == "function" and not (yield from source.starts_with("{"))
    if is_fenced:
        name = yield from source.read_until(LINE_END, LONGEST_KEY)
        yield from source.read_space()
        yield from source.accept(FENCE)
    yield from source.read_space()
    if not name.strip() or not (yield from source.starts_with("{")):
        return False
    yield Piece("call", name.strip(), call)
    yield from read_arguments(source, call)
    yield from source.read_space()
    if is_fenced:
        yield from source.accept("```")
        yield from source.read_space()
    yield from source.accept(CALL_END)
    return True

"""The format of Llama 3.2 and 4 with functions in Python's syntax: `[f(a=1), g(b="x")]`, as the
whole answer or after a marker."""

from __future__ import annotations

import re
from collections.abc import Mapping

from .json_call import LONGEST_KEY
from .pieces import Piece
from .python_literal import parse_arguments
from .text_source import Steps, TextSource
from .tool import Tool

OPENINGS = ("<|python_tag|>", "<|python_start|>", "<|tool_call_start|>")
CLOSINGS = ("<|python_end|>", "<|tool_call_end|>")
AFTER_NAME = re.compile(r"[^\w.:/-]")


def read_pythonic(source: TextSource, tools: Mapping[str, Tool]) -> Steps[None]:
    """Yields the pieces of an answer. A list of calls is one only at the beginning or after a
    marker, and if it names one of `tools`. A call's arguments come as one piece."""
    call = yield from _read_calls(source, 0, tools)
    while (yield from source.read_before(OPENINGS, "content")):
        call = yield from _read_calls(source, call, tools)


def _read_calls(source: TextSource, call: int, tools: Mapping[str, Tool]) -> Steps[int]:
    """Reads a marker, if one comes next, and the calls that follow. Returns the next call's
    number."""
    first = call
    source.start_record()
    yield from source.read_space()
    for opening in OPENINGS:
        yield from source.accept(opening)
    yield from source.read_space()
    if (yield from source.accept("[")):
        yield from source.read_space()
        while (yield from _read_call(source, call, tools)):
            call += 1
            source.start_record()
            yield from source.read_space()
            if not (yield from source.accept(",")):
                break
            yield from source.read_space()
        if call > first and (yield from source.accept("]")):
            source.start_record()
            for closing in CLOSINGS:
                yield from source.accept(closing)
            source.start_record()
    yield Piece("content", source.end_record())
    return call


def _read_call(source: TextSource, call: int, tools: Mapping[str, Tool]) -> Steps[bool]:
    name = yield from source.read_until(AFTER_NAME, LONGEST_KEY)
    if name not in tools or not (yield from source.starts_with("(")):
        return False
    try:
        arguments = parse_arguments((yield from _read_parentheses(source)))
    except ValueError:
        return False
    yield Piece("call", name, call)
    yield Piece("arguments", arguments, call)
    return True


def _read_parentheses(source: TextSource) -> Steps[str]:
    """Reads up to the parenthesis that closes the first one."""
    found, depth, quote, is_escaped = [], 0, "", False
    while (yield from source.await_text()):
        for end, letter in enumerate(source.rest, start=1):
            if is_escaped:
                is_escaped = False
            elif quote:
                is_escaped = letter == "\\"
                quote = "" if letter == quote else quote
            elif letter in "\"'":
                quote = letter
            elif letter in "([{":
                depth += 1
            elif letter in ")]}":
                depth -= 1
                if depth == 0:
                    found.append(source.take(end))
                    return "".join(found)
        found.append(source.take(len(source.rest)))
    return "".join(found)

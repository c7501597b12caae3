"""Writes any text to standard output and error in any encoding (a latin-1 or ASCII locale, a cp1252
pipe, `PYTHONIOENCODING`), and none that commands a terminal.

Characters that the encoding lacks are written in ASCII: drawing by `ASCII_DRAWING`, others as
backslash escapes, so that different names stay different. So are characters that control a terminal
or the direction of writing (`visible`), which names, prompts, answers and log lines may hold.
"""

from __future__ import annotations

import codecs
import io
import re
import sys
from collections.abc import Mapping
from typing import TextIO

from .ascii_drawing import ASCII_DRAWING

UTF8_OUTPUT: Mapping[str, str] = {"PYTHONIOENCODING": "utf-8"}
"""Environment of a child whose output is read as UTF-8, e.g. logs."""
COMMANDING = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters, line ends, overrides of the writing direction, lone surrogates."""
_OWN_SEQUENCES = re.compile(r"\x1b\[(?:[0-9;]*[ABCDGJKm]|\?25[lh])")
"""What rich and tqdm write to a terminal: styles, moves of the cursor, erasure of lines."""
_CONTROLS = re.compile(r"[\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
"""Characters of `COMMANDING` that JSON leaves as they are."""
_LINE_ENDS = re.compile(r"([\r\n])")
_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")
_HANDLER = "loraconsole-text"


class TerminalOutput(io.TextIOWrapper):
    """Text for a terminal: what commands it is written as escapes, except for line ends, tabs and
    what rich and tqdm write."""

    def write(self, text: str) -> int:
        if COMMANDING.search(text):
            super().write(_escape_foreign(text))
        else:
            super().write(text)
        return len(text)


def write_any_text() -> None:
    """Makes standard output and error replace characters that their encoding lacks and, on a
    terminal, those that would command it."""
    codecs.register_error(_HANDLER, _in_ascii)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):
            continue
        stream.reconfigure(errors=_HANDLER)
        if stream.isatty() and not isinstance(stream, TerminalOutput):
            stream.flush()
            terminal = TerminalOutput(
                stream.buffer, stream.encoding, _HANDLER, line_buffering=True, write_through=True
            )
            setattr(sys, name, terminal)


def _escape_foreign(text: str) -> str:
    """`visible` line by line, with the sequences of rich and tqdm kept."""
    found, at = [], 0
    for own in (*_OWN_SEQUENCES.finditer(text), None):
        part = text[at : own.start() if own else None]
        found += [piece if piece in "\r\n" else visible(piece) for piece in _LINE_ENDS.split(part)]
        if own:
            found.append(own[0])
            at = own.end()
    return "".join(found)


def visible(text: str) -> str:
    r"""The text with escapes (`\x1b`) for characters that control a terminal or the direction of
    writing, so that different texts look different. Tabs are widened."""
    if text.isprintable():
        return text
    return COMMANDING.sub(lambda found: escape(found[0]), text.replace("\t", "    "))


def is_utf8(stream: TextIO) -> bool:
    """Whether every character can be written. A stream without an encoding keeps text as it is."""
    encoding = getattr(stream, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def json_text(encoded: bytes) -> str:
    """A JSON document for standard output. If that is UTF-8, only control characters are escaped;
    else all beyond ASCII, since readers of JSON expect UTF-8 and JSON's own escapes."""
    escaped = _CONTROLS if is_utf8(sys.stdout) else _BEYOND_ASCII
    return escaped.sub(_json_escape, encoded.decode())


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")  # a character beyond 16 bits is two escapes
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """Error handler for `codecs.register_error`: the replacement, and the position after it."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII_DRAWING.get(letter) or escape(letter) for letter in lacking), error.end


def escape(letter: str) -> str:
    r"""Python's ASCII escape: `\x1b`, `\u540d`, `\U0001f50e`."""
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""Any text on standard output and error, whatever their encoding (a latin-1 or ASCII locale, a
cp1252 pipe, `PYTHONIOENCODING`).

What the encoding lacks is written in ASCII: drawing by `ASCII_DRAWING`, other characters as
backslash escapes, which keep two names apart. Knows no terminal.
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
"""Environment of a child whose output is read as UTF-8: logs, and what the console shows."""
_CONTROLS = re.compile(r"[\x7f-\x9f]")
"""Control characters that JSON leaves as they are."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")
_HANDLER = "loraconsole-text"


def write_any_text() -> None:
    """Lets standard output and error take any character: what their encoding lacks is replaced."""
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


def is_utf8(stream: TextIO) -> bool:
    """Whether everything can be written to it. A stream without an encoding keeps text as it is."""
    encoding = getattr(stream, "encoding", None)
    return encoding is None or codecs.lookup(encoding).name == "utf-8"


def json_text(encoded: bytes) -> str:
    """A JSON document for standard output: as it is where that is UTF-8, but for what commands a
    terminal; else in ASCII alone, since readers of JSON take it for UTF-8 and know no other escapes
    than JSON's."""
    escaped = _CONTROLS if is_utf8(sys.stdout) else _BEYOND_ASCII
    return escaped.sub(_json_escape, encoded.decode())


def _json_escape(match: re.Match[str]) -> str:
    units = match[0].encode("utf-16-be")  # a character beyond 16 bits is two escapes
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))


def _in_ascii(error: UnicodeError) -> tuple[str, int]:
    """For `codecs.register_error`: what is written for the characters it names."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(ASCII_DRAWING.get(letter) or escape(letter) for letter in lacking), error.end


def escape(letter: str) -> str:
    r"""`\x1b`, `\u540d`, `\U0001f50e`: as Python writes it in ASCII."""
    code = ord(letter)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"

"""Writes any text to standard output and error in any encoding (a latin-1 or ASCII locale, a cp1252
pipe, `PYTHONIOENCODING`).

Characters that the encoding lacks are written in ASCII: drawing by `ASCII_DRAWING`, others as
backslash escapes, so that different names stay different. Knows no terminal.
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
_CONTROLS = re.compile(r"[\x7f-\x9f]")
"""Control characters that JSON leaves as they are."""
_BEYOND_ASCII = re.compile(r"[^\x00-\x7e]")
_HANDLER = "loraconsole-text"


def write_any_text() -> None:
    """Makes standard output and error replace characters that their encoding lacks."""
    codecs.register_error(_HANDLER, _in_ascii)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=_HANDLER)


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

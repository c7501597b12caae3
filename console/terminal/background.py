"""`BackgroundReader`: finds the terminal's reply about its background among the keys.

The question (OSC 11) is sent when the console takes the terminal. Nothing waits for the reply, so a
terminal that never replies costs nothing.
"""

from __future__ import annotations

import codecs
import re
import time
from collections.abc import Callable

from textual.app import App

BACKGROUND_QUESTION = "\x1b]11;?\x07"
REPLY_SECONDS = 3.0
"""After this long the reader only decodes: `\\x1b]` is then a key (alt+])."""
_REPLY = re.compile(
    r"\x1b\]11;rgba?:([0-9a-f]{1,4})/([0-9a-f]{1,4})/([0-9a-f]{1,4})[^\x07\x1b]*(?:\x07|\x1b\\)",
    re.IGNORECASE,
)
_BEGIN = re.compile(r"\x1b\](?:1(?:1(?:;[^\x07\x1b]{0,32}\x1b?)?)?)?$")
"""The begin of a reply at the end of what has arrived; an escape alone is a key."""


class BackgroundApp(App[str]):
    """An app that can be interested in the terminal's background."""

    asks_background = False
    """Whether the terminal is asked at the start whether its background is light."""

    def background_found(self, is_light: bool) -> None:
        """Called with the terminal's reply; never, if it does not reply."""


class BackgroundReader:
    """Decodes the terminal's input, with the reply taken out. It is an incremental decoder."""

    def __init__(self, decoder: codecs.IncrementalDecoder, found: Callable[[bool], object]) -> None:
        """`found` is called once, with whether the background is light."""
        self._decoder, self._found = decoder, found
        self._until = time.monotonic() + REPLY_SECONDS
        self._held = ""

    def decode(self, data: bytes, final: bool = False) -> str:
        """The keys in `data`; the begin of a reply is held until its end arrives."""
        text = self._held + self._decoder.decode(data, final)
        self._held = ""
        if not self._until:
            return text
        if reply := _REPLY.search(text):
            self._until = 0.0
            self._found(is_light(*reply.groups()))
            return text[: reply.start()] + text[reply.end() :]
        if time.monotonic() > self._until:
            self._until = 0.0
        elif begin := _BEGIN.search(text):
            self._held = begin[0]
            return text[: begin.start()]
        return text


def is_light(red: str, green: str, blue: str) -> bool:
    """Whether a colour of hexadecimal parts, each of one to four digits, is nearer to white than to
    black as the eye sees it."""
    return 0.299 * _share(red) + 0.587 * _share(green) + 0.114 * _share(blue) > 0.5


def _share(digits: str) -> float:
    """`ff` and `ffff` are 1."""
    return int(digits, 16) / int("f" * len(digits), 16)

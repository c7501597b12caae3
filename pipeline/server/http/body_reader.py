"""`read_body`: a request's body, checked as it comes: its size, and the shape of its JSON.

Knows no field. What would be costly to decode is refused before it is decoded.
"""

from __future__ import annotations

import itertools
import re
from array import array

from starlette.requests import Request as HttpRequest

from .bad_request import BadRequest
from .request_limits import BODY_BYTES_OF_ALL, MOST_DEPTH, MOST_DIGITS, MOST_VALUES

STEPS = bytes.maketrans(b"[{]}", b"\x01\x01\xff\xff")
"""Brackets to what they do to the depth, as signed bytes."""
NO_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
LONG_NUMBER = re.compile(rb"[-+.0-9eE]{%d}" % (MOST_DIGITS + 1))


class BodyReader:
    """Reads bodies, and counts the bytes of those that are being received."""

    def __init__(self, most_bytes: int) -> None:
        """`most_bytes` of one body."""
        self._most_bytes = most_bytes
        self.num_bytes = 0
        """Of all bodies that are being received now."""

    async def read(self, request: HttpRequest) -> bytes:
        """The whole body. Raises `BadRequest`: 413 if it is too long, 503 if bodies of others take
        all the room, 400 if its JSON is too deep or has too many values."""
        if _declared(request) > self._most_bytes:
            raise self._too_long()
        body, shape = bytearray(), JsonShape()
        try:
            async for part in request.stream():
                body += part
                self.num_bytes += len(part)
                if len(body) > self._most_bytes:
                    raise self._too_long()
                if self.num_bytes > BODY_BYTES_OF_ALL:
                    raise BadRequest("overloaded: too many long bodies at once", status=503)
                shape.follow(part)
        finally:
            self.num_bytes -= len(body)
        return bytes(body)

    def _too_long(self) -> BadRequest:
        return BadRequest(
            f"the body exceeds {self._most_bytes >> 20} MiB; see --max-body-mib", status=413
        )


def _declared(request: HttpRequest) -> int:
    """The body's length by its header; 0 if that is absent. The HTTP parser has checked it."""
    return int(request.headers.get("content-length") or 0)


class JsonShape:
    """Follows a JSON text part by part, and refuses one that is costly to decode: nested deeply,
    with very many values, or with a very long number. It does not check that the text is JSON."""

    def __init__(self) -> None:
        self._depth = self._values = 0
        self._is_in_string = False
        self._half_escape = b""

    def follow(self, part: bytes) -> None:
        """Takes the next part. Raises `BadRequest`."""
        # Without escaped backslashes and quotes, each quote begins or ends a string. No loop: a
        # body of a million strings must not take a second.
        data = (self._half_escape + part).replace(b"\\\\", b"").replace(b'\\"', b"")
        self._half_escape = b"\\" if data.endswith(b"\\") else b""
        pieces = data.split(b'"')
        self._follow_structure(b"".join(pieces[self._is_in_string :: 2]))
        if len(pieces) % 2 == 0:
            self._is_in_string = not self._is_in_string

    def _follow_structure(self, text: bytes) -> None:
        """What is outside of strings."""
        self._values += text.count(b",") + text.count(b"[") + text.count(b"{")
        if self._values > MOST_VALUES:
            raise BadRequest(f"the body has more than {MOST_VALUES} values")
        steps = array("b", text.translate(STEPS, NO_BRACKETS))
        if max(itertools.accumulate(steps, initial=self._depth)) > MOST_DEPTH:
            raise BadRequest(
                f"the body is nested too deeply: at most {MOST_DEPTH} lists and objects inside one "
                "another are allowed"
            )
        self._depth += sum(steps)
        if len(text) > MOST_DIGITS and LONG_NUMBER.search(text):
            raise BadRequest(f"the body has a number of more than {MOST_DIGITS} characters")

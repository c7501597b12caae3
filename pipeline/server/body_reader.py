"""`read_body`: a request's body, checked as it comes: its size, and the shape of its JSON.

Knows no field. What would be costly to decode is refused before it is decoded.
"""

from __future__ import annotations

import re

from starlette.requests import Request as HttpRequest

from .bad_request import BadRequest
from .request_limits import BODY_BYTES_OF_ALL, MOST_DEPTH, MOST_DIGITS, MOST_VALUES

IN_STRING = re.compile(rb'(?:[^"\\]++|\\.)*+', re.DOTALL)
"""The inside of a JSON string, up to its end or to half an escape."""
BRACKETS = re.compile(rb"[\[\]{}]")
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
        data = self._half_escape + part
        self._half_escape = b""
        at, end = 0, len(data)
        while at < end:
            if self._is_in_string:
                match = IN_STRING.match(data, at)
                assert match is not None  # it matches the empty string too
                at = match.end()
                if data[at : at + 1] == b"\\":  # the last byte: its escape is in the next part
                    self._half_escape = b"\\"
                    return
                if at < end:
                    self._is_in_string = False
                    at += 1
            else:
                quote = data.find(b'"', at)
                self._follow_structure(data[at : end if quote < 0 else quote])
                if quote < 0:
                    return
                self._is_in_string = True
                at = quote + 1

    def _follow_structure(self, text: bytes) -> None:
        """A piece outside of strings."""
        self._values += text.count(b",") + text.count(b"[") + text.count(b"{")
        if self._values > MOST_VALUES:
            raise BadRequest(f"the body has more than {MOST_VALUES} values")
        for bracket in BRACKETS.findall(text):
            if bracket in b"[{":
                self._depth += 1
                if self._depth > MOST_DEPTH:
                    raise BadRequest(
                        f"the body is nested too deeply: at most {MOST_DEPTH} lists and objects "
                        "inside one another are allowed"
                    )
            else:
                self._depth -= 1
        if len(text) > MOST_DIGITS and LONG_NUMBER.search(text):
            raise BadRequest(f"the body has a number of more than {MOST_DIGITS} characters")

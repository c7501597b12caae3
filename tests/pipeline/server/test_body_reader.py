"""A body's size and shape are checked while it comes, however it is cut into parts."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from loraconsole.pipeline.server.http import body_reader
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.server.http.body_reader import BodyReader, JsonShape
from loraconsole.pipeline.server.http.request_limits import MOST_DEPTH, MOST_DIGITS

LEAVES = st.none() | st.booleans() | st.integers() | st.text(alphabet='a[]{}",:\\é', max_size=8)
JSON = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text('a"\\[', max_size=3), inner)
    ),
    max_leaves=20,
)


def follow(data: bytes, size: int) -> JsonShape:
    shape = JsonShape()
    for at in range(0, len(data), size):
        shape.follow(data[at : at + size])
    return shape


def depth_of(value: Any) -> int:
    if isinstance(value, dict):
        return 1 + max(map(depth_of, value.values()), default=0)
    return 1 + max(map(depth_of, value), default=0) if isinstance(value, list) else 0


@given(value=JSON, size=st.integers(1, 9), ascii_only=st.booleans())
def test_the_depth_is_that_of_the_value_however_it_is_cut(
    value: Any, size: int, ascii_only: bool
) -> None:
    data = json.dumps(value, ensure_ascii=ascii_only).encode()
    depth = depth_of(value)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(body_reader, "MOST_DEPTH", depth)
        follow(data, size)
        if depth:
            patch.setattr(body_reader, "MOST_DEPTH", depth - 1)
            with pytest.raises(BadRequest, match="nested too deeply"):
                follow(data, size)


@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_what_is_costly_to_decode_is_refused(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "MOST_VALUES", 100)
    for refused, reason in (
        (b'{"x":' + b"[" * (MOST_DEPTH + 1), "nested too deeply"),
        (b'{"x":[' + b"0," * 120, "more than 100 values"),
        (b'{"x":[' + b"{}," * 120, "more than 100 values"),
    ):
        with pytest.raises(BadRequest, match=reason):
            follow(refused, size)
    follow(b'{"x":"' + b"[,{" * 120 + b'"}', size)


def test_a_very_long_number_is_refused() -> None:
    with pytest.raises(BadRequest, match="a number of more than"):
        follow(b'{"seed":1' + b"0" * MOST_DIGITS, 1 << 20)
    follow(b'{"seed":"1' + b"0" * MOST_DIGITS + b'"}', 1 << 20)


class Body:
    """A request whose body comes in parts; `taken` of them were read."""

    def __init__(self, *parts: bytes, declared: int | None = None) -> None:
        self._parts = parts
        self.taken = 0
        headers = [(b"content-length", b"%d" % declared)] if declared is not None else []
        self.request = Request({"type": "http", "headers": headers}, self.receive)

    async def receive(self) -> dict[str, Any]:
        self.taken += 1
        is_last = self.taken == len(self._parts)
        body = self._parts[self.taken - 1]
        return {"type": "http.request", "body": body, "more_body": not is_last}


def read(reader: BodyReader, body: Body) -> bytes:
    return asyncio.run(reader.read(body.request))


def test_a_body_is_read_whole_and_not_counted_afterwards() -> None:
    reader = BodyReader(10)
    assert read(reader, Body(b'{"a":', b'"b"}')) == b'{"a":"b"}'
    assert reader.num_bytes == 0


def test_a_body_that_is_declared_too_long_is_refused_before_it_is_read() -> None:
    body = Body(b"{}", declared=11)
    with pytest.raises(BadRequest) as refused:
        read(BodyReader(10), body)
    assert refused.value.status == 413
    assert body.taken == 0


def test_a_body_that_grows_too_long_is_refused_at_once() -> None:
    reader, body = BodyReader(10), Body(b" " * 8, b" " * 8, b" " * 8)
    with pytest.raises(BadRequest) as refused:
        read(reader, body)
    assert refused.value.status == 413
    assert (body.taken, reader.num_bytes) == (2, 0)


def test_bodies_that_come_at_once_share_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_reader, "BODY_BYTES_OF_ALL", 15)
    reader = BodyReader(10)
    reader.num_bytes = 10  # of another one
    with pytest.raises(BadRequest) as refused:
        read(reader, Body(b" " * 6))
    assert refused.value.status == 503
    assert read(reader, Body(b" " * 5)) == b" " * 5

"""Who may use a route: keys compared, counted and reported; what a server leaves open."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.requests import Request as HttpRequest

from loraconsole.pipeline.config import Config, is_loopback
from loraconsole.pipeline.server.http.access import Access, exposure, owner_of
from loraconsole.pipeline.server.http.bad_request import BadRequest

LONG = "0123456789abcdef"


def request(authorization: bytes | None = None, **headers: str) -> HttpRequest:
    found = [(name.encode(), value.encode()) for name, value in headers.items()]
    if authorization is not None:
        found.append((b"authorization", authorization))
    return HttpRequest({"type": "http", "headers": found, "client": ("10.0.0.5", 4711)})


def access(reported: list[str] | None = None, **settings: str) -> Access:
    reported = [] if reported is None else reported
    return Access(Config(**settings), lambda level, text: reported.append(f"{level}: {text}"))  # type: ignore[arg-type]


def status(check: Callable[[HttpRequest], None], asked: HttpRequest) -> int:
    try:
        check(asked)
    except BadRequest as error:
        return error.status
    return 200


@pytest.mark.parametrize(
    ("settings", "user", "operator"),
    [
        ({}, (200, 200, 200), (200, 200, 200)),
        ({"host": "127.8.8.8"}, (200, 200, 200), (200, 200, 200)),
        ({"host": "0.0.0.0"}, (200, 200, 200), (403, 403, 403)),
        ({"api_key": "user"}, (401, 200, 401), (403, 403, 403)),
        ({"admin_key": "admin"}, (200, 200, 200), (401, 401, 200)),
        ({"api_key": "user", "admin_key": "admin"}, (401, 200, 200), (401, 401, 200)),
        ({"host": "0.0.0.0", "admin_key": "admin"}, (200, 200, 200), (401, 401, 200)),
    ],
)
def test_each_key_opens_its_routes(
    settings: dict[str, str], user: tuple[int, ...], operator: tuple[int, ...]
) -> None:
    """Without a key, with a user's, and with an operator's."""
    found = access(**settings)
    asked = [request(), request(b"Bearer user"), request(b"Bearer admin")]
    assert tuple(status(found.check_user, each) for each in asked) == user
    assert tuple(status(found.check_operator, each) for each in asked) == operator


def test_anthropics_header_has_a_key_too() -> None:
    found = access(api_key="user")
    assert status(found.check_user, request(**{"x-api-key": "user"})) == 200
    assert status(found.check_user, request(**{"x-api-key": "other"})) == 401
    assert status(found.check_user, request(b"Bearer other", **{"x-api-key": "user"})) == 401
    assert owner_of(request(**{"x-api-key": "user"})) == owner_of(request(b"Bearer user"))


@pytest.mark.parametrize(
    ("authorization", "is_right"),
    [
        (b"Bearer \xc3\xb6ffne", True),
        (b"bearer \xc3\xb6ffne", True),
        (b"BEARER  \xc3\xb6ffne ", True),
        (b"\xc3\xb6ffne", True),  # as some clients send it
        (b"Bearer \xf6ffne", False),  # latin-1
        (b"Basic \xc3\xb6ffne", False),
        (b"Bearer \xc3\xb6ffn", False),
        (b"Bearer \xc3\xb6ffnee", False),
        (b"Bearer ", False),
        (b"Bearer", False),
        (b"", False),
        (b"Bearer \xff\x00", False),
    ],
)
def test_keys_are_compared_as_bytes(authorization: bytes, is_right: bool) -> None:
    found = access(api_key="öffne")
    assert (status(found.check_user, request(authorization)) == 200) is is_right
    assert found.num_refused == (0 if is_right else 1)


def test_refusals_are_reported_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    reported: list[str] = []
    found = access(reported, api_key="user")
    for _ in range(3):
        status(found.check_user, request(b"Bearer guess"))
    assert reported == [
        "warning: refused a request with a wrong or missing key, the last from 10.0.0.5"
    ]
    now += 61
    status(found.check_user, request(b"Bearer guess"))
    assert reported[1:] == [
        "warning: refused 3 requests with a wrong or missing key, the last from 10.0.0.5"
    ]
    assert found.num_refused == 4
    assert not any("guess" in text for text in reported)


def test_what_a_server_beyond_loopback_leaves_open_is_said() -> None:
    assert exposure(Config()) == exposure(Config(host="localhost", api_key="a")) == ""
    assert "--api-key limits them" in exposure(Config(host="0.0.0.0"))
    assert "--api-key can be guessed" in exposure(Config(host="::", api_key="a"))
    found = exposure(Config(host="10.1.1.1", api_key="a", admin_key="b"))
    assert found.startswith("--api-key and --admin-key can")
    assert exposure(Config(host="10.1.1.1", api_key=LONG, admin_key=LONG)) == ""


@pytest.mark.parametrize("host", ["127.0.0.1", "127.3.2.1", "::1", "localhost"])
def test_loopback_is_known_in_every_spelling(host: str) -> None:
    assert is_loopback(host)
    assert not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1", "box", "localhost.example")))

"""The table of routes in docs/security.md: it is complete, and each row is what a server does."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring import Ring, tiny_model
from starlette.routing import Route

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.runtime.process import Process
from loraconsole.pipeline.server.gateway.gateway import Gateway
from loraconsole.pipeline.server.routes.app import make_app

pytestmark = pytest.mark.processes

PAGE = Path(__file__).parents[3] / "docs" / "security.md"
CELLS = re.compile(
    r"^\| (`(?:GET|PUT|POST|DELETE) .*?) \| (.*?) \| (.*?) \| (.*?) \| (.*?) \|$", re.M
)
Row = tuple[str, str, tuple[str, ...]]


def rows() -> list[Row]:
    """(method, path, who may) of each route in the table."""
    return [
        (method, path, tuple(who))
        for routes, *who in CELLS.findall(PAGE.read_text())
        for method, path in re.findall(r"`(\w+) (/[^`]*)`", routes)
    ]


async def served(run: Path) -> set[tuple[str, str]]:
    """Method and path of every route of the server."""
    process = Process(Config(run=str(make_run_directory(run))), "server")
    app = make_app(Gateway(process))
    process.close()
    found = set()
    for route in app.routes:
        assert isinstance(route, Route)
        path = route.path.replace(":path}", "}")
        found |= {(method, path) for method in (route.methods or ()) if method != "HEAD"}
    return found


def test_the_table_has_every_route(tmp_path: Path) -> None:
    listed = [(method, path) for method, path, _ in rows()]
    assert len(listed) == len(set(listed))
    assert set(listed) == asyncio.run(served(tmp_path / "run"))


@pytest.fixture(scope="module")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    options = ("--dummy", "--model", str(model), "--api-key", "user", "--admin-key", "operator")
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        yield ring


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    with Ring(tmp_path_factory.mktemp("r"), "--dummy", "--model", str(model)) as ring:
        yield ring


def is_let_in(ring: Ring, method: str, path: str, **headers: str) -> bool:
    """Whether the route itself answers, if only that there is no such adapter."""
    url = path.replace("{name}", "absent").replace("{id}", "absent")
    body = None if method == "GET" else {"nothing": 1}
    response = ring.http.request(method, url, json=body, headers=headers)
    assert response.status_code not in (405, 500), response.text
    return response.status_code not in (401, 403)


@pytest.mark.parametrize(("method", "path", "who"), rows())
def test_a_row_says_who_may(keyed: Ring, keyless: Ring, method: str, path: str, who: str) -> None:
    user, operator, without_keys, page = (words != "no" for words in who)
    is_free = "needs none" in who
    assert is_let_in(keyed, method, path) is is_free
    assert is_let_in(keyed, method, path, authorization="Bearer wrong") is is_free
    assert is_let_in(keyed, method, path, authorization="Bearer user") is user
    assert is_let_in(keyed, method, path, authorization="Bearer operator") is operator
    assert is_let_in(keyless, method, path) is without_keys
    assert is_let_in(keyless, method, path, origin="http://127.0.0.1:9") is page

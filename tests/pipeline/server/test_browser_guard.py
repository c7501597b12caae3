"""Pages in a browser: a real server gets the requests that a browser would send for them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ring import Ring, tiny_model

pytestmark = pytest.mark.processes

EVIL = "https://evil.example"
FRIEND = "https://chat.example.com"
PAGE = {"origin": EVIL, "sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
FORM = {"content-type": "application/x-www-form-urlencoded"}
PLAIN = {"content-type": "text/plain;charset=UTF-8"}
ORDERS = (
    *(("POST", "/v1/adapters"), ("POST", "/v1/adapters/plan"), ("POST", "/v1/adapters/x/reload")),
    *(("POST", "/v1/adapters/x/pin"), ("DELETE", "/v1/adapters/x/pin")),
    *(("POST", "/v1/adapters/x/merge"), ("DELETE", "/v1/adapters/x/merge")),
    *(("POST", "/v1/adapters/x/verify"), ("DELETE", "/v1/adapters/x"), ("PUT", "/v1/scheduler")),
    *(("POST", "/v1/load_lora_adapter"), ("POST", "/v1/unload_lora_adapter")),
    *(("POST", "/profiler/start"), ("POST", "/profiler/stop")),
)
"""Routes that change something; without keys programs on this machine may use them."""
USES = (
    *(("POST", "/v1/completions"), ("POST", "/v1/chat/completions"), ("POST", "/generate")),
    *(("POST", "/generate_stream"), ("GET", "/v1/models"), ("GET", "/v1/adapters")),
    *(("GET", "/v1/scheduler"), ("GET", "/health"), ("GET", "/metrics")),
)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def ring(tiny: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """Without any key."""
    with Ring(
        tmp_path_factory.mktemp("r"),
        *("--dummy", "--model", tiny, "--allow-host", "Llm.Example.com", "--allow-origin", FRIEND),
    ) as ring:
        yield ring


def refusal(response: httpx.Response, status: int) -> str:
    """The reason of a refusal in the format of all errors."""
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert error["code"] == status and error["type"] == "invalid_request_error"
    return str(error["message"])


def scheduler_state(ring: Ring) -> object:
    return ring.http.get("/v1/scheduler").json()


@pytest.mark.parametrize(("method", "path"), [*ORDERS, *USES])
def test_a_page_of_another_site_may_use_no_route(ring: Ring, method: str, path: str) -> None:
    body = b"" if method == "GET" else b'{"policy": "lifo"}'
    for kind in (PLAIN, FORM, {"content-type": "application/json"}):
        response = ring.http.request(method, path, content=body, headers=PAGE | kind)
        assert "--allow-origin https://evil.example" in refusal(response, 403)
    no_origin = {"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}
    response = ring.http.request(method, path, headers=no_origin)
    assert "Sec-Fetch-Site: same-site" in refusal(response, 403)
    sandboxed = ring.http.request(method, path, headers={"origin": "null"})
    assert "a page without an origin" in refusal(sandboxed, 403)


@pytest.mark.parametrize(("method", "path"), [*ORDERS, *USES])
def test_a_name_that_an_attacker_gave_this_machine_is_refused(
    ring: Ring, method: str, path: str
) -> None:
    for host in ("evil.example:8000", "evil.example", "localhost.evil.example", "127.0.0.1.nip.io"):
        same = {"host": host, "origin": f"http://{host}", "sec-fetch-site": "same-origin"}
        response = ring.http.request(method, path, headers=same)
        assert f"--allow-host {host.partition(':')[0]}" in refusal(response, 421)


def test_nothing_of_it_reached_the_pipeline(ring: Ring) -> None:
    before = scheduler_state(ring)
    for headers in (PAGE, {"host": "evil.example"}, PLAIN):
        for policy in ("lifo", "vtc_fair"):
            body = b'{"policy": "%s"}' % policy.encode()
            response = ring.http.put("/v1/scheduler", content=body, headers=headers)
            assert response.status_code in (403, 415, 421)
    assert scheduler_state(ring) == before


@pytest.mark.parametrize(("method", "path"), ORDERS)
def test_a_body_that_a_form_can_send_is_refused(ring: Ring, method: str, path: str) -> None:
    for headers in (PLAIN, FORM, {"content-type": "multipart/form-data; boundary=x"}, {}):
        response = ring.http.request(method, path, content=b"{}", headers=headers)
        assert "Content-Type: application/json" in refusal(response, 415)
    empty_form = ring.http.request(method, path, headers=FORM)
    assert "application/x-www-form-urlencoded" in refusal(empty_form, 415)


def test_programs_go_on_as_before(ring: Ring) -> None:
    port = httpx.URL(ring.url).port
    body = {"prompt": [1, 2], "max_tokens": 2}
    for host in ("localhost", f"127.0.0.1:{port}", "127.0.0.1:9", "[::1]:80", "LLM.example.com"):
        response = ring.http.post("/v1/completions", json=body, headers={"host": host})
        assert response.status_code == 200, response.text
    charset = {"content-type": "Application/JSON; charset=utf-8"}
    response = ring.http.put("/v1/scheduler", content=b'{"policy": "fcfs"}', headers=charset)
    assert response.status_code == 200
    assert ring.http.post("/profiler/stop").status_code == 200  # without a body
    node = {"sec-fetch-mode": "cors"}  # fetch of Node.js, without origin and site
    assert ring.http.post("/v1/completions", json=body, headers=node).status_code == 200
    for site in ("none", "same-origin"):
        assert ring.http.get("/v1/models", headers={"sec-fetch-site": site}).status_code == 200


def test_a_link_may_lead_here_but_no_frame(ring: Ring) -> None:
    visit = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    for kind, status in (("document", 200), ("iframe", 403)):
        response = ring.http.get("/metrics", headers=visit | {"sec-fetch-dest": kind})
        assert response.status_code == status
    response = ring.http.post("/profiler/stop", headers=visit | {"sec-fetch-dest": "document"})
    assert response.status_code == 403  # a form that is sent by a page is no visit


def test_answers_cannot_be_used_as_scripts_or_images(ring: Ring) -> None:
    for path in ("/health", "/v1/models", "/absent"):
        headers = ring.http.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert "access-control-allow-origin" not in headers


def test_an_allowed_page_may_use_users_routes(ring: Ring) -> None:
    page = {"origin": FRIEND, "sec-fetch-site": "cross-site", "sec-fetch-mode": "cors"}
    asked = {"access-control-request-method": "POST"}
    asked |= {"access-control-request-headers": "authorization,content-type"}
    permission = ring.http.options("/v1/completions", headers=page | asked)
    assert permission.status_code == 200
    assert permission.headers["access-control-allow-origin"] == FRIEND
    body = {"prompt": [1, 2], "max_tokens": 2}
    answer = ring.http.post("/v1/completions", json=body, headers=page)
    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == FRIEND
    evil = ring.http.options("/v1/completions", headers=PAGE | asked)
    assert "evil.example" in refusal(evil, 403)


@pytest.mark.parametrize(("method", "path"), ORDERS)
def test_routes_without_a_key_are_not_for_an_allowed_page(
    ring: Ring, method: str, path: str
) -> None:
    page = {"origin": FRIEND, "sec-fetch-site": "cross-site"}
    response = ring.http.request(method, path, json={}, headers=page)
    assert "start the pipeline with --admin-key" in refusal(response, 403)


def test_a_request_of_an_old_program_needs_no_host(ring: Ring) -> None:
    url = httpx.URL(ring.url)
    with socket.create_connection((url.host, url.port or 80), timeout=10) as connection:
        connection.sendall(b"GET /health HTTP/1.0\r\n\r\n")
        assert b" 200 " in connection.recv(4096)


def test_an_allowed_page_with_the_admin_key_may_give_orders(tiny: str, tmp_path: Path) -> None:
    with Ring(
        tmp_path / "r",
        *("--dummy", "--model", tiny, "--admin-key", "operator", "--allow-origin", FRIEND),
        *("--allow-host", "*"),
    ) as ring:
        page = {"origin": FRIEND, "host": "any.example"}
        body = {"policy": "lifo"}
        response = ring.http.put("/v1/scheduler", json=body, headers=page)
        assert response.status_code == 401
        assert response.headers["www-authenticate"] == "Bearer"
        page["authorization"] = "bearer operator"
        response = ring.http.put("/v1/scheduler", json=body, headers=page)
        assert response.status_code == 200 and response.json()["scheduler"]["policy"] == "lifo"
        stranger = page | {"origin": EVIL}
        assert "evil.example" in refusal(
            ring.http.put("/v1/scheduler", json=body, headers=stranger), 403
        )

"""A request that comes while the ring mends a death is answered, as if it had come later."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from ring import BASE, Ring
from waiting import wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("r"), "--dtype", "float32") as ring:
        yield ring


@pytest.mark.parametrize("name", ["worker-0", "router", "detokenizer", "server"])
def test_it_waits_for_the_process_that_died(ring: Ring, name: str) -> None:
    expected = ring.answer("pirate", "Tell me about ships.", max_tokens=8)
    before = ring.kill(name)
    if name == "server":  # its connections died with it
        ring.http = httpx.Client(base_url=ring.url, timeout=60, trust_env=False)
    else:
        wait_for(lambda: ring.http.get("/health").status_code == 503)
    assert ring.answer("pirate", "Tell me about ships.", max_tokens=8) == expected
    assert ring.process(name)["pid"] not in (0, before)
    ring.wait_ready()


def test_it_waits_for_none_that_an_operator_stopped(ring: Ring) -> None:
    ring.cli("stop", "worker-0")
    try:
        assert ring.chat(BASE, "hi").status_code == 503
    finally:
        ring.cli("start", "worker-0")
        ring.wait_ready()

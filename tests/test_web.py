"""The console in a browser: who is let in, and what is to be seen there."""

import asyncio
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import httpx
import pytest

from loraconsole.console import web
from loraconsole.console.mock import mock_pipeline
from loraconsole.console.remote import NotRunning
from loraconsole.pipeline.config import Config

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("textual_serve") is None, reason="textual-serve is not installed"
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("chrome")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[str, str]]:
    """The address and the key of a console in the browser, on a mock pipeline."""
    with mock_pipeline(5) as config:
        command = [sys.executable, "-P", "-m", "loraconsole.console", "web", "--run", config.run]
        with subprocess.Popen(
            [*command, "--port", str(free_port())], stdout=subprocess.PIPE, text=True
        ) as process:
            try:
                assert process.stdout is not None
                match = re.match(
                    r"(http://127\.0\.0\.1:\d+)/\?key=(\S+)", process.stdout.readline()
                )
                assert match is not None
                for _ in range(100):
                    with suppress(httpx.HTTPError):
                        httpx.get(match[1], trust_env=False)
                        break
                    time.sleep(0.05)
                yield match[1], match[2]
            finally:
                process.terminate()


def test_only_who_has_the_key_is_let_in(served: tuple[str, str]) -> None:
    url, key = served
    port = url.rpartition(":")[2]
    with httpx.Client(base_url=url, trust_env=False) as client:
        assert client.get("/").status_code == 403
        assert client.get("/ws").status_code == 403
        assert client.get("/", params={"key": "guess"}).status_code == 403
        for header in ({"Host": f"evil.example:{port}"}, {"Origin": "http://evil.example"}):
            assert client.get("/", params={"key": key}, headers=header).status_code == 403
        entered = client.get("/", params={"key": key})
        assert entered.status_code == 302 and entered.headers["location"] == "/"
        assert "HttpOnly" in entered.headers["set-cookie"]
        assert "SameSite=Strict" in entered.headers["set-cookie"]
        page = client.get("/")
        assert page.status_code == 200 and key not in page.text
        assert client.get("/ws", headers={"Origin": "http://evil.example"}).status_code == 403


def test_it_listens_on_loopback_alone(served: tuple[str, str]) -> None:
    port = int(served[0].rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.rpartition(":")[2], 16) == port:
            assert address.startswith("0100007F:")


def test_a_visitor_gets_the_console(served: tuple[str, str]) -> None:
    """Over the websocket, as the page's script speaks it."""
    aiohttp = pytest.importorskip("aiohttp")
    url, key = served

    async def main() -> str:
        seen = b""
        jar = aiohttp.CookieJar(unsafe=True)
        async with aiohttp.ClientSession(cookie_jar=jar) as client:
            await client.get(f"{url}/?key={key}")
            async with client.ws_connect(f"{url}/ws?width=120&height=40") as socket:
                await socket.send_json(["resize", {"width": 120, "height": 40}])
                end = time.monotonic() + 20.0
                while time.monotonic() < end and b"worker-0" not in seen:
                    message = await socket.receive(timeout=20.0)
                    if message.type == aiohttp.WSMsgType.BINARY:
                        seen += message.data
        return seen.decode(errors="replace")

    seen = asyncio.run(main())
    assert "loraconsole" in seen and "worker-0" in seen


def test_no_pipeline_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        web.web(Config(run=str(tmp_path)), free_port())


@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_it(served: tuple[str, str]) -> None:
    """A picture of the page, taken by a real browser; it is not blank."""
    assert CHROMIUM is not None
    url, key = served
    with tempfile.TemporaryDirectory() as directory:
        picture = Path(os.environ.get("LORACONSOLE_PICTURES", directory), "browser.png")
        subprocess.run(
            [
                *(CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu"),
                *("--no-proxy-server", f"--user-data-dir={directory}/profile"),
                *("--window-size=1200,800", "--virtual-time-budget=12000", "--timeout=12000"),
                *(f"--screenshot={picture}", f"{url}/?key={key}"),
            ],
            capture_output=True,
            timeout=90,
            check=True,
        )
        assert picture.stat().st_size > 40_000, "the page is blank"

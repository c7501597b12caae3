"""The console in a browser: who is let in, and what is to be seen there."""

import asyncio
import base64
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

from loraconsole.console.cli import web
from loraconsole.console.client.remote import NotRunning
from loraconsole.console.mock.server import mock_pipeline
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError

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
    with mock_pipeline(5, boots=False) as config:
        command = [sys.executable, "-P", "-m", "loraconsole.console", "web", "--run", config.run]
        with subprocess.Popen(
            [*command, "--port", "0"], stdout=subprocess.PIPE, text=True
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


@pytest.mark.processes
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
        assert "the console starts" in page.text and "{{" not in page.text
        assert 'data-session-websocket-url="ws://127.0.0.1' in page.text
        assert "https://" not in page.text  # nothing from other hosts
        assert client.get("/ws", headers={"Origin": "http://evil.example"}).status_code == 403


@pytest.mark.processes
def test_port_0_is_one_that_is_free_and_told(served: tuple[str, str]) -> None:
    assert int(served[0].rpartition(":")[2]) > 0


def test_a_port_that_is_taken_is_said_so() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OperatorError, match=str(port)):
            web.make_server("true", port, "key")


@pytest.mark.processes
def test_it_listens_on_loopback_alone(served: tuple[str, str]) -> None:
    port = int(served[0].rpartition(":")[2])
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        address, state = line.split()[1], line.split()[3]
        if state == "0A" and int(address.rpartition(":")[2], 16) == port:
            assert address.startswith("0100007F:")


@pytest.mark.processes
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
                end = time.monotonic() + 60.0
                while time.monotonic() < end and b"worker-0" not in seen:
                    message = await socket.receive(timeout=60.0)
                    if message.type == aiohttp.WSMsgType.BINARY:
                        seen += message.data
        return seen.decode(errors="replace")

    seen = asyncio.run(main())
    assert "loraconsole" in seen and "worker-0" in seen


def test_no_pipeline_is_said_so(tmp_path: Path) -> None:
    with pytest.raises(NotRunning):
        web.web(Config(run=str(tmp_path)), free_port())


@pytest.mark.processes
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium on this machine")
def test_a_browser_shows_it_and_takes_keys(served: tuple[str, str]) -> None:
    """Pictures of the page before and after a key; `$LORACONSOLE_PICTURES` keeps them."""
    url, key = served
    with tempfile.TemporaryDirectory() as directory:
        kept = Path(os.environ.get("LORACONSOLE_PICTURES", directory))
        pictures = asyncio.run(_browse(f"{url}/?key={key}", Path(directory, "profile")))
        for name, picture in zip(("overview", "batch"), pictures, strict=True):
            (kept / f"browser-{name}.png").write_bytes(picture)
        assert all(len(picture) > 30_000 for picture in pictures), "the page is blank"
        assert pictures[0] != pictures[1]


async def _browse(address: str, profile: Path) -> list[bytes]:
    """A page in a headless browser, driven over its debugging socket."""
    import aiohttp

    assert CHROMIUM is not None
    flags = ("--headless=new", "--no-sandbox", "--disable-gpu", "--no-proxy-server")
    browser = await asyncio.create_subprocess_exec(
        *(CHROMIUM, *flags, f"--user-data-dir={profile}", "--remote-debugging-port=0"),
        *("--window-size=1280,860", "about:blank"),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        port = profile / "DevToolsActivePort"
        while not (port.exists() and port.read_text()):  # it is there before it is written
            await asyncio.sleep(0.05)
        debugger = f"http://127.0.0.1:{port.read_text().split()[0]}"
        async with aiohttp.ClientSession() as client:
            pages = await (await client.get(f"{debugger}/json/list")).json()
            target = next(page for page in pages if page["type"] == "page")
            async with client.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as page:
                number = 0

                async def order(method: str, **parameters: object) -> dict[str, object]:
                    nonlocal number
                    number += 1
                    call = {"id": number, "method": method, "params": parameters}
                    await page.send_json(call)
                    while (answer := await page.receive_json()).get("id") != number:
                        pass
                    return answer["result"]  # type: ignore[no-any-return]

                async def picture() -> bytes:
                    answer = await order("Page.captureScreenshot")
                    return base64.b64decode(str(answer["data"]))

                async def press(key: str) -> None:
                    code = ord(key.upper())
                    named: dict[str, object] = {"key": key, "windowsVirtualKeyCode": code}
                    await order("Input.dispatchKeyEvent", type="keyDown", text=key, **named)
                    await order("Input.dispatchKeyEvent", type="keyUp", **named)
                    await asyncio.sleep(1.5)

                async def holds(condition: str) -> bool:
                    answer = await order("Runtime.evaluate", expression=condition)
                    return bool(answer["result"]["value"])  # type: ignore[index]

                await order("Page.navigate", url=address)
                await asyncio.sleep(4.0)  # and no click: the page takes the keyboard itself
                pictures = [await picture()]
                await press("2")
                pictures.append(await picture())
                assert not await holds("document.body.classList.contains('-closed')")
                await press("q")
                await press("l")
                assert await holds("document.body.classList.contains('-closed')"), "keys are lost"
                return pictures
    finally:
        browser.kill()
        await browser.wait()


def test_a_textual_serve_in_which_nothing_could_be_refused_is_not_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from textual_serve.server import Server

    monkeypatch.delattr(Server, "_make_app")
    with pytest.raises(OperatorError, match=r"no Server\._make_app, where requests are checked"):
        web.make_server("true", 0, "key")

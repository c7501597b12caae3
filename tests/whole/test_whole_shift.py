"""A whole shift at the console, on a pseudo-terminal, with the real pipeline and the real model."""

import os
import pty
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyte
import pytest
from ring import Ring
from session import Session

pytestmark = pytest.mark.processes

ADAPTERS = Path(__file__).parents[2] / "pipeline" / "adapters"


class DemoScenario(Session):
    """`loraconsole …` with its standard flags, 120 by 40."""

    def __init__(self, *arguments: str) -> None:
        self._answers = True
        self.raw = b""
        self.screen = pyte.Screen(120, 40)
        self._stream = pyte.ByteStream(self.screen)
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(TERM="xterm-256color", COLORTERM="truecolor", COLUMNS="", LINES="")
            command = [sys.executable, "-P", "-m", "loraconsole.console", *arguments]
            os.execv(sys.executable, command)
        self.resize(120, 40)

    def wait_ready(self, seconds: float) -> None:
        """In the status line: the picture of the ring has the word for each process."""
        end = time.monotonic() + seconds
        while " READY " not in self.screen.display[0]:
            assert time.monotonic() < end, self.text
            self.read(0.1)

    def type(self, *keys: str) -> None:
        """Key by key, as fingers do: what opens with one of them is there for the next."""
        for key in keys:
            self.press(key)
            self.read(0.4)


@pytest.fixture
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """Started by the console itself; stopped here, whatever became of it."""
    ring = Ring(tmp_path_factory.mktemp("r"))
    yield ring
    ring.cli("down", "--now", check=False)


def test_a_shift_from_the_first_start_to_the_stop(ring: Ring) -> None:
    console = DemoScenario("--run", str(ring.run), "--port", "0")
    try:
        console.wait_for("start-up", 30)
        console.wait_ready(120)
        console.wait_for("http://127.0.0.1:", 30)
        ring.url = ring.snapshot()["server"]["url"]

        console.type("5", "Say ahoy.", "\r")
        console.wait_for("tok/s  first", 30)

        console.type("\x1b", "\x1b")  # cancels what still comes, and leaves the prompt
        console.type("4", "l", "mine", "\r", str(ADAPTERS / "pirate"), "\r")
        console.wait_for("● mine", 30)
        console.wait_for("on device", 30)

        answers: list[str] = []
        client = threading.Thread(target=ask_at_length, args=(ring.url, answers))
        client.start()
        console.type("2")
        console.wait_for("● mine", 30)
        console.type("\r")
        console.wait_for("streaming", 30)
        console.wait_for("What lies beyond the horizon", 30)
        console.type("\x1b")

        console.type("4", "/", "mine", "\r", "u", "y")  # it has a request: it drains
        client.join(60)
        assert len(answers[0]) > 100
        console.wait_for("nothing matches the filter", 30)

        ring.kill("worker-0", signal.SIGKILL)
        console.type("8")
        console.wait_for("killed by SIGKILL", 30)
        console.wait_ready(120)

        console.type("7", "s", "SIGKILL", "\r")
        console.wait_for("search SIGKILL", 10)
        assert " 0 hits" not in console.text

        console.type("q", "l")
        assert console.exit_code() == 0
    finally:
        console.close()
    assert ring.snapshot()["processes"]["state"] == "ready"

    console = DemoScenario("attach", "--run", str(ring.run))
    try:
        console.wait_ready(30)
        console.type("8", "j", "j", "\r")  # what happened meanwhile is told of worker-0
        console.wait_for("events", 10)
        console.wait_for("worker-0 died (killed by SIGKILL", 10)
        console.type("\x1b")
        console.type("5", "Once more.", "\r")
        console.wait_for("tok/s  first", 30)
        console.type("\x1b", "\x1b", "q", "s", "y")
        assert console.exit_code(60) == 0
    finally:
        console.close()
    assert ring.cli("status", check=False).returncode == 3


def ask_at_length(url: str, answers: list[str]) -> None:
    body = {
        "model": "mine",
        "messages": [{"role": "user", "content": "What lies beyond the horizon?"}],
        "max_tokens": 300,
        "ignore_eos": True,
        "stream": False,
    }
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=120, trust_env=False)
    answers.append(reply.json()["choices"][0]["message"]["content"])

"""Processes die, ports are taken, models are missing: what is seen, and what comes back."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from ring import BASE, Ring
from waiting import wait_for

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("s"), "--dtype", "float32") as ring:
        yield ring


class Streaming:
    """A long greedy answer read in a thread, while something is done to the ring."""

    def __init__(self, ring: Ring, max_tokens: int = 60) -> None:
        self.text = ""
        self.error = ""
        self.finish_reason: str | None = None
        self._begun = threading.Event()
        self._body = {
            "model": BASE,
            "prompt": "Once upon a time",
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
        }
        self._url = ring.url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()
        assert self._begun.wait(30)

    def _read(self) -> None:
        try:
            with httpx.stream(
                "POST", f"{self._url}/v1/completions", json=self._body, timeout=60, trust_env=False
            ) as response:
                for line in response.iter_lines():
                    if not line.startswith("data: {"):
                        continue
                    event: dict[str, Any] = json.loads(line[6:])
                    if "error" in event:
                        self.error = event["error"]["message"]
                        return
                    self.text += event["choices"][0]["text"]
                    self.finish_reason = event["choices"][0]["finish_reason"]
                    if len(self.text) > 20:
                        self._begun.set()
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self._begun.set()

    def end(self) -> Streaming:
        self._thread.join(90)
        assert not self._thread.is_alive(), "the client was left without an answer"
        return self


@pytest.fixture(scope="module")
def undisturbed(ring: Ring) -> str:
    return Streaming(ring).end().text


@pytest.mark.parametrize("name", ["worker-0", "detokenizer", "router"])
def test_streams_survive_a_killed(ring: Ring, undisturbed: str, name: str) -> None:
    """The router holds every token: it re-computes, or tells the text again. A new router gets
    them from the server."""
    stream = Streaming(ring)
    before = ring.kill(name)
    stream.end()
    assert (stream.error, stream.finish_reason) == ("", "length")
    assert stream.text == undisturbed
    ring.wait_ready()
    process = ring.process(name)
    assert process["pid"] != before and process["restarts"] >= 1
    assert process["falls"] >= 1 and process["fell_at"] < process["started_at"] < process["since"]
    events = ring.cli("logs", "supervisor").stdout
    assert f"{name} died (killed by SIGKILL)" in events


def test_a_killed_server_closes_connections_and_leaves_no_orphan(
    ring: Ring, undisturbed: str
) -> None:
    stream = Streaming(ring, max_tokens=3000)
    ring.kill("server")
    stream.end()
    assert stream.error  # the connection broke
    ring.wait_ready()
    ring.wait_idle(60)  # the request waits for its client for a grace time
    assert Streaming(ring).end().text == undisturbed


def test_a_process_that_hangs_is_said_to_be_down_and_requests_wait_for_it(ring: Ring) -> None:
    pid = ring.kill("router", signal.SIGSTOP)
    with ThreadPoolExecutor(1) as pool:
        try:
            wait_for(lambda: ring.http.get("/health").status_code != 200)
            response = ring.http.get("/health")
            assert response.status_code == 503
            assert "no heartbeat from router for" in response.json()["reason"]
            asked = pool.submit(ring.answer, BASE, "hi")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert asked.result(timeout=60)
    ring.wait_ready()


def test_restart_is_asked_for_by_name(ring: Ring) -> None:
    before, router = ring.process("detokenizer"), ring.process("router")
    done = ring.cli("restart", "detokenizer")
    assert "is READY" in done.stdout
    after = ring.process("detokenizer")
    assert after["pid"] != before["pid"] and after["restarts"] == before["restarts"] + 1
    # What was ordered is no fall, and nobody else was started.
    assert after["falls"] == before["falls"] and after["started_at"] > before["started_at"]
    assert ring.process("router")["started_at"] == router["started_at"]
    assert ring.cli("restart", "absent", check=False).returncode == 1
    ring.wait_ready()


def test_a_stopped_worker_stays_so_and_live_requests_go_on_once_it_is_started(
    ring: Ring, undisturbed: str
) -> None:
    stream = Streaming(ring)
    assert "until: loraconsole start worker-0" in ring.cli("stop", "worker-0").stdout
    row = ring.process("worker-0")
    assert (row["state"], row["reason"], row["pid"]) == ("stopped", "stopped by an operator", 0)
    health = ring.http.get("/health")
    assert health.status_code == 503
    assert health.json()["reason"] == "worker-0 is stopped by an operator"
    assert ring.chat(BASE, "hi").status_code == 503
    # Somebody else's restart leaves it so, and does not wait for it for ever.
    done = ring.cli("restart", "detokenizer", "--json")
    assert json.loads(done.stdout)["process"] == "detokenizer"
    status = ring.cli("status", check=False)
    assert status.returncode == 1 and "stopped by an operator" in status.stdout
    assert "INCOMPLETE (worker-0 stopped by an operator)" in status.stdout  # the console's word
    for command in (["prompt", "hi"], ["bench", "--requests", "1", "--json"]):
        refused = ring.cli(*command, check=False)
        assert refused.returncode == 1 and "loraconsole start worker-0" in refused.stderr
    assert json.loads(refused.stdout)["hint"].endswith("loraconsole start worker-0")
    found = ring.cli("alerts", "--json", check=False)
    assert found.returncode == 1
    assert "process stopped" in [alert["rule"] for alert in json.loads(found.stdout)]
    row = ring.process("worker-0")
    time.sleep(max(0.0, row["since"] + 1.1 - time.time()))  # longer than the first backoff
    assert ring.process("worker-0")["held"]
    assert json.loads(ring.cli("start", "worker-0", "--json").stdout)["state"] == "ready"
    assert (stream.end().error, stream.text) == ("", undisturbed)
    ring.wait_ready()


@pytest.mark.parametrize("name", ["server", "router", "detokenizer"])
def test_any_process_is_stopped_and_started(ring: Ring, name: str) -> None:
    ring.cli("stop", name)
    assert ring.process(name)["held"]
    ring.cli("stop", name)  # it is so already
    if name == "server":  # refused, not left waiting
        with pytest.raises(httpx.ConnectError):
            ring.http.get("/health")
    else:
        wait_for(lambda: "is stopped by an operator" in ring.http.get("/health").text)
    ring.cli("restart" if name == "router" else "start", name)
    ring.wait_ready()
    assert ring.snapshot()["server"]["url"] == ring.url  # of a port that was chosen by the kernel
    assert ring.answer(BASE, "hi")


def test_what_waits_to_be_tried_again_is_stopped_as_well(ring: Ring) -> None:
    first = ring.kill("detokenizer")  # restarted at once; the next time after a pause
    wait_for(lambda: ring.process("detokenizer")["pid"] not in (0, first))
    ring.kill("detokenizer")

    def waits() -> dict[str, Any] | None:
        row = ring.process("detokenizer")
        return row if row["state"] == "backoff" else None

    row = wait_for(waits)
    assert row is not None
    ring.cli("stop", "detokenizer")
    time.sleep(max(0.0, row["retry_at"] + 0.3 - time.time()))
    assert ring.process("detokenizer")["state"] == "stopped"
    ring.cli("start", "detokenizer")
    ring.wait_ready()


def test_signals_do_what_their_list_says(ring: Ring) -> None:
    ring.cli("signal", "router", "SIGSTOP")
    wait_for(lambda: "no heartbeat from" in ring.http.get("/health").text)
    before = ring.process("router")["pid"]
    ring.cli("signal", "router", "cont")
    ring.wait_ready()
    ring.cli("signal", "router", "USR1")
    wait_for(lambda: "most recent call first" in ring.cli("logs", "router").stdout)
    assert ring.process("router")["pid"] == before
    ring.cli("signal", "detokenizer", "KILL")
    wait_for(lambda: ring.process("detokenizer")["fall_reason"] == "killed by SIGKILL")
    ring.wait_ready()
    ring.cli("signal", "router", "STOP")  # it would hear no polite word
    assert "is READY" in ring.cli("restart", "router", "--hard").stdout
    assert "router ignored SIGTERM" not in ring.cli("logs", "supervisor").stdout
    ring.wait_ready()
    assert ring.cli("signal", "router", "ABRT", check=False).returncode == 2
    assert ring.cli("stop", "absent", check=False).returncode == 1
    assert ring.cli("stop", "fetch", check=False).returncode == 1


# --- starts that fail, and ends


def test_a_taken_port_is_named_and_nothing_is_left(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        ring = Ring(tmp_path / "r")
        done = ring.cli("up", "--port", str(port), check=False)
    assert done.returncode == 1
    assert f"port {port} of 127.0.0.1 is taken" in done.stderr
    assert ring.cli("status", check=False).returncode == 3


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--model", "/nowhere/model"], "/nowhere/model"),
        (["--model", "{tmp}/empty"], "config.json"),
        (["--model", "{tmp}/broken.gguf"], "broken.gguf"),
        (["--model", "{tmp}/whole/model.safetensors"], "its directory: {tmp}/whole"),
    ],
)
def test_a_model_that_is_none_is_named(tmp_path: Path, options: list[str], reason: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "config.json").write_text("{}")
    (tmp_path / "whole" / "model.safetensors").write_bytes(bytes(64))
    (tmp_path / "broken.gguf").write_bytes(b"GGUF but not really")
    options = [option.format(tmp=tmp_path) for option in options]
    done = Ring(tmp_path / "r").cli("up", "--port", "0", *options, check=False)
    assert done.returncode == 1
    assert reason.format(tmp=tmp_path) in done.stderr
    assert "fetch failed: " in done.stderr and "process: " not in done.stderr


def test_down_lets_running_requests_finish(tmp_path: Path) -> None:
    with Ring(tmp_path / "r", "--dtype", "float32") as ring:
        stream = Streaming(ring, max_tokens=150)
        down = subprocess.Popen(
            [sys.executable, "-P", "-m", "loraconsole.console", "down", "--run", str(ring.run)]
        )
        statuses = set()
        while stream.finish_reason is None and 503 not in statuses:
            statuses.add(ring.chat(BASE, "too late", max_tokens=1).status_code)
        assert 503 in statuses
        assert stream.end().finish_reason == "length" and not stream.error
        assert down.wait(30) == 0
        assert ring.cli("status", check=False).returncode == 3
        assert not list(ring.run.glob("*.inbox"))


def test_not_running_is_status_3(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r")
    for command in (["status"], ["down"], ["prompt", "hi"], ["adapters", "list"], ["logs"]):
        done = ring.cli(*command, check=False)
        assert done.returncode == 3, (command, done.stderr)
        assert "loraconsole up" in done.stderr
    elsewhere = str(tmp_path / "elsewhere")
    for command in (["status"], ["logs"], ["adapters", "list"], ["web"], ["bench"]):
        done = ring.cli(*command, "--run", elsewhere, check=False)
        assert done.returncode == 3 and f"loraconsole up --run {elsewhere}\n" in done.stderr
    assert ring.cli("up", "--no-such-flag", check=False).returncode == 2
    assert ring.cli("up", "--tp", "x", check=False).returncode == 2


def test_up_tells_that_somebody_else_stopped_it(tmp_path: Path) -> None:
    ring = Ring(tmp_path / "r")
    command = [sys.executable, "-P", "-m", "loraconsole.console", "up", "--port", "0"]
    command += ["--run", str(ring.run)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as up:
        while ring.cli("down", check=False).returncode:
            assert up.poll() is None
        _, told = up.communicate(timeout=60)
    assert up.returncode == 3
    assert "the pipeline was stopped before it was ready" in told

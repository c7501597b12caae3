"""A real pipeline for the tests: started and stopped through the command line, prompted over
HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
from waiting import wait_for

import loraconsole.pipeline.adapters
from loraconsole.console.client.remote import Remote
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.handover.ring_record import start_ticks
from loraconsole.pipeline.messages import Snapshot
from loraconsole.pipeline.runtime.json_document import to_document

BASE = "SmolLM2-135M-Instruct"
ADAPTERS = ("haiku", "json", "pirate", "sql")


def shipped(name: str) -> Path:
    """The directory of a shipped adapter."""
    return Path(loraconsole.pipeline.adapters.__file__).parent / name


TINY = {
    "model_type": "llama",
    "vocab_size": 301,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 300,
}
"""A model for `--dummy` that two ranks can share."""


class Ring:
    """One pipeline in its own run directory; a context manager that stops it."""

    def __init__(self, run: Path, *options: str) -> None:
        self.run = run
        self.options = options
        self.url = ""
        self._asks = threading.Lock()  # this process has one inbox name

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Runs `loraconsole …` on this run; returns its output."""
        command = [sys.executable, "-P", "-m", "loraconsole.console", *arguments]
        done = subprocess.run(
            command,
            env={**os.environ, "LORACONSOLE_RUN": str(self.run)},
            capture_output=True,
            text=True,
            timeout=120,
        )
        if check and done.returncode:
            raise AssertionError(f"{arguments}: status {done.returncode}\n{done.stderr}")
        return done

    def __enter__(self) -> Ring:
        self.cli("up", "--port", "0", *self.options)
        self.url = self.snapshot()["server"]["url"]
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)
        return self

    def __exit__(self, *exception: object) -> None:
        self.http.close()
        self.cli("down", "--now", check=False)

    # -- reading state

    def snapshot(self) -> dict[str, Any]:
        """The snapshot, as `status --json` prints it, without the command's 0.3 s of a core."""

        async def ask() -> Snapshot:
            async with Remote(Config(run=str(self.run))) as remote:
                return await remote.snapshot()

        with self._asks:
            return to_document(asyncio.run(ask()))

    def process(self, name: str) -> dict[str, Any]:
        """The supervisor's row of a process."""
        for row in self.snapshot()["processes"]["processes"]:
            if row["name"] == name:
                return row
        raise AssertionError(f"no process {name}")

    def wait_ready(self, seconds: float = 120.0) -> float:
        """Waits until /health returns 200; returns the seconds."""
        started = time.monotonic()
        while time.monotonic() - started < seconds:
            try:
                if self.http.get("/health").status_code == 200:
                    return time.monotonic() - started
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise AssertionError(f"not READY within {seconds} s: {self.cli('logs', '-n', '40').stdout}")

    def wait_idle(self, seconds: float = 60.0) -> dict[str, Any]:
        """The router's statistics once nothing runs and no page is held."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            router = self.snapshot()["router"]
            if router["running"] == router["waiting"] == router["pages_kv"] == 0:
                return router
            time.sleep(0.2)
        raise AssertionError(f"never idle: {router}")

    def supervisor(self) -> int:
        """The pid of the supervisor; 0 if there is none."""
        words = f"console.supervisor.supervisor --run {self.run}"
        found = subprocess.run(["pgrep", "-f", words], capture_output=True, text=True).stdout
        return max((int(pid) for pid in found.split() if start_ticks(int(pid))), default=0)

    def kill(self, name: str, number: int = signal.SIGKILL) -> int:
        """Sends a signal to a process, once it runs. Returns its pid."""
        pid = wait_for(lambda: self.process(name)["pid"])
        os.kill(pid, number)
        return pid

    # -- prompting

    def chat(self, model: str, text: str, **more: Any) -> httpx.Response:
        body = {"model": model, "messages": [{"role": "user", "content": text}], "temperature": 0}
        return self.http.post("/v1/chat/completions", json=body | {"max_tokens": 16} | more)

    def answer(self, model: str, text: str, **more: Any) -> str:
        response = self.chat(model, text, **more)
        assert response.status_code == 200, response.text
        return response.json()["choices"][0]["message"]["content"]


def tiny_model(directory: Path) -> Path:
    """A model directory with the config `TINY`."""
    model = directory / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(TINY))
    return model

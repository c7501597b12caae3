"""`HandRing`: router, worker and detokenizer of a tiny random model, started by hand without a
supervisor, and the server in this process: its HTTP application can be called without a socket,
thousands of times a second, with the real ring behind it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from starlette.applications import Starlette
from tiny_llama import CONFIG

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.run_directory import make_run_directory
from loraconsole.pipeline.server.routes.app import make_app
from loraconsole.pipeline.server.server import Server

from .ring_processes import find_processes

READY_SECONDS = 120.0
MODULES = {
    "router": ("pipeline.router.router",),
    "worker-0": ("pipeline.worker", "--rank", "0"),
    "detokenizer": ("pipeline.detokenizer",),
}


class ServerHere(Server):
    """The server of this process."""

    def make_app(self) -> Starlette:
        """A second application over the same gateway as the one that the port serves."""
        return make_app(self._gateway)

    @property
    def fault(self) -> str:
        """Why it would refuse a request now; "" if it would not."""
        return self._gateway.broken()

    @property
    def num_open(self) -> int:
        return len(self._gateway.answers.streams)


class HandRing:
    """`async with HandRing(directory) as ring:`; `ring.server` is READY then."""

    def __init__(self, directory: Path) -> None:
        model = directory / "model"
        model.mkdir()
        (model / "config.json").write_text(json.dumps(CONFIG))
        self.run = make_run_directory(directory / "run")
        self.config = Config(
            run=str(self.run),
            model=str(model),
            dummy=True,
            dtype="float32",
            port=0,
            max_total_tokens=8192,
            adapter_root=str(directory / "adapters"),
        )
        (directory / "adapters").mkdir()
        self._children: dict[str, subprocess.Popen[bytes]] = {}

    async def __aenter__(self) -> HandRing:
        self.config.save()
        subprocess.run(self._command("pipeline.fetch.fetch"), check=True, capture_output=True)
        for name, module in MODULES.items():
            log = (self.run / "logs" / f"{name}.log").open("wb")
            self._children[name] = subprocess.Popen(
                self._command(*module), stderr=log, stdout=log, env=os.environ
            )
        self.server = ServerHere(Config.load(self.run))
        self._living = asyncio.create_task(self.server._live())
        deadline = time.monotonic() + READY_SECONDS
        while not self.server.url or self.server.fault:
            assert time.monotonic() < deadline, f"not READY: {self.server.fault}"
            assert not self._living.done(), self._living
            await asyncio.sleep(0.1)
        return self

    async def __aexit__(self, *exception: object) -> None:
        self._living.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._living
        self.server.close()
        for child in self._children.values():
            child.terminate()
        for child in self._children.values():
            await asyncio.to_thread(child.wait, 20)

    def dead(self) -> list[str]:
        """Names of the processes that have ended."""
        return [name for name, child in self._children.items() if child.poll() is not None]

    def leftovers(self) -> list[str]:
        return [f"{name} {pids}" for name, pids in find_processes(self.run).items()]

    def _command(self, module: str, *more: str) -> list[str]:
        run = str(self.run)
        return [sys.executable, "-P", "-m", f"loraconsole.{module}", "--run", run, *more]

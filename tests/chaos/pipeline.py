"""`Pipeline`: the pipeline under test: a `Ring` on one port that can be started again, and what
must hold of it when it rests and after it has ended."""

from __future__ import annotations

import asyncio
import socket
import time
from pathlib import Path

import httpx
from ring import Ring

from .faults import RING, ring_names
from .ring_processes import Footprint, find_processes, find_ring, measure, send_signal

SETTLED = 60.0
"""Longest wait for a pipeline without requests to rest, seconds."""
GONE_SECONDS = 10.0
"""Without any process for this time, a ring will not come back by itself."""
MOST_NEW_DESCRIPTORS = 40
MOST_NEW_THREADS = 12
MOST_NEW_MIB = 400
"""Above the first look at a process of that name: allocators keep arenas, a merge keeps a copy."""
LEFT_OVER = ("*.inbox", "*.stats", "processes.json", "router.json", "requests")
"""What no stopped pipeline leaves in its run directory."""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port: int = listening.getsockname()[1]
        return port


class Pipeline(Ring):
    """A ring on one port, which it has again after `again`."""

    def __init__(self, run: Path, tp: int = 1) -> None:
        self.port = free_port()
        super().__init__(run, "--port", str(self.port), "--dtype", "float32", "--tp", str(tp))
        self._whole = frozenset(ring_names(tp))
        """The processes that run when it is whole."""
        self._first: dict[str, Footprint] = {}

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(find_ring(self.run)) or RING

    def again(self) -> None:
        """Ends what is left of it, and starts it."""
        self.cli("down", "--now", check=False)
        for pids in find_processes(self.run).values():
            for pid in pids:
                send_signal(pid)
        self.cli("up", *self.options)

    async def is_healthy(self) -> bool:
        try:
            async with httpx.AsyncClient(trust_env=False, timeout=5) as http:
                return (await http.get(f"{self.url}/health")).status_code == 200
        except httpx.HTTPError:
            return False

    async def wait_back(self, killed: dict[str, int], seconds: float) -> bool:
        """Waits until every process runs once, none as the killed pid, and /health is 200. False
        after `seconds`, and as soon as no process has been there for `GONE_SECONDS`."""
        deadline = time.monotonic() + seconds
        seen_at = time.monotonic()
        names = self._whole | set(killed)
        while time.monotonic() < deadline:
            ring = find_ring(self.run)
            if ring:
                seen_at = time.monotonic()
            elif time.monotonic() - seen_at > GONE_SECONDS:
                return False
            is_new = all(ring.get(name) != pid for name, pid in killed.items())
            if names <= set(ring) and is_new and await self.is_healthy():
                return True
            await asyncio.sleep(0.1)
        return False

    async def resting_faults(self) -> list[str]:
        """What is wrong with a pipeline that has no request: pages or streams that are held,
        descriptors, threads or memory that have grown."""
        deadline = time.monotonic() + SETTLED
        router = {}
        while time.monotonic() < deadline:
            snapshot = await asyncio.to_thread(self.snapshot)
            router, server = snapshot["router"], snapshot["server"]
            held = [router[name] for name in ("running", "waiting", "pages_kv")]
            is_at_rest = not any(held) and not server["open_streams"]
            faults = self._page_faults(snapshot)  # the rows may be two seconds older than the pages
            if is_at_rest and not faults:
                break
            await asyncio.sleep(0.3)
        else:
            if not is_at_rest:
                return [f"not at rest after {SETTLED:.0f} s: {router} {server}"]
        for name, pid in find_ring(self.run).items():
            if now := measure(pid):
                faults += self._growth_faults(name, now)
        return faults

    def _page_faults(self, snapshot: dict[str, object]) -> list[str]:
        """Pages of adapters are those that the table of adapters says; none are lost or doubled."""
        router, table = snapshot["router"], snapshot["adapters"]
        assert isinstance(router, dict) and isinstance(table, dict)
        placed = sum(view["pages"] for view in table["adapters"] if view["state"] != "loading")
        loading = any(view["state"] in ("loading", "draining") for view in table["adapters"])
        if placed != router["pages_adapters"] and not loading:
            return [f"adapters hold {router['pages_adapters']} pages, their rows say {placed}"]
        if router["pages_adapters"] > router["pages_total"]:
            return [f"more pages than there are: {router}"]
        return []

    def _growth_faults(self, name: str, now: Footprint) -> list[str]:
        first = self._first.setdefault(name, now)
        grown = {
            "descriptors": (first.descriptors, now.descriptors, MOST_NEW_DESCRIPTORS),
            "threads": (first.threads, now.threads, MOST_NEW_THREADS),
            "MiB": (first.rss_mib, now.rss_mib, MOST_NEW_MIB),
        }
        return [
            f"{name}: {unit} from {before} to {after}"
            for unit, (before, after, most) in grown.items()
            if after - before > most
        ]

    def leftovers(self) -> list[str]:
        """After `down`: processes, sockets, files and a port that should be gone."""
        found = [f"process {name} {pids}" for name, pids in find_processes(self.run).items()]
        for pattern in LEFT_OVER:
            found += [f"file {path.name}" for path in self.run.glob(pattern)]
        with socket.socket() as question:
            if question.connect_ex(("127.0.0.1", self.port)) == 0:
                found.append(f"port {self.port} is open")
        return found

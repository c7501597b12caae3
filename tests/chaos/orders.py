"""`Orders`: what an operator does all the while, seeded: adapters loaded, unloaded, renewed,
merged, pinned, the scheduler changed, new requests held back. Says which models may be asked and
whose answers are right for them."""

from __future__ import annotations

import asyncio
import json
import random
import shutil
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
from ring import ADAPTERS, BASE, Ring, shipped

GUEST = "guest"
"""An adapter with json's weights that comes and goes."""
CHANGING = "changing"
"""An adapter whose files are sometimes haiku's, sometimes sql's."""
MERGED = "pirate"
POLICIES = ("fcfs", "lifo", "cluster", "pets", "vtc_fair")
"""Those that end no request and merge nothing."""
ORDER_SECONDS = 60.0


class Orders:
    """Gives seeded orders until it is stopped. An order that fails because a process is down is
    counted, never an error: a later one follows."""

    def __init__(self, ring: Ring, seed: int, directory: Path, kinds: tuple[str, ...] = ()) -> None:
        self._ring, self._rng = ring, random.Random(f"orders {seed}")
        self._directory = directory
        self._http = httpx.AsyncClient(timeout=ORDER_SECONDS, trust_env=False)
        self._kinds = kinds or tuple(self._actions())
        self.counts: Counter[str] = Counter()
        """Orders by kind and result."""
        self.is_guest_loaded = False
        self._weights: set[str] = set()
        """Whose weights CHANGING may have now; two while a reload is under way."""
        self._is_drained = False

    def _actions(self) -> dict[str, Callable[[], Awaitable[str]]]:
        return {
            "guest": self._turn_guest,
            "reload": self._reload,
            "change": self._change,
            "merge": self._merge,
            "pin": self._pin,
            "scheduler": self._schedule,
            "drain": self._drain,
        }

    async def close(self) -> None:
        await self._http.aclose()

    async def prepare(self) -> None:
        """Loads what the orders are about; raises if that fails."""
        for name, source in ((GUEST, "json"), (CHANGING, "haiku")):
            self._write(name, source)
        if "change" in self._kinds:
            status = await self._load(CHANGING)
            assert status == "200", status
            self._weights = {"haiku"}

    def models(self) -> list[str]:
        """Names that can be asked for now."""
        found = [BASE, *ADAPTERS]
        if self.is_guest_loaded:
            found.append(GUEST)
        if self._weights:
            found.append(CHANGING)
        return found

    def owners(self, model: str) -> set[str]:
        """The models whose answers are right for `model` at this moment."""
        if model == GUEST:
            return {"json"}
        return set(self._weights) if model == CHANGING else {model}

    async def give_forever(self, least: float = 1.0, most: float = 5.0) -> None:
        """An order every few seconds, until it is cancelled."""
        while True:
            await asyncio.sleep(self._rng.uniform(least, most))
            await self.give_one()

    async def give_one(self) -> None:
        kind = self._rng.choice(self._kinds)
        try:
            result = await self._actions()[kind]()
        except (httpx.HTTPError, AssertionError, json.JSONDecodeError) as error:
            result = type(error).__name__
        self.counts[f"{kind}: {result}"] += 1

    async def settle(self) -> None:
        """Admits new requests again, by as many orders as that takes."""
        deadline = time.monotonic() + ORDER_SECONDS
        while self._is_drained and time.monotonic() < deadline:
            await self._resume()

    # -- the orders

    def _write(self, name: str, source: str) -> None:
        directory = self._directory / name
        directory.mkdir(exist_ok=True)
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy(shipped(source) / file, directory / f"{file}.new")
            (directory / f"{file}.new").rename(directory / file)

    async def _ask(self, method: str, path: str, body: object = None) -> str:
        response = await self._http.request(method, self._ring.url + path, json=body)
        return str(response.status_code)

    async def _load(self, name: str) -> str:
        body = {"lora_name": name, "lora_path": str(self._directory / name)}
        return await self._ask("POST", "/v1/load_lora_adapter", body)

    async def _turn_guest(self) -> str:
        if self.is_guest_loaded:
            self.is_guest_loaded = False
            return "unload " + await self._ask("DELETE", f"/v1/adapters/{GUEST}")
        status = await self._load(GUEST)
        self.is_guest_loaded = status in ("200", "409")
        return f"load {status}"

    async def _reload(self) -> str:
        name = self._rng.choice(ADAPTERS)
        return await self._ask("POST", f"/v1/adapters/{name}/reload")

    async def _change(self) -> str:
        """Renews CHANGING with other weights. Until an order of it succeeds both may answer."""
        source = self._rng.choice(("haiku", "sql"))
        self._write(CHANGING, source)
        self._weights = self._weights | {source}
        status = await self._ask("POST", f"/v1/adapters/{CHANGING}/reload")
        if status == "200":
            self._weights = {source}
        return status

    async def _merge(self) -> str:
        method = self._rng.choice(("POST", "DELETE"))
        return f"{method} " + await self._ask(method, f"/v1/adapters/{MERGED}/merge")

    async def _pin(self) -> str:
        method, name = self._rng.choice(("POST", "DELETE")), self._rng.choice(ADAPTERS)
        return await self._ask(method, f"/v1/adapters/{name}/pin")

    async def _schedule(self) -> str:
        body: dict[str, object] = {"policy": self._rng.choice(POLICIES)}
        if body["policy"] == "vtc_fair":
            body["weights"] = {name: self._rng.choice((1, 2)) for name in ADAPTERS}
        return await self._ask("PUT", "/v1/scheduler", body)

    async def _drain(self) -> str:
        self._is_drained = True
        drained = await asyncio.to_thread(self._ring.cli, "drain", check=False)
        await asyncio.sleep(self._rng.uniform(0.2, 1.5))
        said = drained.stderr.strip().partition("\n")[0]
        await self.settle()
        return f"{drained.returncode} {said}, {'not ' * self._is_drained}resumed"

    async def _resume(self) -> None:
        resumed = await asyncio.to_thread(self._ring.cli, "drain", "--resume", check=False)
        self._is_drained = resumed.returncode != 0

"""Sends hostile HTTP requests to the real application, called in this process, and a part of them
over real sockets; each must be answered, none with a fault of the server, and a neighbour's answers
stay what they were."""

from __future__ import annotations

import asyncio
import re
import time
from collections import Counter
from typing import Any

import httpx
from starlette.types import Message, Scope

from .bodies import HttpCase, answer_faults, make_case
from .hand_ring import HandRing

ANSWER_SECONDS = 60.0
"""A request that is not answered after this hangs."""
AT_ONCE = 16
TOO_LARGE = 413
NEIGHBOUR = {"model": "", "prompt": "neighbour", "max_tokens": 40, "temperature": 0}
MOST_KEPT = 3
"""Faults of a kind that are kept with their requests."""


class BodyRun:
    """Requests `start` to `start + count` of a seed, on one ring."""

    def __init__(self, ring: HandRing, seed: int) -> None:
        self.ring, self.seed = ring, seed
        self._app = ring.server.make_app()
        self._host = ring.server.url.removeprefix("http://")
        self.statuses: Counter[int] = Counter()
        self.faults: list[str] = []
        self.kinds: Counter[str] = Counter()
        """Faults without their numbers."""
        # The server closes an idle connection after 5 s: before that, so that no request meets it.
        limits = httpx.Limits(keepalive_expiry=2.0)
        self._http = httpx.AsyncClient(
            base_url=ring.server.url, trust_env=False, timeout=None, limits=limits
        )

    async def run(self, start: int, count: int, every: int = 200) -> dict[str, Any]:
        """Its line. Every `every`-th request goes over a real socket too."""
        began = time.monotonic()
        numbers = iter(range(start, start + count))

        async def send_some() -> None:
            for number in numbers:
                await self._send(number, over_socket=number % every == 0)

        expected = await self._neighbour()
        stop = asyncio.Event()
        neighbour = asyncio.create_task(self._watch_neighbour(expected, stop))
        await asyncio.gather(*(send_some() for _ in range(AT_ONCE)))
        stop.set()
        neighbours = await neighbour
        await self._rest()
        await self._http.aclose()
        return {
            "bodies": count,
            "seed": self.seed,
            "from": start,
            "statuses": {str(status): n for status, n in sorted(self.statuses.items())},
            "a_second": round(count / (time.monotonic() - began)),
            "neighbours": neighbours,
            "faults": self.faults,
            "kinds": dict(self.kinds),
        }

    async def _send(self, number: int, over_socket: bool) -> None:
        case = make_case(self.seed, number)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                status, kind, body = await self._call(case)
                self.statuses[status] += 1
                self._note(number, case, answer_faults(case, status, kind, body))
                if over_socket:
                    await self._call_over_socket(number, case, is_cut=status == TOO_LARGE)
        except TimeoutError:
            self._note(number, case, [f"no answer in {ANSWER_SECONDS:.0f} s"])
        except Exception as error:  # whatever leaves the application is a fault of it
            self._note(number, case, [f"raised {error!r:.300}"])

    def _note(self, number: int, case: HttpCase, faults: list[str]) -> None:
        for fault in faults:
            kind = re.sub(r"\d+", "N", fault)[:80]
            self.kinds[kind] += 1
            if self.kinds[kind] <= MOST_KEPT:
                place = f"case {number} ({case.method} {case.path[:60]} {case.body[:300]!r})"
                self.faults.append(f"{place}: {fault}")

    async def _call(self, case: HttpCase) -> tuple[int, str, bytes]:
        """Status, content type and body of the application's answer; no socket is used."""
        scope: Scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": case.method,
            "scheme": "http",
            "path": httpx.URL(f"http://x{case.path}").path,
            "raw_path": case.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [
                (b"host", self._host.encode()),
                (b"content-type", b"application/json"),
                (b"content-length", str(len(case.body)).encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 1),
        }
        sent = asyncio.Event()
        is_read = False
        status, kind, pieces = 0, "", []

        async def receive() -> Message:
            nonlocal is_read
            if not is_read:
                is_read = True
                return {"type": "http.request", "body": case.body, "more_body": False}
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            nonlocal status, kind
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = dict(message["headers"])
                kind = headers.get(b"content-type", b"").decode()
            else:
                pieces.append(message.get("body", b""))
                if case.leaves or not message.get("more_body"):
                    sent.set()

        try:
            await self._app(scope, receive, send)
        finally:
            sent.set()
        if case.leaves and status == 200:
            return status, "", b""
        return status, kind, b"".join(pieces)

    async def _call_over_socket(self, number: int, case: HttpCase, is_cut: bool) -> None:
        """`is_cut`: the body is refused by its length, unread; the connection may end before a
        client that is still sending has read the refusal."""
        try:
            answer = await self._http.request(
                case.method,
                case.path,
                content=case.body,
                headers={"content-type": "application/json"},
            )
        except httpx.TransportError:
            if is_cut:
                return
            raise
        kind = answer.headers.get("content-type", "")
        self._note(number, case, answer_faults(case, answer.status_code, kind, answer.content))

    # -- what must not change

    async def _neighbour(self) -> str:
        answer = await self._http.post("/v1/completions", json=NEIGHBOUR)
        assert answer.status_code == 200, answer.text
        return str(answer.json()["choices"][0]["text"])

    async def _watch_neighbour(self, expected: str, stop: asyncio.Event) -> int:
        """Asks the same again and again; the number of right answers."""
        right = 0
        while not stop.is_set():
            answer = await self._http.post("/v1/completions", json=NEIGHBOUR)
            if answer.status_code in (429, 503):  # a full queue, for a moment
                await asyncio.sleep(0.2)
                continue
            text = answer.json()["choices"][0]["text"] if answer.status_code == 200 else ""
            if text == expected:
                right += 1
            else:
                self.faults.append(f"the neighbour got {answer.status_code} {answer.text[:200]}")
        return right

    async def _rest(self) -> None:
        """Every request that was accepted ends, and no process has."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while self.ring.server.num_open and time.monotonic() < deadline:
            await asyncio.sleep(0.1)
        if left := self.ring.server.num_open:
            self.faults.append(f"{left} requests are still open")
        if dead := self.ring.dead():
            self.faults.append(f"ended: {dead}")

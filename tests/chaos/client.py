"""`Client`: sends one `Ask` and reads its answer to the end; where the connection breaks, it comes
back with the request's id and the last event's id for the rest. `Outcome` is what became of it."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import dataclass, field

import httpx

from .answers import Answer
from .asks import Ask

ANSWER_SECONDS = 240.0
"""After this time a request counts as stuck. Several deaths in a row cost one recovery each."""
RETRY_SECONDS = 0.1
UNREAD_SECONDS = 5.0
"""A request without an answer is counted as accepted from this time on: the server has read it, and
has not refused it."""
HELD_BACK = "new requests are refused"
"""In the refusal while an operator drains the pipeline."""


@dataclass
class Outcome:
    """What became of one request. Times are monotonic seconds."""

    ask: Ask
    request_id: str
    sent_at: float
    answer: Answer
    accepted_at: float | None = None
    """When the head of the answer came; None for a refused one."""
    ended_at: float | None = None
    status: int | None = None
    reason: str = ""
    turned_at: float | None = None
    """When its first connection broke, or its refusal came."""
    num_breaks: int = 0
    """Connections that broke under it."""
    num_resumes: int = 0
    """Answers to GET /v1/requests/{id}."""
    num_refused_connections: int = 0
    """Connections that the port refused: with a listener that outlives the server there are
    none."""
    is_stuck: bool = False
    is_given_up: bool = False
    """The server did not know the id of a broken answer, or has no way to resume it."""
    pause_s: float = 0.0
    """The longest time between two events."""
    pause_began: float = 0.0
    last_event_at: float = 0.0
    expected: set[tuple[object, ...]] = field(default_factory=set)
    """Answers that would be right; filled by the load."""
    last_event_id: str = ""

    @property
    def verdict(self) -> str:
        """complete, wrong, refused, unread, lost or stuck; running while it has not ended. Unread
        is a request whose connection broke so early that the server need not have read it."""
        if self.ended_at is None:
            return "running"
        if self.answer.faults:
            return "wrong"
        if self.answer.is_complete:
            return "complete" if self.answer.content in self.expected else "wrong"
        if self.is_stuck:
            return "stuck"
        if self.was_accepted:
            return "lost"
        return "unread" if self.status is None else "refused"

    @property
    def was_accepted(self) -> bool:
        """The head of the answer came, or the request waited for it without a refusal."""
        if self.accepted_at is not None:
            return True
        if self.status is not None and (self.status < 500 or HELD_BACK in self.reason):
            return False  # an adapter that is not loaded, too many requests, an operator's `drain`
        waited = (self.turned_at or time.monotonic()) - self.sent_at
        return waited >= UNREAD_SECONDS

    def had_event(self, now: float) -> None:
        """Times the pause that ends with an event."""
        before = max(self.accepted_at or self.sent_at, self.last_event_at)
        if now - before > self.pause_s:
            self.pause_s, self.pause_began = now - before, before
        self.last_event_at = now

    def broke(self, reason: str) -> None:
        """Notes a broken connection."""
        self.num_breaks += 1
        self.turned_at = self.turned_at or time.monotonic()
        self.reason = reason


class Client:
    """Sends requests to one server; `url` may change when the pipeline is started again."""

    def __init__(self, url: str, base: str) -> None:
        self.url, self.base = url, base
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        timeout = httpx.Timeout(None, connect=10.0)
        self.http = httpx.AsyncClient(limits=limits, timeout=timeout, trust_env=False)

    async def close(self) -> None:
        await self.http.aclose()

    async def send(self, ask: Ask, request_id: str, began: Outcome | None = None) -> Outcome:
        """The outcome of `ask`; `began`, where given, is filled while it runs."""
        out = began or self.begin(ask, request_id)
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._follow(out)
        except TimeoutError:
            out.is_stuck = True
        out.ended_at = time.monotonic()
        return out

    def begin(self, ask: Ask, request_id: str) -> Outcome:
        return Outcome(ask, request_id, time.monotonic(), Answer(ask))

    async def _follow(self, out: Outcome) -> None:
        ask = out.ask
        post = self.http.build_request(
            "POST",
            f"{self.url}{ask.path}",
            json=ask.body(self.base),
            headers={"X-Request-Id": out.request_id},
        )
        while not await self._read(post, out):
            if out.num_breaks == 0:  # the port refused the connection: nothing was sent
                out.status, out.reason = 0, "connection refused"
                return
            await asyncio.sleep(RETRY_SECONDS)
            known = {"Last-Event-ID": out.last_event_id} if out.last_event_id else {}
            post = self.http.build_request(
                "GET", f"{self.url}/v1/requests/{out.request_id}", headers=known
            )

    async def _read(self, question: httpx.Request, out: Outcome) -> bool:
        """Reads what comes; False if the connection broke or the server is not ready to resume."""
        is_resuming = question.method == "GET"
        try:
            response = await self.http.send(question, stream=True)
        except httpx.ConnectError:
            out.num_refused_connections += 1
            return False
        except httpx.TransportError as error:
            out.broke(repr(error))
            return False
        try:
            if response.status_code != 200:
                text = (await response.aread()).decode(errors="replace")
                return self._refused(response.status_code, text, is_resuming, out)
            out.num_resumes += is_resuming
            await self._read_answer(response, out)
            return True
        except httpx.TransportError as error:
            out.broke(repr(error))
            return False
        finally:
            await response.aclose()

    def _refused(self, status: int, text: str, is_resuming: bool, out: Outcome) -> bool:
        """Notes a refusal; False if a resuming client should try again."""
        if is_resuming and status == 503:
            return False
        if is_resuming:
            out.is_given_up = True
            out.reason = f"not resumed: {status} {text[:300]} after {out.reason}"
        else:
            out.status, out.reason = status, f"{status} {text[:300]}"
        out.turned_at = out.turned_at or time.monotonic()
        return True

    async def _read_answer(self, response: httpx.Response, out: Outcome) -> None:
        answer = out.answer
        now = time.monotonic()
        out.status = 200
        if out.accepted_at is None:
            out.accepted_at = now
        if not out.ask.is_streamed:
            body = await response.aread()
            out.had_event(time.monotonic())
            answer.fold_whole(json.loads(body))
            return
        event_id, data = "", ""
        async for line in response.aiter_lines():
            if line.startswith("id:"):
                event_id = line[3:].strip()
            elif line.startswith("data:"):
                data = line[5:].strip()
            elif not line and data:  # only a whole event counts, its id with it
                self._fold(data, out)
                out.last_event_id, data = event_id or out.last_event_id, ""
        answer.end_of_events()
        out.reason = answer.error or out.reason

    def _fold(self, data: str, out: Outcome) -> None:
        out.had_event(time.monotonic())
        if data == "[DONE]":
            out.answer.fold_done()
        else:
            out.answer.fold_event(json.loads(data))

"""`Client`: runs a `Workload` on one OpenAI-compatible server and records a timeline per request.

An open loop sends each request at its due time, however slow the server is; a closed loop keeps a
fixed number of requests running. The same client measures our pipeline and any other server. Knows
HTTP and clocks, nothing of how a server works inside.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Literal, TypeAlias

import httpx
import numpy as np

from ..errors import OperatorError
from .stats import Timeline
from .workload import Arrival, Workload

PROMPTS = (
    "What is the capital of Spain?",
    "Tell me about the sea.",
    "How many customers ordered more than five books last year?",
    "Maria Lopez, 34, moved from Lima to Oslo in May 2019 to work as a nurse.",
    "Why is the sky blue?",
    "Write a short note to a neighbour about the noise.",
    "Explain how bread rises.",
    "List three uses of copper.",
)

Accepts: TypeAlias = Literal["ids", "text", "chat"]
PLAIN_IDS = (32, 256)
"""Range of token ids that every vocabulary has; ordinary text in all those we know."""
GAVE_UP = re.compile(r"\babort", re.IGNORECASE)
CLIENT_CLOSED = 499
"""The status of a request aborted by S-LoRA's abort policy."""


class Client:
    """A context manager for one server. `models[i]` answers requests to adapter i, `base` those
    without an adapter."""

    def __init__(self, url: str, api_key: str = "") -> None:
        self.url = url
        self.base = ""
        self.models: tuple[str, ...] = ()
        self.streamed = 0
        """Chunks of text received."""
        self.accepts: Accepts = "ids"
        """How prompts are sent: an exact number of token ids; "Hello " repeated, as S-LoRA's client
        does; or that text as a chat."""
        self._http = httpx.AsyncClient(
            base_url=url,
            headers={"authorization": f"Bearer {api_key}"} if api_key else {},
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
            timeout=httpx.Timeout(10.0, read=600.0, pool=None),
            trust_env=False,
        )

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._http.aclose()

    async def meet(self, wanted: tuple[str, ...], count: int | None, *, chat: bool) -> None:
        """Chooses the models: `wanted`, else all listed ones for chats, else the listed adapters;
        the first `count` if given. Also tests which form of prompt the server accepts.

        Raises `OperatorError` if the server does not answer, or lists fewer than `count`.
        """
        try:
            listed = (await self._http.get("/v1/models")).raise_for_status().json()["data"]
            names = [str(model["id"]) for model in listed]
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise OperatorError(
                f"{self.url} does not list its models: {error or type(error).__name__}",
                "--url must be an OpenAI-compatible server's, without /v1",
            ) from error
        adapters = [str(model["id"]) for model in listed if model.get("parent")]
        bases = [name for name in names if name not in adapters]
        self.base = bases[0] if bases else ""
        self.models = wanted or tuple(names if chat else adapters)
        if count is not None:
            if len(self.models) < count:
                raise OperatorError(
                    f"{self.url} has {len(self.models)} adapters, {count} are needed",
                    "load more, name them with --model, or take fewer with --adapters",
                )
            self.models = self.models[:count]
        if not self.base:
            self.base = self.models[0] if self.models else ""
        if not chat:
            self.accepts = await self._try_prompts()

    async def _try_prompts(self) -> Accepts:
        """The form of prompt that /v1/completions accepts, found by trying each."""
        ways: tuple[tuple[Accepts, Any], ...] = (("ids", [40, 41]), ("text", "Hello "))
        for accepts, prompt in ways:
            body = {"model": self.base, "prompt": prompt, "max_tokens": 1}
            try:
                response = await self._http.post("/v1/completions", json=body)
            except httpx.HTTPError as error:
                raise OperatorError(f"{self.url} does not answer: {error}") from error
            if response.status_code == 200:
                return accepts
        if response.status_code in (404, 405):  # the server has only chats
            return "chat"
        raise OperatorError(
            f"{self.url} refuses a prompt of one token to {self.base!r}: "
            f"{response.status_code} {response.text[:200]}"
        )

    async def run(
        self,
        workload: Workload,
        concurrency: int | None,
        done: Callable[[Timeline], object] = lambda _: None,
    ) -> tuple[list[Timeline], float]:
        """Every request's timeline, and the seconds for all; an open loop if `concurrency` is None.
        `done` is called with each timeline as its request ends. Raises `OperatorError` if every
        request fails."""
        lines: list[Timeline] = []
        started = time.perf_counter()

        async def one(number: int, arrival: Arrival, due: float) -> None:
            lines.append(await self._ask(number, arrival, due, chat=workload.chat))
            done(lines[-1])

        async with asyncio.TaskGroup() as group:
            if concurrency is None:
                for number, arrival in enumerate(workload.arrivals):
                    due = started + arrival.at
                    if (wait := due - time.perf_counter()) > 0:
                        await asyncio.sleep(wait)
                    group.create_task(one(number, arrival, due))
            else:
                jobs = iter(enumerate(workload.arrivals))

                async def work() -> None:
                    for number, arrival in jobs:
                        await one(number, arrival, time.perf_counter())

                for _ in range(concurrency):
                    group.create_task(work())
        seconds = time.perf_counter() - started
        if all(line.error and not line.aborted for line in lines):
            raise OperatorError(f"every request to {self.url} failed: {lines[0].error}")
        return lines, seconds

    def _body(self, number: int, arrival: Arrival, *, chat: bool) -> tuple[str, dict[str, Any]]:
        """Path and body of a request. Prompt ids differ between requests, so that a server's prefix
        cache cannot help."""
        model = self.base if arrival.adapter is None else self.models[arrival.adapter]
        body: dict[str, Any] = {
            "model": model,
            "max_tokens": arrival.output_len,
            "temperature": 0.0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if chat or self.accepts == "chat":
            text = PROMPTS[number % len(PROMPTS)] if chat else "Hello " * arrival.input_len
            body["messages"] = [{"role": "user", "content": text}]
            return "/v1/chat/completions", body
        if self.accepts == "text":
            return "/v1/completions", body | {"prompt": "Hello " * arrival.input_len}
        ids = np.random.default_rng(number).integers(*PLAIN_IDS, arrival.input_len)
        return "/v1/completions", body | {"prompt": ids.tolist()}

    async def _ask(self, number: int, arrival: Arrival, due: float, *, chat: bool) -> Timeline:
        """Sends one streamed request; errors are recorded in its timeline."""
        path, body = self._body(number, arrival, chat=chat)
        now = time.perf_counter()
        prompt = 0 if chat else arrival.input_len
        line = Timeline(body["model"], now, [], input_len=prompt, late=max(0.0, now - due))
        try:
            async with self._http.stream("POST", path, json=body) as response:
                if response.status_code != 200:
                    await response.aread()
                    line.error = f"{response.status_code} {_reason(response.text)[:200]}"
                    gave_up = GAVE_UP.search(response.text) is not None
                    line.aborted = response.status_code == CLIENT_CLOSED or gave_up
                    return line
                async for text in response.aiter_lines():
                    if text.startswith("data: {"):
                        before = len(line.chunks)
                        _read_event(line, json.loads(text[6:]))
                        self.streamed += len(line.chunks) - before
        except (httpx.HTTPError, ValueError) as error:
            line.error = f"{type(error).__name__}: {error}"
        if not line.chunks and not line.error:
            line.error = "the answer is empty"
        line.tokens = line.tokens or len(line.chunks)
        return line


def _reason(body: str) -> str:
    """The message of an OpenAI-style error, else the body."""
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return body


def _read_event(line: Timeline, event: dict[str, Any]) -> None:
    """Records one server-sent event in the timeline."""
    if "error" in event:
        line.error = str(event["error"])[:200]
        line.aborted = GAVE_UP.search(line.error) is not None
        return
    if usage := event.get("usage"):
        line.tokens = usage["completion_tokens"]
        line.input_len = usage.get("prompt_tokens") or line.input_len
    for choice in event.get("choices") or ():
        line.chunks.append(time.perf_counter())
        if choice.get("finish_reason") == "abort":
            line.error, line.aborted = "finish_reason abort", True

"""`MockRing`: a pipeline that computes nothing, for demonstrations, pictures and measurements.

Sockets, messages and HTTP are real; their content comes from a `Scenario`. One small process
without torch plays all of them: it obeys the console's orders and answers prompts. By hand:
`python -P -m loraconsole.console.mock.server --run DIR`, then `loraconsole attach --run DIR`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.handover.run_lock import Lock
from ...pipeline.messages import (
    Abort,
    AskSnapshot,
    AskSpanEnds,
    AskText,
    Drain,
    LoadAdapter,
    MergeAdapter,
    PinAdapter,
    PlanAdapters,
    Progress,
    ReloadAdapter,
    RestartProcess,
    Resume,
    SetScheduler,
    SignalProcess,
    StartProcess,
    StartSpans,
    Step,
    StopPipeline,
    StopProcess,
    StopSpans,
    ToRouter,
    ToServer,
    ToSupervisor,
    UnloadAdapter,
    VerifyAdapter,
)
from ...pipeline.private_files import keep_files_private
from ...pipeline.run_directory import make_run_directory
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.process import die_with_parent
from ...pipeline.runtime.sockets import Beacon, Inbox, Outbox, make_context
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ...pipeline.server.http.quiet_uvicorn import QuietUvicorn
from ..supervisor.metrics_history import MetricsHistory
from ..supervisor.span_files import span_ends
from .demo_scenario import RESTART_S, DemoScenario
from .scenario import BASE_MODEL, RING, Scenario, answer
from .spans import MockSpans


class MockRing:
    """Sends a scenario's messages over real sockets, and answers prompts over real HTTP."""

    def __init__(self, config: Config, scenario: Scenario, tokens_per_second: float = 40.0) -> None:
        self._run = make_run_directory(config.run)
        self._scenario = scenario
        self._history = MetricsHistory(self._run / "history", unix_time())
        self._spans = MockSpans(self._run)
        self._context = make_context()
        self._beacons = {
            name: Beacon(self._context, self._run, name) for name in ("supervisor", "fetch", *RING)
        }
        self._supervisor: Inbox[Any] = Inbox(self._context, self._run, "supervisor", ToSupervisor)
        self._router: Inbox[Any] = Inbox(self._context, self._run, "router", ToRouter)
        self._server: Inbox[Any] = Inbox(self._context, self._run, "server", ToServer)
        self._tokens_per_second = tokens_per_second
        self._answers: set[asyncio.Task[None]] = set()
        self._is_ending = False
        self.asked: list[dict[str, Any]] = []
        """The bodies of the HTTP requests so far."""
        self._socket = socket.create_server(("127.0.0.1", config.port))
        scenario.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"

    async def main(self) -> None:
        """Runs until a console stops the pipeline, or until `end`."""
        http = QuietUvicorn(uvicorn.Config(self._application(), log_level="error", lifespan="off"))
        serving = asyncio.create_task(http.serve([self._socket]))
        tasks = [
            asyncio.create_task(work)
            for work in (
                *(self._publish_forever(), self._history_forever()),
                *(self._serve_supervisor(), self._serve_router(), self._serve_server()),
            )
        ]
        try:
            while not (self._scenario.is_over or self._is_ending or serving.done()):
                await asyncio.sleep(0.1)
                for task in tasks:
                    if task.done():
                        task.result()
        finally:
            for task in tasks:
                task.cancel()
            http.should_exit = http.force_exit = True
            try:
                await serving
            finally:  # also when cancelled: an open socket would block the context forever
                self.close()

    def end(self) -> None:
        """Makes `main` return; may be called before it."""
        self._is_ending = True

    def close(self) -> None:
        self._history.close()
        for beacon in self._beacons.values():
            beacon.close()
        self._supervisor.close()
        self._router.close()
        self._server.close()
        self._context.destroy(linger=100)

    async def _publish_forever(self) -> None:
        while True:
            for name, message in self._scenario.advance(unix_time()):
                self._beacons[name].publish(message)
                self._history.take(message)
                if isinstance(message, Step):
                    self._spans.take(message)
            await asyncio.sleep(0.02)

    async def _history_forever(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._history.tick(unix_time())

    async def _serve_supervisor(self) -> None:
        while True:
            match await self._supervisor.receive():
                case AskSnapshot(reply_to=reply_to, history_s=history_s):
                    moments = self._history.moments(unix_time() - history_s)
                    outbox = Outbox(self._context, self._run, reply_to)
                    outbox.send(msgspec.structs.replace(self._scenario.snapshot(), moments=moments))
                    outbox.close()
                case AskSpanEnds(reply_to=reply_to, stamp=stamp):
                    ends = span_ends(self._run)
                    if ends.stamp != stamp:
                        outbox = Outbox(self._context, self._run, reply_to)
                        outbox.send(ends)
                        outbox.close()
                case RestartProcess(name=name) | StartProcess(name=name):
                    self._scenario.restart(name)
                case StopProcess(name=name):
                    self._scenario.hold(name)
                case SignalProcess(name=name, signal="TERM" | "INT" | "KILL" as kind):
                    is_handled = kind in ("TERM", "INT")  # it exits by itself
                    why = "exit status 0" if is_handled else f"killed by SIG{kind}"
                    self._scenario.fall(name, why, RESTART_S.get(name, 0.8))
                case StopPipeline():
                    self._scenario.stop()

    async def _serve_server(self) -> None:
        while True:
            match await self._server.receive():
                case AskText() as question:
                    outbox = Outbox(self._context, self._run, question.reply_to)
                    outbox.send(self._scenario.text(question))
                    outbox.close()

    async def _serve_router(self) -> None:
        while True:
            match await self._router.receive():
                case Abort(request_id=request_id):
                    self._scenario.abort(request_id)
                case Drain():
                    self._scenario.drain(True)
                case Resume():
                    self._scenario.drain(False)
                case StartSpans(recording=recording):
                    self._spans.start(recording)
                    self._scenario.is_recording = True
                case StopSpans():
                    self._spans.stop()
                    self._scenario.is_recording = False
                case LoadAdapter() | ReloadAdapter() | UnloadAdapter() as order:
                    self._answer(order)
                case (
                    PinAdapter()
                    | PlanAdapters()
                    | VerifyAdapter()
                    | MergeAdapter()
                    | SetScheduler()
                ) as order:
                    self._answer(order)

    def _answer(self, order: Any) -> None:
        """Answers an order; a verification takes a while and sends its progress."""
        task = asyncio.create_task(self._answer_later(order))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)

    async def _answer_later(self, order: Any) -> None:
        if isinstance(order, VerifyAdapter):
            for part in range(1, 5):
                await asyncio.sleep(0.1)
                bar = Progress(
                    source="worker-0",
                    stage="verify",
                    label=f"verify {order.name}",
                    current=part,
                    total=4,
                    unit="sequence",
                    elapsed_s=part / 10,
                    done=part == 4,
                )
                self._beacons["worker-0"].publish(bar)
        if reply := self._scenario.obey(order):
            outbox = Outbox(self._context, self._run, order.reply_to)
            outbox.send(msgspec.structs.replace(reply, at=unix_time()))
            outbox.close()

    def _application(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/models", self._models),
            ]
        )

    async def _models(self, request: HttpRequest) -> JSONResponse:
        adapters = [{"id": name, "parent": BASE_MODEL} for name in self._scenario.adapters]
        return JSONResponse({"data": [{"id": BASE_MODEL}, *adapters]})

    async def _chat(self, request: HttpRequest) -> JSONResponse | StreamingResponse:
        body = await request.json()
        self.asked.append(body)
        prompt = body["messages"][-1]["content"]
        if "refuse" in prompt:
            error = {"message": "the queue is full", "type": "overloaded", "code": 429}
            return JSONResponse({"error": error}, status_code=429)
        return StreamingResponse(self._chunks(body, prompt), media_type="text/event-stream")

    async def _chunks(self, body: dict[str, Any], prompt: str) -> AsyncIterator[str]:
        words = answer(body["model"], prompt)[: body.get("max_tokens", 128)]
        if "at length" in prompt:  # a very long answer, for measurements
            words = words * 60
        await asyncio.sleep(0.05 + len(body["model"]) % 5 * 0.03)
        for word in words:
            choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
            if body.get("logprobs"):
                top = [{"token": word, "logprob": -0.1}, {"token": "or", "logprob": -2.5}]
                chosen = {
                    "token": word,
                    "logprob": -0.1,
                    "top_logprobs": top[: body["top_logprobs"]],
                }
                choice["logprobs"] = {"content": [chosen]}
            yield f"data: {json.dumps({'choices': [choice]})}\n\n"
            await asyncio.sleep(1.0 / self._tokens_per_second)
        usage = {"prompt_tokens": len(prompt.split()), "completion_tokens": len(words)}
        end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}], "usage": usage}
        yield f"data: {json.dumps(end)}\n\ndata: [DONE]\n\n"


@contextmanager
def mock_pipeline(seed: int, boots: bool = True) -> Iterator[Config]:
    """A mock pipeline in its own process and temporary run directory, until the context ends.
    Unless it `boots`, it is ready at once.

    Raises `OperatorError` if it does not start.
    """
    with tempfile.TemporaryDirectory(prefix="lc-mock-") as directory:
        run = make_run_directory(Path(directory) / "run")
        command = [sys.executable, "-P", "-m", "loraconsole.console.mock.server"]
        with subprocess.Popen(
            [
                *(*command, "--run", str(run), "--seed", str(seed)),
                *(() if boots else ("--ready",)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **UTF8_OUTPUT},
        ) as process:
            try:
                while not (run / "config.json").exists():
                    if process.poll() is not None:
                        errors = process.stderr.read().strip() if process.stderr else ""
                        last = errors.splitlines()[-1] if errors else f"status {process.returncode}"
                        raise OperatorError(f"the mock pipeline did not start: {last}")
                    time.sleep(0.01)
                yield Config.load(str(run))
            finally:
                process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--run", required=True, type=Path)
    parser.add_argument(
        "--scenario", choices=("shift", "empty", "loading", "busy", "failed"), default="shift"
    )
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--ready", action="store_true", help="leave out the start of `shift`")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--tokens-per-second", type=float, default=40.0)
    steady = parser.add_argument_group("options of the scenarios other than `shift`")
    steady.add_argument("--rows", type=int, default=24)
    steady.add_argument("--rate", type=float, default=10.0, help="batch views a second")
    steady.add_argument(
        "--moving", type=float, default=1.0, help="share of rows that change in a view"
    )
    steady.add_argument("--logs", type=float, default=8.0, help="log lines a second")
    steady.add_argument("--steps", type=float, default=30.0, help="steps a second")
    steady.add_argument("--adapters", type=int, default=4)
    given = parser.parse_args()
    keep_files_private()
    die_with_parent()
    run = make_run_directory(given.run)
    lock = Lock.take(run)
    if lock is None:
        sys.exit(f"a pipeline already runs in {run}")
    config = Config(run=str(run), port=given.port).absolute()
    scenario: Scenario
    if given.scenario == "shift":
        scenario = DemoScenario(given.seed, start=unix_time(), boots=not given.ready)
    else:
        scenario = Scenario(
            given.scenario,
            rows=given.rows,
            rate=given.rate,
            moving=given.moving,
            logs_per_second=given.logs,
            steps_per_second=given.steps,
            adapters=given.adapters,
            seed=given.seed,
            start=unix_time(),
        )
    asyncio.run(_run(config, scenario, given.tokens_per_second))


async def _run(config: Config, scenario: Scenario, tokens_per_second: float) -> None:
    ring = MockRing(config, scenario, tokens_per_second)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ring.end)
    config.save()  # last: when this file appears, the sockets exist
    await ring.main()


if __name__ == "__main__":
    main()

"""Process `server`: HTTP ↔ messages. Tokenises, sends to the router, streams the text back.

Knows no scheduling. Every accepted request ends with an answer or an error, whatever process dies:
if it is this one, the next server goes on with the requests, and their clients come back for them.
By hand:
`python -m loraconsole.pipeline.server.server --run DIR`.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import uvicorn

from ..config import Config
from ..handover.listener import bind_listener, inherited_listener
from ..messages import (
    AdapterReply,
    AskText,
    Introduce,
    ProcessState,
    ProcessTable,
    PromptScored,
    Ready,
    Refused,
    RequestsAnswered,
    ServerStats,
    SpansReply,
    TextDeltas,
    ToServer,
)
from ..model_files.generation_config import GenerationDefaults, read_generation_config
from ..model_files.model_config import read_model_config
from ..runtime.clock import unix_time
from ..runtime.health import lost_process
from ..runtime.process import Process, run_process
from ..runtime.sockets import InboxFull, Watch
from ..text.tokenizer import Tokenizer
from .answers.open_answers import GRACE_SECONDS
from .chat.adapter_chat import AdapterChats
from .gateway.gateway import Gateway
from .http.access import exposure
from .http.browser_guard import ANSWER_HEADERS
from .http.http_connection import bounded_connections, why_connections_are_unbounded
from .http.quiet_uvicorn import QuietUvicorn, why_signals_are_shared
from .routes.app import make_app

BACKLOG = 2048
"""Connections that may wait for the server, as uvicorn has it."""
RING_SECONDS = 5.0
"""A restarted server lets connections wait this long for the ring to be whole."""
TABLE_SECONDS = 0.5


class Server(Process):
    """Runs uvicorn over a `Gateway`, and passes the ring's messages to it."""

    accepts = ToServer

    def __init__(self, config: Config, rank: int = 0) -> None:
        super().__init__(config, "server")
        self.url = ""
        self._gateway = Gateway(self)
        self._has_table = asyncio.Event()

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self._socket = inherited_listener() or bind_listener(self.config.host, self.config.port)
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.set_state(ProcessState.STARTING, "reading the tokenizer")
        self._watch = Watch(self.context, self.run, ("supervisor", *self.config.process_names()))
        if why := why_signals_are_shared():
            self.event("warning", why)
        if why := why_connections_are_unbounded():
            self.event("warning", f"connections are not bounded: {why}")
        refusals = self._gateway.counters.connection_refusals
        if why := exposure(self.config):
            self.event("warning", why)
        self._http = QuietUvicorn(
            uvicorn.Config(
                make_app(self._gateway),
                http=bounded_connections(self.config, refusals) or "h11",  # type: ignore[arg-type]
                ws="none",
                log_config=None,
                access_log=False,
                lifespan="off",
                headers=ANSWER_HEADERS,
                timeout_graceful_shutdown=3,
            )
        )
        self._watching = asyncio.create_task(self._watch_forever())
        is_restarted = self._gateway.answers.restore()
        if is_restarted:
            self._socket.listen(BACKLOG)  # connections wait there until the server is ready
        else:
            # The port answers 503 from here on, so a load balancer sees that the server is loading.
            self._serving = asyncio.create_task(self._http.serve(sockets=[self._socket]))
        await self._read_model()
        self._reading_chats = asyncio.create_task(self._read_chats_forever())
        self._announce()
        self.set_state(ProcessState.READY)
        if is_restarted:
            await self._await_ring()
            self._serving = asyncio.create_task(self._http.serve(sockets=[self._socket]))
        self._abandoning = asyncio.create_task(self._abandon_unclaimed())
        self.log.info("listening on %s", self.url)

    def _announce(self) -> None:
        """Tells the router that the server is there, and which requests and orders are open."""
        self._gateway.send_all_again()
        self.outbox("router").send(Ready(self.name, self.incarnation))

    async def _await_ring(self) -> None:
        """Waits until the ring can take requests, but not for long: then it says why not."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RING_SECONDS):
                while self._gateway.broken():
                    await asyncio.sleep(0.05)

    async def _abandon_unclaimed(self) -> None:
        await asyncio.sleep(GRACE_SECONDS)
        self._gateway.answers.abandon_unclaimed()

    async def _read_model(self) -> None:
        """Reads what requests need from the model's files: tokenizer, limits, sampling defaults."""
        gateway, directory = self._gateway, self.run / "model"
        gateway.tokenizer = tokenizer = await asyncio.to_thread(Tokenizer, directory)
        gateway.answers.tokenizer = tokenizer
        await asyncio.to_thread(lambda: tokenizer.longest_token)  # reads the whole vocabulary
        for warning in gateway.tokenizer.warnings:
            self.event("warning", warning)
        loop = asyncio.get_running_loop()

        def event_from_thread(level: str, text: str) -> None:
            loop.call_soon_threadsafe(self.event, level, text)

        model_config = read_model_config(directory, self.config.ignore_key)
        gateway.max_model_len = self.config.max_model_len or model_config.max_model_len
        gateway.vocab_size = model_config.vocab_size
        gateway.hidden_size = model_config.hidden_size
        gateway.chats = AdapterChats(
            gateway.tokenizer,
            gateway.vocab_size,
            model_config.eos_token_ids,
            self.config.adapter_roots(),
            event_from_thread,
        )
        if self.config.generation_config != "none":
            gateway.defaults = self._read_defaults(directory)

    def _read_defaults(self, directory: Path) -> GenerationDefaults:
        """The model's sampling defaults, which an event reports."""
        defaults = read_generation_config(directory)
        if named := defaults.named:
            values = ", ".join(f"{name} {value}" for name, value in named.items())
            self.event("info", f"sampling defaults of generation_config.json: {values}")
        if left_out := defaults.not_honoured:
            text = "generation_config.json has settings that are not supported"
            self.event("warning", f"{text}: {', '.join(left_out)}")
        return defaults

    async def main(self) -> None:
        gateway = self._gateway
        while True:
            match await self.receive():
                case TextDeltas(deltas=deltas):
                    with self.spans.span("deliver", deltas=len(deltas)):
                        for delta in deltas:
                            gateway.deliver_text(delta)
                case PromptScored() as scored:
                    gateway.answers.put_scores(scored)
                case Refused() as refused:
                    gateway.refuse_request(refused)
                case RequestsAnswered(times=times):
                    for each in times:
                        gateway.counters.ended.note_times(each)
                case AdapterReply() as reply:
                    gateway.take_reply(reply)
                case AskText() as question:
                    gateway.send_text(question)
                case SpansReply() as answer:
                    gateway.take_spans_reply(answer)
                case Introduce():
                    self._announce()

    async def shutdown(self) -> None:
        answers = self._gateway.answers
        if await self._is_pipeline_stopping():
            answers.refuse_all("the server is stopping")
        else:
            answers.seal()  # the next server goes on with them
            self._http.break_connections()
        self._http.should_exit = True
        tasks = [self._watching, self._reading_chats, self._abandoning]
        for task in tasks:
            task.cancel()
        await asyncio.wait([self._serving, *tasks])
        if not answers.is_sealed:
            answers.end()
        self._watch.close()

    async def _is_pipeline_stopping(self) -> bool:
        """Whether all processes are being stopped, and not this one alone. The supervisor's table
        may come after its signal."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TABLE_SECONDS):
                while not (state := self._stopped_as()):
                    await asyncio.sleep(0.02)
                return state is ProcessState.STOPPING
        return False

    def _stopped_as(self) -> ProcessState | None:
        """The pipeline's state in a table in which this process is stopping."""
        table = self._gateway.pipeline.processes
        for process in table.processes if table else ():
            if table and process.name == self.name and process.state is ProcessState.STOPPING:
                return table.state
        return None

    # -- the other processes

    async def _watch_forever(self) -> None:
        pipeline = self._gateway.pipeline
        while True:
            for message in await self._watch.receive():
                pipeline.fold_message(message)
                if message is pipeline.adapters:
                    self._has_table.set()
                elif isinstance(message, ProcessTable) and (lost := lost_process(message)):
                    self._gateway.answers.refuse_all(lost)

    async def _read_chats_forever(self) -> None:
        """Reads adapters' chat files in a thread: some have megabytes of tokenizer."""
        while True:
            await self._has_table.wait()
            self._has_table.clear()
            table, chats = self._gateway.pipeline.adapters, self._gateway.chats
            if table is None or chats is None:
                continue
            if chats.has_news(table):
                await asyncio.to_thread(chats.read_new, table)
            for warning in chats.warnings(self._gateway.pipeline.adapters or table):
                with contextlib.suppress(InboxFull):  # it is sent again with the next table
                    self.outbox("router").send(warning)

    def write_files_again(self) -> None:
        self._gateway.answers.write_journal()

    def publish_stats(self) -> None:
        counters = self._gateway.counters
        self.beacon.publish(
            ServerStats(
                at=unix_time(),
                url=self.url,
                open_streams=len(self._gateway.answers.streams),
                requests=counters.requests,
                errors=counters.errors,
                prompt_tokens=counters.prompt_tokens,
                output_tokens=counters.output_tokens,
                ttft=tuple(counters.ttft.counts),
                inter_token=tuple(counters.inter_token.counts),
                resumed=counters.resumed,
                abandoned=counters.abandoned,
            )
        )


if __name__ == "__main__":
    run_process(Server, __doc__)

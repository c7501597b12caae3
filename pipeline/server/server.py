"""Process `server`: HTTP ↔ messages. Tokenises, posts to the router, streams the text back.

Knows no scheduling and no token ids but those it passes on. Every accepted request ends with an
answer or an error, whatever dies behind it. By hand:
`python -m loraconsole.pipeline.server.server --run DIR`.
"""

from __future__ import annotations

import asyncio
import bisect
import contextlib
import errno
import secrets
import socket
import time
from collections import deque
from collections.abc import Iterator, Mapping

import msgspec
import uvicorn

from ..adapter_name import normal
from ..config import Config, OperatorError
from ..messages import (
    LATENCY_BUCKETS_MS,
    UNREAD,
    Abort,
    AdapterReply,
    AdapterTable,
    AnswerHeard,
    AskText,
    Beat,
    Introduce,
    Order,
    ProcessState,
    ProcessTable,
    ProcessView,
    Ready,
    Refused,
    Request,
    RequestText,
    RouterStats,
    SamplingParams,
    ServerStats,
    SpansOrder,
    SpansReply,
    Step,
    SyncPoint,
    TextDelta,
    TextDeltas,
    ToServer,
    WorkerStats,
)
from ..model_files.generation_config import NO_DEFAULTS, read_generation_config
from ..model_files.model_config import read_card
from ..runtime.process import Process, run_process
from ..runtime.sockets import InboxFull, Watch
from ..text.tokenizer import Tokenizer
from .adapter_chat import AdapterChat, AdapterChats
from .quiet_uvicorn import QuietUvicorn, why_signals_are_shared
from .request_fields import BadRequest
from .routes import make_app
from .streams import Answer, Stream

ORDER_SECONDS = 600.0
"""An unload waits for the requests that still run."""
SPANS_SECONDS = 5.0
"""A process that is still loading does not hear an order."""
RECENT_STEPS = 256
"""Decode steps whose medians a scrape gets: some seconds of serving."""
LOOKED_AT = 16
"""Requests that a console has opened are kept so many, for their last words."""
UNHEARD_SECONDS = 0.5
"""An adapter that an order has just loaded is in the router's next table, a tenth of a second
later; without any table, one comes within two seconds."""
STALE_SECONDS = 3.0
"""A process that has not beaten for this long is not counted on."""


class Histogram:
    """Counts per bucket of `LATENCY_BUCKETS_MS`, the last bucket open."""

    def __init__(self) -> None:
        self.counts = [0] * (len(LATENCY_BUCKETS_MS) + 1)
        self.sum_ms = 0.0

    def observe(self, ms: float) -> None:
        self.counts[bisect.bisect_left(LATENCY_BUCKETS_MS, ms)] += 1
        self.sum_ms += ms


class Server(Process):
    """See the module."""

    accepts = ToServer

    def __init__(self, config: Config, rank: int = 0) -> None:
        super().__init__(config, "server")
        self.streams: dict[str, Stream] = {}
        self.ttft = Histogram()
        self.inter_token = Histogram()
        self.requests = self.errors = self.prompt_tokens = self.output_tokens = 0
        self.url = ""
        self.defaults = NO_DEFAULTS
        self.adapters: AdapterTable | None = None
        self.router: RouterStats | None = None
        self.workers: dict[int, WorkerStats] = {}
        self.decode_steps: deque[Step] = deque(maxlen=RECENT_STEPS)
        """Of the first worker: the ranks work in lockstep."""
        self.sync_waits: dict[str, tuple[int, float]] = {}
        """How often, and seconds in all, the first worker waited at each of its sync points."""
        self.chats: AdapterChats | None = None
        self._has_table = asyncio.Event()
        self._looked_at: dict[str, Stream] = {}
        self._orders: dict[str, asyncio.Future[AdapterReply]] = {}
        self._spans_heard: dict[str, asyncio.Queue[SpansReply]] = {}
        self._beats: dict[str, Beat] = {}
        self._table: ProcessTable | None = None

    # -- startup, main loop, shutdown

    async def startup(self) -> None:
        self._socket = self._bind()
        host, port = self._socket.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        self.set_state(ProcessState.STARTING, "reading the tokenizer")
        self._watch = Watch(self.context, self.run, ("supervisor", *self.config.process_names()))
        if why := why_signals_are_shared():
            self.event("warning", why)
        self._http = QuietUvicorn(
            uvicorn.Config(
                make_app(self),
                log_config=None,
                access_log=False,
                lifespan="off",
                timeout_graceful_shutdown=3,
            )
        )
        # The port answers 503 from here on; a balancer sees a server that is loading.
        self._serving = asyncio.create_task(self._http.serve(sockets=[self._socket]))
        self._watching = asyncio.create_task(self._watch_forever())
        self.tokenizer = await asyncio.to_thread(Tokenizer, self.run / "model")
        for warning in self.tokenizer.warnings:
            self.event("warning", warning)
        self._loop = asyncio.get_running_loop()
        card = read_card(self.run / "model", self.config.ignore_key)
        self.max_model_len = self.config.max_model_len or card.max_model_len
        self.vocab_size = card.vocab_size
        self.chats = AdapterChats(
            self.tokenizer,
            self.vocab_size,
            card.eos_token_ids,
            self.config.adapter_roots(),
            self._tell_from_thread,
        )
        self._reading_chats = asyncio.create_task(self._read_chats_forever())
        self._read_defaults()
        self.outbox("router").send(Ready(self.name, self.incarnation))
        self.set_state(ProcessState.READY)
        self.log.info("listening on %s", self.url)

    def _read_defaults(self) -> None:
        """The model's sampling defaults, where the operator wants them; says what holds."""
        if self.config.generation_config == "none":
            return
        self.defaults = read_generation_config(self.run / "model")
        if named := self.defaults.named:
            said = ", ".join(f"{name} {value}" for name, value in named.items())
            self.event("info", f"a request that names none has generation_config.json's {said}")
        if left_out := self.defaults.not_honoured:
            word = "generation_config.json asks for what is not done here"
            self.event("warning", f"{word}: {', '.join(left_out)}")

    def _bind(self) -> socket.socket:
        host, port = self.config.host, self.config.port
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            listening.close()
            if error.errno == errno.EADDRINUSE:
                raise OperatorError(
                    f"port {port} of {host} is taken", "choose another --port (0: any free one)"
                ) from error
            raise OperatorError(
                f"cannot listen on {host}:{port}: {error.strerror}", "check --host and --port"
            ) from error
        return listening

    async def main(self) -> None:
        while True:
            match await self.receive():
                case TextDeltas(deltas=deltas):
                    with self.spans.span("deliver", deltas=len(deltas)):
                        for delta in deltas:
                            self._deliver(delta)
                case Refused() as refused:
                    if stream := self.streams.get(refused.request_id):
                        self.errors += 1
                        stream.refuse(refused)
                case AdapterReply() as reply:
                    self._take_views(reply)
                    if (waiting := self._orders.get(reply.order)) and not waiting.done():
                        waiting.set_result(reply)
                case AskText() as question:
                    self._tell_text(question)
                case SpansReply() as answer:
                    if heard := self._spans_heard.get(answer.order):
                        heard.put_nowait(answer)
                case Introduce():
                    self._fail_all("the router restarted; please send the request again")
                    self.outbox("router").send(Ready(self.name, self.incarnation))

    async def shutdown(self) -> None:
        self._fail_all("the server is stopping")
        self._http.should_exit = True
        self._watching.cancel()
        self._reading_chats.cancel()
        await asyncio.wait([self._serving, self._watching, self._reading_chats])
        self._watch.close()

    def _tell_text(self, question: AskText) -> None:
        """To a console that looks at a request, or looked at one that has ended since."""
        request_id = question.request_id
        stream = self.streams.get(request_id)
        if stream is not None:
            self._looked_at[request_id] = stream
            while len(self._looked_at) > LOOKED_AT:
                self._looked_at.pop(next(iter(self._looked_at)))
        stream = stream or self._looked_at.get(request_id)
        reply = RequestText(request_id=request_id, offset=question.offset, ended=True)
        if stream is not None:
            prompt = stream.request.prompt_ids if question.with_prompt else ()
            reply = RequestText(
                request_id=request_id,
                prompt=self.tokenizer.decode(prompt, skip_special_tokens=False),
                offset=question.offset,
                text=stream.text[question.offset :],
                ended=stream.ended or request_id not in self.streams,
            )
        with contextlib.suppress(InboxFull):  # a console that has gone
            self.outbox(question.reply_to).send(reply)

    def _deliver(self, delta: TextDelta) -> None:
        if delta.finish_reason:
            with contextlib.suppress(InboxFull):  # a dead router has forgotten it anyway
                self.outbox("router").send(AnswerHeard(delta.request_id))
        stream = self.streams.get(delta.request_id)
        if stream is None:
            return
        before = stream.num_tokens
        if not stream.put(delta):
            return
        self.output_tokens += stream.num_tokens - before
        now = time.perf_counter()
        if stream.last_token is None:
            self.ttft.observe((now - stream.arrived) * 1e3)
        else:
            self.inter_token.observe((now - stream.last_token) * 1e3)
        stream.last_token = now

    def _fail_all(self, reason: str) -> None:
        """Every open stream ends with an error rather than with silence."""
        for request_id, stream in self.streams.items():
            if not stream.ended:
                self.errors += 1
                stream.refuse(Refused(request_id, 503, reason))

    # -- requests

    @contextlib.contextmanager
    def open(
        self, answer: Answer, adapter: str | None, prompt: list[int], params: SamplingParams
    ) -> Iterator[Stream]:
        """A request's life: posted to the router, and aborted there if its reader leaves."""
        if reason := self.broken():
            raise BadRequest(reason, status=503)
        request = Request(
            request_id=f"r-{secrets.token_hex(8)}",
            adapter=adapter,
            prompt_ids=tuple(prompt),
            params=self.adapter_chat(adapter).with_stop_tokens(params),
            arrived_at=time.time(),
        )
        stream = Stream(request, len(answer.streams), answer.sink)
        try:
            self.outbox("router").send(request)
        except InboxFull as error:
            raise BadRequest(f"overloaded: {error}", status=503) from error
        answer.streams.append(stream)
        self.streams[request.request_id] = stream
        self.requests += 1
        self.prompt_tokens += len(prompt)
        try:
            yield stream
        finally:
            del self.streams[request.request_id]
            if not stream.ended:
                with contextlib.suppress(InboxFull):  # a dead router has forgotten it anyway
                    self.outbox("router").send(Abort(request.request_id, "client gone"))

    def resolve(self, model: str) -> str | None:
        """The adapter that `model` names: base, adapter, or base:adapter; None is the base.

        A name the router does not know comes back from there as 404."""
        base = self.config.model
        if model in ("", base):
            return None
        return normal(model.removeprefix(f"{base}:")) or None

    def adapter_chat(self, adapter: str | None) -> AdapterChat:
        """How chats with an adapter are written; None is the base."""
        return self.chats.of(adapter, self.adapters) if self.chats else AdapterChat()

    async def hear_of(self, adapter: str | None) -> None:
        """Returns once an adapter's files are read, which say how it is asked and where its answers
        end, or once it is clear that they will not be."""
        started = time.monotonic()
        while adapter is not None:
            table, waited = self.adapters, time.monotonic() - started
            states = (
                [view.state for view in table.adapters if view.name == adapter] if table else []
            )
            if states and not set(states) <= UNREAD:
                return
            if not states and waited > (UNHEARD_SECONDS if table else 5 * UNHEARD_SECONDS):
                return
            await asyncio.sleep(0.02)

    def resolve_all(self, model: str, others: Mapping[str, str]) -> str | None:
        """The adapter of a request that may name it in several fields. `others` are those beside
        `model`; each is a name as `model` is, or a registered adapter's path, as in S-LoRA.

        Raises `BadRequest` where two of them contradict each other; the base in `model`
        contradicts nothing.
        """
        views = self.adapters.adapters if self.adapters else ()
        paths = {view.path.rstrip("/"): view.name for view in views}
        found, first = self.resolve(model), "model"
        for field, name in others.items():
            adapter = self.resolve(paths.get(name.rstrip("/"), name))
            if first == "model" and found is None:
                found, first = adapter, field
            elif adapter != found:
                raise BadRequest(
                    f"{first} and {field} name two adapters: leave one of them out", param=field
                )
        return found

    # -- adapters

    async def order(self, order: Order) -> AdapterReply:
        """Carries an order to the router; its answer. Raises `BadRequest` where there is none."""
        answer: asyncio.Future[AdapterReply] = asyncio.get_running_loop().create_future()
        self._orders[order.order] = answer
        try:
            self.outbox("router").send(order)
            return await asyncio.wait_for(answer, ORDER_SECONDS)
        except InboxFull as error:
            raise BadRequest(f"overloaded: {error}", status=503) from error
        except TimeoutError:
            word = f"no answer in {ORDER_SECONDS:.0f} s; GET /v1/adapters tells how far it is"
            raise BadRequest(word, status=504) from None
        finally:
            del self._orders[order.order]

    async def order_spans_of_all(self, order: SpansOrder) -> dict[str, SpansReply]:
        """To every process of the ring; the answers of those that gave one in time."""
        heard = self._spans_heard[order.order] = asyncio.Queue()
        replies: dict[str, SpansReply] = {}
        try:
            for name in self.config.process_names():
                with contextlib.suppress(InboxFull):  # it will be missing among the answers
                    self.outbox(name).send(order)
            async with asyncio.timeout(SPANS_SECONDS):
                while len(replies) < len(self.config.process_names()):
                    reply = await heard.get()
                    replies[reply.name] = reply
        except TimeoutError:
            pass
        finally:
            del self._spans_heard[order.order]
        return replies

    # -- what it knows of the others

    async def _watch_forever(self) -> None:
        while True:
            for message in await self._watch.receive():
                match message:
                    case Beat():
                        self._beats[message.name] = message
                    case AdapterTable():
                        self._take_table(message)
                    case RouterStats():
                        if self.router is None or message.at >= self.router.at:
                            self.router = message
                    case WorkerStats():
                        self.workers[message.rank] = message
                    case SyncPoint(rank=0):
                        count, seconds = self.sync_waits.get(message.name, (0, 0.0))
                        seconds += message.wait_us / 1e6
                        self.sync_waits[message.name] = (count + 1, seconds)
                    case Step(rank=0, phase="decode"):
                        self.decode_steps.append(message)
                    case ProcessTable():
                        self._table = message
                        self._fail_if_hopeless(message)

    def _take_table(self, table: AdapterTable) -> None:
        if self.adapters is None or table.at >= self.adapters.at:
            self.adapters = table
            self._has_table.set()

    async def _read_chats_forever(self) -> None:
        """The chat templates of adapters, beside the loop: some bring megabytes of tokenizer."""
        while True:
            await self._has_table.wait()
            self._has_table.clear()
            if self.adapters is None or self.chats is None:
                continue
            if self.chats.has_news(self.adapters):
                await asyncio.to_thread(self.chats.read_new, self.adapters)
            for warning in self.chats.warnings(self.adapters):
                with contextlib.suppress(InboxFull):  # the next table has it again
                    self.outbox("router").send(warning)

    def _tell_from_thread(self, level: str, text: str) -> None:
        self._loop.call_soon_threadsafe(self.event, level, text)

    def _take_views(self, reply: AdapterReply) -> None:
        """What an order changed, before the next table tells it: who ordered may ask at once."""
        if self.router is not None and reply.scheduling is not None:
            self.router = msgspec.structs.replace(
                self.router, at=reply.at, scheduling=reply.scheduling
            )
        table = self.adapters
        if not reply.name or table is None or table.at > reply.at:
            return
        others = (view for view in table.adapters if view.name != reply.name)
        self.adapters = msgspec.structs.replace(
            table, at=reply.at, adapters=(*others, *reply.adapters)
        )

    def _fail_if_hopeless(self, table: ProcessTable) -> None:
        """A router that is gone has forgotten every request; a process that is given up will
        not bring any further token."""
        for process in table.processes:
            given_up = process.state is ProcessState.FAILED
            dead = process.state in (ProcessState.BACKOFF, ProcessState.STOPPED)
            if given_up or (process.name == "router" and dead):
                died = f"{process.name} died: {process.reason or 'see its log'}"
                self._fail_all(_condition(process) if process.held else died)

    def broken(self) -> str:
        """Why the pipeline cannot take a request now; "" where it can."""
        now = time.time()
        if self.state is not ProcessState.READY:
            return f"server is {self.state.value}: {self.reason}"
        for process in self._table.processes if self._table else ():
            if process.name in self.config.process_names() and process.state not in (
                ProcessState.READY,
                ProcessState.DRAINING,
            ):
                return _condition(process)
        for name in self.config.process_names():
            beat = self._beats.get(name)
            if beat is None:
                return f"{name} has not been heard yet"
            if now - beat.at > STALE_SECONDS:
                return f"{name} has not been heard for {now - beat.at:.0f} s"
            if beat.state is not ProcessState.READY:
                return f"{name} is {beat.state.value}: {beat.reason}".rstrip(": ")
        return ""

    def publish_stats(self) -> None:
        self.beacon.publish(
            ServerStats(
                at=time.time(),
                url=self.url,
                open_streams=len(self.streams),
                requests=self.requests,
                errors=self.errors,
                prompt_tokens=self.prompt_tokens,
                output_tokens=self.output_tokens,
                ttft=tuple(self.ttft.counts),
                inter_token=tuple(self.inter_token.counts),
            )
        )


def _condition(process: ProcessView) -> str:
    """`worker-0 is starting: reading weights`, `worker-0 is stopped by an operator`."""
    if process.held and process.state is ProcessState.STOPPED:
        return f"{process.name} is {process.reason}"
    return f"{process.name} is {process.state.value}: {process.reason}".rstrip(": ")


if __name__ == "__main__":
    run_process(Server, __doc__)

"""`Gateway`: the HTTP handlers' access to the ring. It sends requests and orders to the router, and
passes replies to the stream or the handler that waits for them.

Knows no HTTP. Every open stream ends with an answer or an error, whatever process dies.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from ...adapter_name import LONGEST_NAME, normal, not_registered
from ...messages import (
    UNREAD,
    AdapterReply,
    AskText,
    Message,
    Order,
    ProcessState,
    Refused,
    Request,
    RequestText,
    SamplingParams,
    SpansOrder,
    SpansReply,
    TextDelta,
)
from ...model_files.generation_config import NO_DEFAULTS
from ...runtime.clock import unix_time
from ...runtime.process import Process
from ...runtime.sockets import InboxFull
from ...text.tokenizer import Tokenizer
from ..answers.answer_format import Format
from ..answers.open_answers import OpenAnswers
from ..answers.request_counters import RequestCounters
from ..answers.request_journal import RequestJournal
from ..answers.streams import AnswerStreams, Stream
from ..chat.adapter_chat import AdapterChat, AdapterChats
from ..http.bad_request import MODEL_NOT_FOUND, BadRequest
from .pipeline_state import PipelineState

ORDER_SECONDS = 600.0
"""Longest wait for an order: an unload waits for running requests."""
SPANS_SECONDS = 5.0
"""Longest wait for an order about spans: a process that is still loading does not answer."""
LOOKED_AT = 16
"""Requests opened in a console whose text is kept after they end."""
TGI_NAMES = ("tgi", "dummy")
"""The model in a chat of the clients of TGI, which serves only one: text-generation and
huggingface_hub."""
SENT_AT_ONCE = 16
"""Requests of one answer that are sent before the event loop goes on."""
MEND_SECONDS = 30.0
"""Longest wait of a request for a ring that mends a death."""
UNHEARD_SECONDS = 0.5
"""Longest wait for an unknown adapter. One that was just loaded is in the router's next table, a
tenth of a second later; the first table comes within two seconds."""


class OrderUnderWay(NamedTuple):
    """An order to the router, and its answer to come."""

    order: Order
    answer: asyncio.Future[AdapterReply]


class AskedChoice(NamedTuple):
    """One choice of an answer to come."""

    adapter: str | None
    """None is the base."""
    prompt_ids: tuple[int, ...]
    """Choices of one prompt share it."""
    params: SamplingParams


class Gateway:
    """The open requests and orders of one server, and its model's tokenizer and limits."""

    tokenizer: Tokenizer
    """Set by the server before it is READY, as are the next two."""
    vocab_size: int
    hidden_size: int

    def __init__(self, process: Process) -> None:
        self._process = process
        self.config, self.run = process.config, process.run
        self.incarnation = process.incarnation
        self.pipeline = PipelineState(process.config.process_names())
        self.counters = RequestCounters()
        self.max_model_len = 0
        """0 until the server has read the model."""
        self.defaults = NO_DEFAULTS
        """The model's sampling defaults, unless --generation-config is none."""
        self.chats: AdapterChats | None = None
        journal = RequestJournal(process.run, self.report)
        self.answers = OpenAnswers(journal, self._post, self.report, self.counters)
        self._mending: asyncio.Task[None] | None = None
        self._looked_at: dict[str, Stream] = {}
        self._orders: dict[str, OrderUnderWay] = {}
        self._spans_heard: dict[str, asyncio.Queue[SpansReply]] = {}

    def broken(self) -> str:
        """Why the pipeline cannot take a request now; "" if it can."""
        process = self._process
        if process.state is not ProcessState.READY:
            return f"server is {process.state.value}: {process.reason}"
        return self.pipeline.find_fault(unix_time())

    async def await_ring(self) -> None:
        """Waits while a death in the ring is mended, at most `MEND_SECONDS`."""
        if self._is_mending():
            if self._mending is None or self._mending.done():  # one looks for all that wait
                self._mending = asyncio.create_task(self._wait_mended())
            await asyncio.wait({self._mending}, timeout=MEND_SECONDS)

    async def _wait_mended(self) -> None:
        while self._is_mending():
            await asyncio.sleep(0.05)

    def _is_mending(self) -> bool:
        is_there = self._process.state is ProcessState.READY
        return is_there and bool(self.broken()) and self.pipeline.is_mending()

    def report(self, level: str, text: str) -> None:
        """Publishes and logs an event of the server."""
        self._process.event(level, text)

    # -- requests

    def check_room(self, count: int) -> None:
        """Raises `BadRequest` unless `count` more requests may wait: 429 if the queue is too full
        for all of a body's requests, 400 if it never holds as many."""
        most = self.config.max_waiting
        if count > most:
            raise BadRequest(
                f"the body makes {count} requests, one for each choice of each prompt; at most "
                f"{most} may wait: send fewer at once, or see --max-waiting"
            )
        if len(self.answers.streams) + count <= most:
            return
        waiting = sum(not stream.num_tokens for stream in self.answers.streams.values())
        if waiting + count > most:
            self.counters.queue_refusals += 1
            raise BadRequest(
                f"the queue is full: {waiting} requests wait, {count} more would exceed {most}; "
                "see --max-waiting",
                status=429,
            )

    def open_answer(
        self,
        form: Format,
        owner: bytes,
        asked: Sequence[AskedChoice],
    ) -> AnswerStreams:
        """Registers an answer of these choices. Raises `BadRequest`: 503 if the pipeline cannot
        take it, 409 if its id is taken."""
        if reason := self.broken():
            raise BadRequest(reason, status=503)
        now = unix_time()
        requests = [
            Request(
                request_id=f"r-{secrets.token_hex(8)}",
                adapter=each.adapter,
                prompt_ids=each.prompt_ids,
                params=self.adapter_chat(each.adapter).with_stop_tokens(each.params),
                arrived_at=now,
            )
            for each in asked
        ]
        return self.answers.open(form, owner, requests)

    async def send_requests(self, answer: AnswerStreams) -> None:
        """Sends an answer's requests to the router. Raises `BadRequest` (503) if it is behind."""
        router = self._process.outbox("router")
        for number, stream in enumerate(answer.streams, start=1):
            try:
                router.send(stream.request)
            except InboxFull as error:
                raise BadRequest(f"overloaded: {error}", status=503) from error
            if number % SENT_AT_ONCE == 0:
                await asyncio.sleep(0)  # for the other clients

    def _post(self, message: Message) -> None:
        """Sends the router what it need not get if it is dead: it has lost it anyway."""
        with contextlib.suppress(InboxFull):
            self._process.outbox("router").send(message)

    def deliver_text(self, delta: TextDelta) -> None:
        """Passes a piece of an answer to its stream, without text that it already has."""
        stream = self.answers.put(delta)
        if stream is None:
            return
        counters = self.counters
        counters.output_tokens += len(delta.token_ids)
        now = time.perf_counter()
        if not stream.is_restored:
            if stream.last_token is None:
                counters.ttft.observe((now - stream.arrived) * 1e3)
                counters.ended.prompts_computed += len(stream.request.prompt_ids)
            else:
                counters.inter_token.observe((now - stream.last_token) * 1e3)
        stream.last_token = now
        if stream.ended:
            counters.ended.note_answered(stream, (now - stream.arrived) * 1e3)

    def refuse_request(self, refused: Refused) -> None:
        """Ends a stream with the router's refusal."""
        if stream := self.answers.streams.get(refused.request_id):
            self.counters.errors += 1
            self.counters.queue_refusals += refused.status == 429
            self.counters.ended.note_refused(refused.status, has_begun=stream.num_tokens > 0)
            stream.refuse(refused)

    def send_all_again(self) -> None:
        """Sends a new router every open request, with the tokens delivered so far, and every order
        without an answer. The router ignores what it has in its own record."""
        router = self._process.outbox("router")
        for request_id, stream in self.answers.streams.items():
            if stream.ended:
                continue
            try:
                router.send(stream.to_resume())
            except InboxFull as error:
                self.counters.errors += 1
                stream.refuse(Refused(request_id, 503, f"overloaded: {error}"))
        for under_way in self._orders.values():
            with contextlib.suppress(InboxFull):  # its handler answers when its time is over
                router.send(under_way.order)

    def send_text(self, question: AskText) -> None:
        """Sends a console the text of a request, also of one that ended while it was shown."""
        request_id = question.request_id
        stream = self.answers.streams.get(request_id)
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
                ended=stream.ended or request_id not in self.answers.streams,
            )
        with contextlib.suppress(InboxFull):  # the console has exited
            self._process.outbox(question.reply_to).send(reply)

    # -- the adapter of a request

    def adapter_chat(self, adapter: str | None) -> AdapterChat:
        """The chat settings of an adapter; None is the base."""
        return self.chats.of(adapter, self.pipeline.adapters) if self.chats else AdapterChat()

    async def await_adapter(self, adapter: str | None) -> None:
        """Waits until an adapter's files are read, which have its chat template and stop tokens, or
        until it is clear that they will not be."""
        started = time.monotonic()
        while adapter is not None:
            table, waited = self.pipeline.adapters, time.monotonic() - started
            states = (
                [view.state for view in table.adapters if view.name == adapter] if table else []
            )
            if states and not set(states) <= UNREAD:
                return
            if not states and waited > (UNHEARD_SECONDS if table else 5 * UNHEARD_SECONDS):
                return
            await asyncio.sleep(0.02)

    async def await_fingerprint(self, adapter: str | None) -> str | None:
        """The fingerprint of answers by `adapter`. A server that has just started waits for it, as
        long as for the first table: it comes with a worker's statistics."""
        started = time.monotonic()
        while (found := self.pipeline.fingerprint(adapter)) is None:
            if time.monotonic() - started > 5 * UNHEARD_SECONDS:
                break
            await asyncio.sleep(0.02)
        return found

    def find_adapter(self, model: str, others: Mapping[str, str]) -> str | None:
        """The adapter of a request that may name it in several fields; None is the base. `others`
        are the values of fields other than `model`: a name like `model`, or a registered adapter's
        path, as in S-LoRA.

        Raises `BadRequest` if two of them contradict each other; the base in `model` contradicts
        nothing. The router refuses an unknown name with 404.
        """
        table = self.pipeline.adapters
        paths = {view.path.rstrip("/"): view.name for view in (table.adapters if table else ())}
        found, first = self._adapter_named(model), "model"
        for field, name in others.items():
            adapter = self._adapter_named(paths.get(name.rstrip("/"), name), field)
            if first == "model" and found is None:
                found, first = adapter, field
            elif adapter != found:
                raise BadRequest(
                    f"{first} and {field} name two adapters: leave one of them out", param=field
                )
        return found

    def _adapter_named(self, model: str, field: str = "model") -> str | None:
        """The adapter that `field` names as `base`, `adapter` or `base:adapter`; None is the base.
        Raises `BadRequest` for a name that no adapter can have."""
        name = model
        for base in self._base_names():
            if model == base:
                return None
            if model.startswith(f"{base}:"):
                name = model.removeprefix(f"{base}:")
                break
        if len(name) > LONGEST_NAME:
            raise self._not_registered(name, field)
        return normal(name) or None

    def check_registered(self, adapter: str | None, model: str, others: Mapping[str, str]) -> None:
        """Raises `BadRequest` (404) for an adapter that is not registered, as far as is known here.
        It names the field of `model` and `others` with the name."""
        table = self.pipeline.adapters
        if adapter is None or table is None:
            return
        if any(view.name == adapter for view in table.adapters):
            return
        field = next(iter(others), "model") if self._adapter_named(model) is None else "model"
        raise self._not_registered(adapter, field)

    def _not_registered(self, name: str, field: str) -> BadRequest:
        table = self.pipeline.adapters
        served = [view.name for view in (table.adapters if table else ()) if view.is_served]
        reason = not_registered(name, served, self.config.model_name)
        return BadRequest(reason, status=404, param=field, code=MODEL_NOT_FOUND)

    def _base_names(self) -> Iterator[str]:
        """All names of the base model in requests."""
        yield from self.config.model_names
        table = self.pipeline.adapters
        adapters = {view.name for view in table.adapters} if table else ()
        others = (*self.config.short_model_names, *TGI_NAMES)
        yield from (name for name in others if name not in adapters)

    @property
    def context_length(self) -> int:
        """The longest prompt with its answer that the model and the pool hold, in tokens."""
        router = self.pipeline.router
        pool = router.pages_total * router.page_size if router else 0
        return min(self.max_model_len, pool) if pool else self.max_model_len

    # -- orders

    async def carry_order(self, order: Order) -> AdapterReply:
        """Sends an order to the router and returns its answer. Raises `BadRequest` without one."""
        answer: asyncio.Future[AdapterReply] = asyncio.get_running_loop().create_future()
        self._orders[order.order] = OrderUnderWay(order, answer)
        try:
            self._process.outbox("router").send(order)
            return await asyncio.wait_for(answer, ORDER_SECONDS)
        except InboxFull as error:
            raise BadRequest(f"overloaded: {error}", status=503) from error
        except TimeoutError:
            reason = f"no answer in {ORDER_SECONDS:.0f} s; GET /v1/adapters shows its progress"
            raise BadRequest(reason, status=504) from None
        finally:
            del self._orders[order.order]

    def take_reply(self, reply: AdapterReply) -> None:
        """Passes the router's answer to the handler that waits for it."""
        self.pipeline.fold_reply(reply)
        under_way = self._orders.get(reply.order)
        if under_way is not None and not under_way.answer.done():
            under_way.answer.set_result(reply)

    async def carry_spans_order(self, order: SpansOrder) -> dict[str, SpansReply]:
        """Sends an order to every process of the ring. Returns the answers that came in time, by
        process."""
        heard = self._spans_heard[order.order] = asyncio.Queue()
        names = self.config.process_names()
        replies: dict[str, SpansReply] = {}
        try:
            for name in names:
                with contextlib.suppress(InboxFull):  # its answer will be missing
                    self._process.outbox(name).send(order)
            async with asyncio.timeout(SPANS_SECONDS):
                while len(replies) < len(names):
                    reply = await heard.get()
                    replies[reply.name] = reply
        except TimeoutError:
            pass
        finally:
            del self._spans_heard[order.order]
        return replies

    def take_spans_reply(self, reply: SpansReply) -> None:
        """Passes a process's answer to the order about spans that waits for it."""
        if heard := self._spans_heard.get(reply.order):
            heard.put_nowait(reply)

"""The HTTP application over a `Gateway`: routes and handlers.

Knows no socket of the ring. All errors have OpenAI's format.
"""

from __future__ import annotations

import functools
import itertools
import logging
import secrets
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal

import msgspec
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..adapter_name import LONGEST_NAME, objection
from ..messages import (
    AdapterState,
    AdapterView,
    ClientWeight,
    LoadAdapter,
    MergeAdapter,
    Order,
    PinAdapter,
    PlanAdapters,
    ReloadAdapter,
    SamplingParams,
    SchedulerSettings,
    SetScheduler,
    SpansOrder,
    SpansReply,
    StartSpans,
    StopSpans,
    UnloadAdapter,
    VerifyAdapter,
)
from ..order_id import make_order_id
from ..run_directory import is_hub_id
from ..runtime.clock import unix_time
from ..runtime.json_document import to_document
from ..runtime.spans import recording_name
from ..text.tokenizer import TextError
from .access import Access, owner_of
from .answer_format import Format, error_body
from .bad_request import BadRequest
from .body_reader import BodyReader
from .browser_guard import guard_middleware
from .event_id import check_answer_id, read_event_id
from .event_stream import (
    REQUEST_ID,
    answer_response,
    until_gone,
)
from .gateway import Gateway
from .metrics import Metrics
from .prompt_reader import PromptReader
from .request_fields import shortened
from .schemas import (
    DEFAULT_CHAT_TOKENS,
    DEFAULT_COMPLETION_TOKENS,
    AdapterBody,
    ChatBody,
    CompletionBody,
    GenerateBody,
    LoadBody,
    PlanBody,
    ProfilerBody,
    SamplingBody,
    SchedulerBody,
    StreamOptions,
    UnloadBody,
    decode_body,
)

log = logging.getLogger("server")

SERVED = (AdapterState.HOST, AdapterState.LOADING, AdapterState.GPU)
"""States in which an adapter is served: at once, or as soon as it is placed."""


def make_app(gateway: Gateway) -> Starlette:
    """Routes over one `Gateway`; each handler is a few lines of glue."""
    api = Api(gateway)
    routes = [
        Route("/health", api.health),
        Route("/metrics", api.metrics),
        Route("/v1/models", api.guarded(api.models)),
        Route("/v1/models/{name:path}", api.guarded(api.model)),
        Route("/v1/chat/completions", api.guarded(api.chat), methods=["POST"]),
        Route("/v1/completions", api.guarded(api.completions), methods=["POST"]),
        Route("/generate", api.guarded(api.generate), methods=["POST"]),
        Route("/generate_stream", api.guarded(api.generate_stream), methods=["POST"]),
        Route("/v1/requests/{id:path}", api.guarded(api.resume)),
        Route("/v1/scheduler", api.guarded(api.scheduler)),
        Route("/v1/scheduler", api.admin(api.set_scheduler), methods=["PUT"]),
        Route("/v1/adapters", api.guarded(api.adapters)),
        Route("/v1/adapters", api.admin(api.add_adapter), methods=["POST"]),
        Route("/v1/adapters/plan", api.admin(api.plan_adapters), methods=["POST"]),
        Route("/v1/adapters/{name:path}/reload", api.admin(api.reload_adapter), methods=["POST"]),
        Route("/v1/adapters/{name:path}/pin", api.admin(api.pin_adapter), methods=["POST"]),
        Route("/v1/adapters/{name:path}/pin", api.admin(api.unpin_adapter), methods=["DELETE"]),
        Route("/v1/adapters/{name:path}/merge", api.admin(api.merge_adapter), methods=["POST"]),
        Route("/v1/adapters/{name:path}/merge", api.admin(api.unmerge_adapter), methods=["DELETE"]),
        Route("/v1/adapters/{name:path}/verify", api.admin(api.verify_adapter), methods=["POST"]),
        Route("/v1/adapters/{name:path}", api.guarded(api.adapter)),
        Route("/v1/adapters/{name:path}", api.admin(api.remove_adapter), methods=["DELETE"]),
    ]
    for path, handler in (
        ("/profiler/start", api.start_profiler),
        ("/profiler/stop", api.stop_profiler),
    ):
        routes.append(Route(path, api.admin(handler), methods=["POST"]))
    for prefix in ("/v1", ""):  # vLLM's, SGLang's
        for path, handler in (
            ("/load_lora_adapter", api.load_lora_adapter),
            ("/unload_lora_adapter", api.unload_lora_adapter),
        ):
            routes.append(Route(prefix + path, api.admin(handler), methods=["POST"]))
    return Starlette(
        routes=routes,
        middleware=guard_middleware(gateway.config),
        exception_handlers={HTTPException: _no_route, Exception: _broken},
    )


async def _no_route(request: HttpRequest, error: Exception) -> Response:
    """Answers an unknown path or a wrong method, in the format of all errors."""
    assert isinstance(error, HTTPException)
    path = shortened(request.scope["path"])  # `request.url` fails on some Host headers
    if error.status_code == 405:
        allowed = (error.headers or {}).get("Allow", "")
        reason = f"{request.method} {path} is not served; allowed: {allowed}"
    else:
        reason = f"no route {path}: docs/http.md lists the routes"
    return JSONResponse(error_body(error.status_code, reason), error.status_code, error.headers)


async def _broken(request: HttpRequest, error: Exception) -> Response:
    """Answers after a bug: the answer and the log, which has the traceback, share an id."""
    failure = f"e-{secrets.token_hex(6)}"
    log.error("%s: %s %s failed", failure, request.method, request.scope["path"], exc_info=error)
    reason = f"the server failed; its log has the reason under {failure}"
    return JSONResponse(error_body(500, reason), 500)


HEADERS_OF_STATUS = {
    401: {"www-authenticate": "Bearer"},
    429: {"retry-after": "1"},
    503: {"retry-after": "1"},
}
"""Headers that belong to a refusal."""
Handler = Callable[[HttpRequest], Awaitable[Response]]


class Api:
    """The handlers: they turn a body into requests, and the requests' text into the answer."""

    def __init__(self, gateway: Gateway) -> None:
        self.gateway = gateway
        self.access = Access(gateway.config, gateway.report)
        self._bodies = BodyReader(gateway.config.max_body_mib << 20)
        self._prompts = PromptReader(gateway)
        self._metrics = Metrics(
            gateway.pipeline, gateway.counters, gateway.answers.streams, gateway.broken, self.access
        )

    def guarded(self, handler: Handler) -> Handler:
        """A user's route: checks the key, and turns `BadRequest` into its status and reason."""
        return self._guarded(handler, self.access.check_user)

    def admin(self, handler: Handler) -> Handler:
        """An operator's route: like `guarded`, but only the admin key is accepted."""
        return self._guarded(handler, self.access.check_operator)

    def _guarded(self, handler: Handler, check: Callable[[HttpRequest], None]) -> Handler:
        """The handler, called if `check` does not refuse the request."""

        async def guarded(request: HttpRequest) -> Response:
            try:
                try:
                    check(request)
                    return await handler(request)
                except TextError as error:
                    raise BadRequest(str(error)) from error
                except ClientDisconnect:
                    raise BadRequest("the client has left", status=499) from None
            except BadRequest as error:
                body = error_body(error.status, error.reason, error.param)
                return JSONResponse(body, error.status, HEADERS_OF_STATUS.get(error.status))
            except Exception as error:
                self.gateway.counters.failures += 1
                return await _broken(request, error)

        return guarded

    async def health(self, request: HttpRequest) -> Response:
        """200 if a request would be answered now; else 503 and the reason."""
        if reason := self.gateway.broken():
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        counters = self.gateway.counters
        return JSONResponse(
            {
                "status": "ok",
                "resumed": counters.resumed,
                "abandoned": counters.abandoned,
                "without_client": self.gateway.answers.num_unclaimed,
            }
        )

    async def metrics(self, request: HttpRequest) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

    # -- models

    def _model_list(self) -> list[dict[str, Any]]:
        base = self.gateway.config.model
        started = int(self.gateway.incarnation // 1_000_000_000)
        head = {"object": "model", "created": started, "owned_by": "loraconsole"}
        defaults = self.gateway.defaults.named
        models = [{"id": base, **head, "root": base, "parent": None, "default_sampling": defaults}]
        table = self.gateway.pipeline.adapters
        for adapter in table.adapters if table else ():
            if adapter.state in SERVED:
                models.append({"id": adapter.name, **head, "root": adapter.path, "parent": base})
        return models

    async def models(self, request: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": self._model_list()})

    async def model(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        for model in self._model_list():
            if model["id"] == name:
                return JSONResponse(model)
        raise BadRequest(f"no model {shortened(name)!r}", status=404, param="model")

    # -- adapters

    def _adapter_views(self) -> list[dict[str, Any]]:
        table = self.gateway.pipeline.adapters
        return [
            adapter_body(view) | {"chat": self.gateway.adapter_chat(view.name).remark}
            for view in (table.adapters if table else ())
        ]

    async def adapters(self, request: HttpRequest) -> Response:
        return JSONResponse({"adapters": self._adapter_views()})

    async def adapter(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        for view in self._adapter_views():
            if view["name"] == name:
                return JSONResponse(view)
        raise BadRequest(f"no adapter {shortened(name)!r} is registered", status=404, param="name")

    async def add_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), AdapterBody)
        return await self._load(body.name, body.path, body.pin, "path")

    async def load_lora_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), LoadBody)
        return await self._load(body.lora_name, body.lora_path, body.pinned, "lora_path")

    async def _load(self, name: str, path: str, pinned: bool, field: str) -> Response:
        """`field` of the body has the path."""
        _check_path(path, field)
        order = LoadAdapter(**_order(name), path=path, pinned=pinned)
        return await self._carry(order, "name" if objection(name) else field)

    async def reload_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(ReloadAdapter(**_order(request.path_params["name"])))

    async def remove_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(UnloadAdapter(**_order(request.path_params["name"])))

    async def unload_lora_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), UnloadBody)
        return await self._carry(UnloadAdapter(**_order(body.lora_name)), "lora_name")

    async def pin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(PinAdapter(**_order(request.path_params["name"]), pinned=True))

    async def unpin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(PinAdapter(**_order(request.path_params["name"]), pinned=False))

    async def merge_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(MergeAdapter(**_order(request.path_params["name"])))

    async def unmerge_adapter(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        views = {view["name"]: view for view in self._adapter_views()}
        if name not in views or not views[name]["merged"]:
            raise BadRequest(f"adapter {shortened(name)!r} is not merged", status=409, param="name")
        return await self._carry(MergeAdapter(**_order("")))

    async def verify_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(VerifyAdapter(**_order(request.path_params["name"])))

    async def plan_adapters(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), PlanBody)
        for path in body.paths:
            _check_path(path, "paths")
        order = _order("")
        del order["name"]
        return await self._carry(PlanAdapters(**order, paths=tuple(body.paths)), "paths")

    async def _carry(self, order: Order, field: str = "name") -> Response:
        """The router's answer to an order that is sent here. Raises `BadRequest` if it refuses;
        `field` is what it may object to."""
        reply = await self.gateway.carry_order(order)
        if reply.status != 200:
            raise BadRequest(reply.text, status=reply.status, param=field)
        body: dict[str, Any] = {"status": "ok", "message": reply.text}
        if isinstance(order, (LoadAdapter, ReloadAdapter)):
            chat = self.gateway.adapter_chat(order.name)
            body["message"] = "; ".join(filter(None, (reply.text, chat.remark)))
        if reply.scheduling is not None:
            body["scheduler"] = self._scheduler_body(reply.scheduling)
        if isinstance(order, PlanAdapters):
            body["plans"] = to_document(reply.plans)
        if found := reply.verification:
            body["verification"] = to_document(found)
        return JSONResponse(body)

    # -- the scheduler

    def _scheduler_body(self, settings: SchedulerSettings) -> dict[str, Any]:
        """The settings; the base model's weight has its served name."""
        base = self.gateway.config.model
        weights = {weight.name or base: weight.weight for weight in settings.weights}
        return msgspec.structs.asdict(settings) | {"weights": weights}

    async def scheduler(self, request: HttpRequest) -> Response:
        router = self.gateway.pipeline.router
        if router is None:
            raise BadRequest("the router sent no heartbeat yet", status=503)
        return JSONResponse(self._scheduler_body(router.scheduling))

    async def set_scheduler(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), SchedulerBody)
        changes = msgspec.structs.asdict(body)
        if body.weights is not None:
            changes["weights"] = tuple(itertools.starmap(ClientWeight, body.weights.items()))
        order = _order("")
        del order["name"]
        given = [name for name, value in changes.items() if value is not None]
        return await self._carry(SetScheduler(**order, **changes), ", ".join(given))

    # -- spans

    async def start_profiler(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request) or b"{}", ProfilerBody)
        name = recording_name(unix_time())
        return await self._order_spans(
            StartSpans(**_ticket(), recording=name, layers=body.layers, nvtx=body.nvtx)
        )

    async def stop_profiler(self, request: HttpRequest) -> Response:
        return await self._order_spans(StopSpans(**_ticket()))

    async def _order_spans(self, order: SpansOrder) -> Response:
        """Sends an order to every process; the answer has each one's file and number of spans."""
        gateway = self.gateway
        replies = await gateway.carry_spans_order(order)
        if silent := [name for name in gateway.config.process_names() if name not in replies]:
            reason = f"no answer from {', '.join(silent)}; the others have carried it out"
            raise BadRequest(reason, status=504)
        if errors := [f"{reply.name} {reply.error}" for reply in replies.values() if reply.error]:
            raise BadRequest("; ".join(errors), status=507)
        paths = [Path(reply.path) for reply in replies.values() if reply.path]
        return JSONResponse(
            {
                "status": "ok",
                "directory": str(paths[0].parent) if paths else None,
                "spans": sum(reply.spans for reply in replies.values()),
                "processes": {
                    name: spans_body(replies[name]) for name in gateway.config.process_names()
                },
            }
        )

    # -- OpenAI

    async def chat(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), ChatBody)
        body.check()
        await self._check_ready(request)
        gateway = self.gateway
        adapter = gateway.find_adapter(body.model, body.adapters())
        await until_gone(request, gateway.await_adapter(adapter))
        self._prompts.check_number(1, body.n)
        prompt = await until_gone(request, self._prompts.read_chat(request, body, adapter))
        room = max(1, gateway.max_model_len - len(prompt))
        default = min(gateway.defaults.max_new_tokens or DEFAULT_CHAT_TOKENS, room)
        params = functools.partial(
            body.params,
            body.max_completion_tokens or body.max_tokens or default,
            (body.top_logprobs or 0) if body.logprobs else None,
            defaults=gateway.defaults,
        )
        form = self._form("chat", request, body)
        return await self._answer(request, body, form, adapter, [prompt], params)

    async def completions(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), CompletionBody)
        body.check()
        await self._check_ready(request)
        gateway = self.gateway
        adapter = gateway.find_adapter(body.model, body.adapters())
        await until_gone(request, gateway.await_adapter(adapter))
        given = body.prompts()
        self._prompts.check_number(len(given), body.n)
        prompts = await until_gone(
            request,
            self._prompts.read(request, given, "prompt", body.add_special_tokens is not False),
        )
        room = max(1, gateway.max_model_len - max(map(len, prompts)))
        default = min(gateway.defaults.max_new_tokens or DEFAULT_COMPLETION_TOKENS, room)
        params = functools.partial(
            body.params,
            body.max_tokens or default,
            body.logprobs,
            defaults=gateway.defaults,
            skip_special_tokens=body.skip_special_tokens,
        )
        form = self._form("text", request, body)
        return await self._answer(request, body, form, adapter, prompts, params)

    def _form(
        self, kind: Literal["chat", "text"], request: HttpRequest, body: SamplingBody
    ) -> Format:
        options = body.stream_options or StreamOptions()
        named = body.model or next(iter(body.adapters().values()), self.gateway.config.model)
        return Format(
            kind=kind,
            answer_id=_answer_id(request, "chatcmpl" if kind == "chat" else "cmpl"),
            model=named,
            created=int(unix_time()),
            is_streamed=body.stream,
            include_usage=options.include_usage,
            continuous_usage_stats=options.continuous_usage_stats,
        )

    async def _answer(
        self,
        request: HttpRequest,
        body: SamplingBody,
        form: Format,
        adapter: str | None,
        prompts: list[list[int]],
        params: Callable[[int], SamplingParams],
    ) -> Response:
        """The answer, streamed or whole: n choices of each prompt, each its own request. `params`
        makes the parameters of choice i."""
        self._prompts.check_ids(body.stop_token_ids or [], "stop_token_ids")
        if (count := len(prompts) * body.n) > 1:  # the router refuses a single one itself
            self.gateway.check_room(count)
        choices = [params(choice) for choice in range(body.n)]
        return await self._accept(request, form, adapter, prompts, choices)

    async def _accept(
        self,
        request: HttpRequest,
        form: Format,
        adapter: str | None,
        prompts: list[list[int]],
        params: list[SamplingParams],
    ) -> Response:
        gateway = self.gateway
        await self._await_ring(request)
        answer = gateway.open_answer(form, owner_of(request), adapter, prompts, params)
        sending = gateway.send_requests(answer)
        return await answer_response(request, gateway.answers, answer, sending)

    async def resume(self, request: HttpRequest) -> Response:
        """An open request's answer, or the rest of it, for its client that comes back."""
        gateway, given = self.gateway, request.path_params["id"]
        answer = gateway.answers.find(given, owner_of(request))
        if request.method == "HEAD":
            return Response(headers={REQUEST_ID: given})
        last = request.headers.get("last-event-id") or request.query_params.get("after", "")
        delivered = read_event_id(last, answer)
        gateway.counters.resumed += 1
        return await answer_response(request, gateway.answers, answer, delivered=delivered)

    # -- S-LoRA

    async def generate(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), GenerateBody)
        if body.stream:
            raise BadRequest("stream: POST /generate_stream streams", param="stream")
        return await self._generate(request, body, is_streamed=False)

    async def generate_stream(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), GenerateBody)
        if body.stream is False:
            raise BadRequest("stream: POST /generate does not stream", param="stream")
        return await self._generate(request, body, is_streamed=True)

    async def _generate(
        self, request: HttpRequest, body: GenerateBody, is_streamed: bool
    ) -> Response:
        params = body.parameters.params(self.gateway.defaults)
        await self._check_ready(request)
        adapter = self.gateway.find_adapter("", body.adapters())
        await until_gone(request, self.gateway.await_adapter(adapter))
        reading = self._prompts.read(request, [body.inputs], "inputs", adds=True)
        (prompt,) = await until_gone(request, reading)
        form = Format(
            kind="generate",
            answer_id=_answer_id(request, "gen"),
            model=adapter or self.gateway.config.model,
            created=int(unix_time()),
            is_streamed=is_streamed,
        )
        return await self._accept(request, form, adapter, [prompt], [params])

    # -- checks

    async def _await_ring(self, request: HttpRequest) -> None:
        """Waits while a death in the ring is mended; not long, and not for a client that left."""
        if self.gateway.broken():
            await until_gone(request, self.gateway.await_ring())

    async def _check_ready(self, request: HttpRequest) -> None:
        """Raises `BadRequest` (503) if the pipeline cannot take a request, nor will in a moment."""
        await self._await_ring(request)
        if reason := self.gateway.broken():
            raise BadRequest(reason, status=503)


def _answer_id(request: HttpRequest, prefix: str) -> str:
    """The id that the client chose for its answer, or a new one."""
    given = request.headers.get(REQUEST_ID)
    return f"{prefix}-{secrets.token_hex(12)}" if given is None else check_answer_id(given)


def adapter_body(view: AdapterView) -> dict[str, Any]:
    """An adapter as GET /v1/adapters shows it."""
    resident = {AdapterState.GPU: "device", AdapterState.FAILED: "none", AdapterState.GONE: "none"}
    residency = "device" if view.pages else resident.get(view.state, "host")
    return {
        **to_document(view),
        "residency": residency,
    }


def spans_body(reply: SpansReply) -> dict[str, Any]:
    """One process's part of the answer to an order about spans."""
    body: dict[str, Any] = msgspec.structs.asdict(reply)
    return {name: body[name] for name in ("is_on", "path", "spans", "dropped", "layers", "nvtx")}


def _ticket() -> dict[str, str]:
    """Fields of every order."""
    return {"order": make_order_id(), "reply_to": "server"}


def _order(name: str) -> dict[str, Any]:
    """Fields of every order about an adapter. Raises `BadRequest` for a name that none has."""
    if len(name) > LONGEST_NAME:
        raise BadRequest(objection(name), param="name")
    return {**_ticket(), "name": name}


def _check_path(path: str, field: str) -> None:
    if not Path(path).is_absolute() and not is_hub_id(path):
        raise BadRequest(
            f"{shortened(path)!r} is neither an absolute path on the server's machine nor a hub id",
            param=field,
        )

"""OpenAI's chat and completions, and answers that are taken up again."""

from __future__ import annotations

import functools
from typing import Literal

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_id import read_event_id
from ..answers.event_stream import REQUEST_ID, answer_response, until_gone
from ..bodies.body import decode_body
from ..bodies.openai_bodies import (
    DEFAULT_COMPLETION_TOKENS,
    ChatBody,
    CompletionBody,
    SamplingBody,
    StreamOptions,
)
from ..http.access import owner_of
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard


class CompletionRoutes:
    """POST /v1/chat/completions, POST /v1/completions, GET /v1/requests/ID."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/v1/chat/completions", guard.user(self.chat), methods=["POST"]),
            Route("/v1/completions", guard.user(self.completions), methods=["POST"]),
            Route("/v1/requests/{id:path}", guard.user(self.resume)),
        ]

    async def chat(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), ChatBody)
        form = self._form("chat", request, body)
        return await self._answering.answer_chat(request, body, form)

    async def completions(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), CompletionBody)
        body.check()
        answering, gateway = self._answering, self._gateway
        await answering.check_ready(request)
        adapter = await answering.find_adapter(request, body.model, body.adapters())
        given = body.prompts()
        answering.prompts.check_number(len(given), body.n)
        adds = body.add_special_tokens is not False
        reading = answering.prompts.read(request, given, "prompt", adds)
        prompts = await until_gone(request, reading)
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
        return await answering.answer(request, body, form, adapter, prompts, params)

    def _form(
        self, kind: Literal["chat", "text"], request: HttpRequest, body: SamplingBody
    ) -> Format:
        options = body.stream_options or StreamOptions()
        return Format(
            kind=kind,
            answer_id=answer_id(request, "chatcmpl-" if kind == "chat" else "cmpl-"),
            model=self._answering.model_named(body.model, body.adapters()),
            created=int(unix_time()),
            is_streamed=body.stream,
            include_usage=options.include_usage,
            continuous_usage_stats=options.continuous_usage_stats,
        )

    async def resume(self, request: HttpRequest) -> Response:
        """An open request's answer, or the rest of it, for its client that comes back."""
        gateway, given = self._gateway, request.path_params["id"]
        answer = gateway.answers.find(given, owner_of(request))
        if request.method == "HEAD":
            return Response(headers={REQUEST_ID: given})
        last = request.headers.get("last-event-id") or request.query_params.get("after", "")
        delivered = read_event_id(last, answer)
        gateway.counters.resumed += 1
        return await answer_response(request, gateway.answers, answer, delivered=delivered)

"""OpenAI's chat and completions, and answers that are taken up again."""

from __future__ import annotations

import functools
from typing import Literal

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_id import read_event_id
from ..answers.event_stream import REQUEST_ID, answer_response, until_gone
from ..bodies.body import convert_body, decode_body, decode_object
from ..bodies.openai_bodies import (
    DEFAULT_COMPLETION_TOKENS,
    ChatBody,
    CompletionBody,
    SamplingBody,
    StreamOptions,
)
from ..http.access import owner_of
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard


class CompletionRoutes:
    """POST /v1/chat/completions, /v1/completions and /invocations, GET /v1/requests/ID."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/v1/chat/completions", guard.user(self.chat), methods=["POST"]),
            Route("/v1/completions", guard.user(self.completions), methods=["POST"]),
            Route("/invocations", guard.user(self.invoke), methods=["POST"]),
            Route("/v1/requests/{id:path}", guard.user(self.resume)),
        ]

    async def chat(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), ChatBody)
        return await self._answer_chat(request, body)

    async def completions(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), CompletionBody)
        return await self._answer_completions(request, body)

    async def invoke(self, request: HttpRequest) -> Response:
        """SageMaker's name of both."""
        raw = decode_object(await self._bodies.read(request))
        if raw.get("messages") is not None:
            return await self._answer_chat(request, convert_body(raw, ChatBody))
        if raw.get("prompt") is None:
            raise BadRequest("messages, of a chat, or prompt is missing", param="messages")
        return await self._answer_completions(request, convert_body(raw, CompletionBody))

    async def _answer_chat(self, request: HttpRequest, body: ChatBody) -> Response:
        form = self._form("chat", request, body)
        if (text := body.echoed_text) is not None:
            form = msgspec.structs.replace(form, echoes=(text,))
        return await self._answering.answer_chat(request, body, form)

    async def _answer_completions(self, request: HttpRequest, body: CompletionBody) -> Response:
        body.check()
        answering, gateway = self._answering, self._gateway
        await answering.check_ready(request)
        adapter = await answering.find_adapter(request, body.model, body.adapters())
        asked = body.prompts()
        answering.prompts.check_number("prompt", len(asked), body.num_candidates)
        most = body.max_tokens
        if most is None:
            most = gateway.defaults.max_new_tokens or DEFAULT_COMPLETION_TOKENS
        truncation = body.truncation(gateway.max_model_len, most)
        reading = answering.prompts.read(
            request,
            asked,
            "prompt",
            body.add_special_tokens is not False,
            suffix=body.suffix or "",
            truncation=truncation,
            has_answer=most > 0,
        )
        prompts = await until_gone(request, reading)
        if body.max_tokens is None:
            most = min(most, max(1, gateway.max_model_len - max(map(len, prompts))))
        params = functools.partial(body.params, most, body.logprobs, defaults=gateway.defaults)
        form = self._form("text", request, body)
        if body.num_candidates > body.n:
            form = msgspec.structs.replace(
                form, num_best=body.n, hides_logprobs=body.logprobs is None
            )
        if body.echo:
            texts = asked if truncation is None else prompts
            echoes = tuple(self._text_of(text, body.skip_special_tokens) for text in texts)
            form = msgspec.structs.replace(form, echoes=echoes)
        return await answering.answer(request, body, form, adapter, prompts, params)

    def _text_of(self, prompt: str | list[int], skip_special_tokens: bool) -> str:
        """A prompt as `echo` repeats it."""
        if isinstance(prompt, str):
            return prompt
        return self._gateway.tokenizer.decode(prompt, skip_special_tokens)

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
            prompt_logprobs=body.prompt_logprobs,
            returns_token_ids=body.return_token_ids,
            names_tokens_by_id=body.return_tokens_as_token_ids,
            has_named_logprobs=bool(body.logprob_token_ids),
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

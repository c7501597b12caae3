"""Anthropic's Messages."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_stream import until_gone
from ..bodies.anthropic_body import CHAT_NAMES, CountTokensBody, MessagesBody
from ..bodies.body import decode_body
from ..bodies.renamed import renamed
from ..chat.anthropic_messages import read_messages
from ..http.anthropic_error import anthropic_error_body
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard


class AnthropicRoutes:
    """POST /v1/messages and /v1/messages/count_tokens."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._bodies = answering, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        create = guard.user(self.create, anthropic_error_body)
        count = guard.user(self.count_tokens, anthropic_error_body)
        return [
            Route("/v1/messages", create, methods=["POST"]),
            Route("/v1/messages/count_tokens", count, methods=["POST"]),
        ]

    async def create(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), MessagesBody)
        form = Format(
            kind="messages",
            answer_id=answer_id(request, "msg_"),
            model=self._answering.model_named(body.model, body.adapters()),
            created=int(unix_time()),
            is_streamed=body.stream,
        )
        with renamed(CHAT_NAMES):
            chat = body.chat(read_messages(body.system, body.messages))
            return await self._answering.answer_chat(request, chat, form)

    async def count_tokens(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), CountTokensBody)
        answering = self._answering
        with renamed(CHAT_NAMES):
            chat = body.chat(read_messages(body.system, body.messages))
            adapter = await answering.find_adapter(request, chat.model, chat.adapters())
            reading = answering.prompts.tokenize_chat(request, chat, adapter)
            read = await until_gone(request, reading)
        return JSONResponse({"input_tokens": len(read.token_ids)})

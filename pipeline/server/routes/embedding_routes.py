"""OpenAI's embeddings."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_stream import until_gone
from ..bodies.body import decode_body
from ..bodies.embedding_body import EmbeddingBody
from ..bodies.token_fields import Truncation
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard

MOST_INPUTS = 2048
"""OpenAI's: LangChain's client sends 1 000 texts at once."""


class EmbeddingRoutes:
    """POST /v1/embeddings."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [Route("/v1/embeddings", guard.user(self.embeddings), methods=["POST"])]

    async def embeddings(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), EmbeddingBody)
        answering, gateway = self._answering, self._gateway
        await answering.check_ready(request)
        body.check(gateway.hidden_size)
        adapter = await answering.find_adapter(request, body.model, body.adapters())
        prompts, given = answering.prompts, body.inputs()
        prompts.check_number("input", len(given), least=MOST_INPUTS)
        adds = body.add_special_tokens is not False
        kept = body.truncate_prompt_tokens
        truncation = None if kept is None else Truncation(kept, "left")
        reading = prompts.read(
            request, given, "input", adds, truncation=truncation, has_answer=False
        )
        found = await until_gone(request, reading)
        if len(found) > 1:  # the router refuses a single one itself
            gateway.check_room(len(found))
        form = Format(
            kind="embeddings",
            answer_id=answer_id(request, "embd-"),
            model=answering.model_named(body.model, body.adapters()),
            created=int(unix_time()),
            is_streamed=False,
            in_base64=body.encoding_format == "base64",
        )
        params = body.params(gateway.config.pooling)
        return await answering.accept(request, form, adapter, found, [params])

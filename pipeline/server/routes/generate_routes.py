"""S-LoRA's routes."""

from __future__ import annotations

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_stream import until_gone
from ..bodies.body import decode_body
from ..bodies.generate_body import GenerateBody
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard


class GenerateRoutes:
    """POST /generate and /generate_stream."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/generate", guard.user(self.generate), methods=["POST"]),
            Route("/generate_stream", guard.user(self.generate_stream), methods=["POST"]),
        ]

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
        params = body.parameters.params(self._gateway.defaults)
        await self._answering.check_ready(request)
        adapter = await self._answering.find_adapter(request, "", body.adapters())
        reading = self._answering.prompts.read(request, [body.inputs], "inputs", adds=True)
        (prompt,) = await until_gone(request, reading)
        wanted = body.parameters.wanted_grammar()
        grammar = await until_gone(request, self._answering.grammars.read(request, wanted))
        params = replace(params, grammar=grammar)
        form = Format(
            kind="generate",
            answer_id=answer_id(request, "gen-"),
            model=adapter or self._gateway.config.model_name,
            created=int(unix_time()),
            is_streamed=is_streamed,
        )
        return await self._answering.accept(request, form, adapter, [prompt], [params])

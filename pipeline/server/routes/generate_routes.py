"""The native routes of S-LoRA, TGI, LoRAX and SGLang."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .... import __version__
from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.event_stream import until_gone
from ..answers.generate_form import GenerateForm
from ..bodies.body import convert_body, decode_object
from ..bodies.generate_body import GenerateBody, Style
from ..bodies.sampling_fields import MOST_STOPS
from ..bodies.sglang_body import PROMPT_FIELDS
from ..bodies.token_fields import Truncation
from ..bodies.value_types import MOST_TOP_LOGPROBS
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard
from .sglang_generate import SglangGenerate


class GenerateRoutes:
    """POST /generate, /generate_stream and /, and GET /info."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies
        self._sglang = SglangGenerate(answering)

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/generate", guard.user(self.generate), methods=["POST"]),
            Route("/generate_stream", guard.user(self.generate_stream), methods=["POST"]),
            Route("/", guard.user(self.generate_at_root), methods=["POST"]),
            Route("/info", guard.user(self.info)),
        ]

    async def generate(self, request: HttpRequest) -> Response:
        """SGLang's body or S-LoRA's, TGI's and LoRAX's, which their fields tell apart."""
        raw = decode_object(await self._bodies.read(request))
        if any(raw.get(name) is not None for name in PROMPT_FIELDS):
            return await self._sglang.generate(request, raw)
        body = convert_body(raw, GenerateBody)
        return await self._generate(request, raw, body, is_streamed=body.stream or False)

    async def generate_stream(self, request: HttpRequest) -> Response:
        raw = decode_object(await self._bodies.read(request))
        body = convert_body(raw, GenerateBody)
        if body.stream is False:
            raise BadRequest("stream: POST /generate does not stream", param="stream")
        return await self._generate(request, raw, body, is_streamed=True)

    async def generate_at_root(self, request: HttpRequest) -> Response:
        """The clients of TGI and LoRAX ask here; a whole answer is in a list."""
        raw = decode_object(await self._bodies.read(request))
        body = convert_body(raw, GenerateBody)
        return await self._generate(
            request, raw, body, is_streamed=body.stream or False, is_at_root=True
        )

    async def _generate(
        self,
        request: HttpRequest,
        raw: dict[str, Any],
        body: GenerateBody,
        is_streamed: bool,
        *,
        is_at_root: bool = False,
    ) -> Response:
        style: Style = "tgi" if is_at_root else body.style(raw)
        parameters = body.parameters
        if is_streamed and parameters.decoder_input_details:
            raise BadRequest(
                "parameters.decoder_input_details is not streamed",
                param="parameters.decoder_input_details",
            )
        params = parameters.params(self._gateway.defaults, style)
        await self._answering.check_ready(request)
        adapter = await self._answering.find_adapter(request, "", body.adapters())
        cut = parameters.truncate
        reading = self._answering.prompts.read(
            request,
            [body.inputs],
            "inputs",
            adds=True,
            truncation=None if cut is None else Truncation(cut, "left"),
        )
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
            generate=GenerateForm(
                is_slora=style == "slora",
                in_list=is_at_root,
                with_details=parameters.details,
                prefix=body.inputs if parameters.return_full_text else "",
                seed=params.seed if params.temperature else None,
                num_top=parameters.top_n_tokens or 0,
                num_alternatives=parameters.return_k_alternatives or 0,
            ),
        )
        return await self._answering.accept(request, form, adapter, [prompt], [params])

    async def info(self, request: HttpRequest) -> Response:
        """What TGI and LoRAX say of their model and limits."""
        gateway = self._gateway
        config, longest = gateway.config, gateway.max_model_len
        return JSONResponse(
            {
                "model_id": config.model,
                "model_sha": None,
                "model_dtype": config.dtype,
                "model_pipeline_tag": "text-generation",
                "max_concurrent_requests": config.max_waiting,
                "max_best_of": 1,
                "max_stop_sequences": MOST_STOPS,
                "max_top_n_tokens": MOST_TOP_LOGPROBS,
                "max_input_length": longest - 1,
                "max_input_tokens": longest - 1,
                "max_total_tokens": longest,
                "router": "loraconsole",
                "version": __version__,
            }
        )

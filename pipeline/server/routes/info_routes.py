"""What vLLM's, SGLang's and S-LoRA's clients and routers ask a server about itself."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from .... import __version__
from ...messages import SamplingParams
from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from .answering import Answering, answer_id
from .route_guard import RouteGuard

PROBE = SamplingParams(max_tokens=1, temperature=0.0, ignore_eos=True)


class InfoRoutes:
    """GET /version and /load as in vLLM; /model_info, /server_info and /health_generate as in
    SGLang."""

    def __init__(self, answering: Answering) -> None:
        self._answering, self._gateway = answering, answering.gateway

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route(path, guard.user(handler))
            for path, handler in (
                ("/version", self.version),
                ("/load", self.load),
                ("/model_info", self.model_info),
                ("/get_model_info", self.model_info),
                ("/server_info", self.server_info),
                ("/get_server_info", self.server_info),
                ("/health_generate", self.health_generate),
            )
        ]

    async def version(self, request: HttpRequest) -> Response:
        return JSONResponse({"version": __version__})

    async def load(self, request: HttpRequest) -> Response:
        """The number of requests that are not answered yet."""
        return JSONResponse({"server_load": len(self._gateway.answers.streams)})

    async def model_info(self, request: HttpRequest) -> Response:
        return JSONResponse(self._model())

    async def server_info(self, request: HttpRequest) -> Response:
        gateway = self._gateway
        router, config = gateway.pipeline.router, gateway.config
        info = self._model() | {
            "version": __version__,
            "tp_size": config.tp,
            "dp_size": 1,
            "context_length": gateway.context_length,
            "max_total_num_tokens": router.pages_total * router.page_size if router else 0,
            "page_size": router.page_size if router else 0,
            "disaggregation_mode": "null",
            "internal_states": [{"last_gen_throughput": self._throughput()}],
        }
        return JSONResponse(info)

    def _model(self) -> dict[str, Any]:
        config = self._gateway.config
        return {
            "model_path": config.model,
            "served_model_name": config.model_name,
            "tokenizer_path": config.model,
            "is_generation": True,
            "preferred_sampling_params": self._gateway.defaults.named or None,
            "has_image_understanding": False,
            "has_audio_understanding": False,
        }

    def _throughput(self) -> float:
        """Tokens a second of the last decode steps; 0 before there are two."""
        steps = self._gateway.pipeline.decode_steps
        seconds = steps[-1].at - steps[0].at if steps else 0.0
        sampled = sum(step.sampled for step in steps) - (steps[0].sampled if steps else 0)
        return round(sampled / seconds, 1) if seconds > 0 else 0.0

    async def health_generate(self, request: HttpRequest) -> Response:
        """200 once the base model has answered with a token."""
        await self._answering.check_ready(request)
        form = Format(
            kind="text",
            answer_id=answer_id(request, "health-"),
            model=self._gateway.config.model_name,
            created=int(unix_time()),
            is_streamed=False,
        )
        answer = await self._answering.accept(request, form, None, [[0]], [PROBE])
        return answer if answer.status_code != 200 else Response()

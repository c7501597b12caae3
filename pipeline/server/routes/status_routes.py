"""Health and metrics."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..gateway.gateway import Gateway
from ..gateway.metrics import Metrics


class StatusRoutes:
    """GET /health (TGI: also /, S-LoRA: /healthz, SageMaker: /ping) and /metrics, which need no
    key."""

    def __init__(self, gateway: Gateway, metrics: Metrics) -> None:
        self._gateway, self._metrics = gateway, metrics

    def routes(self) -> list[Route]:
        return [
            Route("/health", self.health),
            Route("/", self.health),
            Route("/healthz", self.health),
            Route("/ping", self.health, methods=["GET", "POST"]),
            Route("/metrics", self.metrics),
        ]

    async def health(self, request: HttpRequest) -> Response:
        """200 if a request would be answered now; else 503 and the reason."""
        if reason := self._gateway.broken():
            return JSONResponse({"status": "unavailable", "reason": reason}, 503)
        counters = self._gateway.counters
        return JSONResponse(
            {
                "status": "ok",
                "resumed": counters.resumed,
                "abandoned": counters.abandoned,
                "without_client": self._gateway.answers.num_unclaimed,
            }
        )

    async def metrics(self, request: HttpRequest) -> Response:
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4")

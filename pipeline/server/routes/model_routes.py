"""The names that requests may use."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest, shortened
from .route_guard import RouteGuard


class ModelRoutes:
    """GET /v1/models and /v1/models/NAME."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/v1/models", guard.user(self.models)),
            Route("/v1/models/{name:path}", guard.user(self.model)),
        ]

    def _model_list(self) -> list[dict[str, Any]]:
        base = self._gateway.config.model
        started = int(self._gateway.incarnation // 1_000_000_000)
        head = {"object": "model", "created": started, "owned_by": "loraconsole"}
        defaults = self._gateway.defaults.named
        models = [{"id": base, **head, "root": base, "parent": None, "default_sampling": defaults}]
        table = self._gateway.pipeline.adapters
        for adapter in table.adapters if table else ():
            if adapter.is_served:
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

"""The names that requests may use."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...adapter_name import NAMES_SHOWN
from ...messages import AdapterView
from ..gateway.gateway import Gateway
from ..http.bad_request import MODEL_NOT_FOUND, BadRequest, shortened
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

    async def models(self, request: HttpRequest) -> Response:
        models = [self._base(name) for name in self._gateway.config.model_names]
        models += [self._adapter(view.name, view) for view in self._served()]
        return JSONResponse({"object": "list", "data": models})

    async def model(self, request: HttpRequest) -> Response:
        """A model by any name that requests may use."""
        name = request.path_params["name"]
        adapter = self._gateway.find_adapter(name, {})
        if adapter is None:
            return JSONResponse(self._base(name))
        views = list(self._served())
        for view in views:
            if view.name == adapter:
                return JSONResponse(self._adapter(name, view))
        known = ", ".join(
            [self._gateway.config.model_name, *(view.name for view in views)][:NAMES_SHOWN]
        )
        more = f" and {len(views) + 1 - NAMES_SHOWN} more" if len(views) >= NAMES_SHOWN else ""
        raise BadRequest(
            f"no model {shortened(name)!r}; known: {known}{more}",
            status=404,
            param="model",
            code=MODEL_NOT_FOUND,
        )

    def _served(self) -> Iterator[AdapterView]:
        table = self._gateway.pipeline.adapters
        return (view for view in (table.adapters if table else ()) if view.is_served)

    def _base(self, name: str) -> dict[str, Any]:
        model, defaults = self._gateway.config.model, self._gateway.defaults.named
        return self._object(name, model, None) | {"default_sampling": defaults}

    def _adapter(self, name: str, view: AdapterView) -> dict[str, Any]:
        return self._object(name, view.path, self._gateway.config.model_name)

    def _object(self, name: str, root: str, parent: str | None) -> dict[str, Any]:
        """OpenAI's model object, with vLLM's fields."""
        return {
            "id": name,
            "object": "model",
            "created": int(self._gateway.incarnation // 1_000_000_000),
            "owned_by": "loraconsole",
            "root": root,
            "parent": parent,
            "max_model_len": self._gateway.context_length,
        }

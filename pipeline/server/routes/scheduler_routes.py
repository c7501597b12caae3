"""The scheduler: its settings, and an order to change them."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...messages import ClientWeight, SchedulerSettings, SetScheduler
from ..bodies.body import decode_body
from ..bodies.order_bodies import SchedulerBody
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .orders import carry, order_ticket
from .route_guard import RouteGuard


class SchedulerRoutes:
    """GET and PUT /v1/scheduler."""

    def __init__(self, gateway: Gateway, bodies: BodyReader) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/v1/scheduler", guard.user(self.scheduler)),
            Route("/v1/scheduler", guard.operator(self.set_scheduler), methods=["PUT"]),
        ]

    async def scheduler(self, request: HttpRequest) -> Response:
        router = self._gateway.pipeline.router
        if router is None:
            raise BadRequest("the router sent no heartbeat yet", status=503)
        return JSONResponse(self._scheduler_body(router.scheduling))

    async def set_scheduler(self, request: HttpRequest) -> Response:
        wanted = decode_body(await self._bodies.read(request), SchedulerBody)
        changes: dict[str, Any] = msgspec.structs.asdict(wanted)
        if wanted.weights is not None:
            changes["weights"] = tuple(itertools.starmap(ClientWeight, wanted.weights.items()))
        given = [name for name, value in changes.items() if value is not None]
        changes |= order_ticket()
        order = SetScheduler(**changes)
        reply = await carry(self._gateway, order, ", ".join(given))
        body: dict[str, Any] = {"status": "ok", "message": reply.text}
        if reply.scheduling is not None:
            body["scheduler"] = self._scheduler_body(reply.scheduling)
        return JSONResponse(body)

    def _scheduler_body(self, settings: SchedulerSettings) -> dict[str, Any]:
        """The settings; the base model's weight has its served name."""
        base = self._gateway.config.model_name
        weights = {weight.name or base: weight.weight for weight in settings.weights}
        return msgspec.structs.asdict(settings) | {"weights": weights}

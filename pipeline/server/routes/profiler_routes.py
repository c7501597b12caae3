"""Recordings of spans."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...messages import SpansOrder, SpansReply, StartSpans, StopSpans
from ...runtime.clock import unix_time
from ...runtime.spans import recording_name
from ..bodies.body import decode_body
from ..bodies.order_bodies import ProfilerBody
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .orders import order_ticket
from .route_guard import RouteGuard


class ProfilerRoutes:
    """POST /profiler/start and /profiler/stop."""

    def __init__(self, gateway: Gateway, bodies: BodyReader) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route("/profiler/start", guard.operator(self.start_profiler), methods=["POST"]),
            Route("/profiler/stop", guard.operator(self.stop_profiler), methods=["POST"]),
        ]

    async def start_profiler(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request) or b"{}", ProfilerBody)
        name = recording_name(unix_time())
        return await self._order_spans(
            StartSpans(**order_ticket(), recording=name, layers=body.layers, nvtx=body.nvtx)
        )

    async def stop_profiler(self, request: HttpRequest) -> Response:
        return await self._order_spans(StopSpans(**order_ticket()))

    async def _order_spans(self, order: SpansOrder) -> Response:
        """Sends an order to every process; the answer has each one's file and number of spans."""
        gateway = self._gateway
        replies = await gateway.carry_spans_order(order)
        if silent := [name for name in gateway.config.process_names() if name not in replies]:
            reason = f"no answer from {', '.join(silent)}; the others have carried it out"
            raise BadRequest(reason, status=504)
        if errors := [f"{reply.name} {reply.error}" for reply in replies.values() if reply.error]:
            raise BadRequest("; ".join(errors), status=507)
        paths = [Path(reply.path) for reply in replies.values() if reply.path]
        return JSONResponse(
            {
                "status": "ok",
                "directory": str(paths[0].parent) if paths else None,
                "spans": sum(reply.spans for reply in replies.values()),
                "processes": {
                    name: spans_body(replies[name]) for name in gateway.config.process_names()
                },
            }
        )


def spans_body(reply: SpansReply) -> dict[str, Any]:
    """One process's part of the answer to an order about spans."""
    body: dict[str, Any] = msgspec.structs.asdict(reply)
    return {name: body[name] for name in ("is_on", "path", "spans", "dropped", "layers", "nvtx")}

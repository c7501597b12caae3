"""Adapters: what is served, and the orders of an operator."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...adapter_name import objection
from ...messages import (
    AdapterState,
    AdapterView,
    LoadAdapter,
    MergeAdapter,
    Order,
    PinAdapter,
    PlanAdapters,
    ReloadAdapter,
    UnloadAdapter,
    VerifyAdapter,
)
from ...runtime.json_document import to_document
from ..bodies.body import decode_body
from ..bodies.order_bodies import AdapterBody, PlanBody
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest, shortened
from ..http.body_reader import BodyReader
from .orders import adapter_ticket, carry, check_path, order_ticket
from .route_guard import RouteGuard


class AdapterRoutes:
    """/v1/adapters."""

    def __init__(self, gateway: Gateway, bodies: BodyReader) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        one = "/v1/adapters/{name:path}"
        return [
            Route("/v1/adapters", guard.user(self.adapters)),
            Route("/v1/adapters", guard.operator(self.add_adapter), methods=["POST"]),
            Route("/v1/adapters/plan", guard.operator(self.plan_adapters), methods=["POST"]),
            Route(f"{one}/reload", guard.operator(self.reload_adapter), methods=["POST"]),
            Route(f"{one}/pin", guard.operator(self.pin_adapter), methods=["POST"]),
            Route(f"{one}/pin", guard.operator(self.unpin_adapter), methods=["DELETE"]),
            Route(f"{one}/merge", guard.operator(self.merge_adapter), methods=["POST"]),
            Route(f"{one}/merge", guard.operator(self.unmerge_adapter), methods=["DELETE"]),
            Route(f"{one}/verify", guard.operator(self.verify_adapter), methods=["POST"]),
            Route(one, guard.user(self.adapter)),
            Route(one, guard.operator(self.remove_adapter), methods=["DELETE"]),
        ]

    def _adapter_views(self) -> list[dict[str, Any]]:
        table = self._gateway.pipeline.adapters
        return [
            adapter_body(view) | {"chat": self._gateway.adapter_chat(view.name).remark}
            for view in (table.adapters if table else ())
        ]

    async def adapters(self, request: HttpRequest) -> Response:
        return JSONResponse({"adapters": self._adapter_views()})

    async def adapter(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        for view in self._adapter_views():
            if view["name"] == name:
                return JSONResponse(view)
        raise BadRequest(f"no adapter {shortened(name)!r} is registered", status=404, param="name")

    async def add_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), AdapterBody)
        check_path(body.path, "path")
        order = LoadAdapter(**adapter_ticket(body.name), path=body.path, pinned=body.pin)
        is_bad_name = objection(body.name, self._gateway.config.model_names)
        return await self._carry(order, "name" if is_bad_name else "path")

    async def reload_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(ReloadAdapter(**adapter_ticket(request.path_params["name"])))

    async def remove_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(UnloadAdapter(**adapter_ticket(request.path_params["name"])))

    async def pin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(
            PinAdapter(**adapter_ticket(request.path_params["name"]), pinned=True)
        )

    async def unpin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(
            PinAdapter(**adapter_ticket(request.path_params["name"]), pinned=False)
        )

    async def merge_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(MergeAdapter(**adapter_ticket(request.path_params["name"])))

    async def unmerge_adapter(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        views = {view["name"]: view for view in self._adapter_views()}
        if name not in views or not views[name]["merged"]:
            raise BadRequest(f"adapter {shortened(name)!r} is not merged", status=409, param="name")
        return await self._carry(MergeAdapter(**adapter_ticket("")))

    async def verify_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(VerifyAdapter(**adapter_ticket(request.path_params["name"])))

    async def plan_adapters(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), PlanBody)
        for path in body.paths:
            check_path(path, "paths")
        return await self._carry(PlanAdapters(**order_ticket(), paths=tuple(body.paths)), "paths")

    async def _carry(self, order: Order, field: str = "name") -> Response:
        """The answer to an order about adapters. Raises `BadRequest` if the router refuses it."""
        reply = await carry(self._gateway, order, field)
        body: dict[str, Any] = {"status": "ok", "message": reply.text}
        if isinstance(order, (LoadAdapter, ReloadAdapter)):
            chat = self._gateway.adapter_chat(order.name)
            body["message"] = "; ".join(filter(None, (reply.text, chat.remark)))
        if isinstance(order, PlanAdapters):
            body["plans"] = to_document(reply.plans)
        if found := reply.verification:
            body["verification"] = to_document(found)
        return JSONResponse(body)


def adapter_body(view: AdapterView) -> dict[str, Any]:
    """An adapter as GET /v1/adapters shows it."""
    resident = {AdapterState.GPU: "device", AdapterState.FAILED: "none", AdapterState.GONE: "none"}
    residency = "device" if view.pages else resident.get(view.state, "host")
    return {
        **to_document(view),
        "residency": residency,
    }

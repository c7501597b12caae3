"""Adapters: what is served, and the orders of an operator."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...adapter_name import LONGEST_NAME, objection
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
from ...run_directory import is_hub_id
from ...runtime.json_document import to_document
from ..bodies.body import decode_body
from ..bodies.order_bodies import AdapterBody, LoadBody, PlanBody, UnloadBody
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest, shortened
from ..http.body_reader import BodyReader
from .orders import carry, order_ticket
from .route_guard import RouteGuard


class AdapterRoutes:
    """/v1/adapters, and the routes of vLLM and SGLang to load and unload."""

    def __init__(self, gateway: Gateway, bodies: BodyReader) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        one = "/v1/adapters/{name:path}"
        found = [
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
        for prefix in ("/v1", ""):  # vLLM's, SGLang's
            for path, handler in (
                ("/load_lora_adapter", self.load_lora_adapter),
                ("/unload_lora_adapter", self.unload_lora_adapter),
            ):
                found.append(Route(prefix + path, guard.operator(handler), methods=["POST"]))
        return found

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
        return await self._load(body.name, body.path, body.pin, "path")

    async def load_lora_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), LoadBody)
        return await self._load(body.lora_name, body.lora_path, body.pinned, "lora_path")

    async def _load(self, name: str, path: str, pinned: bool, field: str) -> Response:
        """`field` of the body has the path."""
        _check_path(path, field)
        order = LoadAdapter(**_order(name), path=path, pinned=pinned)
        return await self._carry(order, "name" if objection(name) else field)

    async def reload_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(ReloadAdapter(**_order(request.path_params["name"])))

    async def remove_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(UnloadAdapter(**_order(request.path_params["name"])))

    async def unload_lora_adapter(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), UnloadBody)
        return await self._carry(UnloadAdapter(**_order(body.lora_name)), "lora_name")

    async def pin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(PinAdapter(**_order(request.path_params["name"]), pinned=True))

    async def unpin_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(PinAdapter(**_order(request.path_params["name"]), pinned=False))

    async def merge_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(MergeAdapter(**_order(request.path_params["name"])))

    async def unmerge_adapter(self, request: HttpRequest) -> Response:
        name = request.path_params["name"]
        views = {view["name"]: view for view in self._adapter_views()}
        if name not in views or not views[name]["merged"]:
            raise BadRequest(f"adapter {shortened(name)!r} is not merged", status=409, param="name")
        return await self._carry(MergeAdapter(**_order("")))

    async def verify_adapter(self, request: HttpRequest) -> Response:
        return await self._carry(VerifyAdapter(**_order(request.path_params["name"])))

    async def plan_adapters(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), PlanBody)
        for path in body.paths:
            _check_path(path, "paths")
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


def _order(name: str) -> dict[str, Any]:
    """Fields of every order about an adapter. Raises `BadRequest` for a name that none has."""
    if len(name) > LONGEST_NAME:
        raise BadRequest(objection(name), param="name")
    return {**order_ticket(), "name": name}


def _check_path(path: str, field: str) -> None:
    if not Path(path).is_absolute() and not is_hub_id(path):
        raise BadRequest(
            f"{shortened(path)!r} is neither an absolute path on the server's machine nor a hub id",
            param=field,
        )

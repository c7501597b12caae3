"""vLLM's and SGLang's routes to load and unload adapters.

One JSON object serves both: clients of vLLM look for the word success in the text, those of SGLang
read `success`, `error_message` and `loaded_adapters`. After an error it is OpenAI's error object
with these fields.
"""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...adapter_name import objection
from ...messages import LoadAdapter, UnloadAdapter
from ..bodies.body import decode_body
from ..bodies.order_bodies import LoadBody, UnloadBody
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest
from ..http.body_reader import BodyReader
from .errors import answer_refusal
from .orders import adapter_ticket, carry, check_path
from .route_guard import RouteGuard


class PeerAdapterRoutes:
    """POST /v1/load_lora_adapter and /v1/unload_lora_adapter as in vLLM, and without /v1 as in
    SGLang."""

    def __init__(self, gateway: Gateway, bodies: BodyReader) -> None:
        self._gateway, self._bodies = gateway, bodies

    def routes(self, guard: RouteGuard) -> list[Route]:
        return [
            Route(path, guard.operator(handler), methods=["POST"])
            for path, handler in (
                ("/v1/load_lora_adapter", self.load_as_vllm),
                ("/load_lora_adapter", self.load_as_sglang),
                ("/v1/unload_lora_adapter", self.unload_as_vllm),
                ("/unload_lora_adapter", self.unload_as_sglang),
            )
        ]

    async def load_as_vllm(self, request: HttpRequest) -> Response:
        return await self._answer(self._load(request), not_found=404)

    async def load_as_sglang(self, request: HttpRequest) -> Response:
        return await self._answer(self._load(request), not_found=400)

    async def unload_as_vllm(self, request: HttpRequest) -> Response:
        return await self._answer(self._unload(request), not_found=404)

    async def unload_as_sglang(self, request: HttpRequest) -> Response:
        return await self._answer(self._unload(request), not_found=400)

    async def _load(self, request: HttpRequest) -> str:
        body = decode_body(await self._bodies.read(request), LoadBody)
        check_path(body.lora_path, "lora_path")
        order = LoadAdapter(
            **adapter_ticket(body.lora_name, "lora_name"),
            path=body.lora_path,
            pinned=body.pinned,
            replaces=body.load_inplace,
        )
        is_bad_name = objection(body.lora_name, self._gateway.config.model_names)
        try:
            reply = await carry(self._gateway, order, "lora_name" if is_bad_name else "lora_path")
        except BadRequest as error:
            if error.status == 409 and not body.load_inplace:
                hint = "to replace one that has already been loaded, send load_inplace: true"
                raise BadRequest(f"{error.reason}; {hint}", param="lora_name") from None
            if error.status == 400 and self._is_missing(body.lora_path):
                raise BadRequest(error.reason, status=404, param="lora_path") from None
            raise
        chat = self._gateway.adapter_chat(order.name)
        remarks = (reply.text.partition("; ")[2], chat.remark)
        done = f"Success: LoRA adapter '{order.name}' added successfully."
        return " ".join(filter(None, (done, "; ".join(filter(None, remarks)))))

    def _is_missing(self, path: str) -> bool:
        """Whether nothing is at an absolute path. With --adapter-root it does not say."""
        inside = not self._gateway.config.adapter_roots()
        return inside and Path(path).is_absolute() and not Path(path).exists()

    async def _unload(self, request: HttpRequest) -> str:
        body = decode_body(await self._bodies.read(request), UnloadBody)
        await carry(
            self._gateway, UnloadAdapter(**adapter_ticket(body.lora_name, "lora_name")), "lora_name"
        )
        return f"Success: LoRA adapter '{body.lora_name}' removed successfully."

    async def _answer(self, work: Awaitable[str], not_found: int) -> Response:
        """The answer to an order. A 409 becomes 400: OpenAI's clients would send the order again.
        `not_found` is the status for what is not there."""
        try:
            message = await work
        except BadRequest as error:
            error.status = {404: not_found, 409: 400}.get(error.status, error.status)
            outcome = self._outcome(False, error.reason)
            return answer_refusal(error, lambda error: error.body() | outcome)
        return JSONResponse({"status": "ok", "message": message, **self._outcome(True, "")})

    def _outcome(self, success: bool, error_message: str) -> dict[str, Any]:
        """SGLang's fields."""
        table = self._gateway.pipeline.adapters
        views = table.adapters if table else ()
        return {
            "success": success,
            "error_message": error_message,
            "loaded_adapters": {view.name: view.path for view in views if view.is_served},
        }

"""OpenAI's Responses."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from ...runtime.clock import unix_time
from ..answers.answer_format import Format
from ..answers.response_store import ResponseStore
from ..answers.responses_answer import response_object
from ..answers.responses_form import ResponsesForm
from ..answers.streams import AnswerStreams
from ..bodies.body import decode_body
from ..bodies.renamed import renamed
from ..bodies.responses_body import CHAT_NAMES, ResponsesBody
from ..chat.instructions import with_instructions
from ..chat.responses_input import read_input
from ..http.access import owner_of
from ..http.bad_request import BadRequest, shortened
from ..http.body_reader import BodyReader
from .answering import Answering, answer_id
from .route_guard import RouteGuard


class ResponsesRoutes:
    """POST /v1/responses; GET, DELETE and POST …/cancel of one."""

    def __init__(self, answering: Answering, bodies: BodyReader) -> None:
        self._answering, self._gateway, self._bodies = answering, answering.gateway, bodies
        self._store = ResponseStore(self._gateway.config.response_store_mib << 20)
        self._gateway.answers.on_ended = self._store.put
        self._gateway.answers.check_new = self._store.check_new

    def routes(self, guard: RouteGuard) -> list[Route]:
        one = "/v1/responses/{id}"
        return [
            Route("/v1/responses", guard.user(self.create), methods=["POST"]),
            Route(one, guard.user(self.retrieve)),
            Route(one, guard.user(self.delete), methods=["DELETE"]),
            Route(f"{one}/cancel", guard.user(self.cancel), methods=["POST"]),
        ]

    async def create(self, request: HttpRequest) -> Response:
        body = decode_body(await self._bodies.read(request), ResponsesBody)
        body.check()
        owner = owner_of(request)
        conversation: list[dict[str, Any]] = []
        if body.previous_response_id is not None:
            conversation = self._conversation(body.previous_response_id, owner)
        conversation += read_input(body.input, lambda given: self._store.find_item(given, owner))
        repeated = body.repeated()
        is_kept = body.store and self._store.has_room_for(conversation, repeated)
        if body.background and not is_kept:
            reason = "background needs room for the response: see --response-store-mib"
            raise BadRequest(reason, param="background")
        form = Format(
            kind="responses",
            answer_id=_response_id(request),
            model=self._answering.model_named(body.model, body.adapters()),
            created=int(unix_time()),
            is_streamed=body.stream,
            responses=ResponsesForm(
                repeated=repeated | {"store": is_kept},
                conversation=conversation if is_kept else [],
                is_kept=is_kept,
                is_background=body.background,
                with_logprobs=body.with_logprobs,
            ),
        )
        with renamed(CHAT_NAMES):
            chat = body.chat(with_instructions(body.instructions, conversation))
            return await self._answering.answer_chat(request, chat, form)

    def _conversation(self, response_id: str, owner: bytes) -> list[dict[str, Any]]:
        """The messages up to the end of a kept response, from which another one goes on."""
        param = "previous_response_id"
        if self._running(response_id, owner) is not None:
            reason = (
                f"response {shortened(response_id)!r} still runs: go on from it when it has ended"
            )
            raise BadRequest(reason, param=param)
        found: list[dict[str, Any]] = msgspec.json.decode(
            self._store.find(response_id, owner, param).conversation
        )
        return found

    async def retrieve(self, request: HttpRequest) -> Response:
        """A response that was kept, or one that still runs."""
        if request.query_params.get("stream") == "true":
            raise BadRequest(
                "stream: GET /v1/requests/ID reads on in the stream of a response that still runs",
                param="stream",
            )
        response_id, owner = request.path_params["id"], owner_of(request)
        if (answer := self._running(response_id, owner)) is not None:
            return JSONResponse(response_object(answer))
        stored = self._store.find(response_id, owner, "response_id")
        return Response(stored.response, media_type="application/json")

    def _running(self, response_id: str, owner: bytes) -> AnswerStreams | None:
        """A response that has not been answered yet; None if there is none."""
        try:
            answer = self._gateway.answers.find(response_id, owner)
        except BadRequest:
            return None
        return answer if answer.form.kind == "responses" else None

    async def delete(self, request: HttpRequest) -> Response:
        response_id, owner = request.path_params["id"], owner_of(request)
        if self._running(response_id, owner) is not None:
            reason = "it still runs: cancel it (POST …/cancel), or close its connection"
            raise BadRequest(reason, status=409, param="response_id")
        self._store.remove(response_id, owner)
        return JSONResponse({"id": response_id, "object": "response", "deleted": True})

    async def cancel(self, request: HttpRequest) -> Response:
        """Ends a response in the background. One that has ended stays as it is."""
        response_id, owner = request.path_params["id"], owner_of(request)
        answer = self._running(response_id, owner)
        if answer is not None and answer.is_background:
            self._gateway.answers.cancel(answer)
        if answer is None or answer.is_background:
            stored = self._store.find(response_id, owner, "response_id")
            if stored.is_background:
                return Response(stored.response, media_type="application/json")
        raise BadRequest(
            "cannot cancel a synchronous response, one without background: true: close its "
            "connection to end it",
            param="response_id",
        )


def _response_id(request: HttpRequest) -> str:
    """The id of a new response. Raises `BadRequest` for one that no later request could name: it is
    a part of their path."""
    found = answer_id(request, "resp_")
    if "/" in found or found in (".", ".."):
        raise BadRequest(
            f"X-Request-Id {shortened(found)!r} cannot name a response: no / may be in it, and it "
            "may not be . or ..",
            param="X-Request-Id",
        )
    return found

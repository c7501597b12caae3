"""`RouteGuard`: what every handler of a user or of an operator is called through."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import Response

from ...text.tokenizer import TextError
from ..answers.event_id import is_answer_id
from ..answers.event_stream import REQUEST_ID
from ..gateway.gateway import Gateway
from ..http.access import Access
from ..http.bad_request import BadRequest
from .errors import ErrorWriter, answer_bug, answer_refusal

Handler: TypeAlias = Callable[[HttpRequest], Awaitable[Response]]


class RouteGuard:
    """Checks the key, and turns a refusal or a bug into its answer."""

    def __init__(self, gateway: Gateway, access: Access) -> None:
        self._gateway, self._access = gateway, access

    def user(self, handler: Handler, write: ErrorWriter = BadRequest.body) -> Handler:
        """A user's route: any key is accepted. `write` makes its errors."""
        return self._guarded(handler, self._access.check_user, write)

    def operator(self, handler: Handler) -> Handler:
        """An operator's route: only the admin key is accepted."""
        return self._guarded(handler, self._access.check_operator, BadRequest.body)

    def _guarded(
        self, handler: Handler, check: Callable[[HttpRequest], None], write: ErrorWriter
    ) -> Handler:
        """The handler, called if `check` does not refuse the request."""

        async def guarded(request: HttpRequest) -> Response:
            response = await self._answer(request, handler, check, write)
            if is_answer_id(given := request.headers.get(REQUEST_ID, "")):
                response.headers.setdefault(REQUEST_ID, given)
            return response

        return guarded

    async def _answer(
        self,
        request: HttpRequest,
        handler: Handler,
        check: Callable[[HttpRequest], None],
        write: ErrorWriter,
    ) -> Response:
        try:
            try:
                check(request)
                return await handler(request)
            except TextError as error:
                raise BadRequest(str(error)) from error
            except ClientDisconnect:
                raise BadRequest("the client has left", status=499) from None
        except BadRequest as error:
            return answer_refusal(error, write)
        except Exception as error:
            self._gateway.counters.failures += 1
            return await answer_bug(request, error, write)

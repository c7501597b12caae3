"""`ResponseStore`: finished responses, from which later requests go on, in memory.

Bounded by number and bytes: the oldest are given up first. A restarted server has none of them.
"""

from __future__ import annotations

import hmac
from collections import OrderedDict
from typing import Any

import msgspec

from ..http.bad_request import BadRequest, shortened
from .answer_format import Format
from .responses_answer import answer_messages, response_object
from .streams import AnswerStreams

MOST_RESPONSES = 10_000


class StoredResponse(msgspec.Struct, frozen=True):
    """A response and its conversation, as JSON."""

    owner: bytes
    response: bytes
    conversation: bytes
    """The chat's messages before it, and its own."""
    item_ids: tuple[str, ...]
    is_background: bool

    @property
    def num_bytes(self) -> int:
        return len(self.response) + len(self.conversation)


class ResponseStore:
    """The responses of one server that were asked to be kept; each can be read with the key that it
    was asked for with."""

    def __init__(self, most_bytes: int) -> None:
        """With 0 nothing is kept."""
        self._most_bytes = most_bytes
        self._responses: OrderedDict[str, StoredResponse] = OrderedDict()
        self._of_item: dict[tuple[bytes, str], str] = {}
        """Response ids by the owners and ids of their items."""
        self.num_bytes = 0

    @property
    def is_on(self) -> bool:
        return self._most_bytes > 0

    def has_room_for(self, *parts: object) -> bool:
        """Whether a response that has these parts, as JSON, may be kept beside no other."""
        return self.is_on and sum(map(len, map(msgspec.json.encode, parts))) <= self._most_bytes

    def put(self, answer: AnswerStreams) -> None:
        """Keeps an answer that has ended, if it is a response that is to be kept."""
        details = answer.form.responses
        if details is None or not details.is_kept or not self.is_on:
            return
        response = response_object(answer)
        stored = StoredResponse(
            answer.owner,
            msgspec.json.encode(response),
            msgspec.json.encode([*details.conversation, *answer_messages(response)]),
            tuple(item["id"] for item in response["output"]),
            details.is_background,
        )
        self._forget(answer.form.answer_id)
        self._responses[answer.form.answer_id] = stored
        items = ((stored.owner, item_id) for item_id in stored.item_ids)
        self._of_item |= dict.fromkeys(items, answer.form.answer_id)
        self.num_bytes += stored.num_bytes
        while self.num_bytes > self._most_bytes or len(self._responses) > MOST_RESPONSES:
            self._forget(next(iter(self._responses)))

    def check_new(self, form: Format) -> None:
        """Raises `BadRequest` (409) for a response with the id of one that is kept for any key."""
        if form.responses is not None and form.answer_id in self._responses:
            raise BadRequest(
                f"X-Request-Id {shortened(form.answer_id)!r} is taken: choose another",
                status=409,
                param="X-Request-Id",
            )

    def _forget(self, response_id: str) -> None:
        if (stored := self._responses.pop(response_id, None)) is not None:
            self.num_bytes -= stored.num_bytes
            for item_id in stored.item_ids:
                self._of_item.pop((stored.owner, item_id), None)

    def find(self, response_id: str, owner: bytes, param: str) -> StoredResponse:
        """A kept response. Raises `BadRequest` (404) naming `param`, also for that of another
        key."""
        stored = self._responses.get(response_id)
        if stored is None or not hmac.compare_digest(stored.owner, owner):
            reason = "no response is kept here: see --response-store-mib"
            if self.is_on:
                reason = (
                    f"response {shortened(response_id)!r} not found: it was never kept, was given "
                    "up for newer ones, was lost with a restart of the server, or was asked for "
                    "with another API key"
                )
            raise BadRequest(reason, status=404, param=param)
        return stored

    def find_item(self, item_id: str, owner: bytes) -> dict[str, Any] | None:
        """An item of a kept response's output; None if there is none."""
        stored = self._responses.get(self._of_item.get((owner, item_id), ""))
        if stored is None:
            return None
        output: list[dict[str, Any]] = msgspec.json.decode(stored.response)["output"]
        return next((item for item in output if item["id"] == item_id), None)

    def remove(self, response_id: str, owner: bytes) -> None:
        """Forgets a response. Raises `BadRequest` (404) as `find` does."""
        self.find(response_id, owner, "response_id")
        self._forget(response_id)

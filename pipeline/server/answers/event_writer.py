"""`EventWriter`: server-sent events as bytes, with ids for a client that wants to read on after its
connection broke.

Knows no format of an answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

import msgspec

from ...messages import TextDelta
from ..http.bad_request import BadRequest
from .event_id import Delivered, write_event_id, write_place
from .streams import AnswerReader, ReadPlace


class EventWriter:
    """Writes the events of one answer, each with its id if the client wants ids."""

    def __init__(self, reader: AnswerReader, delivered: Delivered, *, has_ids: bool) -> None:
        self.reader, self.delivered, self._has_ids = reader, delivered, has_ids
        self._answer_id = reader.answer.form.answer_id
        self._words = [write_place(ReadPlace())] * len(reader.places)

    def advance(self, index: int) -> bool:
        """Notes that a choice was read on; False if the client has it up to there."""
        place = self.reader.places[index]
        self._words[index] = write_place(place)
        return place > self.delivered.places[index]

    def event(self, data: Any, *, name: str = "", has_usage: bool = False) -> bytes:
        """An event of JSON, with an event's name if there is one."""
        lines = data_lines(data, name)
        if not self._has_ids:
            return lines
        event_id = write_event_id(self._answer_id, self._words, has_usage=has_usage)
        return b"id: " + event_id.encode() + b"\n" + lines

    def events(self, named: list[tuple[str, Any]]) -> bytes:
        """The events that follow from one delta, by name. The last one has the id: a client that
        comes back after an earlier one gets them all again."""
        *before, (name, data) = named
        first = b"".join(data_lines(other, other_name) for other_name, other in before)
        return first + self.event(data, name=name)


class NamedEvents(Protocol):
    """Makes the events of one answer, by name, from its beginning on."""

    def begin(self) -> list[tuple[str, Any]]: ...

    def put(self, delta: TextDelta) -> list[tuple[str, Any]]:
        """The events that follow from a delta."""

    def fail(self, error: BadRequest) -> list[tuple[str, Any]]:
        """The events that end an answer in an error."""


async def named_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]], answer: NamedEvents
) -> AsyncIterator[bytes]:
    """The stream of an answer, without what the client has."""
    events = answer.begin()
    try:
        async for index, delta in deltas:
            events += answer.put(delta)
            if writer.advance(index) and events:
                yield writer.events(events)
            events = []
    except BadRequest as error:
        for name, data in answer.fail(error):
            yield data_lines(data, name)


def data_lines(data: Any, name: str = "") -> bytes:
    """An event without an id."""
    head = f"event: {name}\n".encode() if name else b""
    return head + b"data: " + msgspec.json.encode(data) + b"\n\n"

"""Anthropic's Messages protocol: a message as an object, and as the events of a stream.

Knows no request and no route.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from ...messages import TextDelta
from ..http.anthropic_error import anthropic_error_body
from ..http.bad_request import BadRequest
from .event_writer import EventWriter, named_events
from .pieces import AnswerPiece, CallTracker, make_splitter
from .streams import AnswerStreams, Stream

Event: TypeAlias = tuple[str, dict[str, Any]]
"""An event's name and its data."""
BLOCKS = {"content": "text", "reasoning": "thinking", "call": "tool_use", "arguments": "tool_use"}
"""The type of the block that a piece belongs to."""


def message_object(answer: AnswerStreams) -> dict[str, Any]:
    """The whole message."""
    message = MessageEvents(answer)
    for delta in answer.streams[0].deltas():
        message.put(delta)
    return message.object()


def anthropic_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> AsyncIterator[bytes]:
    """The stream of a message: its start, its blocks part by part, and its end."""
    return named_events(writer, deltas, MessageEvents(writer.reader.answer))


class MessageEvents:
    """One message while its text comes. Each step returns the events that follow from it."""

    def __init__(self, answer: AnswerStreams) -> None:
        self._form = answer.form
        self._stream: Stream = answer.streams[0]
        self._splitter = make_splitter(answer.form)
        self._calls = CallTracker()
        self._content: list[dict[str, Any]] = []
        self._arguments = ""
        """Of the open tool_use block, as JSON."""
        self._is_open = False
        """Whether more of the last block may come."""
        self._num_tokens = 0
        self._stop: dict[str, Any] = {"stop_reason": None, "stop_sequence": None}

    def object(self) -> dict[str, Any]:
        """The message as it stands."""
        return {
            "id": self._form.answer_id,
            "type": "message",
            "role": "assistant",
            "model": self._form.model,
            "content": list(self._content),
            **self._stop,
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, int]:
        return {
            "input_tokens": len(self._stream.request.prompt_ids),
            "output_tokens": self._num_tokens,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
        }

    def begin(self) -> list[Event]:
        """The first event."""
        return [_event("message_start", message=self.object())]

    def fail(self, error: BadRequest) -> list[Event]:
        """The event of a refusal or of an error after the start."""
        return [("error", anthropic_error_body(error))]

    def put(self, delta: TextDelta) -> list[Event]:
        """The events of one delta, those of the end included."""
        self._num_tokens = delta.num_tokens
        events: list[Event] = []
        pieces = self._splitter.put(delta.text, delta.finish_reason is not None)
        self._calls.add(pieces)
        for piece in pieces:
            events += self._put_piece(piece)
        return events + self._end(delta) if delta.finish_reason else events

    def _put_piece(self, piece: AnswerPiece) -> list[Event]:
        kind = BLOCKS[piece.kind]
        events: list[Event] = []
        if not self._is_open or self._content[-1]["type"] != kind or piece.kind == "call":
            events = self._close() + self._begin_block(kind, piece)
        match piece.kind:
            case "content":
                self._content[-1]["text"] += piece.text
                events.append(self._delta(type="text_delta", text=piece.text))
            case "reasoning":
                self._content[-1]["thinking"] += piece.text
                events.append(self._delta(type="thinking_delta", thinking=piece.text))
            case "arguments":
                self._arguments += piece.text
                events.append(self._delta(type="input_json_delta", partial_json=piece.text))
        return events

    def _begin_block(self, kind: str, piece: AnswerPiece) -> list[Event]:
        block: dict[str, Any] = {"type": kind}
        if kind == "text":
            block["text"] = ""
        elif kind == "thinking":
            block |= {"thinking": "", "signature": ""}
        else:
            block |= {"id": piece.call_id, "name": piece.text, "input": {}}
            self._arguments = ""
        self._content.append(block)
        self._is_open = True
        place = len(self._content) - 1
        return [_event("content_block_start", index=place, content_block=dict(block))]

    def _delta(self, **delta: Any) -> Event:
        return _event("content_block_delta", index=len(self._content) - 1, delta=delta)

    def _close(self) -> list[Event]:
        """The end of the open block."""
        if not self._is_open:
            return []
        block, events = self._content[-1], []
        if block["type"] == "tool_use":
            block["input"] = _object(self._arguments)
        elif block["type"] == "thinking":
            events = [self._delta(type="signature_delta", signature="")]
        self._is_open = False
        return [*events, _event("content_block_stop", index=len(self._content) - 1)]

    def _end(self, delta: TextDelta) -> list[Event]:
        events = self._close()
        reason, sequence = "end_turn", None
        if delta.finish_reason == "length":
            reason = "max_tokens"
        elif self._calls.has_call and not self._calls.is_cut:
            reason = "tool_use"
        elif isinstance(delta.stopped_by, str):
            reason, sequence = "stop_sequence", delta.stopped_by
        self._stop = {"stop_reason": reason, "stop_sequence": sequence}
        return [
            *events,
            _event("message_delta", delta=self._stop, usage=self._usage()),
            _event("message_stop"),
        ]


def _event(name: str, /, **data: Any) -> Event:
    return name, {"type": name, **data}


def _object(arguments: str) -> Any:
    """The arguments of a call; as the model wrote them, if they are not JSON or were cut off."""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError):
        return {"arguments": arguments}
    return found if isinstance(found, dict) else {"arguments": found}

"""OpenAI's Responses protocol: a response as an object, and as the events of a stream.

Knows no request and no route.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, TypeAlias

from ...messages import TextDelta, TokenLogprob
from ...runtime.clock import unix_time
from ..http.bad_request import BadRequest
from .answer_format import LogprobQueue, chat_logprobs
from .event_writer import EventWriter, named_events
from .pieces import AnswerPiece, CallTracker, make_splitter
from .streams import AnswerStreams, Stream, refusal_error

Event: TypeAlias = tuple[str, dict[str, Any]]
"""An event's name and its data."""
QUEUED, RUNNING = "queued", "in_progress"
"""States of a response that has not ended."""
INCOMPLETE = {"length": "max_output_tokens"}
"""Reasons of a response that is not whole, by finish reason."""


def response_object(answer: AnswerStreams) -> dict[str, Any]:
    """The whole response; one that was cancelled or failed has what came before, and one that still
    runs has no output."""
    (stream,) = answer.streams
    response = ResponseEvents(answer)
    if stream.ended:
        for delta in stream.deltas():
            response.put(delta)
        if stream.refusal is not None:
            response.fail(refusal_error(stream.refusal, answer.form))
    elif answer.is_background and not stream.num_tokens:
        response.queue()
    return response.object()


def answer_messages(response: dict[str, Any]) -> list[dict[str, Any]]:
    """The output of a response as a chat's message; none if it has no output."""
    if not response["output"]:
        return []
    text: list[str] = []
    reasoning: list[str] = []
    calls = []
    for item in response["output"]:
        match item["type"]:
            case "message":
                text += [part["text"] for part in item["content"]]
            case "reasoning":
                reasoning += [part["text"] for part in item["content"]]
            case "function_call":
                function = {"name": item["name"], "arguments": item["arguments"]}
                calls.append({"id": item["call_id"], "type": "function", "function": function})
    message: dict[str, Any] = {"role": "assistant", "content": "".join(text)}
    if reasoning:
        message["reasoning_content"] = "".join(reasoning)
    if calls:
        message["tool_calls"] = calls
    return [message]


def responses_events(
    writer: EventWriter, deltas: AsyncIterator[tuple[int, TextDelta]]
) -> AsyncIterator[bytes]:
    """The stream of a response: its creation, its items part by part, and its end."""
    return named_events(writer, deltas, ResponseEvents(writer.reader.answer))


class ResponseEvents:
    """One response while its text comes. Each step returns the events that follow from it."""

    def __init__(self, answer: AnswerStreams) -> None:
        form = answer.form
        assert form.responses is not None
        self._answer, self._form, self._details = answer, form, form.responses
        self._stream: Stream = answer.streams[0]
        self._splitter = make_splitter(form)
        self._calls = CallTracker()
        self._queue = LogprobQueue()
        self._logprobs: list[dict[str, Any]] = []
        """Of the open text, and those that wait for a text."""
        self._number = 0
        self._output: list[dict[str, Any]] = []
        self._open: dict[str, Any] | None = None
        """The last of the output, while more of it comes."""
        self._num_tokens = self._reasoning_tokens = 0
        self._status = RUNNING
        self._incomplete: str | None = None
        self._error: dict[str, Any] | None = None

    # -- the response

    def object(self) -> dict[str, Any]:
        """The response as it stands."""
        is_over = self._status not in (QUEUED, RUNNING)
        return {
            "id": self._form.answer_id,
            "object": "response",
            "created_at": self._form.created,
            "completed_at": int(unix_time()) if self._status == "completed" else None,
            "status": self._status,
            "error": self._error,
            "incomplete_details": {"reason": self._incomplete} if self._incomplete else None,
            "model": self._form.model,
            "output": list(self._output) if is_over else [],
            "usage": self._usage() if is_over else None,
            **self._details.repeated,
        }

    def _usage(self) -> dict[str, Any]:
        prompt = len(self._stream.request.prompt_ids)
        return {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
            "output_tokens": self._num_tokens,
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": prompt + self._num_tokens,
        }

    # -- its events

    def begin(self) -> list[Event]:
        """The first events."""
        return [
            self._event("response.created", response=self.object()),
            self._event("response.in_progress", response=self.object()),
        ]

    def put(self, delta: TextDelta) -> list[Event]:
        """The events of one delta, those of the end included."""
        self._num_tokens = delta.num_tokens
        pieces = self._splitter.put(delta.text, delta.finish_reason is not None)
        self._calls.add(pieces)
        self._reasoning_tokens += any(piece.kind == "reasoning" for piece in pieces)
        fresh = self._queue.take(delta) if self._details.with_logprobs else []
        if any(piece.kind != "content" for piece in pieces):
            fresh = []  # logprobs are those of the text
        events: list[Event] = []
        for piece in pieces:
            events += self._put_piece(piece, fresh if piece.kind == "content" else [])
            if piece.kind == "content":
                fresh = []
        self._logprobs += _logprobs(fresh)  # of tokens without text of their own
        return events + self._end(delta.finish_reason) if delta.finish_reason else events

    def fail(self, error: BadRequest) -> list[Event]:
        """The last events of a response that failed on the way, or that a client has cancelled, for
        which OpenAI has no event of its own."""
        events: list[Event] = []
        for piece in self._splitter.put("", True):  # text that might have begun something else
            events += self._put_piece(piece, [])
        events += self._close("incomplete")
        if self._answer.is_cancelled:
            self._status = "cancelled"
        else:
            self._status = "failed"
            self._error = {"code": "server_error", "message": error.reason}
        return [*events, self._event("response.failed", response=self.object())]

    def queue(self) -> None:
        """Its first token is still to come."""
        self._status = QUEUED

    def _event(self, name: str, /, **data: Any) -> Event:
        self._number += 1
        return name, {"type": name, "sequence_number": self._number - 1, **data}

    def _item_event(self, name: str, /, **data: Any) -> Event:
        """An event about the open item."""
        assert self._open is not None
        place = {"item_id": self._open["id"], "output_index": len(self._output) - 1}
        return self._event(name, **place, **data)

    def _put_piece(self, piece: AnswerPiece, logprobs: list[TokenLogprob]) -> list[Event]:
        kind = {"content": "message", "reasoning": "reasoning"}.get(piece.kind, "function_call")
        events: list[Event] = []
        if self._open is None or self._open["type"] != kind or piece.kind == "call":
            events = self._close("completed") + self._begin_item(kind, piece)
        assert self._open is not None
        match piece.kind:
            case "content":
                new = _logprobs(logprobs)
                self._logprobs += new
                self._open["content"][0]["text"] += piece.text
                events.append(
                    self._item_event(
                        "response.output_text.delta",
                        content_index=0,
                        delta=piece.text,
                        logprobs=new,
                    )
                )
            case "reasoning":
                self._open["content"][0]["text"] += piece.text
                events.append(
                    self._item_event(
                        "response.reasoning_text.delta", content_index=0, delta=piece.text
                    )
                )
            case "arguments":
                self._open["arguments"] += piece.text
                events.append(
                    self._item_event("response.function_call_arguments.delta", delta=piece.text)
                )
        return events

    def _begin_item(self, kind: str, piece: AnswerPiece) -> list[Event]:
        """Opens an item. Its id follows from the answer's, so that it is the same after a restart
        of the server."""
        base = self._form.answer_id.removeprefix("resp_")
        prefix = {"message": "msg", "reasoning": "rs", "function_call": "fc"}[kind]
        item: dict[str, Any] = {
            "id": f"{prefix}_{base}_{len(self._output)}",
            "type": kind,
            "status": "in_progress",
        }
        if kind == "message":
            item |= {"role": "assistant", "content": []}
        elif kind == "reasoning":
            item |= {"summary": [], "content": []}
        else:
            item |= {"call_id": piece.call_id, "name": piece.text, "arguments": ""}
        self._open = item
        self._output.append(item)
        added = self._event(
            "response.output_item.added", output_index=len(self._output) - 1, item=dict(item)
        )
        if kind == "function_call":
            return [added]
        part: dict[str, Any] = {"type": "reasoning_text", "text": ""}
        if kind == "message":
            part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
        item["content"] = [part]
        opened = self._item_event("response.content_part.added", content_index=0, part=dict(part))
        return [added, opened]

    def _close(self, status: str) -> list[Event]:
        """The events of the end of the open item."""
        item = self._open
        if item is None:
            return []
        item["status"] = status
        events: list[Event]
        if item["type"] == "function_call":
            arguments = item["arguments"]
            name = "response.function_call_arguments.done"
            events = [self._item_event(name, name=item["name"], arguments=arguments)]
        else:
            (part,) = item["content"]
            more = {}
            if item["type"] == "message":
                part["logprobs"], self._logprobs = self._logprobs, []
                more = {"logprobs": part["logprobs"]}
            kind = part["type"]
            events = [
                self._item_event(
                    f"response.{kind}.done", content_index=0, text=part["text"], **more
                ),
                self._item_event("response.content_part.done", content_index=0, part=part),
            ]
        place = len(self._output) - 1
        events.append(self._event("response.output_item.done", output_index=place, item=item))
        self._open = None
        return events

    def _end(self, finish_reason: str) -> list[Event]:
        self._incomplete = INCOMPLETE.get(finish_reason)
        # OpenAI has no reason for a call that a stop string cut.
        status = "incomplete" if self._incomplete or self._calls.is_cut else "completed"
        events: list[Event] = []
        if not self._output:  # an answer without any text
            events += self._begin_item("message", AnswerPiece("content", ""))
        events += self._close(status)
        self._status = status
        return [*events, self._event(f"response.{status}", response=self.object())]


def _logprobs(tokens: list[TokenLogprob]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] = chat_logprobs(tokens)["content"]
    return content

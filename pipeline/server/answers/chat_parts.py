"""OpenAI's chat answers that have more than text: messages and deltas with reasoning and calls.

Knows no stream and no route.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from ...messages import TextDelta, TokenLogprob
from .answer_format import Format
from .pieces import AnswerPiece, CallTracker, make_splitter


def chat_message(form: Format, pieces: Sequence[AnswerPiece]) -> dict[str, Any]:
    """The message of a whole answer."""
    content, reasoning = _text(pieces, "content"), _text(pieces, "reasoning")
    arguments: dict[int, list[str]] = defaultdict(list)
    for piece in pieces:
        if piece.kind == "arguments":
            arguments[piece.call].append(piece.text)
    calls = [
        {
            "id": piece.call_id,
            "type": "function",
            "function": {"name": piece.text, "arguments": "".join(arguments[piece.call])},
        }
        for piece in pieces
        if piece.kind == "call"
    ]
    message: dict[str, Any] = {"role": "assistant", "content": content, "refusal": None}
    has_no_content = form.reading is not None and form.reading.has_no_content
    if not content and (calls or reasoning or has_no_content):
        message["content"] = None
    if reasoning:
        message |= _reasoning(reasoning)
    if calls and form.is_function_call:
        message["function_call"] = calls[0]["function"]
    elif calls:
        message["tool_calls"] = calls
    return message


def chat_finish_reason(form: Format, reason: str | None, calls: CallTracker) -> str | None:
    """OpenAI's reason. A function that the request named is no choice of the model, so it is a
    plain stop, and so is the end of a call that was cut by a stop string."""
    if reason != "stop" or not calls.has_call or calls.is_cut or form.is_named_call:
        return reason
    return "function_call" if form.is_function_call else "tool_calls"


def parsed_choice(
    form: Format,
    index: int,
    text: str,
    finish_reason: str | None,
    logprobs: list[TokenLogprob],
) -> dict[str, Any]:
    """One whole choice."""
    pieces = make_splitter(form, index).put(text, True)
    calls = CallTracker()
    calls.add(pieces)
    return {
        "index": index,
        "finish_reason": chat_finish_reason(form, finish_reason, calls),
        "token_ids": None,
        "message": chat_message(form, pieces),
        "logprobs": form.chat_logprobs_of(logprobs),
    }


class ParsedChunks:
    """The events of one choice. All that one token completes is one event, so that an event's id
    says exactly what a client has."""

    def __init__(self, form: Format, index: int) -> None:
        self._form, self._index = form, index
        self._splitter = make_splitter(form, index)
        self._calls = CallTracker()
        self._has_begun = False

    def chunk(self, delta: TextDelta, logprobs: list[TokenLogprob]) -> dict[str, Any] | None:
        """The event of a delta; None if it has nothing for a client."""
        pieces = self._splitter.put(delta.text, delta.finish_reason is not None)
        self._calls.add(pieces)
        if self._has_begun and not (pieces or delta.finish_reason or logprobs):
            return None
        role = {} if self._has_begun else {"role": "assistant"}
        self._has_begun = True
        reason = chat_finish_reason(self._form, delta.finish_reason, self._calls)
        choice = {
            "index": self._index,
            "finish_reason": reason,
            "delta": {**role, **self._delta(pieces)},
            "logprobs": self._form.chat_logprobs_of(logprobs),
        }
        return self._form.chat_chunk(choice)

    def _delta(self, pieces: Sequence[AnswerPiece]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if content := _text(pieces, "content"):
            found["content"] = content
        if reasoning := _text(pieces, "reasoning"):
            found |= _reasoning(reasoning)
        calls: dict[int, dict[str, Any]] = {}
        for piece in pieces:
            if piece.kind == "call":
                function = {"name": piece.text, "arguments": ""}
                calls[piece.call] = {
                    "index": piece.call,
                    "id": piece.call_id,
                    "type": "function",
                    "function": function,
                }
            elif piece.kind == "arguments":
                begun = {"index": piece.call, "function": {"arguments": ""}}
                calls.setdefault(piece.call, begun)["function"]["arguments"] += piece.text
        if calls and self._form.is_function_call:
            found["function_call"] = calls[0]["function"]
        elif calls:
            found["tool_calls"] = list(calls.values())
        return found


def _reasoning(text: str) -> dict[str, str]:
    """The reasoning under the names that clients look for: DeepSeek's and SGLang's, and vLLM's."""
    return {"reasoning_content": text, "reasoning": text}


def _text(pieces: Iterable[AnswerPiece], kind: str) -> str:
    return "".join(piece.text for piece in pieces if piece.kind == kind)

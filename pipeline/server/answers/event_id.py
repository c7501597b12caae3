"""The ids of server-sent events: they say how far a client has an answer, so that it can read on
after its connection broke.

An id is the answer's id and the tokens of each choice so far, `chatcmpl-5f3a:12,7e`: the second
choice has ended. After the event with the usage it ends in `u`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from ..http.bad_request import BadRequest
from .streams import AnswerStreams, ReadPlace

PLACES = re.compile(r"(\d{1,9}e?(?:,\d{1,9}e?)*)(u?)", re.ASCII)
MAX_ID = 128
"""Most characters of an answer's id that a client chooses."""


class Delivered(NamedTuple):
    """What a client has of an answer."""

    places: tuple[ReadPlace, ...]
    has_usage: bool = False


def nothing_of(answer: AnswerStreams) -> Delivered:
    """What a new client has."""
    return Delivered((ReadPlace(),) * len(answer.streams))


def write_place(place: ReadPlace) -> str:
    """One choice's part of an event's id."""
    return f"{place.tokens}e" if place.is_over else str(place.tokens)


def write_event_id(answer_id: str, places: Iterable[str], *, has_usage: bool = False) -> str:
    """`places`: that of each choice, from `write_place`."""
    return f"{answer_id}:{','.join(places)}{'u' if has_usage else ''}"


def read_event_id(text: str, answer: AnswerStreams) -> Delivered:
    """What a client has of an answer that sends this id; the answer's id may be left out, and "" is
    nothing. Raises `BadRequest`."""
    if not text:
        return nothing_of(answer)
    num_choices = len(answer.streams)
    given_id, colon, rest = text.rpartition(":")
    found = PLACES.fullmatch(rest)
    if found is None or (colon and given_id != answer.form.answer_id):
        raise BadRequest(
            "Last-Event-ID or after is not the id of an event of this answer", param="after"
        )
    words = found[1].split(",")
    if len(words) != num_choices:
        raise BadRequest(
            f"after names {len(words)} choices, and the answer has {num_choices}", param="after"
        )
    places = (ReadPlace(int(word.removesuffix("e")), word.endswith("e")) for word in words)
    return Delivered(tuple(places), bool(found[2]))


def is_answer_id(given: str) -> bool:
    """Whether a client may choose this id for its answer: it fits a header and a path."""
    return re.fullmatch(rf"[!-~]{{1,{MAX_ID}}}", given, re.ASCII) is not None


def check_answer_id(given: str) -> str:
    """The answer's id that a client chose. Raises `BadRequest` unless it fits."""
    if not is_answer_id(given):
        raise BadRequest(
            f"X-Request-Id must be 1 to {MAX_ID} printable ASCII characters without spaces",
            param="X-Request-Id",
        )
    return given

"""Pieces of sentences: `counted` a number with its noun, `short_id` the end of a request's id."""

from __future__ import annotations

SHORT_ID = 10
"""Characters shown of a request's id."""


def counted(number: int, noun: str, verb: str = "") -> str:
    """`1 request`, `2 requests`, `0 processes`; with a verb: `1 request waits`, `2 requests wait`.
    The verb is given in its plural form."""
    if number != 1:
        return f"{number} {noun}{'es' if noun.endswith('s') else 's'} {verb}".rstrip()
    if verb == "are":
        return f"1 {noun} is"
    return f"1 {noun} {verb}{'S' if verb.isupper() else 's'}" if verb else f"1 {noun}"


def short_id(request_id: str) -> str:
    """The end of a request's id, which distinguishes requests: in tables and in reasons alike."""
    return request_id.removeprefix("chatcmpl-").removeprefix("cmpl-")[-SHORT_ID:]

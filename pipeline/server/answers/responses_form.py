"""`ResponsesForm`: what an answer of OpenAI's /v1/responses has beside its text."""

from __future__ import annotations

from typing import Any

import msgspec


class ResponsesForm(msgspec.Struct, frozen=True, kw_only=True):
    """Part of an answer's `Format`, so that a restarted server still has it."""

    repeated: dict[str, Any]
    """Fields of the request that the response repeats, and those with one value only."""
    conversation: list[Any] = []
    """The messages of this and of earlier responses, without instructions; empty if the response is
    not kept."""
    is_kept: bool = False
    """Whether a later request may go on from it."""
    is_background: bool = False
    """Whether it is made without a client that waits. Then it is kept."""
    with_logprobs: bool = False

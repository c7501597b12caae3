"""The answer of OpenAI's /v1/embeddings.

Knows no request and no route.
"""

from __future__ import annotations

import base64
import sys
from array import array
from typing import Any

from .answer_format import usage
from .streams import AnswerStreams


def embedding_object(answer: AnswerStreams) -> dict[str, Any]:
    """A vector for each input, in their order."""
    form = answer.form
    data = []
    for index, stream in enumerate(answer.streams):
        (piece,) = stream.prompt_logprobs
        embedding = _in_base64(piece.state) if form.in_base64 else _as_floats(piece.state)
        data.append({"object": "embedding", "index": index, "embedding": embedding})
    return {
        "id": form.answer_id,
        "object": "list",
        "created": form.created,
        "model": form.model,
        "data": data,
        "usage": usage(answer.prompt_tokens, 0),
    }


def _in_base64(state: bytes) -> str:
    return base64.b64encode(state).decode()


def _as_floats(state: bytes) -> list[float]:
    numbers = array("f", state)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tolist()

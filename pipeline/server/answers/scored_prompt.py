"""`scored_prompt`: the tokens of a prompt with their logprobs, for the native routes."""

from __future__ import annotations

from typing import NamedTuple

from ...text.tokenizer import Tokenizer
from .prompt_part import unpacked
from .streams import Stream


class ScoredToken(NamedTuple):
    """A token of a prompt."""

    token_id: int
    text: str
    logprob: float | None
    """None for the first one, which has no tokens before it."""
    likeliest: list[tuple[int, float]]
    """(token id, logprob), in order."""


def scored_prompt(stream: Stream, tokenizer: Tokenizer | None, most: int) -> list[ScoredToken]:
    """All tokens of the prompt, each with `most` of the likeliest in its place. The request must
    have asked for them."""
    assert tokenizer is not None, "an answer is read once the server has its tokenizer"
    ids = stream.request.prompt_ids
    scores = [score for piece in stream.prompt_logprobs for score in unpacked(piece, most)]
    found = [ScoredToken(ids[0], tokenizer.token_text(ids[0]), None, [])]
    for token_id, score in zip(ids[1:], scores, strict=True):
        text = tokenizer.token_text(token_id)
        found.append(ScoredToken(token_id, text, score.logprob, score.likeliest))
    return found

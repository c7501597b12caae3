"""`ScoredRows`: which prompts a step scores, and their logprobs as the router gets them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..messages import PromptLogprobs, SequenceLogprobs
from ..model.batch_torch import ScoredRow
from .live_sequences import LiveSequence
from .prompt_scores import PromptScores


@dataclass(frozen=True)
class PromptPiece:
    """A piece of one prompt: the index of its first scored token, how many there are, and how many
    of the likeliest are asked for."""

    sequence: int
    start: int
    count: int
    most: int


@dataclass(frozen=True)
class ScoredRows:
    """The pieces of a step, in the order of its scores."""

    scored: tuple[PromptPiece, ...]

    @classmethod
    def of(cls, rows: Sequence[ScoredRow], by_slot: Mapping[int, LiveSequence]) -> ScoredRows:
        """The pieces of these rows."""
        found = []
        for row in rows:
            sequence = by_slot[row.slot]
            most = sequence.params.prompt_logprobs or 0
            start, count = row.scores_from + 1, row.num_scores
            found.append(PromptPiece(sequence.number, start, count, most))
        return cls(tuple(found))

    @property
    def most(self) -> int:
        """The most of the likeliest that any of them asks for."""
        return max(piece.most for piece in self.scored)

    def pieces(self, scores: PromptScores) -> tuple[SequenceLogprobs, ...]:
        """The logprobs of each piece, from tensors on the host."""
        found, first = [], 0
        for piece in self.scored:
            rows, first = slice(first, first + piece.count), first + piece.count
            found.append(
                SequenceLogprobs(
                    piece.sequence,
                    PromptLogprobs(
                        piece.start,
                        _packed(scores.logprobs[rows, : 1 + piece.most], "<f4"),
                        _packed(scores.likeliest[rows, : piece.most], "<i4"),
                        _packed(scores.ranks[rows], "<i4"),
                    ),
                )
            )
        return tuple(found)


def _packed(values: Tensor, kind: str) -> bytes:
    return values.numpy().astype(kind).tobytes()

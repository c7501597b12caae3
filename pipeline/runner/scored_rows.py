"""`ScoredRows`: which prompts a step scores or pools, and what the router gets of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..messages import PromptLogprobs, SequenceLogprobs
from ..model.batch_torch import ScoredRow
from .live_sequences import LiveSequence
from .pooled_states import PooledPiece
from .prompt_scores import PromptScores


@dataclass(frozen=True)
class PromptPiece:
    """A piece of one prompt: the index of its first scored token, how many there are, and how many
    of the likeliest are asked for."""

    sequence: int
    start: int
    count: int
    most: int
    pooled: PooledPiece | None = None
    """In place of logprobs."""


@dataclass(frozen=True)
class StepScores:
    """The scores of a step: of the prompts with logprobs, and of those that are pooled."""

    logprobs: PromptScores | None
    states: Tensor | None
    """float32 [num_ended, hidden_size], of the prompts that end with this step"""

    def to_host(self) -> StepScores:
        """A copy in pinned memory, filled when the device reaches this point. Does not wait."""
        states = self.states
        if states is not None:
            pinned = states.new_empty(states.shape, device="cpu", pin_memory=True)
            states = pinned.copy_(states, non_blocking=True)
        return StepScores(self.logprobs and self.logprobs.to_host(), states)


@dataclass(frozen=True)
class ScoredRows:
    """The pieces of a step, in the order of its states."""

    scored: tuple[PromptPiece, ...]

    @classmethod
    def of(cls, rows: Sequence[ScoredRow], by_slot: Mapping[int, LiveSequence]) -> ScoredRows:
        """The pieces of these rows."""
        found, first = [], 0
        for row in rows:
            sequence = by_slot[row.slot]
            params = sequence.params
            start, count = row.scores_from + 1, row.num_scores
            pooled = None
            if params.pooling:
                is_last = row.scores_to == sequence.num_prompt
                length = sequence.num_prompt if params.pooling == "mean" else 1
                pooled = PooledPiece(
                    row.slot,
                    first,
                    count,
                    is_first=params.pooling == "last" or row.scores_from == 0,
                    num_pooled=length if is_last else 0,
                    is_unit=params.unit_state,
                )
            most = params.prompt_logprobs or 0
            found.append(PromptPiece(sequence.number, start, count, most, pooled))
            first += count
        return cls(tuple(found))

    @property
    def most(self) -> int:
        """The most of the likeliest that any of them asks for."""
        return max(piece.most for piece in self.scored)

    @property
    def pooled(self) -> list[PooledPiece]:
        """The pieces that are pooled."""
        return [piece.pooled for piece in self.scored if piece.pooled is not None]

    @property
    def places(self) -> list[int]:
        """The states, by their place, of the pieces that are not pooled."""
        found: list[int] = []
        first = 0
        for piece in self.scored:
            if piece.pooled is None:
                found += range(first, first + piece.count)
            first += piece.count
        return found

    def pieces(self, scores: StepScores) -> tuple[SequenceLogprobs, ...]:
        """What the router gets of each piece, from tensors on the host; of a prompt that is pooled
        with its end alone."""
        found, first, ended = [], 0, 0
        for piece in self.scored:
            if piece.pooled is None:
                assert scores.logprobs is not None
                rows, first = slice(first, first + piece.count), first + piece.count
                found.append(
                    SequenceLogprobs(piece.sequence, _logprobs(piece, scores.logprobs, rows))
                )
            elif piece.pooled.num_pooled:
                assert scores.states is not None
                state, ended = scores.states[ended], ended + 1
                whole = PromptLogprobs(
                    1,
                    b"",
                    b"",
                    b"",
                    state=_packed(state, "<f4"),
                    num_pooled=piece.start + piece.count - 1,
                )
                found.append(SequenceLogprobs(piece.sequence, whole))
        return tuple(found)


def _logprobs(piece: PromptPiece, scores: PromptScores, rows: slice) -> PromptLogprobs:
    return PromptLogprobs(
        piece.start,
        _packed(scores.logprobs[rows, : 1 + piece.most], "<f4"),
        _packed(scores.likeliest[rows, : piece.most], "<i4"),
        _packed(scores.ranks[rows], "<i4"),
    )


def _packed(values: Tensor, kind: str) -> bytes:
    return values.numpy().astype(kind).tobytes()

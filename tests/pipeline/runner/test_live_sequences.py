"""Sequences of a runner: their slots in the token history, and how they move by rows of steps."""

import pytest

from loraconsole.pipeline.messages import Admission, BatchRow, SamplingParams
from loraconsole.pipeline.model.page_pool import PAGE_SIZE
from loraconsole.pipeline.runner.live_sequences import LiveSequence, LiveSequences


def admission(number: int, tokens: int = 3, prompt: int | None = None) -> Admission:
    return Admission(number, (1,) * tokens, prompt or tokens, SamplingParams(), "a@1")


def admitted(live: LiveSequences, number: int, tokens: int = 3) -> LiveSequence:
    return live.admit(admission(number, tokens), "a@1")


def test_a_released_slot_is_given_out_before_a_new_one() -> None:
    live = LiveSequences()
    assert [admitted(live, number).slot for number in (7, 8, 9)] == [0, 1, 2]
    live.release(8)
    assert admitted(live, 10).slot == 1
    assert admitted(live, 11).slot == 3
    assert live.num_slots == 4


def test_a_sequence_is_admitted_once_and_forgotten_when_released() -> None:
    live = LiveSequences()
    first = admitted(live, 7)
    assert live[7] is first
    with pytest.raises(AssertionError, match="7 is already here"):
        admitted(live, 7)
    live.release(7)
    with pytest.raises(KeyError):
        live[7]


def test_clear_forgets_sequences_and_slots() -> None:
    live = LiveSequences()
    admitted(live, 7), admitted(live, 8)
    live.release(7)
    live.clear()
    assert live.num_slots == 0
    assert admitted(live, 7).slot == 0
    assert admitted(live, 8).slot == 1


def test_a_row_moves_a_sequence_on_and_names_the_pages_that_it_does_not_fill() -> None:
    sequence = admitted(LiveSequences(), 7, tokens=PAGE_SIZE + 2)
    unclean: list[int] = []
    row = sequence.advance(BatchRow(7, PAGE_SIZE + 1, (40, 41)), "a@1", unclean)
    assert (row.start, row.num_tokens, row.known) == (0, PAGE_SIZE + 1, PAGE_SIZE + 2)
    assert row.adapter == "a@1"
    assert unclean == [41]
    again = sequence.advance(BatchRow(7, 1), None, unclean)
    assert (again.start, again.adapter) == (PAGE_SIZE + 1, None)
    assert unclean == [41]  # no page is new


def test_a_row_beyond_the_known_tokens_or_the_pages_is_a_mistake_of_ours() -> None:
    sequence = admitted(LiveSequences(), 7, tokens=PAGE_SIZE + 1)
    with pytest.raises(AssertionError, match="known"):
        sequence.advance(BatchRow(7, PAGE_SIZE + 2, (1, 2)), None, [])
    with pytest.raises(AssertionError, match="17 tokens in 1 pages"):
        sequence.advance(BatchRow(7, PAGE_SIZE + 1, (1,)), None, [])


def test_a_sequence_whose_kv_was_kept_goes_on_behind_it_and_its_pages_stay_as_they_are() -> None:
    kept = Admission(7, (1,) * (PAGE_SIZE + 3), 5, SamplingParams(), None, PAGE_SIZE + 2)
    sequence = LiveSequences().admit(kept, None)
    unclean: list[int] = []
    row = sequence.advance(BatchRow(7, 1, (40, 41, 42)), None, unclean)
    assert (row.start, row.num_tokens) == (PAGE_SIZE + 2, 1)
    assert unclean == [42]  # 41 begins with two tokens

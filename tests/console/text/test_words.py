"""Sentences with numbers in them."""

from __future__ import annotations

import pytest

from loraconsole.console.cli import adapters
from loraconsole.console.state.board import Board
from loraconsole.console.state.impact import restart_costs, stop_costs
from loraconsole.console.text import units
from loraconsole.console.ui.panels import adapter_details
from loraconsole.pipeline.runtime.wording import counted


@pytest.mark.parametrize(
    ("number", "verb", "words"),
    [
        (0, "", "0 requests"),
        (1, "", "1 request"),
        (2, "", "2 requests"),
        (1, "wait", "1 request waits"),
        (2, "wait", "2 requests wait"),
        (1, "END", "1 request ENDS"),
        (1, "are", "1 request is"),
        (3, "are", "3 requests are"),
    ],
)
def test_one_is_told_as_one(number: int, verb: str, words: str) -> None:
    assert counted(number, "request", verb) == words


@pytest.mark.parametrize(
    ("number", "words"), [(0, "0 hits"), (1, "1 hit"), (2, "2 hits"), (12_345, "12.3k hits")]
)
def test_a_count_on_the_screen_agrees_with_its_noun(number: int, words: str) -> None:
    assert units.count_noun(number, "hit") == words


@pytest.mark.parametrize("name", ["worker-0", "detokenizer", "router"])
def test_where_nothing_is_live_nothing_is_said_to_wait_or_end(name: str) -> None:
    board = Board(now=0.0, run="/run")
    for told in (stop_costs(board, name), restart_costs(board, name)):
        assert told.startswith("No request is live.") and "0 live" not in told


def test_the_command_line_and_the_console_say_alike_where_an_adapter_lies() -> None:
    assert adapters.WHERE == adapter_details.WHERE

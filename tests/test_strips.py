"""Strips that are gone are gone."""

import gc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style
from textual.strip import Strip

from loraconsole.console import strips

TEXTS = st.lists(st.text("ab─⣀漢", max_size=6), max_size=4)
_divide = Strip.divide


@pytest.mark.parametrize("style", [None, Style(bold=True)])
@given(texts=TEXTS, cuts=st.sets(st.integers(1, 30)))
def test_a_strip_is_divided_as_textual_divides_it(
    style: Style | None, texts: list[str], cuts: set[int]
) -> None:
    strip = Strip([Segment(text, style) for text in texts])
    ends = sorted({*cuts, strip.cell_length} - {0})
    ours, theirs = strips.divide(strip, ends), _divide(strip, ends)
    assert list(ours) == list(theirs)
    assert [part.cell_length for part in ours] == [part.cell_length for part in theirs]


def test_a_strip_that_stays_whole_leaves_nothing_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            strip = Strip([Segment(f"step {number}")])
            assert strips.divide(strip, [strip.cell_length]) == [strip]
            strips.divide(strip, [2, strip.cell_length])
        del strip
        assert not [thing for thing in gc.get_objects() if _is_left(thing)]
    finally:
        gc.enable()


def _is_left(thing: object) -> bool:
    return isinstance(thing, Strip) and thing.text.startswith("step")

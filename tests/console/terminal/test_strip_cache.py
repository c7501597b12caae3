"""Strips that are gone are gone."""

import gc

import pytest
from rich.segment import Segment
from rich.style import Style
from textual import strip as textual_strip
from textual.cache import FIFOCache
from textual.strip import Strip

from loraconsole.console.terminal import strip_cache


@pytest.fixture(autouse=True)
def lets_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(textual_strip, "FIFOCache", FIFOCache)  # is put back
    strip_cache.turn_off()


def test_a_strip_is_cut_and_styled_as_ever() -> None:
    strip = Strip([Segment("sea"), Segment("漢字"), Segment("side")])
    for _ in range(2):
        assert [part.text for part in strip.divide([3, 7, 11])] == ["sea", "漢字", "side"]
        assert strip.crop(3, 7).text == "漢字"
        assert strip.adjust_cell_length(13).text == "sea漢字side  "
        assert [each.style for each in strip.apply_style(Style(bold=True))] == [
            Style(bold=True)
        ] * 3


def test_a_strip_leaves_nothing_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        for number in range(50):
            strip = Strip([Segment(f"step {number}")])
            assert strip.divide([strip.cell_length]) == [strip]
            strip.divide([2, strip.cell_length])
            strip.crop(2, 4)
        del strip
        assert not [thing for thing in gc.get_objects() if _is_left(thing)]
    finally:
        gc.enable()


def _is_left(thing: object) -> bool:
    return isinstance(thing, Strip) and thing.text.startswith("step")

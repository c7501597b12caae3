"""Stop strings, sought in what is shown and in what is not."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loraconsole.pipeline.text.stop_search import StopSearch

Pieces = list[tuple[str, bool]]
PIECES = st.lists(st.tuples(st.text("ab<>", min_size=1, max_size=4), st.booleans()), max_size=12)
STOPS = st.lists(st.text("ab<>", min_size=1, max_size=4), max_size=3)


def run(search: StopSearch, pieces: Pieces) -> tuple[str, bool, list[str]]:
    """All text, whether a stop string ended it, and the text as it left."""
    left: list[str] = []
    for number, (text, is_shown) in enumerate(pieces, start=1):
        search.add(text, is_shown=is_shown)
        released, stop = search.release(final=number == len(pieces))
        left.append(released)
        if stop is not None:
            return "".join(left), True, left
    return "".join(left), False, left


@given(pieces=PIECES, stop=STOPS)
def test_plain_stop_strings_see_what_is_shown(pieces: Pieces, stop: list[str]) -> None:
    shown = "".join(text for text, is_shown in pieces if is_shown)
    text, is_stopped, _ = run(StopSearch(stop), pieces)
    assert is_stopped == any(one in shown for one in stop)
    assert shown.startswith(text)
    assert not any(one in text for one in stop)
    assert is_stopped or text == shown


@given(pieces=PIECES, stop=STOPS, marked=STOPS)
def test_no_text_is_taken_back_and_no_stop_string_is_missed(
    pieces: Pieces, stop: list[str], marked: list[str]
) -> None:
    shown = "".join(text for text, is_shown in pieces if is_shown)
    full = "".join(text for text, _ in pieces)
    text, is_stopped, _ = run(StopSearch(stop, marked), pieces)
    assert shown.startswith(text)
    found = any(one in shown for one in stop) or any(one in full for one in marked)
    assert is_stopped == found
    assert not any(one in text for one in stop)


@given(pieces=PIECES, stop=STOPS)
def test_the_stop_string_that_begins_first_counts(pieces: Pieces, stop: list[str]) -> None:
    """Of those that have ended with a piece; as `str.find` tells."""
    search, text, left = StopSearch(stop), "", ""
    for piece, is_shown in pieces:
        text += piece if is_shown else ""
        search.add(piece, is_shown=is_shown)
        released, found = search.release()
        left += released
        begins = [(at, one) for one in stop if (at := text.find(one)) >= 0]
        first = min(begins, default=(0, None), key=lambda begin: begin[0])
        assert found == first[1]
        if begins:
            assert left == text[: first[0]] and search.held == 0
            return
        ends = [n for one in stop for n in range(len(one)) if text.endswith(one[:n])]
        assert search.held == max(ends, default=0)


@given(early=st.text("ab", max_size=8), late=st.text("ab", max_size=8), stop=STOPS)
def test_a_stop_string_that_ends_too_early_does_not_count(
    early: str, late: str, stop: list[str]
) -> None:
    """One that ends in the later text does, also if it begins in the earlier."""
    search, text = StopSearch(stop), early + late
    for character in early:
        search.add(character, may_end=False)
    left = search.release()[0]
    search.add(late)
    rest, ended_by = search.release(final=True)
    begins = [text.find(one, max(0, len(early) + 1 - len(one))) for one in stop]
    begins = [at for at in begins if at >= 0]
    assert (ended_by is not None) == bool(begins)
    assert left + rest == text[: min(begins, default=len(text))]


class CountedText(str):
    """A text that counts how often one of its characters is looked at."""

    looks = 0

    def __getitem__(self, key: object) -> str:
        CountedText.looks += 1
        return super().__getitem__(key)  # type: ignore[index]


def test_a_stop_string_that_nearly_comes_again_and_again_costs_no_more() -> None:
    search = StopSearch(["the " * 1000 + "end", "the " * 500 + "he"])
    CountedText.looks = 0
    for _ in range(2000):
        search.add(CountedText("the "))
        assert not search.release()[1]
    assert CountedText.looks <= 3 * 2 * 8000, "each character is looked at a few times"
    assert search.held == 4000


def test_a_stop_string_with_hidden_text_ends_the_shown_text_before_it() -> None:
    pieces = [("one", True), ("\n", True), ("<end>", False), ("\n", True), ("two", True)]
    assert run(StopSearch((), ["\n<end>\n"]), pieces)[0] == "one"
    assert run(StopSearch((), ["<end>"]), pieces)[0] == "one\n"
    assert run(StopSearch((), ["<end>two"]), pieces)[0] == "one\n\ntwo"


def test_what_may_begin_it_is_held_back_and_leaves_as_soon_as_it_does_not() -> None:
    search = StopSearch((), ["a<x>b"])
    search.add("ca")
    assert search.release() == ("c", None) and search.held == 1
    search.add("<x>", is_shown=False)
    assert search.release() == ("", None)
    search.add("c")
    assert search.release() == ("ac", None) and search.held == 0


def test_the_stop_string_stays_where_that_is_asked_for() -> None:
    assert run(StopSearch(["."], include=True), [("One. Two.", True)])[0] == "One."
    pieces = [("One", True), ("<end>", False)]
    assert run(StopSearch((), ["<end>"], include=True), pieces)[0] == "One<end>"

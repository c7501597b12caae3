"""Two answers compared word by word."""

import random
import time

import pytest

from loraconsole.console.text.word_diff import DELETE, INSERT, num_words, word_difference

CASES = [
    ("The cat sat on the mat.", "The dog sat on a mat."),
    ("", "All of it is new"),
    ("All of it is gone", ""),
    ("one\ntwo\nthree", "one\nthree\nfour"),
    ("a  b\tc", "a b c"),
]


@pytest.mark.parametrize(("old", "new"), CASES)
def test_without_the_deleted_words_it_is_the_new_text_and_without_the_inserted_the_old(
    old: str, new: str
) -> None:
    spans = word_difference(old, new)
    for text, left_out in ((new, DELETE), (old, INSERT)):
        kept = "".join(part for part, style in spans if style != left_out)
        assert kept.split() == text.split()


def test_only_words_that_differ_are_marked() -> None:
    spans = word_difference("The cat sat on the mat.", "The dog sat on a mat.")
    assert [text for text, style in spans if style == INSERT] == ["dog", "a"]
    assert [text for text, style in spans if style == DELETE] == ["cat", "the"]
    assert num_words(spans, INSERT) == num_words(spans, DELETE) == 2


def test_blanks_are_no_difference() -> None:
    assert {style for _, style in word_difference("a b\nc", "a  b \nc")} == {"text"}


def test_marks_tell_the_words_apart_without_colour() -> None:
    text = "".join(text for text, _ in word_difference("It is red.", "It is blue.", has_marks=True))
    assert text == "It is [-red.-] {+blue.+}"


def test_long_answers_are_compared_in_a_fraction_of_a_second() -> None:
    rng = random.Random(7)
    old = [f"w{int(rng.paretovariate(1.0))}" for _ in range(4000)]
    new = [word if rng.random() < 0.6 else "other" for word in old]
    began = time.process_time()
    spans = word_difference(" ".join(old), " ".join(new))
    assert time.process_time() - began < 2.0
    assert num_words(spans, INSERT) > 1000

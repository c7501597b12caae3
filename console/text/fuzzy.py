"""Search by parts: `Fuzzy` scores titles."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property

WHOLE, START, INSIDE, LETTERS, INITIALS = 100, 85, 60, 30, 40
"""Scores of a typed word that is a word of the title, starts one, is inside one, has its letters in
one in this order, or has the first letters of successive words."""
_BREAK = re.compile(r"[\s\-_./:]+")


class Fuzzy:
    """What was typed: every word of it must be found in a title, in any order."""

    def __init__(self, text: str) -> None:
        self.words = text.lower().split()

    def __bool__(self) -> bool:
        return bool(self.words)

    @cached_property
    def _letters(self) -> list[re.Pattern[str]]:
        """For each word, its letters in order within one word of the title, from its first."""
        patterns = (r"[^ ]*?".join(map(re.escape, word)) for word in self.words)
        return [re.compile(rf"(?<![^\W_]){pattern}") for pattern in patterns]

    def score(self, title: str, about: str = "") -> float:
        """How well `title`, in lower case, matches; 0 if a word is neither in it nor in `about`,
        where it counts half."""
        total = 0.0
        for at, word in enumerate(self.words):
            value = self._value(at, word, title) or self._value(at, word, about) / 2
            if not value:
                return 0.0
            total += value
        return total / max(1, len(self.words))

    def _value(self, at: int, word: str, title: str) -> float:
        place = title.find(word)
        if place >= 0:
            while place >= 0:
                if not place or not title[place - 1].isalnum():
                    end = place + len(word)
                    return WHOLE if end == len(title) or not title[end].isalnum() else START
                place = title.find(word, place + 1)
            return INSIDE
        if len(word) < 2:
            return 0.0
        if found := self._letters[at].search(title):
            return max(1.0, LETTERS - (found.end() - found.start() - len(word)))
        initials = "".join(part[0] for part in _BREAK.split(title) if part)
        return INITIALS if word in initials else 0.0

    def places(self, title: str) -> set[int]:
        """The letters of `title` that match, to be marked."""
        low, found = title.lower(), set[int]()
        for at, word in enumerate(self.words):
            place = next((p for p in _starts(low, word)), low.find(word))
            if place >= 0:
                found |= set(range(place, place + len(word)))
            elif letters := self._letters[at].search(low):
                found |= set(_walk(low, word, letters.start()))
        return found


def fuzzy_matches(query: str, names: Iterable[str]) -> list[str]:
    """The matching names, the best first; of equal ones the name that is the query, then those with
    it further to the front, then in the given order. Names with other letters between those of the
    query match only if no name has them together. An empty query matches every name."""
    fuzzy = Fuzzy(query)
    if not fuzzy:
        return list(names)
    ranked: list[tuple[float, bool, int, int, str]] = []
    for name in names:
        low = name.lower()
        if score := fuzzy.score(low):
            place = low.find(fuzzy.words[0])
            ranked.append((-score, low != query.lower(), place, len(ranked), name))
    ranked.sort()
    is_together = bool(ranked) and -ranked[0][0] >= INSIDE
    return [name for score, *_, name in ranked if -score >= INSIDE or not is_together]


def _starts(title: str, word: str) -> Iterable[int]:
    """The places where a word of the title starts with `word`."""
    return (
        found.start()
        for found in re.finditer(re.escape(word), title)
        if not found.start() or not title[found.start() - 1].isalnum()
    )


def _walk(title: str, letters: str, place: int) -> Iterable[int]:
    for letter in letters:
        place = title.index(letter, place)
        yield place
        place += 1

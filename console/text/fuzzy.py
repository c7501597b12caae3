"""`fuzzy_matches`: names that contain the letters of a query in their order, the best first."""

from __future__ import annotations

from collections.abc import Callable, Iterable

WHOLE, BEGIN, WORD, INSIDE, SPREAD = range(5)
"""Kinds of a match: the whole name, its beginning, the beginning of a word in it, somewhere inside
a word, letters with others between them."""


def fuzzy_matches(query: str, names: Iterable[str]) -> list[str]:
    """The matching names; names that match equally well keep their order. Names with other letters
    between those of the query match only if no name has them together. Letter case does not count.
    An empty query matches every name."""
    if not query:
        return list(names)
    rank = fuzzy_rank(query)
    ranked = [(found, name) for name in names if (found := rank(name)) is not None]
    ranked.sort(key=lambda pair: pair[0])
    is_spread = not ranked or ranked[0][0][0] == SPREAD
    return [name for found, name in ranked if is_spread or found[0] < SPREAD]


def fuzzy_rank(query: str) -> Callable[[str], tuple[int, int, int] | None]:
    """A function that ranks a name against a query that is not empty: lower is better, None is no
    match."""
    wanted = query.lower()

    def rank(name: str) -> tuple[int, int, int] | None:
        text = name.lower()
        at = text.find(wanted)
        if at == 0:
            return (WHOLE if text == wanted else BEGIN, 0, len(text))
        while at > 0 and text[at - 1].isalnum():
            at = text.find(wanted, at + 1)
        if at > 0:
            return (WORD, 0, len(text))
        if wanted in text:
            return (INSIDE, 0, len(text))
        runs, before = 0, -2
        for letter in wanted:
            at = text.find(letter, max(0, before + 1))
            if at < 0:
                return None
            runs += at != before + 1
            before = at
        return (SPREAD, runs, before)

    return rank


def fuzzy_cells(query: str, name: str) -> set[int]:
    """Indices of the letters of `name` that the query matches."""
    wanted, text = query.lower(), name.lower()
    at = text.find(wanted)
    if at >= 0:
        return set(range(at, at + len(wanted)))
    found: set[int] = set()
    at = -1
    for letter in wanted:
        at = text.find(letter, at + 1)
        if at < 0:
            return set()
        found.add(at)
    return found

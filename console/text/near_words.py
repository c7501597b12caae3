"""`near_words` finds what a misspelt word meant; `did_you_mean` asks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

ALIKE, SECOND_BEST = 0.6, 0.1
"""Likeness of two spellings, 0 to 1, from which one may have been meant; and how much less alike
than the best the others may be."""


def near_words(word: str, known: Collection[str], most: int = 3) -> list[str]:
    """The words of `known` that `word` may have meant, the nearest first: those it starts, those
    it is a part of, or those spelt much like it."""
    import difflib  # takes a few ms, only after a mistake

    low = word.lower()
    starts = sorted((each for each in known if low and each.lower().startswith(low)), key=len)
    holds = [each for each in known if len(low) > 2 and low in each.lower()]
    if starts or holds:
        return list(dict.fromkeys([*starts, *holds]))[:most]
    alike: list[tuple[float, str]] = []
    matcher = difflib.SequenceMatcher(b=low)
    for each in known:
        matcher.set_seq1(each.lower())
        if matcher.real_quick_ratio() >= ALIKE and matcher.quick_ratio() >= ALIKE:
            alike.append((-matcher.ratio(), each))
    best = min(alike, default=(0.0, ""))[0]
    near = [each for ratio, each in sorted(alike) if ratio <= min(-ALIKE, best + SECOND_BEST)]
    return near[:most]


def did_you_mean(word: str, known: Collection[str]) -> str:
    """`did you mean unload?`, `did you mean pause or page-up?`; "" if nothing is near."""
    near = near_words(word, known)
    return f"did you mean {or_list(near)}?" if near else ""


def or_list(words: Sequence[str]) -> str:
    """`a`, `a or b`, `a, b or c`."""
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last


def with_choices(meant: str, choices: Iterable[str]) -> str:
    """`did you mean fps? there are theme, fps, …`: a hint that ends with the choices."""
    return f"{meant} there are {', '.join(choices)}".strip()

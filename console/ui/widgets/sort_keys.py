"""`sort_letters`: the letter that sorts a table by each of its columns, after `s`."""

from __future__ import annotations

import string
from collections.abc import Sequence

NEXT = "s"
"""After `s`, sorts by the next visible column."""
UNSORTED = "0"
"""After `s`, shows the rows in their natural order."""


def sort_letters(titles: Sequence[str]) -> list[str]:
    """A letter or digit for each title, all different: the first of its own characters that is
    free; if none is, the first free letter of the alphabet. `NEXT` and `UNSORTED` are never
    given."""
    taken = {NEXT, UNSORTED}
    found = []
    for title in titles:
        own = (character for character in title.lower() if character.isascii())
        wanted = [*filter(str.isalnum, own), *string.ascii_lowercase]
        letter = next(character for character in wanted if character not in taken)
        taken.add(letter)
        found.append(letter)
    return found

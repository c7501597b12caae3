"""`counted`: a number with its noun, for sentences."""

from __future__ import annotations


def counted(number: int, noun: str, verb: str = "") -> str:
    """`1 request`, `2 requests`, `0 processes`; with a verb: `1 request waits`, `2 requests wait`.
    The verb is given in its plural form."""
    if number != 1:
        return f"{number} {noun}{'es' if noun.endswith('s') else 's'} {verb}".rstrip()
    if verb == "are":
        return f"1 {noun} is"
    return f"1 {noun} {verb}{'S' if verb.isupper() else 's'}" if verb else f"1 {noun}"

"""`word_difference`: how one answer differs from another, word by word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from .lines import TextSpan

INSERT, DELETE = "insert", "delete"
"""Styles of words that only the new text has, and of words that only the old one has."""


def word_difference(old: str, new: str, has_marks: bool = False) -> list[TextSpan]:
    """`new` with the words that `old` lacks in the style "insert", and between them the words that
    only `old` has in the style "delete". With `has_marks` these are also written `{+so+}` and
    `[-so-]`, for terminals without colour. Blanks are not compared."""
    from difflib import SequenceMatcher  # a few ms, only if something is compared

    before, after = _words(old), _words(new)
    old_words, new_words = ([word.strip(" \t") for word in words] for words in (before, after))
    found: list[TextSpan] = []
    matcher = SequenceMatcher(None, old_words, new_words)
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag == "equal":
            found.append(("".join(after[j1:j2]), "text"))
            continue
        found += _changed(before[i1:i2], DELETE, "[-{}-]" if has_marks else "{}")
        if found and not found[-1][0][-1:].isspace():
            found.append((" ", "text"))
        found += _changed(after[j1:j2], INSERT, "{{+{}+}}" if has_marks else "{}")
    return found


def num_words(spans: Sequence[TextSpan], style: str) -> int:
    """The number of words in this style."""
    return sum(len(text.split()) for text, other in spans if other == style)


def _words(text: str) -> list[str]:
    """Words, each with the blanks after it; a line end is a word of its own."""
    return re.findall(r"\n|[^\s]+[^\S\n]*|[^\S\n]+", text)


def _changed(words: Sequence[str], style: str, form: str) -> Iterator[TextSpan]:
    """The words in a style, without the blanks after them, so that no blank is underlined."""
    for part in re.split(r"(\n)", "".join(words)):
        if part == "\n":
            yield (part, "text")
        elif text := part.strip():
            yield (form.format(text), style)
            if blanks := part[len(part.rstrip()) :]:
                yield (blanks, "text")

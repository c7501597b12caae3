"""`StopSearch`: the text of one request, released as soon as no stop string can begin in it.

Knows no token. Stop strings that contain a special token are searched in the text with hidden
special tokens; all others in the text that the client sees.
"""

from __future__ import annotations

from collections.abc import Sequence


class StopSearch:
    """Text enters by `add` and leaves by `release`, in order; released text is final."""

    def __init__(
        self, stop: Sequence[str] = (), marked: Sequence[str] = (), *, include: bool = False
    ) -> None:
        """`stop` are searched in the shown text, `marked` in the shown and hidden text. `include`:
        the stop string stays at the end of the text."""
        self._stop = tuple(stop)
        self._marked = tuple(marked)
        self._include = include
        self._shown = ""
        self._full = ""
        """Shown and hidden text; stored only if there are `marked` stop strings."""
        self._places: list[int] = []
        """For each character of `_full`, the number of shown characters before it."""

    @property
    def held(self) -> int:
        """Characters of shown text that are not released yet."""
        return len(self._shown)

    def add(self, text: str, *, is_shown: bool = True) -> None:
        if self._marked:
            step = 1 if is_shown else 0
            self._full += text
            self._places += [len(self._shown) + index * step for index in range(len(text))]
        if is_shown:
            self._shown += text

    def release(self, *, final: bool = False) -> tuple[str, bool]:
        """The text that can be released now, and whether a stop string ends it. `final`: no more
        text comes, so nothing is held back."""
        if (found := self._find()) is not None:
            at, stop = found
            text = self._shown[:at] + (stop if self._include else "")
            self._shown, self._full, self._places = "", "", []
            return text, True
        keep = 0 if final else _possible(self._shown, self._stop)
        marked = 0 if final else _possible(self._full, self._marked)
        end = len(self._shown) - keep
        if marked:
            end = min(end, self._places[-marked])
        text, self._shown = self._shown[:end], self._shown[end:]
        if self._marked:
            begin = len(self._full) - marked
            self._full = self._full[begin:]
            self._places = [place - end for place in self._places[begin:]]
        return text, False

    def _find(self) -> tuple[int, str] | None:
        """The stop string that begins first, preceded by the number of shown characters before
        it."""
        found = [(at, stop) for stop in self._stop if (at := self._shown.find(stop)) >= 0]
        for stop in self._marked:
            if (at := self._full.find(stop)) >= 0:
                found.append((self._places[at], stop))
        return min(found, default=None, key=lambda pair: pair[0])


def _possible(text: str, stop: Sequence[str]) -> int:
    """Length of the longest suffix of `text` that is a prefix of a stop string."""
    return max(
        (
            length
            for one in stop
            for length in range(1, min(len(one), len(text) + 1))
            if text.endswith(one[:length])
        ),
        default=0,
    )

"""`StopSearch`: the text of one request, released as soon as no stop string can begin in it.

Knows no token. Stop strings that contain a special token are searched in the text with hidden
special tokens; all others in the text that the client sees. The cost is linear in the text,
whatever the stop strings are (Knuth, Morris and Pratt's search).
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence


class StopSearch:
    """Text enters by `add` and leaves by `release`, in order; released text is final."""

    def __init__(
        self, stop: Sequence[str] = (), marked: Sequence[str] = (), *, include: bool = False
    ) -> None:
        """`stop` are searched in the shown text, `marked` in the shown and hidden text. `include`:
        the stop string stays at the end of the text."""
        self._stop = [_Search(one) for one in stop]
        self._marked = [_Search(one) for one in marked]
        self._include = include
        self._shown = ""
        self._released = 0
        """Characters of shown text that were released."""
        self._num_full = 0
        """Characters of shown and hidden text so far."""
        self._places: deque[int] = deque()
        """For each character at the end of the shown and hidden text in which a marked stop string
        may begin, the number of shown characters before it."""

    @property
    def held(self) -> int:
        """Characters of shown text that are not released yet."""
        return len(self._shown)

    def add(self, text: str, *, is_shown: bool = True, may_end: bool = True) -> None:
        """Adds text. Without `may_end`, stop strings whose last character is in it do not count."""
        end = self._released + len(self._shown)
        if self._marked:
            self._num_full += len(text)
            self._places.extend(
                range(end, end + len(text)) if is_shown else (end for _ in range(len(text)))
            )
            for search in self._marked:
                search.add(text, may_end)
        if is_shown:
            self._shown += text
            for search in self._stop:
                search.add(text, may_end)

    def release(self, *, final: bool = False) -> tuple[str, str | None]:
        """The text that can be released now, and the stop string that ends it. `final`: no more
        text comes, so nothing is held back."""
        if (found := self._find()) is not None:
            at, stop = found
            text = self._shown[: at - self._released] + (stop if self._include else "")
            self._shown = ""
            self._places.clear()
            return text, stop
        keep = 0 if final else max((search.held for search in self._stop), default=0)
        marked = 0 if final else max((search.held for search in self._marked), default=0)
        while len(self._places) > marked:
            self._places.popleft()
        end = len(self._shown) - keep
        if marked:
            end = min(end, self._places[0] - self._released)
        text, self._shown = self._shown[:end], self._shown[end:]
        self._released += end
        return text, None

    def _find(self) -> tuple[int, str] | None:
        """The stop string that begins first, preceded by the number of shown characters before
        it."""
        found = [(search.found, search.stop) for search in self._stop if search.found is not None]
        first = self._num_full - len(self._places)
        for search in self._marked:
            if search.found is not None:
                found.append((self._places[search.found - first], search.stop))
        return min(found, default=None, key=lambda pair: pair[0])


class _Search:
    """Searches one stop string in a text that comes in pieces."""

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.held = 0
        """Length of the longest end of the text that is a beginning of the stop string."""
        self.found: int | None = None
        """Where the stop string first begins in the text; None so far."""
        self._read = 0
        self._borders = array("I")
        """For each beginning of the stop string, the length of the longest shorter one that it ends
        with; made as far as it is needed."""

    def add(self, text: str, may_end: bool) -> None:
        if self.found is not None:
            return
        at, stop, held = 0, self.stop, self.held
        while at < len(text):
            if not held and (at := text.find(stop[0], at)) < 0:
                break
            while held and stop[held] != text[at]:
                held = self._border(held)
            held += stop[held] == text[at]
            at += 1
            if held == len(stop) and not may_end:
                held = self._border(held)
            elif held == len(stop):
                self.found = self._read + at - held
                return
        self.held = held
        self._read += len(text)

    def _border(self, length: int) -> int:
        """The longest proper beginning of the stop string that its first `length` characters end
        with."""
        borders, stop = self._borders, self.stop
        while len(borders) < length:
            place = len(borders)
            border = borders[place - 1] if place else 0
            while border and stop[border] != stop[place]:
                border = borders[border - 1]
            borders.append(border + (place > 0 and stop[border] == stop[place]))
        return borders[length - 1]

"""`ScreenDiff`: keeps the terminal's current content, so that only changed cells are sent.

Textual rewrites every dirty widget line; this stage is between its compositor and its driver. A
busy screen at 10 Hz takes 8.7 kB/s and 6.5 ms of processor time a frame, without it 208 kB/s and
5.7 ms (medians of 6, in turns). It reads private fields of Textual and rich, and is to be imported
only if `terminal_app.why_diff_is_off` returns "".
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from itertools import chain
from typing import NamedTuple, TypeGuard

from rich.cells import cell_len
from rich.color import ColorSystem
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, CompositorUpdate, LayoutUpdate
from textual.strip import SGR_STYLES, Strip

GAP = 4
"""Most unchanged cells between two changes that are cheaper to rewrite than to jump over."""
_PLAIN = ("", "39", "49")


class Frame(CompositorUpdate):
    """A frame given as its bytes."""

    def __init__(self, sequence: str) -> None:
        self.sequence = sequence

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Segment(self.sequence)

    def render_segments(self, console: Console) -> str:
        return self.sequence


def is_reducible(renderable: object) -> TypeGuard[ChopsUpdate | LayoutUpdate]:
    """Whether `ScreenDiff.frame` accepts it."""
    return isinstance(renderable, ChopsUpdate | LayoutUpdate)


class _Line:
    """One screen line: a character and a style per cell; None if unknown.

    A text with characters that are not one cell wide is in its first cell; its other cells are "".
    """

    __slots__ = ("cells", "cuts", "strips", "styles")

    def __init__(self, width: int) -> None:
        self.cells: list[str | None] = [None] * width
        self.styles: list[Style | None] = [None] * width
        self.cuts: tuple[int, ...] = ()
        self.strips: dict[int, Strip] = {}


class ScreenDiff:
    """Turns Textual's updates into short output with the same effect."""

    def __init__(self) -> None:
        self._lines: list[_Line] = []
        self._width = 0

    def forget(self) -> None:
        """Forgets the content: the terminal was resized, or another program wrote on it."""
        self._lines = []

    def frame(self, update: ChopsUpdate | LayoutUpdate, console: Console, width: int) -> str:
        """The output that brings the terminal up to date; "" if it already is."""
        pen = _Pen(console._color_system)
        if isinstance(update, LayoutUpdate):
            for y, strips in enumerate(update.strips, update.region.y):
                self._write_line(pen, y, update.region.x, strips, width)
            return pen.reading_order
        for y, x1, x2 in update.spans:
            line = self._line(y, width)
            chops, ends = update.chops[y], update.chop_ends[y]
            cuts = (*chops, *ends[-1:])
            if line.cuts != cuts:
                line.cuts, line.strips = cuts, {}
            for (x, strip), end in zip(chops.items(), ends, strict=False):
                # Outside the span a widget may not have been rendered: the strip is a background.
                if strip is None or x >= x2 or end <= x1:
                    continue
                if line.strips.get(x) is not strip:
                    self._write_strip(pen, line, x, y, strip)
                    line.strips[x] = strip
        return pen.shorter_order

    def _line(self, y: int, width: int) -> _Line:
        if width != self._width:
            self._lines, self._width = [], width
        while len(self._lines) <= y:
            self._lines.append(_Line(width))
        return self._lines[y]

    def _write_line(
        self, pen: _Pen, y: int, x: int, strips: Iterable[Strip | None], width: int
    ) -> None:
        line = self._line(y, width)
        line.strips, line.cuts = {}, ()
        for strip in strips:
            if strip is not None:
                self._write_strip(pen, line, x, y, strip)
                x += strip.cell_length

    def _write_strip(self, pen: _Pen, line: _Line, x: int, y: int, strip: Strip) -> None:
        for text, style, control in strip:
            if control or not text:
                continue
            length = len(text)
            if _is_simple(text):
                length = min(length, self._width - x)
                self._write_simple(pen, line, x, y, text[:length], style or Style.null())
            else:
                length = self._write_wide(pen, line, x, y, text, style or Style.null())
            x += length

    def _write_simple(
        self, pen: _Pen, line: _Line, x: int, y: int, text: str, style: Style
    ) -> None:
        """Writes text of one cell per character: runs of changed cells, with short gaps filled."""
        cells, styles = line.cells, line.styles
        end = x + len(text)
        if cells[x:end] == list(text) and styles[x:end].count(style) == end - x:
            return
        start = last = -1  # the run being gathered, in cells
        for at in range(x, end):
            known = styles[at]
            if cells[at] == text[at - x] and (known is style or known == style):
                continue
            if start < 0:
                start = at
            elif at - last > GAP:
                pen.add_run(start, y, text[start - x : last + 1 - x], style, last + 1 - start)
                start = at
            last = at
            self._break_wide(line, at)
            cells[at], styles[at] = text[at - x], style
        if start >= 0:
            pen.add_run(start, y, text[start - x : last + 1 - x], style, last + 1 - start)

    def _write_wide(self, pen: _Pen, line: _Line, x: int, y: int, text: str, style: Style) -> int:
        """Writes text with characters of other widths, whole if anything in it changed. Returns its
        width in cells."""
        width = min(cell_len(text), self._width - x)
        new: list[str | None] = [text, *[""] * (width - 1)] if width > 0 else []
        end = x + width
        if line.cells[x:end] != new or any(known != style for known in line.styles[x:end]):
            line.cells[x:end] = new
            line.styles[x:end] = [style] * width
            pen.add_run(x, y, text, style, width)
        return width

    @staticmethod
    def _break_wide(line: _Line, at: int) -> None:
        """Marks the rest of a wide text as unknown when one of its cells is overwritten."""
        cells = line.cells
        after = at + 1
        if cells[at] == "" or (after < len(cells) and cells[after] == ""):
            first = at
            while first > 0 and cells[first] == "":
                first -= 1
            while after < len(cells) and cells[after] == "":
                after += 1
            for cell in range(first, after):
                cells[cell] = None


@lru_cache(maxsize=1024)  # plots make new texts all day: more would keep texts that never recur
def _is_simple(text: str) -> bool:
    """Whether each character of `text` takes exactly one cell: none is wide or combining."""
    return text.isascii() or all(cell_len(character) == 1 for character in text)


class _Run(NamedTuple):
    """Adjacent cells of one style."""

    codes: tuple[str, str, str]
    x: int
    y: int
    text: str
    width: int


class _Pen:
    """Collects runs. No cell is in two of them, so they may be written in any order."""

    def __init__(self, system: ColorSystem | None) -> None:
        self._runs: list[_Run] = []
        self._system = system

    def add_run(self, x: int, y: int, text: str, style: Style, width: int) -> None:
        if style.link:
            text = f"\x1b]8;id={style.link_id};{style.link}\x1b\\{text}\x1b]8;;\x1b\\"
        self._runs.append(_Run(_codes(style, self._system), x, y, text, width))

    @property
    def reading_order(self) -> str:
        """The runs from left to right and top to bottom, as a screen reader reads them: for whole
        screens."""
        return _written(self._runs) if self._runs else ""

    @property
    def shorter_order(self) -> str:
        """The runs in reading order or grouped by style, whichever is shorter: for moving screens.
        A true colour takes twice the bytes of a jump, one of the sixteen half as many: scrolling
        logs send 42 kB/s in reading order, 26 this way."""
        if not self._runs:
            return ""
        styled: dict[tuple[str, str, str], list[_Run]] = {}
        for run in self._runs:
            styled.setdefault(run.codes, []).append(run)
        return min(_written(self._runs), _written(chain(*styled.values())), key=len)


def _written(runs: Iterable[_Run]) -> str:
    out = ["\x1b[0m"]
    on, at_x, at_y = _PLAIN, -1, -1
    for codes, x, y, text, width in runs:
        if y != at_y:
            out.append(f"\x1b[{y + 1};{x + 1}H")
        elif x != at_x:
            ahead = x - at_x
            out.append(f"\x1b[{ahead}C" if 0 < ahead < 10 else f"\x1b[{x + 1}G")
        at_x, at_y = x + width, y
        if codes != on:
            out.append(_change(on, codes))
            on = codes
        out.append(text)
    out.append("\x1b[0m")
    return "".join(out)


@lru_cache(maxsize=4096)
def _codes(style: Style, system: ColorSystem | None) -> tuple[str, str, str]:
    """SGR parameters of a style: attributes, foreground, background. `system` is None for a
    terminal without colours and attributes."""
    if system is None:
        return _PLAIN
    bits = style._attributes & style._set_attributes
    attributes = ";".join(SGR_STYLES[bit] for bit in range(bits.bit_length()) if bits >> bit & 1)
    color, bgcolor = style.color, style.bgcolor
    foreground = ";".join(color.downgrade(system).get_ansi_codes()) if color else "39"
    background = ";".join(bgcolor.downgrade(system).get_ansi_codes(False)) if bgcolor else "49"
    return attributes, foreground, background


@lru_cache(maxsize=4096)
def _change(old: tuple[str, str, str], new: tuple[str, str, str]) -> str:
    """The shortest SGR sequence from one style to another; only a reset turns attributes off."""
    if old[0] != new[0]:
        codes = ["0", *(code for code, plain in zip(new, _PLAIN, strict=True) if code != plain)]
    else:
        codes = [code for code, was in zip(new[1:], old[1:], strict=True) if code != was]
    return f"\x1b[{';'.join(codes)}m"

"""The palette: finds actions and things by parts of their names; `ctrl+p` opens it."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import ModalScreen
from textual.timer import Timer
from textual.widgets import Input

from ..state.board import Board
from ..text import units
from ..text.fuzzy import Fuzzy
from ..text.lines import TextLine, TextSpan, crop, length, line
from ..text.near_words import near_words
from .palette_entries import Entry, all_entries
from .screen_app import ScreenApp
from .widgets.filter_input import LineInput
from .widgets.pane import Pane

LEAST_TITLE = 24
"""Cells of the titles at least."""
REST_SECONDS = 0.15
"""Time on a theme's entry before the theme is worn: a change of theme restyles every widget."""


class Search:
    """The entries that match what is typed, the best first. Typing on searches those found."""

    def __init__(self, entries: Sequence[Entry]) -> None:
        self._all = [
            (at, entry, units.visible(entry.title).lower(), entry.about)
            for at, entry in enumerate(entries)
        ]
        self._text, self._kept = "", self._all
        self.total = len(entries)

    def find(self, text: str) -> list[Entry]:
        """All entries for an empty text; without a match those of the nearest words."""
        query = Fuzzy(text)
        if not query:
            self._text, self._kept = "", self._all
            return [entry for _, entry, _, _ in self._all]
        if not (self._text and text.startswith(self._text)):
            self._kept = self._all
        scored = []
        for row in self._kept:
            at, entry, title, about = row
            if score := query.score(title, about):
                scored.append((-score, len(entry.thing), at, row))
        scored.sort(key=lambda found: found[:3])
        self._text, self._kept = text, sorted((row for *_, row in scored), key=lambda row: row[0])
        return [entry for *_, (_, entry, _, _) in scored]

    def meant(self, text: str) -> str:
        """`text` with each word that no title has replaced by the nearest that one has; "" if there
        is none."""
        known = dict.fromkeys(word for *_, title, about in self._all for word in title.split())
        words = []
        for word in text.lower().split():
            if not any(word in title for title in known):
                near = near_words(word, known, 1)
                if not near:
                    return ""
                word = near[0]
            words.append(word)
        meant = " ".join(words)
        return meant if meant != " ".join(text.lower().split()) else ""


class PalettePane(Pane):
    """The entries found, with a cursor: title, help and key of each."""

    FRAMED: ClassVar[bool] = False

    class Chosen(Message):
        """The entry under the cursor was clicked."""

    def __init__(self) -> None:
        super().__init__(id="found")
        self.found: Sequence[Entry] = ()
        self.query_text = Fuzzy("")
        self.cursor = self._first = 0

    def list_entries(self, found: Sequence[Entry], query: Fuzzy) -> None:
        self.found, self.query_text = found, query
        self.cursor = self._first = 0
        self.paint()

    @property
    def chosen(self) -> Entry | None:
        return self.found[self.cursor] if self.found else None

    def move(self, rows: int) -> None:
        """Moves the cursor; a single step goes round."""
        if self.found:
            to = self.cursor + rows
            last = len(self.found) - 1
            self.cursor = to % (last + 1) if abs(rows) == 1 else max(0, min(to, last))
            self.paint()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not self.found:
            return [line((" no such name", "dim"))]
        low = max(0, len(self.found) - height)
        self._first = max(min(self._first, self.cursor, low), self.cursor - height + 1)
        shown = self.found[self._first : self._first + height]
        titles = max((len(units.visible(entry.title)) for entry in shown), default=0)
        titles = max(LEAST_TITLE, min(titles, width * 2 // 3))
        return [
            self._row(entry, titles, width, at == self.cursor)
            for at, entry in enumerate(shown, self._first)
        ]

    def _row(self, entry: Entry, titles: int, width: int, is_cursor: bool) -> TextLine:
        title = units.fit(units.visible(entry.title), titles)
        places = self.query_text.places(title)
        spans: list[TextSpan] = [(" ", "text")]
        for at, letter in enumerate(title):
            style = "key" if at in places else "text"
            if spans[-1][1] == style:
                spans[-1] = (spans[-1][0] + letter, style)
            else:
                spans.append((letter, style))
        key = f"  {entry.key} " if entry.key else " "
        room = width - length(spans) - 2 - length([(key, "")])
        help = crop(((units.visible(entry.help), "dim"),), max(0, room), pad=True)
        spans += [("  ", "text"), *help, (key, "info")]
        return line(*spans, ground="cursor" if is_cursor else "")

    def on_mouse_scroll_down(self) -> None:
        self.move(3)

    def on_mouse_scroll_up(self) -> None:
        self.move(-3)

    def on_click(self, event: events.Click) -> None:
        row = self._first + event.y
        if row < len(self.found):
            self.cursor = row
            self.post_message(self.Chosen())


class PaletteDialog(ModalScreen[Entry | None]):
    """Returns the entry chosen, or None. A theme under the cursor is worn meanwhile."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape,ctrl+p", "leave", "Close", key_display="esc", id="palette-leave"),
        Binding("down,ctrl+n", "move(1)", "Next", show=False, id="palette-next"),
        Binding("up", "move(-1)", "Previous", show=False, id="palette-previous"),
        Binding("pagedown", "move(10)", "Page down", show=False, id="palette-page-down"),
        Binding("pageup", "move(-10)", "Page up", show=False, id="palette-page-up"),
    ]

    def __init__(self, entries: Sequence[Entry]) -> None:
        super().__init__()
        self._search = Search(entries)
        self._pane = PalettePane()
        self._theme = ""
        """The theme worn when the palette was opened."""
        self._preview: Timer | None = None

    def compose(self) -> ComposeResult:
        with Vertical(classes="dialog", id="palette") as box:
            box.border_title = "Find actions, adapters, requests, processes, settings"
            given = LineInput(
                placeholder="a few letters: sql, unload sql, worker, theme, fps", compact=True
            )
            given.cursor_blink = False
            yield given
            yield self._pane

    def on_mount(self) -> None:
        self._theme = self.app.theme
        self.query_one(LineInput).focus()
        self._find("")

    def on_input_changed(self, event: Input.Changed) -> None:
        self._find(event.value)

    def _find(self, text: str) -> None:
        found, said = self._search.find(text), ""
        if not found and (meant := self._search.meant(text)):
            said = f"no match for {text.strip()}; these match {meant}"
            text = meant
            found = self._search.find(text)
        elif not found:
            said = "no match"
        self._pane.list_entries(found, Fuzzy(text))
        number = units.count(self._search.total)
        count = number if len(found) == self._search.total else f"{len(found)} of {number}"
        self.query_one("#palette").border_subtitle = said or f"{count} · enter runs it · esc closes"
        self._wear_soon()

    def action_move(self, rows: int) -> None:
        self._pane.move(rows)
        self._wear_soon()

    def _wear_soon(self) -> None:
        """Wears the theme under the cursor, else that of before, once the cursor rests."""
        if self._preview is not None:
            self._preview.stop()
        entry = self._pane.chosen
        wanted = (entry.theme if entry else "") or self._theme
        if wanted != self.app.theme:
            self._preview = self.set_timer(REST_SECONDS, lambda: self._wear(wanted))

    def _wear(self, theme: str) -> None:
        self.app.theme = theme

    def on_input_submitted(self) -> None:
        self._leave(self._pane.chosen)

    def on_palette_pane_chosen(self) -> None:
        self._leave(self._pane.chosen)

    def action_leave(self) -> None:
        self._leave(None)

    def _leave(self, entry: Entry | None) -> None:
        if self._preview is not None:
            self._preview.stop()
        if self.app.theme != self._theme:
            self.app.theme = self._theme
        self.dismiss(entry)


def open_palette(app: ScreenApp) -> None:
    """Opens the palette over what is shown; carries out the entry chosen once it is closed."""

    async def run(entry: Entry | None) -> None:
        if entry is not None:
            done = entry.run()
            if isinstance(done, Awaitable):
                await done

    app.push_screen(PaletteDialog(all_entries(app)), run)

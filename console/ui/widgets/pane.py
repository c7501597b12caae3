"""`Pane`: a box that draws itself line by line from a `Board`, and only the lines that changed.

`draw_lines` returns plain values, texts with names of styles, so that frames are compared before
anything is rendered. `render_lines` is overridden to bypass Textual's style cache: 8 ms a frame
instead of 17 for a busy screen. Frame and title are drawn here as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

from rich.segment import Segment
from textual import events
from textual.geometry import Region
from textual.strip import Strip
from textual.widget import Widget

from ...commands.read_only import NO_ORDERS, QUESTION_KEYS, READ_ONLY, is_changing_key
from ...state.board import Board
from ...state.time_series import Track, Window
from ...text import units
from ...text.ascii import plain
from ...text.lines import TextLine, TextSpan, crop, length, line
from ...text.selection import Selection, shown_selected
from .clipboard import copy_text
from .notices import NoticeApp
from .styles import BESIDE_CELLS, TextStyles

if TYPE_CHECKING:
    from collections.abc import Callable

    from ...client.pending_orders import PendingOrders
    from ...client.telemetry import TelemetryClient
    from ...settings.settings import Chosen
    from ...settings.toml_document import Problem
    from ...settings.ui_state import UiState
    from ...state.alert_book import AlertBook
    from ...state.store import Store


def field(name: str) -> tuple[TextSpan, ...]:
    """A name in the left column of a list of details."""
    return ((f"{name:<11} ", "dim"),)


TICKS = 3
"""Ticks on the time axis of a plot, the first at its left edge."""


def wrapped_field(name: str, text: str, style: str, width: int) -> list[TextLine]:
    """A field of a list of details whose text may take several lines of `width` cells."""
    parts = units.wrap(text, max(8, width - len(field(name)[0][0])))
    return [line(*field("" if at else name), (part, style)) for at, part in enumerate(parts)]


DETAILS_HEIGHT = 14
"""Lines of the details below a zoomed list."""


class PaintedApp(NoticeApp):
    """The app's interface for panes: the board to draw, styles, settings, orders."""

    board: Board
    text_styles: TextStyles
    orders: PendingOrders
    api_key: str
    alert_book: AlertBook
    ui_state: UiState
    chosen: Chosen
    complaints: Sequence[Problem]
    """Problems in the settings and theme files."""
    is_read_only: bool = False
    """Whether this console must not change the pipeline."""
    is_ascii: bool = False
    """Whether borders, bars and plots are drawn in plain ASCII."""
    telemetry: TelemetryClient
    store: Store
    clock: Callable[[], float]
    starter: Callable[[], int] | None = None
    """Starts the stopped pipeline again and returns the supervisor's pid, or 0 once a pipeline of
    another machine is READY; None if this console cannot."""

    @property
    def can_start(self) -> bool:
        """Whether the pipeline is down and this console can start it."""
        return self.starter is not None and not self.is_read_only and self.board.is_down

    @property
    def refusal(self) -> str:
        """Why this console changes nothing, if it does not."""
        return READ_ONLY if self.telemetry.controls is None else NO_ORDERS

    def refuses(self, id: str | None) -> bool:
        """Whether the console is read-only and the binding `id` would change the pipeline, or plays
        a recording and `id` would ask one."""
        has_no_answer = self.telemetry.controls is not None and id in QUESTION_KEYS
        return self.is_read_only and (is_changing_key(id) or has_no_answer)

    def ask_text(self, request_id: str, offset: int) -> None:
        """Requests a request's text from character `offset` on; it arrives in `Board.opened`."""
        raise NotImplementedError

    def ask_spans(self, stamp: str) -> None:
        """Requests the newest spans if they differ from those of `stamp`; they arrive in
        `Board.spans`."""
        raise NotImplementedError

    def reload_settings(self) -> None:
        """Applies the settings file if it has changed."""
        raise NotImplementedError

    def wake(self) -> None:
        """Requests a frame for a change that no message of the pipeline caused."""


class Pane(Widget):
    """A framed box (or a bare strip of lines) drawn from the board."""

    ALLOW_SELECT = False
    TITLE: ClassVar[str] = ""
    FRAMED: ClassVar[bool] = True
    FADES: ClassVar[bool] = False
    """Whether it is dimmed while the pipeline restarts: its figures are then the last ones."""
    PERIOD_S: ClassVar[float] = 0.0
    """Minimum seconds between two draws of the pane; 0 draws it in every frame."""

    def __init__(self, id: str | None = None, classes: str | None = None) -> None:
        super().__init__(id=id, classes=classes)
        self._drawn: list[TextLine] = []
        self._strips: list[Strip | None] = []
        self._drawn_size = (0, 0)
        self._period = -1
        self._pressed: tuple[int, int] | None = None
        """Line and cell where the mouse button was pressed."""
        self._selection: Selection | None = None
        """The text being selected; meanwhile the pane stands still."""
        self._was_dragged = False
        self.frames = 0
        """How often lines were drawn; a hidden pane draws none."""
        self.is_zoomed = False
        """Whether it fills its panel."""
        self.belongs_to: object = None
        """The list whose details it draws, which keeps it when it is zoomed."""

    # -- for subclasses to override

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        """The pane's content in at most `height` lines of `width` cells."""
        raise NotImplementedError

    def title(self, board: Board) -> Sequence[TextSpan]:
        """The text in the frame at the upper left."""
        return ((self.TITLE, "title"),)

    def caption(self, board: Board) -> Sequence[TextSpan]:
        """The text in the frame at the upper right."""
        return ()

    def hint(self, board: Board) -> Sequence[TextSpan]:
        """The text in the frame at the lower right."""
        return ()

    def origin(self, board: Board) -> tuple[int, float, float] | None:
        """For a plot over time: the cells left of it, and the ages in seconds of its left and its
        right edge, for the ticks on the lower frame. None without such a plot."""
        return None

    def margin(self, y: int) -> TextSpan:
        """The cell between the left edge and line `y` of the content."""
        return (" ", "text")

    def thumb(self, height: int) -> range | None:
        """The rows of the scroll bar's thumb on the right edge; None for no scroll bar."""
        return None

    def window(self, track: Track, board: Board, cells: int, back_s: float = 0.0) -> Window:
        """The part of `track` for a plot of `cells` cells that ends `back_s` seconds ago."""
        return track.window(board.now, 2 * cells, back_s, sweeps=self._sweeps)

    def origin_of(self, track: Track, before: int, back_s: float = 0.0) -> tuple[int, float, float]:
        """`origin` of a plot that fills all but `before` cells and ends `back_s` seconds ago."""
        return before, back_s + track.span_s, back_s

    @property
    def _sweeps(self) -> bool:
        """Whether plots sweep instead of scroll, so that few cells change: with low bandwidth."""
        return self.painted_app.chosen.settings.low_bandwidth

    # -- painting

    @property
    def painted_app(self) -> PaintedApp:
        assert isinstance(self.app, PaintedApp)
        return self.app

    def paint(self, board: Board | None = None) -> None:
        """Draws `board`, by default the app's, and refreshes the lines that have changed."""
        if not self.is_attached or not self.size or self._selection:
            return
        self.frames += 1
        size = (self.size.width, self.size.height)
        board = board or self.painted_app.board
        new = self._compose_lines(board, *size)
        if self.FADES and board.is_restarting:
            new = [_dimmed(drawn) for drawn in new]
        old, self._drawn = self._drawn, new
        if self._drawn_size != size:
            self._drawn_size = size
            self._strips = [None] * size[1]
            self.refresh()
            return
        changed = [y for y in range(size[1]) if new[y] != old[y]]
        for y in changed:
            self._strips[y] = None
        if changed:
            self.refresh(*(Region(0, y, size[0], 1) for y in changed))

    def paint_if_due(self, board: Board) -> None:
        """Draws `board`, at most once in each period of `PERIOD_S` seconds."""
        if self.PERIOD_S:
            period = int(board.now / self.PERIOD_S)
            if period == self._period:
                return
            self._period = period
        self.paint(board)

    def release(self) -> None:
        """Drops a hidden pane's strips, a kilobyte each; showing it makes them again."""
        self._strips = [None] * len(self._strips)

    def _compose_lines(self, board: Board, width: int, height: int) -> list[TextLine]:
        if not self.FRAMED:
            body = list(self.draw_lines(board, width, height))[:height]
            return body + [TextLine()] * (height - len(body))
        if width < 4 or height < 2:
            return [TextLine()] * height
        inside = height - 2
        body = list(self.draw_lines(board, width - 4, inside))[:inside]
        body += [TextLine()] * (inside - len(body))
        edge = "border-focus" if self.has_focus else "border"
        thumb = self.thumb(inside) or range(0)
        rows = [self._edge(board, width, edge)]
        for y, (spans, ground) in enumerate(body):
            right = ("┃", "border-focus") if y in thumb else ("│", edge)
            inner = crop((self.margin(y), *spans), width - 2, pad=True)
            rows.append(TextLine((("│", edge), *inner, right), ground))
        hint = self.hint(board)
        tail: tuple[TextSpan, ...] = ((" ", edge), *hint, (" ", edge)) if hint else ()
        room = width - 3 - length(tail)
        if room < 0:
            tail, room = (), width - 3
        rows.append(line(*self._ground(board, room, edge), *tail, ("─╯", edge)))
        return rows

    def _ground(self, board: Board, room: int, edge: str) -> Sequence[TextSpan]:
        """`╰──── -60 s ───── -40 s ───── -20 s ────`: the lower edge, with ticks of a plot's time
        as far as there is room."""
        origin = self.origin(board)
        if origin is None or self._sweeps:
            return (("╰" + "─" * room, edge),)
        before, age_s, back_s = origin
        cells = max(0, self.size.width - 4 - before)
        found: list[TextSpan] = [("╰", edge)]
        drawn = 0
        for tick in range(TICKS):
            age = back_s + (age_s - back_s) * (TICKS - tick) / TICKS
            label = f" -{units.ago(age)} "
            place = before + cells * tick // TICKS
            if place >= drawn and place + len(label) <= room:
                found += [("─" * (place - drawn), edge), (label, "dim")]
                drawn = place + len(label)
        return (*found, ("─" * (room - drawn), edge))

    def _edge(self, board: Board, width: int, edge: str) -> TextLine:
        """`╭─ title ────── caption ─╮`, without the caption if there is no room for it."""
        zoomed: tuple[TextSpan, ...] = ((" · zoomed (esc)", "info"),) if self.is_zoomed else ()
        title = crop((*self.title(board), *zoomed), max(0, width - 6))
        left: tuple[TextSpan, ...] = (("╭─", edge),)
        if title and title[0][0]:
            left += ((" ", edge), *title, (" ", edge))
        caption = tuple(self.caption(board))
        right: tuple[TextSpan, ...] = ((" ", edge), *caption, (" ─╮", edge)) if caption else ()
        rule = width - length(left) - length(right)
        if rule < 1 or not right:
            right = (("╮", edge),)
            rule = width - length(left) - 1
        return TextLine((*left, ("─" * rule, edge), *right))

    def render_lines(self, crop: Region) -> list[Strip]:
        """Strips for the compositor; missing ones are made."""
        if self._drawn_size != (self.size.width, self.size.height):
            self.paint()
        strips = [self._strip(y) for y in range(crop.y, crop.bottom)]
        if crop.x or crop.width != self.size.width:
            strips = [strip.crop(crop.x, crop.right) for strip in strips]
        return strips

    def _strip(self, y: int) -> Strip:
        if y >= len(self._strips):
            return Strip.blank(self.size.width)
        strip = self._strips[y]
        if strip is None:
            spans, ground = self._drawn[y]
            strip = self._make_strip(spans, ground)
            if self._selection:
                style = self.painted_app.text_styles.style("text")
                strip = shown_selected(strip, self._selection.cells(y, self._inside), style)
            self._strips[y] = strip
        return strip

    def _make_strip(self, spans: Sequence[TextSpan], ground: str) -> Strip:
        app, width = self.painted_app, self.size.width
        resolve = app.text_styles.style
        segments = []
        for text, style in crop(spans, width, pad=True):
            # The ground is behind the content, not behind the frame.
            beneath = "" if style.startswith("border") else ground
            shown = plain(text) if app.is_ascii else text
            segments.append(Segment(shown, resolve(style, beneath)))
        return Strip(segments, width)

    # -- events

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips = [None] * len(self._strips)

    def on_resize(self, event: events.Resize) -> None:
        self._end_selection()
        self.paint()

    # -- text selected with the mouse

    @property
    def _inside(self) -> range:
        """The cells of a line between the frame's edges."""
        return range(2, self.size.width - 2) if self.FRAMED else range(self.size.width)

    def on_mouse_down(self, event: events.MouseDown) -> None:
        self._was_dragged = False
        self._pressed = (event.y, event.x) if event.button == 1 else None

    def on_mouse_move(self, event: events.MouseMove) -> None:
        """Selects text while the button is down."""
        if self._pressed is None or event.button != 1:
            self._pressed = None
            self._end_selection()
            return
        here = (max(0, min(event.y, self.size.height - 1)), event.x)
        if self._selection is None:
            if here == self._pressed:
                return
            self.capture_mouse()
        self._show_selection(Selection(self._pressed, here))

    def on_mouse_up(self, event: events.MouseUp) -> None:
        """Copies the selected text."""
        self._pressed = None
        if self._selection is None:
            return
        text = self._selected_text(self._selection)
        self._was_dragged = True
        self._end_selection()
        self.paint()
        if text.strip():
            copy_text(self, text, units.glimpse(text))

    async def on_event(self, event: events.Event) -> None:
        """Drops the click that ends a drag, which would move a cursor."""
        if isinstance(event, events.Click) and self._was_dragged:
            self._was_dragged = False
            return
        await super().on_event(event)

    def _show_selection(self, selection: Selection | None) -> None:
        """Shows `selection` instead of the one before."""
        lines = {y for each in (self._selection, selection) if each for y in each.lines}
        self._selection = selection
        shown = [y for y in sorted(lines) if y < len(self._strips)]
        for y in shown:
            self._strips[y] = None
        if shown:
            self.refresh(*(Region(0, y, self.size.width, 1) for y in shown))

    def _end_selection(self) -> None:
        if self._selection is not None:
            self.release_mouse()
            self._show_selection(None)

    def _selected_text(self, selection: Selection) -> str:
        rows = []
        for y in selection.lines:
            cells = selection.cells(y, self._inside)
            rows.append(self._strip(y).crop(cells.start, cells.stop).text.rstrip())
        return "\n".join(rows)

    def watch_has_focus(self, has_focus: bool) -> None:
        """Repaints the frame. `on_focus` would be called before `has_focus` is set."""
        super().watch_has_focus(has_focus)
        self.paint()


def _dimmed(drawn: TextLine) -> TextLine:
    """The line with all but its frame in the dim style."""
    spans = ((text, style if style.startswith("border") else "dim") for text, style in drawn.spans)
    return TextLine(tuple(spans), drawn.ground)


class Panel(Widget):
    """A screen of panes, shown by a key. Only the active panel is painted."""

    NAME: ClassVar[str] = ""

    def __init__(self) -> None:
        super().__init__(id=self.NAME.lower(), classes="panel")
        self.zoomed: Pane | None = None
        """The pane that fills the panel; None if all panes are shown."""
        self._zoomable: list[Pane] = []
        self._restyled: list[Pane] = []
        """The zoomed pane, and the pane of its details."""

    def paint(self, board: Board) -> None:
        """Paints the visible panes that are due."""
        for pane in self.panes:
            if pane.display:
                pane.paint_if_due(board)

    @property
    def panes(self) -> list[Pane]:
        return [child for child in self.children if isinstance(child, Pane)]

    @property
    def is_live(self) -> bool:
        """Whether it changes without messages from the pipeline."""
        return False

    def zoom(self) -> None:
        """Shows the focused pane alone; each further call shows the next pane, and after the last
        one all panes again."""
        if self.zoomed is None:
            children = (child for child in self.children if isinstance(child, Pane))
            self._zoomable = [pane for pane in children if pane.display]
            focused = (pane for pane in self._zoomable if pane.has_focus)
            self._zoom(next(focused, self._zoomable[0]))
        else:
            rest = self._zoomable[self._zoomable.index(self.zoomed) + 1 :]
            self._zoom(rest[0] if rest else None)
        if self.zoomed is not None and self.zoomed.can_focus:
            self.zoomed.focus(scroll_visible=False)

    def unzoom(self) -> None:
        if self.zoomed is not None:
            self._zoom(None)

    def _zoom(self, pane: Pane | None) -> None:
        """Shows `pane`, with the details of its row if there is room, instead of all panes (for
        None), by overriding rules of the stylesheet."""
        for each in self._restyled:
            each.styles.clear_rule("width")
            each.styles.clear_rule("height")
        if self.zoomed is not None:
            self.zoomed.is_zoomed = False
        self.zoomed, self._restyled = pane, []
        if pane is None:
            for child in self.children:
                child.styles.clear_rule("display")
            self.styles.clear_rule("layout")
        else:
            is_beside = self.size.width >= BESIDE_CELLS
            has_room = is_beside or self.size.height >= 2 * DETAILS_HEIGHT
            below = [each for each in self.panes if each.belongs_to is pane and has_room]
            self._restyled = [pane, *below]
            for child in self.children:
                child.display = child in self._restyled
            self.styles.layout = "horizontal" if is_beside else "vertical"
            pane.styles.width = "7fr" if below and is_beside else "100%"
            pane.styles.height = "1fr" if below and not is_beside else "100%"
            for each in below:
                each.styles.width = "3fr" if is_beside else "100%"
                each.styles.height = "100%" if is_beside else DETAILS_HEIGHT
            pane.is_zoomed = True
        self.children[0].refresh(layout=True)  # on a child, so that all children are laid out again
        self.call_after_refresh(self._paint_all)

    def on_resize(self, event: events.Resize) -> None:
        """Puts the details of a zoomed list beside it, below it, or away."""
        if self.zoomed is not None:
            self._zoom(self.zoomed)

    def _paint_all(self) -> None:
        for pane in self.panes:
            if pane.display:
                pane.paint()

    def focus_first(self) -> None:
        """Focuses the first pane that takes keys."""
        for pane in self.panes:
            if pane.can_focus and pane.display:
                pane.focus(scroll_visible=False)
                return
        self.screen.set_focus(None)

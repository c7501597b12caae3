"""`TextStyles`: styles by name. A panel uses `"good"`; the stylesheet and the theme define it.

No colours are in Python. All names are component classes of one node, the main screen, because
Textual resolves component classes for every widget that declares them: 30 ms at start.
"""

from __future__ import annotations

from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.binding import Binding, BindingType
from textual.color import Color
from textual.screen import Screen

STYLE_NAMES = (
    *("text", "dim", "faint", "title", "emphasis", "key", "brand", "number"),
    *("border", "border-focus", "good", "warn", "bad", "info", "insert", "delete"),
    *("heat-1", "heat-2", "heat-3", "heat-4", "heat-5", "prefill", "peak"),
    *("part-host", "part-copy", "part-launch", "part-busy", "part-sync"),
    *(
        "pool-kv",
        "pool-adapters",
        "rest",
        "badge-good",
        "badge-warn",
        "badge-bad",
        "badge-dim",
        "badge-tab",
    ),
    *("base", *(f"adapter-{number}" for number in range(1, 9))),
)
LEVEL_STYLES = {
    "debug": "dim",
    "info": "text",
    "warning": "warn",
    "error": "bad",
    "critical": "bad",
}
"""The style of a log level."""
GROUNDS = ("cursor", "bar")
BESIDE_CELLS = 180
"""Width from which the details of a row are shown beside its list."""


class MainScreen(Screen[None], inherit_bindings=False):
    """The app's base screen; its component classes are the styles."""

    AUTO_FOCUS = ""
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-medium"), (160, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-short"), (32, "-tall")]  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("tab", "app.focus_next", "Next pane", show=False, id="next-pane"),
        Binding("shift+tab", "app.focus_previous", "Previous pane", show=False, id="previous-pane"),
    ]

    COMPONENT_CLASSES = {f"style--{name}" for name in STYLE_NAMES} | {
        f"ground--{g}" for g in GROUNDS
    }

    def __init__(self) -> None:
        self.text_styles = TextStyles(self)
        super().__init__()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.text_styles.clear()

    def on_resize(self, event: events.Resize) -> None:
        """Sets the class of very wide screens; of the breakpoints Textual sets only one."""
        self.set_class(event.size.width >= BESIDE_CELLS, "-beside")


class TextStyles:
    """Resolves a style's name on a ground to a Rich style, once per theme."""

    def __init__(self, screen: MainScreen) -> None:
        self._screen = screen
        self._styles: dict[tuple[str, str], Style] = {}

    def clear(self) -> None:
        """Drops the resolved styles after a change of the theme."""
        self._styles.clear()

    def style(self, name: str, ground: str = "") -> Style:
        """The Rich style. Raises `KeyError` for names not in `STYLE_NAMES` or `GROUNDS`."""
        style = self._styles.get((name, ground))
        if style is None:
            style = self._styles[name, ground] = self._resolve(name, ground)
        return style

    def _resolve(self, name: str, ground: str) -> Style:
        style = self._screen.get_component_rich_style(f"style--{name}")
        if ground:
            beneath = self._screen.get_component_rich_style(f"ground--{ground}")
            if beneath.reverse:  # reversed, every style would be a ground of its own
                style = self._screen.get_component_rich_style("style--text") + Style(reverse=True)
            elif not name.startswith("badge"):  # a badge brings its own ground
                style += Style(bgcolor=beneath.bgcolor)
        segments = [Segment("x", style)]
        background = Color.from_rich_color(style.bgcolor) if style.bgcolor else Color(0, 0, 0)
        for line_filter in self._screen.get_line_filters():
            segments = line_filter.apply(segments, background)
        return segments[0].style or Style.null()

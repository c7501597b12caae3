"""`TerminalApp`: an app whose frames are paced, counted and reduced to the changed cells.

All private methods of Textual's `App` that the console overrides are here.
`LORACONSOLE_RAW_OUTPUT=1` sends whole lines, as Textual does.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from textual import events, messages
from textual.driver import Driver
from textual.geometry import Offset
from textual.screen import Screen

from ...pipeline.runtime.library import changed, missing, unused
from . import driver, strip_cache
from .background import BackgroundApp
from .draw_cost import DrawMeter
from .driver_choice import driver_class
from .frame_pacer import FPS, QUESTION, FramePacer

if TYPE_CHECKING:
    from .screen_diff import ScreenDiff

RAW_OUTPUT = "LORACONSOLE_RAW_OUTPUT"
_DISPLAY = "textual.app:App._display"


def why_pacing_is_off() -> str:
    """What the installed Textual lacks for sending a query after each frame."""
    return changed(_DISPLAY, "self", "screen", "renderable") or driver.why_driver_is_hidden()


def why_diff_is_off() -> str:
    """What the installed Textual and rich lack for sending only changed cells."""
    updates = "textual._compositor"
    return (
        why_pacing_is_off()
        or unused(_DISPLAY, "_batch_count", "CompositorUpdate", "render_segments")
        or changed(f"{updates}:ChopsUpdate.__init__", "self", "chops", "spans", "chop_ends")
        or changed(f"{updates}:LayoutUpdate.__init__", "self", "strips", "region")
        or missing(f"{updates}:CompositorUpdate", "textual.strip:SGR_STYLES")
        or missing("rich.style:Style._attributes", "rich.style:Style._set_attributes")
        or unused("rich.console:Console.__init__", "_color_system")
    )


class TerminalApp(BackgroundApp):
    """Sends a frame only once the terminal has drawn the last one, and only its changed cells."""

    def __init__(self, ansi_color: bool | None = None) -> None:
        super().__init__(ansi_color=ansi_color)
        self.pace = FramePacer(FPS)
        self.meter = DrawMeter()
        strip_cache.turn_off()
        self.diff_failure = ""
        """The error that turned the diff off; "" if there was none."""
        self._diff: ScreenDiff | None = None
        if not os.environ.get(RAW_OUTPUT) and not why_diff_is_off():
            from .screen_diff import ScreenDiff

            self._diff = ScreenDiff()
        self._is_paced = not why_pacing_is_off()
        self._is_question_due = False
        self._cursor_sent: Offset | None = None

    def get_driver_class(self) -> type[Driver]:
        return driver_class(super().get_driver_class())

    @property
    def is_diffed(self) -> bool:
        """Whether only changed cells are sent."""
        return self._diff is not None

    @property
    def queued(self) -> int:
        """Number of writes that the terminal has not accepted yet."""
        return driver.queued_writes(driver.driver_of(self))

    def ask_terminal(self) -> None:
        """Sends a query after the next frame, if the terminal has ever replied to one."""
        self._is_question_due = self.pace.answers

    def on_terminal_supports_synchronized_output(
        self, message: messages.TerminalSupportsSynchronizedOutput
    ) -> None:
        """Gets every reply to `QUESTION`, also to Textual's own at the start. If no query can be
        sent after frames, the terminal counts as silent."""
        if self._is_paced:
            self.pace.answered(time.monotonic())

    def on_resize(self, event: events.Resize) -> None:
        self.forget_screen()

    def forget_screen(self) -> None:
        """Forgets the terminal's content: the next frame is sent whole."""
        if self._diff is not None:
            self._diff.forget()

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """Displays a frame as Textual does, reduced to its changed cells; nothing if there are
        none."""
        own = driver.driver_of(self)
        is_batched = bool(getattr(self, "_batch_count", 0))
        if own is None or not self.is_running or self.is_headless or is_batched:
            super()._display(screen, renderable)
            return
        renderable = self._reduced(renderable)
        if renderable is None:
            return
        super()._display(screen, renderable)
        if self._is_question_due:
            self._is_question_due = False
            self.pace.asked(time.monotonic())
            own.write(QUESTION)
            own.flush()

    def _reduced(self, renderable: RenderableType | None) -> RenderableType | None:
        """The frame with only its changed cells; None if there are none. A failure turns the diff
        off: later frames are Textual's own."""
        if self._diff is None or renderable is None:
            return renderable
        from .screen_diff import Frame, is_reducible

        if not is_reducible(renderable):
            self._diff.forget()
            return renderable
        try:
            sequence = self._diff.frame(renderable, self.console, self.size.width)
        except Exception as error:  # private fields differ in this Textual
            self.diff_failure = f"{type(error).__name__}: {error}"
            self._diff = None
            self.call_later(self.screen.refresh, layout=True)
            return renderable
        cursor = self.screen.outer_size.clamp_offset(self.cursor_position)
        if not sequence and cursor == self._cursor_sent:
            return None
        self._cursor_sent = cursor
        return Frame(sequence)

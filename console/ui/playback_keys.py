"""`PlaybackKeys`: speed and position of a recording, by keys; without one they are hidden."""

from __future__ import annotations

from typing import ClassVar

from textual.binding import Binding, BindingType

from ...pipeline.errors import OperatorError
from ..state.playback import PlaybackControls, parse_clock
from .screen_app import ScreenApp

ACTIONS = ("seek", "seek_start", "seek_end", "play_speed")
OF_SIDES = ("switch_side", "compare_sides")
"""Actions on a replay beside another."""


class PlaybackKeys(ScreenApp):
    """An app that may play a recording."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding(
            *("left_square_bracket", "seek(-10)", "Back 10 s"), key_display="[", id="seek-back"
        ),
        Binding(
            *("right_square_bracket", "seek(10)", "Forward 10 s"), key_display="]", id="seek-on"
        ),
        Binding(
            *("left_curly_bracket", "seek(-60)", "Back a minute"),
            show=False,
            key_display="{",
            id="seek-back-minute",
        ),
        Binding(
            *("right_curly_bracket", "seek(60)", "Forward a minute"),
            show=False,
            key_display="}",
            id="seek-on-minute",
        ),
        Binding("ctrl+home", "seek_start", "To the start", show=False, id="seek-start"),
        Binding("ctrl+end", "seek_end", "To the end", show=False, id="seek-end"),
        Binding(
            *("less_than_sign", "play_speed(-1)", "Slower"),
            key_display="<",
            id="play-slower",
            tooltip="half the speed of the recording",
        ),
        Binding(
            *("greater_than_sign", "play_speed(1)", "Faster"),
            key_display=">",
            id="play-faster",
            tooltip="twice the speed of the recording",
        ),
        Binding(
            *("equals_sign", "switch_side", "Other side"),
            key_display="=",
            id="other-side",
            tooltip="the replay as recorded, or with the changed settings",
        ),
        Binding(
            *("V", "compare_sides", "Compare"),
            id="compare-sides",
            tooltip="recorded and changed side by side",
        ),
    ]

    @property
    def playback(self) -> PlaybackControls | None:
        """The recording's controls; None if a pipeline is shown."""
        return self.telemetry.controls

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        if action in ACTIONS and self.playback is None:
            return False
        if action in OF_SIDES and (self.playback is None or not self.playback.has_sides):
            return False
        return super().check_action(action, parameters)

    def action_seek(self, seconds: float) -> None:
        if controls := self.playback:
            controls.seek(controls.position + seconds)

    def action_seek_start(self) -> None:
        if controls := self.playback:
            controls.seek(controls.start)

    def action_seek_end(self) -> None:
        if controls := self.playback:
            controls.seek(controls.end)

    def action_play_speed(self, steps: int) -> None:
        if controls := self.playback:
            controls.change_speed(steps)

    def action_switch_side(self) -> None:
        if controls := self.playback:
            controls.switch_side()

    def action_compare_sides(self) -> None:
        from .panels.comparison import comparison_lines
        from .widgets.dialogs import LiveDialog

        if (controls := self.playback) and (read := controls.comparison):
            title = "recorded and what-if"
            self.push_screen(LiveDialog(title, lambda _, width: comparison_lines(read, width)))

    def seek_to(self, text: str) -> None:
        """Moves to `3:07`, or by `+90` or `-1:30`. Raises `OperatorError`."""
        controls = self.playback
        if controls is None:
            raise OperatorError("not a recording", "open one with loraconsole play FILE")
        sign, from_here = {"+": (1, True), "-": (-1, True)}.get(text[:1], (1, False))
        try:
            seconds = sign * parse_clock(text[1:] if from_here else text)
        except ValueError as error:
            raise OperatorError(str(error), "+ or - moves from here") from error
        controls.seek((controls.position if from_here else controls.start) + seconds)

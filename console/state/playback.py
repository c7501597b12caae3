"""`PlaybackView`: where a recording stands, for the header; `PlaybackControls`, for the keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TypeAlias

from msgspec import Struct

if TYPE_CHECKING:
    from ...pipeline.bench.what_if_results import WhatIfDocument


class PlaybackView(Struct, frozen=True):
    """The position in a recording. Seconds are those of the recording."""

    position_s: float
    length_s: float
    is_whole: bool = True
    """False while the file is still being read: `length_s` is what is known so far."""
    speed: float = 1.0
    is_paused: bool = False
    is_over: bool = False
    is_seeking: bool = False
    side: str = ""
    """Of two replays side by side, the one that is shown."""


Comparison: TypeAlias = "Callable[[], WhatIfDocument | None]"
"""Returns None while the comparison is being made. Raises `OperatorError` if it could not be."""


class PlaybackControls(Protocol):
    """What can be done to a recording. Times are unix seconds of the recording."""

    @property
    def start(self) -> float:
        """The first message."""

    @property
    def end(self) -> float:
        """The last message that is known."""

    @property
    def position(self) -> float:
        """Where it stands, or to where it moves."""

    @property
    def has_sides(self) -> bool:
        """Whether it is a replay beside another."""

    @property
    def comparison(self) -> Comparison | None:
        """Compares the sides; None if there is one only."""

    def switch_side(self) -> None:
        """Shows the other side, at the same time."""

    def seek(self, at: float) -> None:
        """Moves to a time; soon, and once if asked for several times."""

    def toggle_pause(self) -> bool:
        """Returns whether it is paused now."""

    def change_speed(self, steps: int) -> None:
        """Moves by `steps` in the list of usual speeds."""


def clock_text(seconds: float) -> str:
    """`3:07`, or `1:03:07` from an hour on."""
    whole = int(max(0.0, seconds))
    hours, rest = divmod(whole, 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def parse_clock(text: str) -> float:
    """Seconds of `90`, `3:07` or `1:03:07`. Raises `ValueError`."""
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(part.isdecimal() for part in parts):
        raise ValueError(f"{text!r} is not a time such as 90, 3:07 or 1:03:07")
    seconds = 0.0
    for part in parts:
        seconds = seconds * 60 + int(part)
    return seconds


def playback_text(view: PlaybackView, is_short: bool = False) -> str:
    """`▶ 3:07 of 10:00  x4`."""
    more = "" if view.is_whole else "…"
    where = f"{clock_text(view.position_s)} of {clock_text(view.length_s)}{more}"
    if is_short:
        where = where.replace(" of ", "/")
    mark = "■ end" if view.is_over else "‖" if view.is_paused else "▶"
    if view.is_seeking:
        mark = "» seeking"
    speed = "" if view.speed == 1 else f" x{view.speed:g}"
    side = f"{view.side}  " if view.side else ""
    return f"{side}{mark} {where}{speed}"

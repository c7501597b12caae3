"""What the console itself costs: one line above the footer, and a page with everything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from ...state.board import Board
from ...text import units
from ...text.lines import TextLine, TextSpan, length, line
from ..widgets.pane import PaintedApp, Pane, field
from .header import SLOW_S

LATE_MS = 150.0


class CostPane(Pane):
    """Frames, processor, bytes and the terminal's answers; hidden until it is asked for."""

    FRAMED: ClassVar[bool] = False

    def lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        app = self.painted_app
        cost, pace = app.meter.cost, app.pace
        parts: list[tuple[TextSpan, ...]] = [
            ((f"{cost.frames_s:.1f}", "number"), (" frames/s", "dim")),
            ((f"{cost.frame_ms:.1f} ms", "number"), (" each", "dim")),
            ((f"{units.size(cost.bytes_s)}/s", "number"),),
            ((f"{cost.cpu_fraction * 100:.1f} %", "number"), (" CPU", "dim")),
            ((f"{cost.lag_ms:.0f} ms", _style(cost.lag_ms > LATE_MS)), (" late", "dim")),
        ]
        if pace.answers:
            answer = units.milliseconds(pace.round_trip_s * 1e3)
            parts.append(((answer, _style(pace.round_trip_s > SLOW_S)), (" link", "dim")))
        if cost.withheld_s:
            parts.append(((f"{cost.withheld_s:.1f}/s", "warn"), (" withheld", "dim")))
        spans: list[TextSpan] = [(" cost ", "title")]
        for part in parts:
            if length(spans) + length(part) + 2 > width:
                break
            spans += [("  ", "text"), *part]
        return [line(*spans, ground="bar")]


def diagnostics(app: PaintedApp, board: Board) -> list[TextLine]:
    """Everything an operator can send with "the screen is slow here"."""
    cost, pace, store = app.meter.cost, app.pace, app.store
    found = [_head("drawing")]
    found += _rows(
        (
            "frames",
            f"{cost.frames_s:.1f}/s of {app.pace.fps:g}, {units.count(app.meter.frames)} drawn",
        ),
        ("processor", f"{cost.cpu_fraction * 100:.1f} % of a core, {cost.frame_ms:.2f} ms a frame"),
        ("output", f"{units.size(cost.bytes_s)}/s, {units.size(app.meter.num_bytes)} in all"),
        (
            "sends",
            "only the cells that changed" if app.is_diffed else "whole lines, as Textual does",
        ),
        ("late", f"{cost.lag_ms:.0f} ms at most, these last seconds"),
    )
    found += [TextLine(), _head("terminal")]
    answers = "none: at most 4 frames/s"
    if pace.answers:
        answers = f"the last after {units.milliseconds(pace.round_trip_s * 1e3)}"
    system = app.console.color_system or "none"
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    found += _rows(
        ("kind", f"{os.environ.get('TERM', 'unknown')}, {app.size.width}x{app.size.height}"),
        ("colours", f"{system}, theme {app.theme}"),
        ("link", f"ssh from {client}" if client else "this machine"),
        ("answers", answers),
        ("queue", f"{app.queued} writes that it has not taken"),
        ("withheld", f"{units.count(app.meter.withheld)} frames, {cost.withheld_s:.1f}/s now"),
    )
    found += [TextLine(), _head("telemetry")]
    age = "nothing heard" if board.link_age_s is None else f"{units.duration(board.link_age_s)} ago"
    found += _rows(
        ("messages", f"{store.message_rate:.0f}/s, {units.count(store.taken)} in all"),
        ("last heard", age),
        ("not heard", f"{store.missed_steps} steps, {store.missed_lines} log lines"),
        ("refused", f"{app.telemetry.refused} frames of another kind"),
    )
    found += [TextLine(), _head("sockets: frames/s, in all, refused")]
    for process in board.processes:
        for hop in process.hops:
            is_own = hop.peer == process.name
            place = f"{process.name} inbox" if is_own else f"{process.name} → {hop.peer}"
            found.append(
                line(
                    (f"  {units.fit(place, 28)}", "dim"),
                    (f"{units.rate(hop.frames_s):>8}", "number"),
                    (f"{units.count(hop.frames):>10}", "number"),
                    (f"{hop.refused:>8}", "bad" if hop.refused else "number"),
                )
            )
    found += [TextLine(), _head("loops: how much later than asked they come round")]
    for process in board.processes:
        found.append(
            line(
                (f"  {units.fit(process.name, 28)}", "dim"),
                (f"{process.loop_lag_ms:>8.1f}", _style(process.loop_lag_ms > LATE_MS)),
                (" ms", "dim"),
            )
        )
    return found


def _head(text: str) -> TextLine:
    return line((text, "title"))


def _rows(*rows: tuple[str, str]) -> list[TextLine]:
    return [line(("  ", "text"), *field(name), (value, "number")) for name, value in rows]


def _style(is_bad: bool) -> str:
    return "warn" if is_bad else "number"

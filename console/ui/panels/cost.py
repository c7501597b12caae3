"""The console's own cost: a line above the footer, and a dialog of diagnostics."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import ClassVar

from ...state.board import Board
from ...terminal.reaches import switched_off
from ...text import units
from ...text.lines import TextLine, TextSpan, length, line
from ..widgets.pane import PaintedApp, Pane, field
from .header import SLOW_S

LATE_MS = 150.0


class CostPane(Pane):
    """Frames, CPU, bytes and the terminal's response time; hidden by default."""

    FRAMED: ClassVar[bool] = False

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
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
    """The lines of the diagnostics: drawing, terminal, telemetry, sockets and event loops."""
    parts = [("drawing", _drawing(app)), ("terminal", _terminal(app))]
    if off := _switched_off(app):
        parts.append(("off: the installed libraries differ", off))
    parts += [
        ("telemetry", _telemetry(app, board)),
        ("sockets: frames/s, total, refused", _sockets(board)),
        ("event loops: lag", _loops(board)),
    ]
    found: list[TextLine] = []
    for title, lines in parts:
        found += [TextLine(), line((title, "title")), *lines]
    return found[1:]


def _drawing(app: PaintedApp) -> list[TextLine]:
    cost, meter = app.meter.cost, app.meter
    sends = "changed cells only" if app.is_diffed else "whole lines (Textual's default)"
    return _rows(
        ("frames", f"{cost.frames_s:.1f}/s of {app.pace.fps:g}, {units.count(meter.frames)} drawn"),
        ("cpu", f"{cost.cpu_fraction * 100:.1f} % of a core, {cost.frame_ms:.2f} ms a frame"),
        ("output", f"{units.size(cost.bytes_s)}/s, {units.size(meter.num_bytes)} total"),
        ("sends", sends),
        ("loop lag", f"max {cost.lag_ms:.0f} ms, last seconds"),
    )


def _terminal(app: PaintedApp) -> list[TextLine]:
    pace, meter = app.pace, app.meter
    answers = "none: at most 4 frames/s"
    if pace.answers:
        answers = f"last after {units.milliseconds(pace.round_trip_s * 1e3)}"
    system = app.console.color_system or "none"
    client = os.environ.get("SSH_CONNECTION", "").split(" ")[0]
    withheld_s = meter.cost.withheld_s
    return _rows(
        ("kind", f"{os.environ.get('TERM', 'unknown')}, {app.size.width}x{app.size.height}"),
        ("colours", f"{system}, theme {app.theme}"),
        ("link", f"ssh from {client}" if client else "this machine"),
        ("answers", answers),
        ("queue", units.count_noun(app.queued, "pending write")),
        ("withheld", f"{units.count(meter.withheld)} frames, {withheld_s:.1f}/s now"),
    )


def _switched_off(app: PaintedApp) -> list[TextLine]:
    """Stages that are off, with the reason; usually none."""
    off = [(stage, reason) for stage, reason in switched_off()]
    if app.diff_failure:
        off.append(("sending only changed cells", app.diff_failure))
    return [line((f"  {stage}: {reason}", "warn")) for stage, reason in off]


def _telemetry(app: PaintedApp, board: Board) -> list[TextLine]:
    store = app.store
    age = "none" if board.link_age_s is None else f"{units.duration(board.link_age_s)} ago"
    return _rows(
        ("messages", f"{store.message_rate:.0f}/s, {units.count(store.taken)} total"),
        ("last one", age),
        ("missed", f"{store.missed_steps} steps, {store.missed_lines} log lines"),
        ("refused", f"{app.telemetry.refused} frames of an unknown kind"),
    )


def _sockets(board: Board) -> list[TextLine]:
    found = []
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
    return found


def _loops(board: Board) -> list[TextLine]:
    return [
        line(
            (f"  {units.fit(process.name, 28)}", "dim"),
            (f"{process.loop_lag_ms:>8.1f}", _style(process.loop_lag_ms > LATE_MS)),
            (" ms", "dim"),
        )
        for process in board.processes
    ]


def _rows(*rows: tuple[str, str]) -> list[TextLine]:
    return [line(("  ", "text"), *field(name), (value, "number")) for name, value in rows]


def _style(is_bad: bool) -> str:
    return "warn" if is_bad else "number"

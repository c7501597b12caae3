"""`AdapterListPane`: the costliest adapters in a few lines, for the first screen. At any width and
height it says how many it does not show."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from ...state.adapter_costs import top_share
from ...state.board import AdapterRow, Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import reason_first
from .pane import Pane

LEAST_NAME, LEAST_GAUGE = 10, 6
WITH_HEAD, WITH_LAST_LINE = 3, 6
"""Least height with a head, and with a line about the adapters that are not shown; with less, the
upper frame says that."""
NUMBERS = (("device", 7), ("wait", 5), ("tok/s", 7), ("run", 5))
"""Heads and widths of the columns of numbers, the last dropped first if there is no room."""
MORE_NUMBERS = (("TTFT p99", 10), ("wait p99", 10), ("KV pages", 10), ("requests", 10))
"""Those of a wide pane, which leave the gauge `WIDE_GAUGE` cells."""
WIDE_GAUGE = 14


class AdapterListPane(Pane):
    """Adapters by their share of the device time of the last minute."""

    TITLE = "adapters"
    FADES = True
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[TextSpan]:
        """How many there are; in a low pane how many of them are not shown."""
        hidden = board.costliest[self._number_shown(board, self.size.height - 2) :]
        if hidden and self.size.height - 2 < WITH_LAST_LINE:
            return _more(hidden)
        return ((units.count(max(0, len(board.adapters) - 1)), "number"), (" + base", "dim"))

    def _number_shown(self, board: Board, height: int) -> int:
        free = max(1, height - (height >= WITH_HEAD))
        if len(board.costliest) <= free or height < WITH_LAST_LINE:
            return min(free, len(board.costliest))
        return free - 1

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not board.adapters:
            return [line(("waiting for the router", "dim"))]
        rows = board.costliest
        shown = rows[: self._number_shown(board, height)]
        shown_names = (cell_len(listed_name(row)) for row in shown if not row.has_failed)
        wanted = max(LEAST_NAME, max(shown_names, default=0))
        numbers = fitting(width, wanted)
        room = width - sum(cells for _, cells in numbers)
        name_width = min(wanted, max(LEAST_NAME, room - LEAST_GAUGE - 1), room)
        gauge_width = room - name_width - 1 if room - name_width > LEAST_GAUGE else 0
        name_width = room - gauge_width - 1 if gauge_width else room
        most = top_share(row.costs.device for row in rows)
        has_head = height >= WITH_HEAD
        found = [_head(name_width, gauge_width, numbers)] if has_head else []
        for row in shown:
            if row.has_failed:
                found.append(failed_line(row, width))
                continue
            name = "base" if row.is_base else units.visible(row.name)
            name = units.fit_name(name, name_width - 2, row.differs_at)
            spans: list[TextSpan] = [(f"{row.mark} {name}", row.color)]
            if gauge_width:
                share = (row.costs.device or 0.0) / most if most else 0.0
                filled, rest = plot.gauge(share, gauge_width)
                spans += [(" ", "text"), (filled, row.color), (rest, "rest")]
            spans += [_number(row, title, cells) for title, cells in numbers]
            found.append(line(*spans))
        if (hidden := rows[len(shown) :]) and height >= WITH_LAST_LINE:
            found.append(line(*_more(hidden)))
        return found


def listed_name(row: AdapterRow) -> str:
    return units.visible(f"{row.mark} {'base' if row.is_base else row.name}")


def fitting(width: int, name_width: int) -> list[tuple[str, int]]:
    """The columns of numbers for which there is room beside a name; more of them if there is room
    beside names of `name_width` and a gauge, too."""
    kept = list(NUMBERS)
    while kept and sum(cells for _, cells in kept) + LEAST_NAME > width:
        kept.pop()
    free = width - sum(cells for _, cells in kept) - name_width - 1 - WIDE_GAUGE
    for title, cells in MORE_NUMBERS:
        free -= cells
        if free < 0:
            break
        kept.append((title, cells))
    return kept


def failed_line(row: AdapterRow, width: int) -> TextLine:
    """`✗ trunc  the file is cut off (…/trunc/…)`: the name gives way to the reason."""
    name = listed_name(row)
    name_width = min(cell_len(name), max(LEAST_NAME, width // 3))
    reason = reason_first(units.visible(row.view.reason)) or "failed"
    text = units.fit(reason, max(0, width - name_width - 1)).rstrip()
    return line((f"{units.fit_name(name, name_width)} ", "bad"), (text, "dim"))


def _head(name_width: int, gauge_width: int, numbers: Sequence[tuple[str, int]]) -> TextLine:
    blank = name_width + (gauge_width + 1 if gauge_width else 0)
    heads = "".join(f"{title:>{cells}}" for title, cells in numbers)
    return line((f"{'last minute':<{blank}}"[:blank] + heads, "dim"))


def _number(row: AdapterRow, title: str, cells: int) -> TextSpan:
    match title:
        case "device":
            share = row.costs.device
            return (f"{units.part(share):>{cells}}", "number" if share else "dim")
        case "wait":
            waiting = row.view.waiting
            return (f"{waiting:>{cells}}", "warn" if waiting else "dim")
        case "tok/s":
            return (f"{row.rate_text:>{cells}}", "number" if row.tokens_s else "dim")
        case "run":
            running = row.view.running
            return (f"{running:>{cells}}", "number" if running else "dim")
        case "TTFT p99":
            late = row.view.ttft_p99_ms
            return (f"{units.milliseconds(late):>{cells}}", "dim" if late is None else "number")
        case "wait p99":
            wait = row.view.wait_p99_ms
            return (f"{units.milliseconds(wait):>{cells}}", "dim" if wait is None else "number")
        case "KV pages":
            pages = row.view.kv_pages
            return (f"{units.count(pages):>{cells}}", "number" if pages else "dim")
        case _:
            return (f"{units.count(row.view.requests):>{cells}}", "number")


def _more(hidden: Sequence[AdapterRow]) -> tuple[TextSpan, ...]:
    """`38 more, 3 wait, 1 failed`."""
    waiting = sum(row.view.waiting for row in hidden)
    failed = sum(row.has_failed for row in hidden)
    spans: list[TextSpan] = [(f"{len(hidden)} more", "dim")]
    if waiting:
        spans.append((f", {units.count(waiting)} wait", "warn"))
    if failed:
        spans.append((f", {failed} failed", "bad"))
    return tuple(spans)

"""Overview: is it up, is it fast, what is it doing, what is wrong. Ten seconds for all of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ...pipeline.messages import ProcessState, Progress
from .. import plot, units
from ..board import SUPERVISOR, Board, ProcessRow, Quantiles, seconds_left
from ..canvas import Canvas
from ..history import Window
from ..inks import LEVEL_INKS
from ..pane import Line, Pane, Panel, Span, crop, length, line, spread

BOX_HEIGHT = 4
HEATS = ("heat-1", "heat-2", "heat-3", "heat-4", "heat-5")


class RingPane(Pane):
    """The processes and what flows between them, as the design draws it."""

    TITLE = "ring"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        if not board.started_at:
            return ()
        return (("up ", "dim"), (units.uptime(board.now - board.started_at), "text"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        if not board.processes:
            return self._absent(board, height)
        canvas = Canvas(width, height)
        box = min(30, (width - 20) // 3)
        gap = (width - 3 * box) // 2
        middle, right = box + gap, 2 * (box + gap)
        workers = [p for p in board.processes if p.name.startswith("worker-")]
        server, router = board.process("server"), board.process("router")
        detokenizer = board.process("detokenizer")
        self._box(canvas, 0, 0, box, "server", server, board)
        self._box(canvas, middle, 0, box, "router", router, board)
        self._box(canvas, right, 0, box, _workers_name(workers), _gather(workers), board)
        to_router = server.frames_to("router") if server else 0.0
        to_worker = router.frames_to("worker-0") if router else 0.0
        to_text = router.frames_to("detokenizer") if router else 0.0
        from_worker = sum(worker.frames_to("router") for worker in workers)
        to_server = detokenizer.frames_to("server") if detokenizer else 0.0
        _arrow(canvas, box, 1, gap, to_router, "▶")
        _arrow(canvas, middle + box, 1, gap, to_worker, "▶")
        _arrow(canvas, middle + box, 2, gap, from_worker, "◀")
        # Below: router -> detokenizer -> server.
        centre_server, centre_router = box // 2, middle + box // 2
        room = centre_router - centre_server
        inner = min(box, room - 13)
        x = centre_server + (room - inner) // 2 + 1
        self._box(canvas, x, BOX_HEIGHT, inner, "detokenizer", detokenizer, board)
        canvas.put(centre_router, BOX_HEIGHT - 1, "┬", "border")
        canvas.put(centre_router, BOX_HEIGHT, "│", "border")
        arm = centre_router - (x + inner)
        canvas.put(x + inner, BOX_HEIGHT + 1, "◀" + "─" * (arm - 1) + "╯", "border")
        canvas.put(x + inner + 1, BOX_HEIGHT + 2, _per_second(to_text), "dim")
        canvas.put(centre_server, BOX_HEIGHT, "▲", "border")
        arm = x - centre_server
        canvas.put(centre_server, BOX_HEIGHT + 1, "╰" + "─" * (arm - 1), "border")
        canvas.put(centre_server + 1, BOX_HEIGHT + 2, _per_second(to_server), "dim")
        self._note(canvas, centre_router + 3, board)
        return canvas.lines

    def _absent(self, board: Board, height: int) -> Sequence[Line]:
        return [
            Line(),
            line(("No pipeline answers yet.", "title")),
            line(("Waiting for one in ", "dim"), (board.run, "text")),
            Line(),
            line(("loraconsole up", "key"), ("       starts one without a screen", "dim")),
            line(("loraconsole doctor", "key"), ("   says what is in its way", "dim")),
        ]

    def _box(
        self,
        canvas: Canvas,
        x: int,
        y: int,
        width: int,
        name: str,
        process: ProcessRow | None,
        board: Board,
    ) -> None:
        level = process.level if process else "dim"
        ill = level in ("warn", "bad")
        canvas.box(x, y, width, BOX_HEIGHT, level if ill else "border")
        canvas.put(x + 2, y, f" {name} ", "title")
        if process is None:
            canvas.put(x + 2, y + 1, "not started", "dim")
            return
        word = "SILENT" if process.is_stale else process.state.name
        mark = "●" if process.state is ProcessState.READY and not ill else "◌"
        canvas.put(x + 2, y + 1, mark, level)
        canvas.put(x + 4, y + 1, word, level if ill else "text")
        inside = width - 4
        cpu = f"{process.cpu_fraction * 100:.0f} %"
        if len(word) + len(cpu) + 3 <= inside:
            canvas.put(x + width - 2 - len(cpu), y + 1, cpu, "number")
        if ill and process.reason:
            canvas.put(x + 2, y + 2, units.fit(process.reason, inside), level)
            return
        pid = f"pid {process.pid}" if process.pid else "no process"
        size = units.size(process.rss_bytes)
        if len(pid) + len(size) < inside:
            canvas.put(x + 2, y + 2, pid, "dim")
        canvas.put(x + width - 2 - len(size), y + 2, size, "text")

    def _note(self, canvas: Canvas, x: int, board: Board) -> None:
        """Who keeps them alive, and where to send requests."""
        supervisor = board.process(SUPERVISOR)
        if supervisor is not None:
            canvas.put(x, BOX_HEIGHT + 1, "supervisor", "dim")
            word = "SILENT" if supervisor.is_stale else supervisor.state.name
            canvas.put(x + 11, BOX_HEIGHT + 1, f"● {word}", supervisor.level)
        if board.server is not None:
            canvas.put(x, BOX_HEIGHT + 2, "HTTP", "dim")
            canvas.put(x + 11, BOX_HEIGHT + 2, board.server.url, "text")
            canvas.put(x, BOX_HEIGHT + 3, "requests", "dim")
            rate = f"{units.rate(board.request_rate)}/s"
            errors = f", {units.count(board.server.errors)} errors" if board.server.errors else ""
            text = f"{rate}  {units.count(board.server.requests)} so far{errors}"
            canvas.put(x + 11, BOX_HEIGHT + 3, text, "text")


def _workers_name(workers: Sequence[ProcessRow]) -> str:
    return f"workers 0-{len(workers) - 1}" if len(workers) > 1 else "worker-0"


def _gather(workers: Sequence[ProcessRow]) -> ProcessRow | None:
    """The ranks as one box: the worst of them speaks."""
    if not workers:
        return None
    order = ("good", "dim", "warn", "bad")
    return max(workers, key=lambda worker: order.index(worker.level))


def _per_second(rate: float) -> str:
    return f"{units.rate(rate)}/s"


def _arrow(canvas: Canvas, x: int, y: int, width: int, rate: float, head: str) -> None:
    """`── 30/s ──▶` in `width` cells."""
    label = f" {_per_second(rate)} "
    shaft = max(0, width - 1 - len(label))
    left, right = shaft // 2, shaft - shaft // 2
    if head == "◀":
        canvas.put(x, y, head, "border")
        x += 1
    canvas.across(x, y, left, "border")
    canvas.put(x + left, y, label, "text" if rate >= 0.05 else "dim")
    canvas.across(x + left + len(label), y, right, "border")
    if head == "▶":
        canvas.put(x + left + len(label) + right, y, head, "border")


class StartPane(Pane):
    """One bar a stage while the pipeline comes up: what it does, how far, how long still."""

    TITLE = "start-up"

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        found: list[Line] = []
        for bar in board.progress:
            found.append(self._stage(bar, width))
        failed = board.condition.level == "bad"
        if failed:
            found += [Line(), line(("✗ ", "bad"), (board.condition.detail, "bad"))]
            found.append(
                line(
                    ("  7", "key"), (" shows the logs, ", "dim"), ("8", "key"), (" restarts", "dim")
                )
            )
        elif not found:
            found.append(line(("waiting for the first stage", "dim")))
        return found[-height:]

    def _stage(self, bar: Progress, width: int) -> Line:
        label = bar.label if bar.label != bar.stage else ""
        left: list[Span] = [_mark(bar), (units.fit(bar.stage, 10), "title")]
        amount = _amount(bar)
        time_left = seconds_left(bar)
        if bar.done:
            spent = ("  took " + units.duration(bar.elapsed_s), "dim")
        elif time_left is not None:
            spent = (f"  {units.duration(time_left)} left", "text")
        else:
            spent = (f"  {units.duration(bar.elapsed_s)}", "dim")
        share = bar.current / bar.total if bar.total else 1.0 if bar.done else 0.0
        ink = "bad" if bar.failed else "good" if bar.done else "info"
        cells = max(8, min(60, width - 80 if width > 100 else width - 56))
        filled, rest = plot.gauge(share, cells)
        gauge: list[Span] = [(filled, ink), (rest, "rest")]
        percent = units.percent(share) if bar.total else ""
        left += [*gauge, (f" {percent:>5}", "number"), (f"  {amount:>20}", "dim"), ("  ", "text")]
        if length(left) + length((spent,)) + 12 < width:
            left.append((label, "dim"))
        return spread(left, (spent,), width)


def _mark(bar: Progress) -> Span:
    if bar.failed:
        return ("✗ ", "bad")
    return ("✓ ", "good") if bar.done else ("▸ ", "info")


def _amount(bar: Progress) -> str:
    """`94 of 93.8 MiB`, `166 of 272 tensors`."""
    if bar.unit == "B":
        done = units.size(bar.current)
        return f"{done} of {units.size(bar.total)}" if bar.total else done
    done = units.count(bar.current)
    plural = "" if bar.unit.endswith("s") else "s"
    return f"{done} of {units.count(bar.total)} {bar.unit}{plural}" if bar.total else done


class ThroughputPane(Pane):
    """Tokens a second: decoded upwards, prefilled hanging below."""

    TITLE = "throughput"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        return (
            (units.rate(board.decode_rate), "good"),
            (" decode  ", "dim"),
            (units.rate(board.prefill_rate), "prefill"),
            (" prefill tok/s", "dim"),
        )

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        plot_width = width - 6
        below = height // 3 if height >= 6 else 0
        above = height - below
        decode = board.decode.window(board.now, 2 * plot_width)
        top = plot.top_of(decode.highest)
        found = _heat_rows(decode, above, top, width)
        if below:
            prefill = board.prefill.window(board.now, 2 * plot_width)
            low = plot.top_of(prefill.highest)
            rows = plot.area(prefill.means, below, low, down=True)
            for y, row in enumerate(rows):
                label = f"{units.count(low):>5}" if y == below - 1 else " " * 5
                found.append(line((label, "dim"), (" ", "text"), (row, "prefill")))
        return found


def _heat_rows(window: Window, height: int, top: float, width: int) -> list[Line]:
    """An area whose colour rises with its height, with its axis at the left."""
    rows = plot.area(window.means, height, top)
    found = []
    for y, row in enumerate(rows):
        level = (height - 1 - y) * len(HEATS) // max(1, height)
        label = f"{units.count(top):>5}" if y == 0 else f"{0:>5}" if y == height - 1 else " " * 5
        found.append(line((label, "dim"), (" ", "text"), (row, HEATS[level])))
    return found


class LatencyPane(Pane):
    """What clients feel and what steps cost, as percentiles."""

    TITLE = "latency"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        return (("last 60 s", "dim"),)

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        steps = [q for q in board.phase_quantiles if q.name == "decode"]
        syncs = [q for q in board.sync_quantiles if q.name == "step"]
        rows = [board.ttft_quantiles, board.inter_token_quantiles]
        rows += [Quantiles("decode step", q.count, q.p50, q.p90, q.p99) for q in steps]
        rows += [Quantiles("sync wait", q.count, q.p50, q.p90, q.p99) for q in syncs]
        cell = max(8, min(14, (width - 12) // 3))
        head = line(
            (" " * 12, "dim"), *((f"{name:>{cell}}", "dim") for name in ("p50", "p90", "p99"))
        )
        body = [
            line(
                (f"{row.name:<12}", "text"),
                *(
                    (f"{units.milliseconds(value):>{cell}}", "number" if row.count else "dim")
                    for value in (row.p50, row.p90, row.p99)
                ),
            )
            for row in rows
        ]
        return [head, *body]


class PoolPane(Pane):
    """One pool of pages for KV and adapters: how it is split now."""

    TITLE = "page pool"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        if board.router is None or not board.router.pages_total:
            return ()
        taken = board.router.pages_kv + board.router.pages_adapters
        return ((units.percent(taken / board.router.pages_total), "number"), (" taken", "dim"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        router = board.router
        if router is None or not router.pages_total:
            return [line(("no pool yet", "dim"))]
        total = router.pages_total
        free = total - router.pages_kv - router.pages_adapters
        kv, adapters = plot.shares((router.pages_kv, router.pages_adapters), total, width)
        bar = line(
            (plot.FULL * kv, "pool-kv"),
            ("▓" * adapters, "pool-adapters"),
            (plot.REST * (width - kv - adapters), "rest"),
        )
        legend: list[Span] = []
        for mark, ink, name, pages in (
            (plot.FULL, "pool-kv", "KV", router.pages_kv),
            ("▓", "pool-adapters", "adapters" if width > 40 else "LoRA", router.pages_adapters),
            (plot.REST, "dim", "free", free),
        ):
            legend += [(mark, ink), (f" {units.count(pages)}", "number"), (f" {name}  ", "dim")]
        size = line(
            (f"{units.count(total)} pages of {router.page_size} tokens", "dim"),
        )
        return [bar, Line(crop(legend, width)), size]


class AdapterPane(Pane):
    """Who does the work: adapters by speed."""

    TITLE = "adapters"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        return ((f"{max(0, len(board.adapters) - 1)}", "number"), (" + base", "dim"))

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        if not board.adapters:
            return [line(("the router has not told yet", "dim"))]
        rows = sorted(
            board.adapters, key=lambda row: (-row.tokens_s, -row.view.running, not row.is_base)
        )
        most = max((row.tokens_s for row in rows), default=0.0)
        name_width = min(24, max(8, *(len(row.name) + 2 for row in rows if not row.is_base), 8))
        numbers = 30
        cells = max(0, width - name_width - numbers - 2)
        found = []
        for row in rows[:height]:
            filled, rest = plot.gauge(row.tokens_s / most if most else 0.0, cells)
            name = "base" if row.is_base else row.name
            found.append(
                line(
                    (units.fit(f"{'○' if row.is_base else '●'} {name}", name_width), row.tint),
                    (" ", "text"),
                    (filled, row.tint),
                    (rest, "rest"),
                    (f" {units.rate(row.tokens_s):>6}", "number"),
                    (" tok/s", "dim"),
                    (f"{row.view.running:>4}", "number"),
                    (" run", "dim"),
                    (f"{row.view.waiting:>3}", "warn" if row.view.waiting else "dim"),
                    (" wait", "dim"),
                )
            )
        return found


class LoadPane(Pane):
    """Requests running and waiting over time."""

    TITLE = "load"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[Span]:
        if board.router is None:
            return ()
        return (
            (f"{board.router.running}", "number"),
            (" running  ", "dim"),
            (f"{board.router.waiting}", "warn" if board.router.waiting else "number"),
            (" waiting", "dim"),
        )

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        plot_width = width - 6
        running = board.running.window(board.now, 2 * plot_width)
        waiting = board.waiting.window(board.now, 2 * plot_width)
        below = max(1, height // 3)
        above = height - below
        top, low = plot.top_of(running.highest), plot.top_of(waiting.highest)
        found = []
        for y, row in enumerate(plot.area(running.means, above, top)):
            label = f"{units.count(top):>5}" if y == 0 else " " * 5
            found.append(line((label, "dim"), (" ", "text"), (row, "info")))
        for y, row in enumerate(plot.area(waiting.means, below, low, down=True)):
            label = f"{units.count(low):>5}" if y == below - 1 else " " * 5
            found.append(line((label, "dim"), (" ", "text"), (row, "warn")))
        return found


class EventPane(Pane, can_focus=True):
    """What is wrong now, then what happened, the newest on top."""

    TITLE = "alerts and events"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,k", "move(-1)", "Up", show=False, id="event-up"),
        Binding("down,j", "move(1)", "Down", show=False, id="event-down"),
        Binding("enter", "trace", "Trace", id="trace", tooltip="to its process, or its log lines"),
    ]

    class Traced(Message):
        """Enter on an event (`at` says when), or on an alert (`at` is None)."""

        def __init__(self, at: float | None) -> None:
            super().__init__()
            self.at = at

    def __init__(self) -> None:
        super().__init__(id="events")
        self._cursor = 0
        self._times: list[float | None] = []
        """When the thing on each line happened; None for what goes on."""

    def caption(self, board: Board) -> Sequence[Span]:
        number = len(board.alerts)
        if not number:
            return (("no alerts", "good"),)
        return ((f"{number} alert{'s' if number > 1 else ''}", board.alerts[0][0]),)

    def lines(self, board: Board, width: int, height: int) -> Sequence[Line]:
        found = [
            line(("▲ " if level == "bad" else "△ ", level), (units.clean(text), level))
            for level, text in board.alerts
        ]
        self._times = [None] * len(found)
        for event in reversed(board.events[-height:]):
            ink = LEVEL_INKS.get(event.level.lower(), "text")
            found.append(
                line(
                    (units.clock(event.at), "dim"),
                    (f" {event.source} ", "dim"),
                    (units.clean(event.text), ink),
                )
            )
            self._times.append(event.at)
        if not found:
            return [line(("nothing has happened yet", "dim"))]
        self._cursor = max(0, min(self._cursor, height - 1, len(found) - 1))
        if self.has_focus:
            found[self._cursor] = found[self._cursor]._replace(ground="cursor")
        return found

    def action_move(self, lines: int) -> None:
        self._cursor += lines
        self.paint()

    def action_trace(self) -> None:
        if self._cursor < len(self._times):
            self.post_message(self.Traced(self._times[self._cursor]))


class Overview(Panel):
    """The first screen."""

    NAME: ClassVar[str] = "Overview"

    def compose(self) -> ComposeResult:
        yield RingPane(id="ring")
        yield StartPane(id="start")
        yield ThroughputPane(id="throughput")
        yield LatencyPane(id="quantiles")
        yield PoolPane(id="pool")
        yield AdapterPane(id="busiest")
        yield LoadPane(id="load")
        yield EventPane()

    def paint(self, board: Board) -> None:
        self.set_class(board.is_starting, "-starting")
        super().paint(board)

    def focus_first(self) -> None:
        """Nothing: the overview is looked at; tab leads to the events."""
        self.screen.set_focus(None)

"""Bench: runs a workload against the pipeline and compares results."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.message import Message

from ....pipeline.bench.results import describe_load
from ....pipeline.bench.stats import Live
from ....pipeline.errors import OperatorError
from ...client.bench_metrics import METRICS, Metric
from ...client.bench_run import CANCELLED, WORKLOADS, BenchFiles, BenchPlan, BenchRun, Kept
from ...settings.toml_document import tidy
from ...state.board import Board
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, line, spread
from ..widgets.column import Column, number_column, text_column
from ..widgets.details import DetailsPane
from ..widgets.dialogs import LineSource, LiveDialog
from ..widgets.pane import Pane, Panel, field
from ..widgets.styles import MainScreen
from ..widgets.table import TablePane
from .bench_dialog import BenchDialog, FileDialog

COMPARED = (
    *("throughput", "tokens_s", "ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99"),
    *("inter_token_ms_p50", "inter_token_ms_p99", "slo_attainment", "jain", "errors"),
)
"""Metrics in the comparison of two runs."""
BARS = Metric("tokens_s", "tokens/s", True)
HEAD = 22
AXIS = 6
"""Cells of the plot's labels, at its left."""


def number(value: float | None) -> str:
    """`0.42`, `12.3`, `1 204`, `3` for an integer, `—` for None."""
    if value is None:
        return units.NOTHING
    if isinstance(value, int):
        return units.count(value)
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else units.count(value)


def _figures(title: str, width: int, name: str, rank: int) -> Column[Kept]:
    return number_column(
        title, width, lambda r: getattr(r.row.result, name), number, rank=rank, field=name
    )


class ResultTable(TablePane[Kept]):
    """Results, newest first; one may be marked as the baseline of comparisons."""

    TITLE = "results"
    PERIOD_S = 0.5
    EMPTY = "no results yet; n runs a workload"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("n", "new", "New run", id="bench-new", tooltip="a workload on this pipeline"),
        Binding("c", "cancel", "Cancel", id="bench-cancel", tooltip="cancel the current run"),
        Binding("b", "baseline", "Baseline", id="bench-baseline", tooltip="set as baseline"),
        Binding("o", "file", "Open file", id="bench-file", tooltip="results from a file"),
    ]

    class NewAsked(Message):
        """The operator wants to choose and run a workload."""

    class CancelAsked(Message):
        """The operator wants to end the current run."""

    class FileAsked(Message):
        """The operator wants to read another file of results."""

    def __init__(self, files: BenchFiles) -> None:
        super().__init__(id="results")
        self._files = files
        self.baseline = ""
        self.columns = (
            Column("", 1, lambda r, b, w: ((self._mark(r), "key"),)),
            Column(
                "when",
                14,
                lambda r, b, w: ((_when(r.at), "dim"),),
                order=lambda r: r.at,
                value=lambda r: r.at,
                field="at_unix_s",
            ),
            text_column(
                "workload",
                18,
                lambda r: describe_load(r.row.config),
                grows=True,
                wants=lambda r: len(describe_load(r.row.config)),
                least=12,
            ),
            text_column(
                "server",
                14,
                lambda r: units.visible(r.row.config.server),
                "dim",
                sorts=False,
                rank=9,
                grows=True,
                wants=lambda r: len(r.row.config.server),
            ),
            _figures("req/s", 7, "throughput", 3),
            _figures("tok/s", 7, "tokens_s", 1),
            _figures("TTFT ms", 8, "ttft_ms_p50", 2),
            _figures("p99", 8, "ttft_ms_p99", 5),
            _figures("ITL ms", 7, "inter_token_ms_p50", 4),
            _figures("p99", 7, "inter_token_ms_p99", 6),
            _figures("errors", 6, "errors", 7),
        )

    def _mark(self, row: Kept) -> str:
        return "◆" if self.row_key(row) == self.baseline else " "

    def rows(self, board: Board) -> Sequence[Kept]:
        return self._files.rows()

    def row_key(self, row: Kept) -> str:
        return f"{row.path}:{row.number}"

    def name_of(self, row: Kept) -> str:
        return f"{_when(row.at)} {describe_load(row.row.config)}"

    def lines_of(self, row: Kept) -> LineSource:
        found = result_lines(row)
        return lambda board, width: found

    def extracts(self, row: Kept) -> Mapping[str, str]:
        return {"file": str(row.path), "server": row.row.config.server}

    def filter_text(self, row: Kept, board: Board) -> str:
        config = row.row.config
        return f"{_when(row.at)} {describe_load(config)} {config.server} {row.path.name}"

    def held_against(self) -> Kept | None:
        """The baseline; if none is chosen, the last run of the same load before the selected. None
        if there is none, or it is the selected one."""
        rows, selected = self._files.rows(), self.selected
        if selected is None:
            return None
        for row in rows:
            if self.row_key(row) == self.baseline:
                return row if self.row_key(selected) != self.baseline else None
        load = selected.row.config.load_key()
        older = (r for r in rows if r.at < selected.at and r.row.config.load_key() == load)
        return next(older, None)

    def action_new(self) -> None:
        self.post_message(self.NewAsked())

    def action_cancel(self) -> None:
        self.post_message(self.CancelAsked())

    def action_file(self) -> None:
        self.post_message(self.FileAsked())

    def action_baseline(self) -> None:
        """Marks the selected run as the baseline, or removes the mark."""
        if (row := self.selected) is not None:
            self.baseline = "" if self.row_key(row) == self.baseline else self.row_key(row)
            self.paint()
            self.post_message(self.Moved())


def _when(at: float) -> str:
    return time.strftime("%m-%d %H:%M:%S", time.localtime(at))


class RunPane(Pane):
    """The current run, or the end of the last one."""

    TITLE = "run"

    def __init__(self) -> None:
        super().__init__(id="bench-run")
        self.run: BenchRun | None = None

    def caption(self, board: Board) -> Sequence[TextSpan]:
        run = self.run
        if run is None:
            return ()
        if run.is_running:
            return (("running", "good"),)
        return ((units.visible(run.error), "warn"),) if run.error else (("finished", "good"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        run = self.run
        if run is None:
            return [
                line(("n", "key"), (" runs a workload against this pipeline.", "dim")),
                line(("Runs as its own process; saves results.", "dim")),
            ]
        live = run.live
        if live is None:
            if run.error:
                return [line((text, "bad")) for text in units.wrap(run.error, width)]
            return [line(("starting the clients", "dim"))]
        filled, rest = plot.gauge(live.done / max(1, live.total), max(8, width - 6))
        left, took = run.left_s, units.duration(live.seconds)
        found = [
            spread(
                ((live.load, "title"),),
                ((f"run {live.run} of {live.runs}", "dim"),) if live.runs > 1 else (),
                width,
            ),
            line(
                (filled, "info"),
                (rest, "rest"),
                (f" {units.percent(live.done / max(1, live.total)):>5}", "number"),
            ),
            spread(
                ((f"{live.done} of {live.total} requests", "text"),),
                ((f"{units.duration(left)} left", "text"),)
                if left is not None
                else ((f"{took} so far" if run.is_running else f"took {took}", "dim"),),
                width,
            ),
            self._rates(run, live),
            line((f"{'':<14}", "dim"), *((f"{name:>10}", "dim") for name in ("p50", "p90", "p99"))),
            *(
                line(
                    (f"{name:<14}", "text"),
                    *((f"{units.milliseconds(value):>10}", "number") for value in values),
                )
                for name, values in (
                    ("TTFT", live.ttft_ms),
                    ("inter-token", live.inter_token_ms),
                )
            ),
        ]
        if run.error:
            found.append(line((units.visible(run.error), "bad")))
        rows = height - len(found)
        if rows >= 2 and run.speeds:
            found += self._plot(run, width, rows)
        return found

    def _rates(self, run: BenchRun, live: Live) -> TextLine:
        """Rates so far; dashes before the first token. While it runs, of the tokens streamed."""
        tokens = live.streamed if run.is_running else live.tokens
        requests_s, tokens_s = (
            count / live.seconds if count and live.seconds else None
            for count in (live.done, tokens)
        )
        return line(
            (number(requests_s), "number"),
            (" requests/s  ", "dim"),
            (number(tokens_s), "number"),
            (" tokens/s  ", "dim"),
            (f"{live.errors}", "bad" if live.errors else "number"),
            (" errors", "dim"),
        )

    def origin(self, board: Board) -> tuple[int, float, float] | None:
        """Of the plot, whose ticks are seconds before the run's end, or before now."""
        if self.run is None or not self.run.speeds:
            return None
        return AXIS, 2 * max(1, self.size.width - 4 - AXIS) * self.run.interval_s, 0.0

    def _plot(self, run: BenchRun, width: int, rows: int) -> Sequence[TextLine]:
        cells = max(1, width - AXIS)
        speeds = run.speeds[-2 * cells :]
        values = [float("nan")] * (2 * cells - len(speeds)) + speeds
        top = plot.top_of(max(speeds))
        labels = [f"{units.tick(top):>5} ", *[" " * AXIS] * (rows - 2), f"{'0':>5} "]
        if rows > 2:
            labels[1] = "tok/s "
        areas = plot.area(values, rows, top)
        return [
            line((label, "dim"), (row, "info")) for label, row in zip(labels, areas, strict=False)
        ]


class ComparePane(Pane):
    """The selected run beside the baseline, metric by metric, and all runs of its load as bars."""

    PERIOD_S = 0.5

    def __init__(self, table: ResultTable) -> None:
        super().__init__(id="bench-compare")
        self._table = table

    def title(self, board: Board) -> Sequence[TextSpan]:
        row = self._table.selected
        return (("comparison: ", "dim"), (describe_load(row.row.config), "title")) if row else ()

    def caption(self, board: Board) -> Sequence[TextSpan]:
        """What the selected run is compared with."""
        row = self._table.selected
        if row is None:
            return ()
        if self._table.held_against() is None:
            is_baseline = self._table.row_key(row) == self._table.baseline
            return (("baseline" if is_baseline else "first run of this workload", "dim"),)
        which = "baseline" if self._table.baseline else "previous run"
        return (("vs ", "dim"), (which, "text"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        row = self._table.selected
        if row is None:
            return [line(("nothing to compare", "dim"))]
        base = self._table.held_against()
        against = f"{'vs':>12}  {_when(base.at)}" if base else "  b sets a baseline"
        found = [
            line((f"{'':<{HEAD}}", "dim"), (f"{'this':>10}", "title"), (against, "dim")),
        ]
        for metric in METRICS:
            if metric.field in COMPARED:
                found.append(_compared(metric, row, base))
        found = found[: max(1, height)]
        if height - len(found) >= 3:
            found += [TextLine(), line((f"{BARS.label} of its runs", "title"))]
            found += self._bars(row, width, height - len(found))
        return found

    def _bars(self, row: Kept, width: int, rows: int) -> Sequence[TextLine]:
        """Bars of this load's runs to one scale, newest first."""
        load = row.row.config.load_key()
        same = [r for r in self._table._files.rows() if r.row.config.load_key() == load][:rows]
        most = max(getattr(r.row.result, BARS.field) for r in same)
        found = []
        for each in same:
            value = getattr(each.row.result, BARS.field)
            filled, rest = plot.gauge(value / most if most else 0.0, max(4, width - 26))
            is_this = self._table.row_key(each) == self._table.row_key(row)
            found.append(
                line(
                    (f"{'▸' if is_this else ' '}{_when(each.at):<15}", "key" if is_this else "dim"),
                    (filled, "info"),
                    (rest, "rest"),
                    (f"{number(value):>9}", "number"),
                )
            )
        return found


def _compared(metric: Metric, row: Kept, base: Kept | None) -> TextLine:
    """`tokens/s   123.4   110.2  1.12x ▲`: an arrow up is better, down worse."""
    value = getattr(row.row.result, metric.field)
    spans: list[TextSpan] = [
        (units.fit(metric.label, HEAD), "text"),
        (f"{number(value):>10}", "number"),
    ]
    if base is not None:
        before = getattr(base.row.result, metric.field)
        spans.append((f"{number(before):>12}", "dim"))
        if before and value is not None:
            ratio = value / before
            mark, style = "", "dim"
            if metric.more_is_better is not None and abs(ratio - 1) >= 0.02:
                is_better = (ratio > 1) == metric.more_is_better
                mark, style = (" ▲ better", "good") if is_better else (" ▼ worse", "bad")
            spans.append((f"{ratio:>8.2f}x{mark}", style))
    return TextLine(tuple(spans))


class BenchPanel(Panel):
    """The current run, all results, and a comparison."""

    NAME: ClassVar[str] = "Bench"

    def __init__(self) -> None:
        super().__init__()
        self._files = BenchFiles()
        self._plans = {name: BenchPlan.usual(name) for name in WORKLOADS}
        self._workload = "chat"
        """The workload preselected in the form: that of the last run; `_plans` has its values."""
        self._run: BenchRun | None = None

    def compose(self) -> ComposeResult:
        table = ResultTable(self._files)
        yield RunPane()
        yield ComparePane(table)
        yield table
        yield DetailsPane(table)

    @property
    def is_live(self) -> bool:
        return self._run is not None and self._run.is_running

    def focus_first(self) -> None:
        self.query_one(ResultTable).focus(scroll_visible=False)

    def on_table_pane_moved(self) -> None:
        self.query_one(ComparePane).paint()
        self.query_one(DetailsPane).paint()

    def on_table_pane_opened(self, message: TablePane.Opened) -> None:
        kept: Kept = message.row
        compared = self.query_one(ComparePane)
        details = self.query_one(ResultTable).lines_of(kept)
        self.app.push_screen(
            LiveDialog(
                describe_load(kept.row.config),
                lambda board, width: [
                    *compared.draw_lines(board, width, 11),
                    TextLine(),
                    *details(board, width),
                ],
            )
        )

    def on_result_table_new_asked(self) -> None:
        if self.query_one(RunPane).painted_app.refuses("bench-new"):
            self.notify(self.query_one(RunPane).painted_app.refusal, severity="error")
            return
        if self.is_live:
            self.notify("c cancels it", title="A run is in progress", severity="warning")
            return
        self._ask()

    def _ask(self, wrong: str = "") -> None:
        models = [row.name for row in self.query_one(RunPane).painted_app.board.adapters]
        dialog = BenchDialog(self._plans, self._workload, wrong, models)
        self.app.push_screen(dialog, self._start)

    def on_result_table_file_asked(self) -> None:
        self.app.push_screen(FileDialog(), self._open)

    def _open(self, path: str | None) -> None:
        if not path:
            return
        try:
            self._files.open(Path(path).expanduser())
        except OperatorError as error:
            self.notify(error.hint, title=error.what, severity="error", markup=False)
        self.query_one(ResultTable).paint()

    def on_result_table_cancel_asked(self) -> None:
        if self._run is not None and self._run.is_running:
            self._run.cancel()
        else:
            self.notify("No run is in progress.")

    def _start(self, plan: BenchPlan | None) -> None:
        if plan is None:
            return
        self._workload = plan.workload
        self._plans[plan.workload] = plan
        app = self.query_one(RunPane).painted_app
        server = app.board.server
        if server is None:
            self.notify("wait until it is READY", title="The server is not ready")
            return
        label = app.board.base_model or server.url
        run = BenchRun(plan, server.url, app.api_key, label, self._files.new())
        self._run = self.query_one(RunPane).run = run
        self.run_worker(self._watch(run), name="bench", exit_on_error=True)

    async def _watch(self, run: BenchRun) -> None:
        """Waits for the run; its output only wakes the tick, so lines are not drawn one by one."""
        await run.run(self.query_one(RunPane).painted_app.wake)
        if not self.is_attached:
            return
        if not run.error:
            self._show_result(run)
        if self.display:
            for pane in self.panes:
                pane.paint()
        is_looked_at = self.display and isinstance(self.app.screen, MainScreen)
        if run.is_refused and is_looked_at:
            self._ask(run.error)  # for the operator to correct the form
        elif run.error and run.error != CANCELLED:
            self.notify(run.error, title="bench", severity="error", markup=False)
        elif not run.error:
            self.notify(f"{run.plan.workload} is finished{self._gain()}", title="bench")

    def _show_result(self, run: BenchRun) -> None:
        """Puts the cursor on the run's last result; it is compared with the last of its load."""
        table = self.query_one(ResultTable)
        found = [row for row in self._files.rows() if row.path == run.out]
        if found:
            table.go_to(table.row_key(found[0]))

    def _gain(self) -> str:
        """`: 262 tokens/s, 1.04x of the last one`: the selected result in short."""
        table = self.query_one(ResultTable)
        if (row := table.selected) is None:
            return ""
        speed = row.row.result.tokens_s
        base = table.held_against()
        before = base.row.result.tokens_s if base else None
        which = "baseline" if table.baseline else "previous run"
        ratio = f", {speed / before:.2f}x the {which}" if speed and before else ""
        return f": {number(speed)} tokens/s{ratio}"

    def on_unmount(self) -> None:
        if self._run is not None:
            self._run.kill()


def result_lines(kept: Kept) -> Sequence[TextLine]:
    """All metrics of a run, its parameters, and the service of each adapter."""
    config, result = kept.row.config, kept.row.result
    found = [
        line(*field("when"), (_when(kept.at), "text")),
        line(*field("file"), (tidy(str(kept.path)), "text")),
        line(*field("server"), (units.visible(config.server), "text")),
    ]
    for name, value in sorted(config.parameters.items()):
        found.append(line((f"{name:<{HEAD}}", "dim"), (units.visible(str(value)), "text")))
    found += [TextLine(), line(("figures", "title"))]
    for metric in METRICS:
        value = getattr(result, metric.field)
        found.append(line((f"{metric.label:<28}", "text"), (f"{number(value):>10}", "number")))
    found += [
        TextLine(),
        line((f"{'adapter':<28}{'requests':>10}{'service':>10}{'TTFT':>12}", "dim")),
    ]
    for name, adapter in result.adapters.items():
        found.append(
            line(
                (units.fit(units.visible(name), 28), "text"),
                (f"{adapter.requests:>10}{number(adapter.service):>10}", "number"),
                (f"{units.milliseconds(adapter.ttft_ms_p50):>12}", "number"),
            )
        )
    return found

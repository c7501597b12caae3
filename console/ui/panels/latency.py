"""Latency: the time of a step by parts, above all the host's wait for the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual.app import ComposeResult

from ....pipeline.messages import Step
from ....pipeline.runtime.step_statistics import part_us, step_us
from ...commands.pipeline import ProfileCommand
from ...state.board import DEVICE_PARTS, HOST_PARTS, WINDOW_S, Board, Quantiles
from ...state.span_tail import SpanTail
from ...text import plot, units
from ...text.lines import TextLine, TextSpan, crop, length, line
from ...text.lora_tax import tax_spans
from ..plots.step_plots import MARKS, NAMES, NO_STEP, PartsPane
from ..widgets.order_asked import OrderAsked
from ..widgets.pane import Pane, Panel

OLD_S = 5.0
"""Age of the newest step from which it is shown."""
STEPS_OF_SPANS = 3
ASK_SECONDS = 1.0
"""Seconds between two requests for newer spans."""
INKS_OF_DEPTH = ("info", "part-launch", "part-copy", "part-busy")


class ReadsPane(Pane):
    """Bytes that a decode step reads, its read rate, and the overhead of adapters. For steps with
    prompts, which are compute-bound, tokens a second."""

    TITLE = "decode memory traffic"
    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(id="reads")

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if board.copy_bytes_s is None:
            return ()
        return (
            *_idle(board),
            ("peak copy ", "dim"),
            (units.speed(board.copy_bytes_s), "number"),
        )

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        reads = board.decode_statistics
        if not board.times_steps:
            return [line(("off: --no-step-times", "dim"))]
        if not reads.step_bytes:
            return [line(("no decode steps yet", "dim"))]
        cells = max(1, width - 21)
        parts = (
            ("weights", reads.weights, "base"),
            ("adapters", reads.adapters, "pool-adapters"),
            ("KV", reads.kv, "pool-kv"),
        )
        found = []
        for name, num_bytes, style in parts:
            filled, _ = plot.bar(num_bytes / reads.step_bytes, cells)
            found.append(
                line(
                    (f"{name:<10}", "text"),
                    (f"{units.size(num_bytes):>9}  ", "number"),
                    (filled, style),
                )
            )
        is_wide = width >= 48
        found.append(
            line(
                (f"{'total':<10}", "text"),
                (f"{units.speed(reads.bytes_s):>9}", "number"),
                (f"  {units.share(board.read_share)}", "number"),
                (" of peak copy bandwidth" if is_wide else " of peak", "dim"),
            )
        )
        tax = reads.lora_tax
        base = ((", base ", "dim"), (units.milliseconds(tax.base_ms), "number"))
        found.append(
            line(
                (f"{'LoRA tax':<10}", "text"),
                *tax_spans(tax, board.now),
                *(base if width >= 60 and tax.pairs else ()),
            )
        )
        rate = units.NOTHING if reads.prompt_rate is None else units.rate(reads.prompt_rate)
        found.append(
            line(
                (f"{'prefill':<10}", "text"),
                (f"{rate:>9}", "number"),
                (" tok/s, compute-bound" if is_wide else " tok/s", "dim"),
            )
        )
        return found


class FlamePane(Pane):
    """The last steps, one per line, parts of host and device to one scale; or the newest spans."""

    TITLE = "last steps"
    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(id="flame")
        self.until: float | None = None
        """The end of the last step that is shown, unix seconds; None shows the newest."""
        self.tail: SpanTail | None = None
        """The spans to show instead of steps; None shows steps."""
        self._asked_at = 0.0

    def title(self, board: Board) -> Sequence[TextSpan]:
        return (("spans of the last steps" if self.tail else self.TITLE, "title"),)

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if self.tail is not None:
            word = self.tail.recording or "no spans recorded"
            return ((word, "dim"),)
        spans: list[TextSpan] = [("host ", "title")]
        for part in (*HOST_PARTS, *DEVICE_PARTS):
            if part == DEVICE_PARTS[0]:
                spans.append((" │ device ", "title"))
            spans += [(f" {MARKS[part]} ", f"part-{part}"), (part, "dim")]
        return spans if length(spans) < self.size.width - 20 else ()

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if self.tail is not None:
            return self._spans(board, self.tail, width, height)
        steps: list[Step] = []
        for step in reversed(board.steps):
            if self.until is None or step.at <= self.until:
                steps.append(step)
                if len(steps) == height:
                    break
        if not steps:
            return [line(("no step there", "dim"))]
        longest = max(max(_lane(step, HOST_PARTS), _lane(step, DEVICE_PARTS)) for step in steps)
        cells = max(2, (width - 25) // 2)  # `prefill  128` before them and the time after them
        return [self._step(step, longest, cells) for step in steps]

    def _spans(self, board: Board, tail: SpanTail, width: int, height: int) -> Sequence[TextLine]:
        """Spans in the time of the last few steps, a row per process and depth:
        `▏_decode_batch─────────▏_init_batch─`."""
        if abs(board.now - self._asked_at) >= ASK_SECONDS:  # abs: a replay's clock may go back
            self._asked_at = board.now
            self.painted_app.ask_spans(tail.stamp)
        if board.spans is not None:
            tail.fold_ends(board.spans)
        if not tail.end:
            return [
                line(("r", "key"), (" records spans of every process. They appear here", "dim")),
                line(("a second later; `loraconsole spans` reads them from RUN/spans.", "dim")),
            ]
        medians = {q.name: q.p50 for q in board.phase_quantiles if q.p50 is not None}
        step_ms = medians.get("decode") or max(medians.values(), default=30.0)
        span_us = STEPS_OF_SPANS * step_ms * 1e3
        since, cells = tail.end - span_us, max(10, width - 11)
        found = []
        for row in tail.rows(since, tail.end, height - 1):
            label = row.process if row.depth == 0 else ""
            spans: list[TextSpan] = [(f"{label:<10} ", "title")]
            at = 0
            for event in row.spans:
                first = max(at, round((event.ts - since) / span_us * cells))
                last = min(cells, max(first + 1, round((event.end - since) / span_us * cells)))
                if first >= cells:
                    break
                text = units.fit(event.name, last - first - 1).replace(" ", "─")
                spans += [(" " * (first - at), "text"), (f"▏{text}", INKS_OF_DEPTH[row.depth % 4])]
                at = last
            found.append(TextLine(crop(spans, width)))
        axis = f"{units.milliseconds(span_us / 1e3)} until the newest span's end"
        return [*found, line((f"{axis:>{width}}", "dim"))]

    def _step(self, step: Step, longest: int, cells: int) -> TextLine:
        spans: list[TextSpan] = [
            (f"{step.phase:<8}", "prefill" if step.phase == "prefill" else "text"),
            (f"{step.rows:>4} ", "dim"),
        ]
        for parts in (HOST_PARTS, DEVICE_PARTS):
            size = round(_lane(step, parts) / longest * cells) if longest else 0
            values = [part_us(step, part) for part in parts]
            spans.append(("│", "faint"))
            for part, share in zip(parts, plot.shares(values, sum(values), size), strict=True):
                spans.append((MARKS[part] * share, f"part-{part}"))
            spans.append((" " * (cells - size), "text"))
        spans.append((f"{units.milliseconds(step_us(step) / 1e3):>9}", "number"))
        return TextLine(tuple(spans))


def _idle(board: Board) -> tuple[TextSpan, ...]:
    """`3 m ago  `: how old the newest step is, if what is shown is not of now."""
    return ((f"{units.age(board.idle_s)} ago  ", "warn"),) if board.idle_s >= OLD_S else ()


def _lane(step: Step, parts: Sequence[str]) -> int:
    """Total microseconds of `parts`."""
    return sum(part_us(step, part) for part in parts)


class QuantilePane(Pane):
    """Percentiles of client latencies, of steps by phase, and of waits for the device by point."""

    TITLE = "percentiles"
    PERIOD_S = 0.5

    def __init__(self) -> None:
        super().__init__(id="percentiles")

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return ((f"last {WINDOW_S:.0f} s", "dim"),)

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        has_most = width >= 52
        cell = 9
        names = ("p50", "p90", "p99", "max") if has_most else ("p50", "p90", "p99")
        room = width - cell * len(names)
        counted = room >= 19
        blank = " " * room
        head = line((blank, "dim"), *((f"{name:>{cell}}", "dim") for name in names))

        def row(quantiles: Quantiles, name: str) -> TextLine:
            number = f"{units.count(quantiles.count):>7} " if counted else ""
            values = (quantiles.p50, quantiles.p90, quantiles.p99, quantiles.most)
            return line(
                (units.fit(name, room - len(number)), "text"),
                (number, "dim"),
                *(
                    (f"{units.milliseconds(value):>{cell}}", "number" if quantiles.count else "dim")
                    for value in values[: len(names)]
                ),
            )

        found = [head]
        found += [row(board.ttft_quantiles, "TTFT")]
        found += [row(board.inter_token_quantiles, "inter-token" if room > 10 else "inter-tok")]
        found += [row(q, q.name if width < 40 else f"{q.name} step") for q in board.phase_quantiles]
        found += [
            row(q, "sync wait" if q.name == "step" else f"sync {q.name}")
            for q in board.sync_quantiles
        ]
        return found


class HistogramPane(Pane):
    """A histogram of durations: one line per bucket, five buckets per decade."""

    PERIOD_S = 0.5
    KINDS = ("sync", "step", "busy", "launch", "host", "copy")

    def __init__(self) -> None:
        super().__init__(id="histogram")
        self._kind = 0

    @property
    def kind(self) -> str:
        return self.KINDS[self._kind]

    @property
    def is_first(self) -> bool:
        return self._kind == 0

    def turn(self) -> None:
        self._kind = (self._kind + 1) % len(self.KINDS)
        self.paint()

    def title(self, board: Board) -> Sequence[TextSpan]:
        return (("histogram of ", "dim"), (NAMES[self.kind], "title"))

    def caption(self, board: Board) -> Sequence[TextSpan]:
        return (*_idle(board), (units.count(len(board.steps)), "number"), (" steps", "dim"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not board.steps:
            return [line((NO_STEP, "dim"))]
        kind = self.kind
        values = [step_us(s) if kind == "step" else part_us(s, kind) for s in board.steps]
        buckets = _buckets(values, height)
        most = max(count for _, count in buckets)
        style = "info" if kind == "step" else f"part-{kind}"
        cells = max(1, width - 18)
        found = []
        for bound, count in buckets:
            filled, rest = plot.bar(count / most, cells)
            found.append(
                line(
                    (f"≤{units.milliseconds(bound / 1e3):>9} ", "dim"),
                    (filled + rest, style),
                    (f"{units.count(count):>7}", "number" if count else "dim"),
                )
            )
        return found


def _buckets(values: Sequence[int], most: int) -> list[tuple[float, int]]:
    """Upper bound, µs, and count of each bucket; neighbours are merged until `most` are left."""
    bounds = [base * 10.0**power for power in range(8) for base in (1.0, 1.6, 2.5, 4.0, 6.3)]
    counts = [0] * len(bounds)
    for value in values:
        counts[next((i for i, bound in enumerate(bounds) if value <= bound), -1)] += 1
    first = next(i for i, count in enumerate(counts) if count)
    last = max(i for i, count in enumerate(counts) if count)
    found = list(zip(bounds[first : last + 1], counts[first : last + 1], strict=True))
    while len(found) > max(1, most):
        pairs = [found[i : i + 2] for i in range(len(found) % 2, len(found), 2)]
        joined = [(pair[-1][0], sum(count for _, count in pair)) for pair in pairs]
        found = found[: len(found) % 2] + joined
    return found


class LatencyPanel(Panel):
    """Plots and percentiles, with the last steps below."""

    NAME: ClassVar[str] = "Latency"

    def compose(self) -> ComposeResult:
        yield PartsPane()
        yield ReadsPane()
        yield QuantilePane()
        yield HistogramPane()
        yield FlamePane()

    def on_plot_pane_cursor_moved(self, message: PartsPane.CursorMoved) -> None:
        flame = self.query_one(FlamePane)
        flame.until = message.at
        flame.paint()

    def on_parts_pane_spans_asked(self) -> None:
        self._show_spans(self.query_one(FlamePane).tail is None)

    def _show_spans(self, wanted: bool) -> None:
        flame = self.query_one(FlamePane)
        flame.tail = SpanTail() if wanted else None
        flame.paint()

    def on_parts_pane_record_asked(self) -> None:
        """Starts a recording, or stops the one that runs, also one that another console started."""
        app = self.query_one(FlamePane).painted_app
        starts = not app.board.is_recording
        command = ProfileCommand(verb="start" if starts else "stop")
        self.post_message(OrderAsked(command.order(app.orders.inbox, app.clock())))
        if starts:
            self._show_spans(True)

    def on_parts_pane_turned(self) -> None:
        """Shows the next part. If the histogram has no room of its own, it replaces the percentiles
        until all parts have been shown."""
        self.unzoom()
        histogram = self.query_one(HistogramPane)
        if not histogram.display:
            self.add_class("-histogram")
            return
        histogram.turn()
        if histogram.is_first:
            self.remove_class("-histogram")

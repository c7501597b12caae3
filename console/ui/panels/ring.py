"""`RingPane`: a diagram of the processes and their message rates; one line of badges where there is
no room for it."""

from __future__ import annotations

from collections.abc import Sequence

from ....pipeline.messages import ProcessState
from ...state.board import SUPERVISOR, Board, ProcessRow
from ...text import units
from ...text.canvas import Canvas
from ...text.lines import TextLine, TextSpan, length, line
from ..widgets.pane import Pane

BOX_HEIGHT = 4


class RingPane(Pane):
    """A diagram of the processes, the message rates between them, and the queue."""

    TITLE = "ring"
    PERIOD_S = 0.5

    def caption(self, board: Board) -> Sequence[TextSpan]:
        if not board.started_at:
            return ()
        return (("up ", "dim"), (units.uptime(board.now - board.started_at), "text"))

    def draw_lines(self, board: Board, width: int, height: int) -> Sequence[TextLine]:
        if not board.processes:
            return self._absent(board, height)
        if height < 2 * BOX_HEIGHT:
            return [_badges(board, width)]
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
        if board.router is not None and gap >= 9:
            waiting = board.router.waiting
            queue = f"{units.count(waiting)} queued"[: gap - 2]
            x = box + (gap - len(queue)) // 2
            canvas.put(x, 2, queue, "warn" if waiting else "dim")
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

    def _absent(self, board: Board, height: int) -> Sequence[TextLine]:
        first = line(("No pipeline answers yet in ", "title"), (board.run, "text"), (".", "title"))
        if height < 5:
            return [line(*first.spans, (" loraconsole doctor", "key"), (" shows why", "dim"))]
        return [
            TextLine(),
            first,
            TextLine(),
            line(("loraconsole up", "key"), ("       starts one without a console", "dim")),
            line(("loraconsole doctor", "key"), ("   shows what prevents a start", "dim")),
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
        word = process.word.upper()
        mark = "●" if process.state is ProcessState.READY and not ill else "◌"
        canvas.put(x + 2, y + 1, mark, level)
        canvas.put(x + 4, y + 1, word, level if ill else "text")
        inside = width - 4
        if process.age_s is not None and process.pid:
            beat = f" {'beat ' if width >= 26 else ''}{_age(process.age_s)} "
            canvas.put(x + width - 2 - len(beat), y + BOX_HEIGHT - 1, beat, "dim")
        cpu = f"{process.cpu_fraction * 100:.0f} %"
        if process.pid and len(word) + len(cpu) + 3 <= inside:
            canvas.put(x + width - 2 - len(cpu), y + 1, cpu, "number")
        if ill and (why := _why(process)):
            canvas.put(x + 2, y + 2, units.fit(why, inside), level)
            return
        pid = f"pid {process.pid}" if process.pid else "no process"
        size = units.size(process.rss_bytes) if process.pid else ""
        if len(pid) + len(size) < inside:
            canvas.put(x + 2, y + 2, pid, "dim")
        canvas.put(x + width - 2 - len(size), y + 2, size, "text")

    def _note(self, canvas: Canvas, x: int, board: Board) -> None:
        """The supervisor's state, the HTTP address, and the number of requests."""
        supervisor = board.process(SUPERVISOR)
        if supervisor is not None:
            canvas.put(x, BOX_HEIGHT + 1, "supervisor", "dim")
            word = supervisor.word.upper()
            mark = "●" if supervisor.level == "good" else "◌"
            canvas.put(x + 11, BOX_HEIGHT + 1, f"{mark} {word}", supervisor.level)
        if board.server is not None:
            canvas.put(x, BOX_HEIGHT + 2, "HTTP", "dim")
            canvas.put(x + 11, BOX_HEIGHT + 2, board.server.url, "text")
            canvas.put(x, BOX_HEIGHT + 3, "requests", "dim")
            rate = f"{units.rate(board.request_rate)}/s"
            errors = (
                f", {units.count_noun(board.server.errors, 'error')}" if board.server.errors else ""
            )
            text = f"{rate}  {units.count(board.server.requests)} so far{errors}"
            if x + 11 + len(text) > canvas.width:
                text = text.replace(" so far", "")
            canvas.put(x + 11, BOX_HEIGHT + 3, text, "text")


def _why(process: ProcessRow) -> str:
    """Why it is not well: why it fell, else the reason of its state."""
    if process.is_recovering and process.fall_reason:
        return units.visible(process.fall_reason)
    return units.visible(process.reason)


def _badges(board: Board, width: int) -> TextLine:
    """`● server 28 %  ● router 38 %  ◌ worker-0 BACKOFF killed by SIGKILL`: where there is no
    room, without reasons, then without CPU, then without the states of those that are not bad, then
    without a supervisor that is well."""
    rows = [row for row in board.processes if row.name not in (SUPERVISOR, "fetch")]
    order = {name: at for at, name in enumerate(("server", "router"))}
    rows.sort(key=lambda row: order.get(row.name, 2 + (row.name == "detokenizer")))
    rows += [row for row in (board.process(SUPERVISOR),) if row is not None]
    for left_out in range(5):
        spans: list[TextSpan] = []
        if left_out > 3 and rows[-1].name == SUPERVISOR and rows[-1].level == "good":
            rows.pop()
        for row in rows:
            spans += [("  " if spans else "", "text"), *_badge(row, left_out)]
        if length(spans) <= width:
            break
    return line(*spans)


def _badge(row: ProcessRow, left_out: int) -> tuple[TextSpan, ...]:
    """One process; from `left_out` 1 on without its reason, 2 its CPU, 3 its state unless bad."""
    name = "detok" if row.name == "detokenizer" else row.name
    is_well = row.level == "good"
    mark: TextSpan = ("● " if is_well else "◌ ", row.level)
    if is_well:
        is_shown = left_out < 2 and row.name != SUPERVISOR
        cpu = f" {row.cpu_fraction * 100:.0f} %" if is_shown else ""
        return (mark, (name, "text"), (cpu, "dim"))
    if left_out and (row.level == "dim" or (left_out > 2 and row.level != "bad")):
        return (mark, (name, row.level))
    reason = f" {why}" if not left_out and (why := _why(row)) else ""
    return (mark, (f"{name} {row.word.upper()}{reason}", row.level))


def _workers_name(workers: Sequence[ProcessRow]) -> str:
    return f"workers 0-{len(workers) - 1}" if len(workers) > 1 else "worker-0"


def _gather(workers: Sequence[ProcessRow]) -> ProcessRow | None:
    """One row for all ranks: that of the worker in the worst state."""
    if not workers:
        return None
    order = ("good", "dim", "warn", "bad")
    return max(workers, key=lambda worker: order.index(worker.level))


def _age(seconds: float) -> str:
    """The age of a heartbeat; constant below a second, so that it is not redrawn."""
    return "<1 s" if seconds < 1 else units.age(seconds)


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

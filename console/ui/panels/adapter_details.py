"""Lines on an adapter: its mark, state and details, its plan and its verification."""

from __future__ import annotations

from collections.abc import Sequence

from ....pipeline.messages import AdapterPlan, AdapterState, AdapterView, Comparison
from ....pipeline.runtime.wording import counted
from ...state.adapter_costs import tokens_of
from ...state.adapter_history import MarkKind
from ...state.board import WHERE, AdapterRow, AdapterVerification, Board, Level
from ...text import units
from ...text.lines import TextLine, TextSpan, line
from ...text.reasons import cause_first, reason_first
from ..plots.adapter_plot import SIGNS
from ..widgets.pane import field, wrapped_field

STATES: dict[AdapterState, tuple[str, Level]] = {
    AdapterState.GPU: ("●", "good"),
    AdapterState.HOST: ("◐", "good"),
    AdapterState.REGISTERED: ("○", "dim"),
    AdapterState.FETCHING: ("▸", "warn"),
    AdapterState.VALIDATING: ("▸", "warn"),
    AdapterState.LOADING: ("▸", "warn"),
    AdapterState.DRAINING: ("◌", "warn"),
    AdapterState.GONE: ("○", "dim"),
    AdapterState.FAILED: ("✗", "bad"),
}
PLACES = {
    AdapterState.HOST: "host",
    AdapterState.LOADING: "host",
    AdapterState.GPU: "device",
    AdapterState.DRAINING: "device",
}
"""The place nearest to the device that holds the weights, by state; in other states the disk."""
MODULES = {
    "q_proj": "q",
    "k_proj": "k",
    "v_proj": "v",
    "o_proj": "o",
    "gate_proj": "gate",
    "up_proj": "up",
    "down_proj": "down",
}
HISTORY = 6
"""Most changes that the details list, the newest first."""
PINNED, MERGED, ODD = "⚑", "⊕", "△"


def targets(modules: Sequence[str]) -> str:
    """`q k v o gate up down`: the modules that an adapter changes, in layer order."""
    known = [short for name, short in MODULES.items() if name in modules]
    return " ".join([*known, *(units.visible(name) for name in modules if name not in MODULES)])


def place(view: AdapterView) -> str:
    """The place of its weights nearest to the device: `disk`, `host` or `device`."""
    if view.state is AdapterState.DRAINING and not view.pages:
        return "host"
    return PLACES.get(view.state, "disk")


def state(row: AdapterRow, board: Board) -> TextSpan:
    """The adapter's state, or this console's pending order for it."""
    if board.is_stopped and not row.has_failed:
        return ("○ not running", "dim")
    if board.has_worker_down and place(row.view) == "device":  # the device's memory is gone
        return ("○ worker down", "warn")
    doing = board.orders.get("" if row.is_base else row.name)
    mark, level = STATES[row.view.state]
    if doing and level != "warn":  # a state in progress says more than the order
        return (f"▸ {doing}", "warn")
    return (f"{mark} {WHERE.get(row.view.state, row.view.state.value)}", level)


def share_of_hits(view: AdapterView) -> str:
    """The share of its requests that found the adapter in the pool."""
    return units.share(view.hits / view.requests if view.requests else None)


def remark(row: AdapterRow) -> TextSpan | None:
    """The reason of its state, or a warning, the cause first; None if there is neither."""
    view = row.view
    if view.reason:
        return (reason_first(units.visible(view.reason)), _reason_style(view))
    if view.warning:
        return (f"{ODD} {reason_first(units.visible(view.warning))}", "warn")
    return None


def _reason_style(view: AdapterView) -> str:
    """That of its state; an eviction, which is the reason of one in memory, is no fault."""
    return "dim" if view.state is AdapterState.HOST else STATES[view.state][1]


class AdapterDetails:
    """The lines of an adapter's dialog: state, cost, work, weights, history, verification."""

    def __init__(self, row: AdapterRow) -> None:
        self._row = row

    def lines(self, board: Board, width: int) -> Sequence[TextLine]:
        """The details from `board`; once the adapter is unloaded, the last known ones."""
        known = (self._row.is_base, self._row.name)
        now = next((row for row in board.adapters if (row.is_base, row.name) == known), None)
        self._row = row = now or self._row
        view = row.view
        ago = units.age(max(0.0, board.now - view.since))
        head: TextSpan = state(row, board) if now else ("○ unloaded", "dim")
        lines = [line(*field("state"), head, (f"  for {ago}", "dim"))]
        if view.reason:
            lines += wrapped_field("why", cause_first(view.reason), _reason_style(view), width)
        if view.warning:
            lines += wrapped_field("warning", cause_first(view.warning), "warn", width)
        lines += [TextLine(), line(("cost", "title")), *_costs(row)]
        lines += [TextLine(), line(("work", "title")), *_work(row)]
        lines += [TextLine(), line(("weights", "title"))]
        if not row.is_base:
            lines += _identity(view)
        lines.append(line(*field("size"), (units.size(view.num_bytes), "text")))
        lines += wrapped_field("path", view.path, "text", width)
        if history := [mark for mark in row.marks if mark[1] != "hit"][-HISTORY:]:
            lines += [TextLine(), line(("since this console attached", "title"))]
            lines += [_happened(at, kind) for at, kind in reversed(history)]
        result = None if row.is_base else board.verifications.get(row.name)
        if result is not None:
            lines += [
                TextLine(),
                line(("verification", "title")),
                *verification_lines(result, width),
            ]
        return lines


def _identity(view: AdapterView) -> list[TextLine]:
    """An adapter's places, pin, merge, rank, modules, generation and digest."""
    return [
        line(*field("location"), (_residency(view), "text")),
        line(*field("pinned"), *_yes(view.pinned, PINNED, "never evicted")),
        line(*field("merged"), *_yes(view.merged, MERGED, "has a copy of the weights")),
        line(*field("rank"), (f"{view.rank or units.NOTHING}", "text")),
        line(*field("modules"), (targets(view.target_modules) or units.NOTHING, "text")),
        line(*field("generation"), (f"{view.generation}", "text")),
        line(*field("digest"), (view.digest[:32] or units.NOTHING, "text")),
    ]


def _costs(row: AdapterRow) -> list[TextLine]:
    """An adapter's shares, its pages of KV and the times of its requests."""
    view, costs = row.view, row.costs
    rows = (
        ("device time", costs.device, costs.run_device, units.duration(view.device_us / 1e6)),
        ("tokens", costs.tokens, costs.run_tokens, units.count(tokens_of(view))),
    )
    lines = [
        line(
            *field(name),
            (f"{units.part(now):>5}", "number"),
            (" last minute  ", "dim"),
            (f"{units.part(run):>5}", "number"),
            (f" since start, {amount}", "dim"),
        )
        for name, now, run, amount in rows
    ]
    lines.append(
        line(
            *field("pages now"),
            (f"{view.kv_pages:>5}", "number"),
            (" KV  ", "dim"),
            (f"{view.pages:>5}", "number"),
            (" weights", "dim"),
        )
    )
    times = (
        ("TTFT", view.ttft_p50_ms, view.ttft_p99_ms),
        ("queue wait", view.wait_p50_ms, view.wait_p99_ms),
    )
    return lines + [
        line(
            *field(name),
            (" p50 ", "dim"),
            (f"{units.milliseconds(p50):>7}", "number"),
            ("  p99 ", "dim"),
            (f"{units.milliseconds(p99):>7}", "number"),
            (" last 10 minutes", "dim"),
        )
        for name, p50, p99 in times
    ]


def _work(row: AdapterRow) -> list[TextLine]:
    """Requests and tokens of an adapter."""
    view = row.view
    lines = [
        line(*field("now"), (f"{view.running} running, {view.waiting} waiting", "text")),
        line(*field("speed"), (f"{row.rate_text} tok/s", row.color)),
        line(*field("requests"), (units.count(view.requests), "text")),
        line(
            *field("tokens"),
            (units.count(view.prompt_tokens), "text"),
            (" in, ", "dim"),
            (units.count(view.output_tokens), "text"),
            (" out", "dim"),
        ),
    ]
    if not row.is_base:
        lines.append(
            line(
                *field("pool hits"),
                (share_of_hits(view), "text"),
                (" of its requests; copied to device ", "dim"),
                (units.count_noun(view.placements, "time"), "text"),
                (", evicted ", "dim"),
                (units.count_noun(view.evictions, "time"), "text"),
            )
        )
    if view.service is not None:
        lines.append(
            line(
                *field("fair share"),
                (units.count(view.service), "text"),
                (" weighted tokens (the counter of vtc_fair)", "dim"),
            )
        )
    return lines


def _happened(at: float, kind: MarkKind) -> TextLine:
    """`03:10:47 ↓ evicted`."""
    sign, style, meaning = SIGNS[kind]
    return line(*field(units.clock(at)), (f"{sign} ", style), (meaning, "text"))


def _residency(view: AdapterView) -> str:
    """All places that hold its weights, from the disk on."""
    reached = ("disk", "host", "device")
    return ", ".join(reached[: reached.index(place(view)) + 1])


def _yes(is_so: bool, mark: str, meaning: str) -> tuple[TextSpan, ...]:
    return ((f"{mark} ", "key"), (meaning, "text")) if is_so else (("no", "dim"),)


# --- verifications and plans --------------------------------------------------------------------


PASSES = (
    "A row passes if its mean |Δ| of logits, against the weights merged in float32, is within its "
    "limit: a multiple of the base's own, which is rounding alone. Tokens may differ where two "
    "logits are almost equal."
)


def verification_lines(result: AdapterVerification, width: int) -> list[TextLine]:
    """The comparisons as a table, with the result and the rule below."""
    found = result.verification
    name_width = max(8, min(22, width - 58))
    head = f"  {'':<6} {'adapter':<{name_width}}{'same tokens':>12}{'mean |Δ|':>10}"
    lines = [line((f"{head}{'limit':>9}{'largest':>10}{'range':>8}", "dim"))]
    lines += [_comparison(row, name_width) for row in found.comparisons]
    word: TextSpan = ("✓ passed", "good") if found.is_right else ("✗ FAILED", "bad")
    what = f"  {units.visible(found.key)} in {found.dtype}, {units.duration(found.seconds)}"
    lines += [
        TextLine(),
        line(word, (what, "text"), (f", at {units.clock(result.at)}", "dim")),
    ]
    flaws = dict.fromkeys(row.flaw for row in found.comparisons if row.flaw)
    lines += [line((flaw, "bad")) for flaw in flaws]
    return lines + [line((part, "dim")) for part in units.wrap(PASSES, max(8, width))]


def _comparison(row: Comparison, name_width: int) -> TextLine:
    """`✓ mixed  sql      15 of 16    0.0021   0.0206    0.0412    38.4`."""
    equal = f"{row.equal_tokens} of {row.tokens}"
    figure = "number" if row.passes else "bad"
    return line(
        ("✓ ", "good") if row.passes else ("✗ ", "bad"),
        (units.fit(units.visible(row.place), 6), "dim"),
        (" " + units.fit(units.visible(row.adapter or "base"), name_width), "text"),
        (f"{equal:>12}", "number"),
        (f"{row.mean_logit:>10.2g}", figure),
        (f"{row.mean_limit:>9.2g}", "dim"),
        (f"{row.largest_logit:>10.2g}", "dim"),
        (f"{row.range_logit:>8.3g}", "dim"),
    )


def merge_costs(row: AdapterRow, merged: str = "") -> str:
    """The effects of merging an adapter, for the confirmation; `merged` is the name of the one that
    is merged now."""
    copy = units.size(row.view.merged_bytes) if row.view.merged_bytes else "memory"
    drops = f" The copy with {merged} is freed." if merged else ""
    return (
        f"A merged copy of its base weights takes {copy} on each device, outside the pool; if that "
        "is not free, the merge is refused. Requests continue meanwhile. Steps with this adapter "
        f"alone then use the copy; other steps do not change.{drops}"
    )


def unload_costs(row: AdapterRow) -> str:
    """The effects of unloading an adapter, for the confirmation."""
    view = row.view
    live = view.running + view.waiting
    if live:
        first = f"{view.running} running and {view.waiting} waiting requests finish first."
    else:
        first = "No running requests."
    freed = "It holds no pages."
    if view.pages:
        pages, size = counted(view.pages, "page"), units.size(view.num_bytes)
        verb = "is" if view.pages == 1 else "are"
        freed = f"{'Then ' if live else ''}{pages} ({size}) {verb} freed."
        freed = freed[0].upper() + freed[1:]
    return (
        f"New requests for it are refused at once. {first} {freed} Its files stay where they are."
    )


def plan_lines(plan: AdapterPlan, width: int) -> list[TextLine]:
    """The plan of loading a directory; the first line tells whether it fits."""
    if plan.reason:
        return wrapped_field("✗ refused", cause_first(plan.reason), "bad", width)
    if plan.fits:
        room: TextSpan = ("✓ fits now", "good")
    else:
        room = ("◌ no room now: it would wait in host memory", "warn")
    lines = [
        line(*field("room"), room),
        line(
            *field("size"),
            (units.size(plan.num_bytes), "text"),
            (f" in {units.count_noun(plan.pages, 'page')}", "text"),
            (f", {units.count(plan.free_pages)} free before it", "dim"),
        ),
        line(*field("takes"), (f"{units.count_noun(plan.kv_tokens, 'token')} of KV", "text")),
    ]
    if plan.evicts:
        lines += wrapped_field("evicts", ", ".join(plan.evicts), "warn", width)
    modules = f"{targets(plan.target_modules)}, rank {plan.rank}"
    lines += wrapped_field("modules", modules, "text", width)
    if plan.warning:
        lines += wrapped_field("warning", cause_first(plan.warning), "warn", width)
    return lines

"""`loraconsole adapters …`: the list, and orders about adapters. Commands return an exit status."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Collection, Sequence

from rich.cells import cell_len

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import (
    AdapterPlan,
    AdapterReply,
    AdapterTable,
    AdapterView,
    Verification,
)
from ...pipeline.run_directory import spell
from ..client.ask import first_report
from ..client.remote import Remote
from ..commands.adapters import AdapterCommand, ListAdaptersCommand, LoadCommand
from ..state.adapter_costs import CostShares, cost_shares
from ..state.board import WHERE
from ..text import units
from ..text.near_words import did_you_mean
from .documents import AdaptersDocument, OrderDocument, PlansDocument, VerificationDocument
from .printing import Bars, print_json, say

BAD_REQUEST, NOT_FOUND = 400, 404
NUMBER_HEADS = ("device", "tokens", "run", "wait", "TTFT p50", "TTFT p99", "wait p99", "KV pages")
MORE_HEADS = ("LoRA pages", "requests", "prompt", "output", "rank", "KiB")
RIGHT = (*NUMBER_HEADS, *MORE_HEADS)
HEADS = ("adapter", "", "state", *RIGHT, "modules")
PLAN_HEADS = ("path", "rank", "modules", "size", "pages", "KV tokens lost", "evicts", "fits")
VERDICT_HEADS = ("mean |Δlogit|", "limit", "largest", "range")
"""Columns of a verification: a row passes if the mean is within the limit."""
PLAN_RIGHT = ("rank", "size", "pages", "KV tokens lost")


# --- looking ------------------------------------------------------------------------------------


def list_adapters(config: Config, command: ListAdaptersCommand) -> int:
    """Prints every adapter that the router knows and what it costs, the costliest first."""

    async def ask() -> AdapterTable:
        async with Remote(config) as remote:
            return await first_report(remote, lambda s: s.adapters, "router", "its adapters")

    found = asyncio.run(ask())
    if command.json:
        print_json(
            AdaptersDocument(
                at=found.at,
                base_model=found.base_model,
                adapters=found.adapters,
                base=found.base,
                shares=cost_shares(found),
            )
        )
    else:
        print_table(found)
    return 0


def print_table(table: AdapterTable) -> None:
    """Prints a row for the base and each adapter, the costliest of the last minute first, then
    reasons and warnings."""
    shares = cost_shares(table)
    views = sorted((table.base, *table.adapters), key=lambda view: shares[view.name].rank)
    rows: list[Sequence[str]] = [HEADS]
    rows += [_row(view, shares[view.name], table.base_model) for view in views]
    _print_rows(rows, RIGHT)
    for view in table.adapters:
        for remark in (view.reason, view.warning):
            if remark:
                print(f"{units.visible(view.name)}: {units.visible(remark)}")


def _print_rows(rows: Sequence[Sequence[str]], right: Collection[str]) -> None:
    """Prints columns as wide as their longest cell. The first row is the head; columns named in
    `right` are aligned to the right.

    rich's table is not used: it took half a second for a thousand adapters.
    """
    heads = rows[0]
    widths = [max(cell_len(row[at]) for row in rows) for at in range(len(heads))]
    bold, plain = ("\x1b[1m", "\x1b[0m") if sys.stdout.isatty() else ("", "")
    for number, row in enumerate(rows):
        cells = (
            units.fit(text, width, heads[at] in right)
            for at, (text, width) in enumerate(zip(row, widths, strict=True))
            if width
        )
        text = "  ".join(cells).rstrip()
        print(text if number else f"{bold}{text}{plain}")


def _short(modules: Sequence[str]) -> str:
    return ",".join(units.visible(name).removesuffix("_proj") for name in modules)


def _row(view: AdapterView, costs: CostShares, base_model: str) -> tuple[str, ...]:
    marks = [word for word, is_so in (("pinned", view.pinned), ("merged", view.merged)) if is_so]
    is_base = not view.name
    return (
        units.visible(view.name) or f"{base_model} (base)",
        " ".join(marks),
        "" if is_base else WHERE.get(view.state, view.state.value),
        units.part(costs.device),
        units.part(costs.tokens),
        str(view.running),
        str(view.waiting),
        units.milliseconds(view.ttft_p50_ms),
        units.milliseconds(view.ttft_p99_ms),
        units.milliseconds(view.wait_p99_ms),
        str(view.kv_pages),
        str(view.pages or ""),
        str(view.requests),
        str(view.prompt_tokens),
        str(view.output_tokens),
        str(view.rank or ""),
        f"{view.num_bytes / 1024:.0f}" if view.num_bytes else "",
        _short(view.target_modules),
    )


# --- orders -------------------------------------------------------------------------------------


def give_order(config: Config, command: AdapterCommand) -> int:
    """Sends the order; returns when it is carried out. Raises `OperatorError` if it is refused."""

    known: list[str] = []

    async def carry() -> AdapterReply:
        async with Remote(config) as remote:
            bars = Bars()
            is_watched = sys.stderr.isatty() and not command.json
            show = bars.show if is_watched else lambda _: None
            try:
                reply = await remote.order(command.order(remote.name), show)
            finally:
                bars.close()
            if reply.status == NOT_FOUND and (table := (await remote.snapshot()).adapters):
                known.extend(view.name for view in table.adapters)
            return reply

    reply = asyncio.run(carry())
    if reply.plans:
        return print_plans(reply.plans, command.json)
    if reply.status != 200:
        raise OperatorError(reply.text, _hint(config, command, reply, known))
    if reply.verification is not None:
        return print_verification(reply.verification, reply.name, command.json)
    say(OrderDocument(reply.name, "ok", reply.text), reply.text, command.json)
    return 0


def _hint(
    config: Config, command: AdapterCommand, reply: AdapterReply, known: Collection[str]
) -> str:
    """The hint after a refused order; `known` are the adapters' names if there is none of its
    name."""
    if isinstance(command, LoadCommand) and reply.status == BAD_REQUEST:
        return f"{spell('adapters load NAME PATH', config.run)} again once that is mended"
    meant = did_you_mean(reply.name, known)
    return f"{meant} see: {spell('adapters list', config.run)}".strip()


def print_plans(plans: Sequence[AdapterPlan], as_json: bool) -> int:
    """Prints a row for each directory. Exit status 1 if one would be refused."""
    code = 1 if any(plan.reason for plan in plans) else 0
    if as_json:
        print_json(PlansDocument(tuple(plans)))
        return code
    rows: list[Sequence[str]] = [PLAN_HEADS]
    for plan in plans:
        path = units.visible(plan.path)
        if plan.reason:
            rows.append((path, "", "", "", "", "", "", "no"))
            continue
        rows.append(
            (
                path,
                str(plan.rank),
                _short(plan.target_modules),
                units.size(plan.num_bytes),
                str(plan.pages),
                str(plan.kv_tokens),
                ", ".join(units.visible(name) for name in plan.evicts),
                "now" if plan.fits else "later",
            )
        )
    _print_rows(rows, PLAN_RIGHT)
    for plan in plans:
        path = units.visible(plan.path)
        if plan.reason:
            print(f"{path}: refused: {units.visible(plan.reason)}")
        elif not plan.fits:
            print(f"{path}: no room now; it would wait in host memory")
        if plan.warning:
            print(f"{path}: {units.visible(plan.warning)}")
    return code


def print_verification(found: Verification, name: str, as_json: bool) -> int:
    """Prints a comparison and its verdict. Exit status 1 if the adapter is not right."""
    code = 0 if found.is_right else 1
    if as_json:
        print_json(VerificationDocument(name, found))
        return code
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.stdout_console import StdoutConsole

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("", "place", "adapter", "tokens equal", *VERDICT_HEADS):
        table.add_column(head, justify="left" if head in ("", "place", "adapter") else "right")
    for row in found.comparisons:
        table.add_row(
            "ok" if row.passes else "NO",
            Text(units.visible(row.place)),
            Text(units.visible(row.adapter or "base")),
            f"{row.equal_tokens}/{row.tokens}",
            f"{row.mean_logit:.3g}",
            f"{row.mean_limit:.3g}",
            f"{row.largest_logit:.3g}",
            f"{row.range_logit:.4g}",
        )
    StdoutConsole().print(table)
    key = units.visible(found.key)
    print(f"{key} {found.verdict} ({found.dtype}, {units.duration(found.seconds)})")
    return code

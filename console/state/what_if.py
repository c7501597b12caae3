"""A replay beside the same log with other settings, as tables of text: for the command line and for
the screen. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ...pipeline.bench.what_if_results import ReplayedClient, ReplayedRun, WhatIfDocument
from ..text import units


class FigureRow(NamedTuple):
    """One figure of the runs; "" where it is not known."""

    name: str
    recorded: str
    unchanged: str
    changed: str
    difference: str
    """Of the changed run from the unchanged one: both are simulated."""


class ClientRow(NamedTuple):
    """One adapter: each figure as it was and with the changes."""

    name: str
    ttft_p50: str
    ttft_p99: str
    wait_p99: str
    share: str
    """Of all service: prompt tokens once, output tokens twice."""
    answered: str
    lost: str
    """Refused and aborted."""
    requests: str


FIGURE_HEADS = FigureRow("", "recorded", "simulated", "changed", "change")
CLIENT_HEADS = ClientRow(
    *("adapter", "TTFT p50", "TTFT p99", "wait p99", "share", "answered", "lost", "requests"),
)
FIGURES: tuple[tuple[str, str, Callable[[Any], str]], ...] = (
    ("answered", "answered", str),
    ("refused", "refused", str),
    ("aborted", "aborted", str),
    ("TTFT p50", "ttft_ms_p50", units.milliseconds),
    ("TTFT p99", "ttft_ms_p99", units.milliseconds),
    ("wait p50", "wait_ms_p50", units.milliseconds),
    ("wait p99", "wait_ms_p99", units.milliseconds),
    ("inter-token p50", "inter_token_ms_p50", units.milliseconds),
    ("inter-token p99", "inter_token_ms_p99", units.milliseconds),
    ("tokens/s", "tokens_s", lambda value: f"{value:.1f}"),
    ("preemptions", "preemptions", str),
    ("fairness (Jain)", "jain", lambda value: units.NOTHING if value is None else f"{value:.3f}"),
    ("largest service gap", "counter_gap", lambda value: f"{value:.0f}"),
)
"""Label, field of `ReplayedRun`, and how it is written."""


def describe_settings(settings: Mapping[str, Any]) -> str:
    """`scheduler vtc_fair, max_total_tokens 4096`."""
    return ", ".join(f"{name} {_word(value)}" for name, value in settings.items())


def figure_rows(found: WhatIfDocument) -> Iterator[FigureRow]:
    for label, field, write in FIGURES:
        was, same, now = (
            getattr(run, field) for run in (found.recorded, found.unchanged, found.changed)
        )
        yield FigureRow(label, write(was), write(same), write(now), _difference(same, now))


def client_rows(found: WhatIfDocument) -> Iterator[ClientRow]:
    """A row for each adapter, those with the most requests first."""
    before, after = found.recorded, found.changed
    names = sorted(before.adapters, key=lambda name: -before.adapters[name].requests)
    for name in names:
        was, now = before.adapters[name], after.adapters[name]
        yield ClientRow(
            name,
            _pair(was.ttft_ms_p50, now.ttft_ms_p50, units.milliseconds),
            _pair(was.ttft_ms_p99, now.ttft_ms_p99, units.milliseconds),
            _pair(was.wait_ms_p99, now.wait_ms_p99, units.milliseconds),
            _pair(_share(was, before), _share(now, after), units.percent),
            _pair(was.answered, now.answered, str),
            _pair(_lost(was), _lost(now), str),
            str(was.requests),
        )


def describe_error(found: WhatIfDocument) -> str:
    """How far the simulation is from the log where nothing is changed."""
    model = found.model
    parts = [
        f"{label} {_signed(error)}"
        for label, error in (
            ("TTFT p50", model.ttft_p50_error),
            ("TTFT p99", model.ttft_p99_error),
            ("tokens/s", model.tokens_s_error),
        )
        if error is not None
    ]
    failed = f"; {model.failures} failed steps are not simulated" if model.failures else ""
    return (
        "simulated: a simulation with the settings of the log; changed: one with the changed "
        f"settings. Simulation error against the log: {', '.join(parts)}{failed}"
    )


def _word(value: Any) -> str:
    if isinstance(value, (tuple, list)):
        return " ".join(map(str, value)) or "none"
    return str(value)


def _lost(client: ReplayedClient) -> int:
    return client.refused + client.aborted


def _share(client: ReplayedClient, run: ReplayedRun) -> float:
    return client.service / run.service if run.service else 0.0


def _pair(was: Any, now: Any, write: Callable[[Any], str]) -> str:
    """`12 ms → 15 ms`; once if both are written alike."""
    before, after = write(was), write(now)
    return before if before == after else f"{before} → {after}"


def _difference(before: float | None, after: float | None) -> str:
    if before is None or after is None or before == after:
        return ""
    if not before:
        return f"{after - before:+g}"
    return _signed(after / before - 1)


def _signed(fraction: float) -> str:
    return f"{fraction * 100:+.0f} %"

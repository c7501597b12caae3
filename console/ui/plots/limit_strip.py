"""The strip of limits: for each cell of a plot, what kept waiting requests out of most steps."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple

from ....pipeline.messages import StepLimit
from ...state.plot_history import LIMITS
from ...text import units
from ...text.lines import TextSpan, length


class LimitLook(NamedTuple):
    """How a limit is drawn, and what it says."""

    mark: str
    """One shade per limit, as some terminals have no colours."""
    style: str
    name: str
    remedy: str
    """What it means, and what an operator can do."""


LOOKS: Mapping[StepLimit, LimitLook] = {
    StepLimit.NOTHING: LimitLook("─", "faint", "nothing waits", "every request runs"),
    StepLimit.KV_PAGES: LimitLook(
        "█", "pool-kv", "KV pages", "the pool is full: raise --max-total-tokens"
    ),
    StepLimit.ROWS: LimitLook("▓", "info", "rows", "the batch is full: raise --max-running"),
    StepLimit.PROMPT_TOKENS: LimitLook(
        "▒", "prefill", "prompt tokens", "prompts wait their turn: raise --chunk-tokens"
    ),
    StepLimit.ADAPTER: LimitLook(
        "░", "pool-adapters", "adapter", "it is loading or has no pages: pin it or enlarge the pool"
    ),
    StepLimit.POLICY: LimitLook(
        "▚", "part-sync", "policy", "the scheduler or a cap holds requests back: :scheduler"
    ),
}


def strip(cells: Iterable[Sequence[int]]) -> tuple[TextSpan, ...]:
    """The strip of a plot's cells, given the steps of each limit in them; blank without steps."""
    kinds = [_commonest(counts) for counts in cells]
    found: list[TextSpan] = []
    for limit, group in groupby(kinds):
        length = len(list(group))
        if limit is None:
            found.append((" " * length, "text"))
        else:
            found.append((LOOKS[limit].mark * length, LOOKS[limit].style))
    return tuple(found)


def _commonest(counts: Sequence[int]) -> StepLimit | None:
    """The limit of most steps; of equals the first that is one. None without steps."""
    if not any(counts):
        return None
    ranked = zip(counts, (limit is not StepLimit.NOTHING for limit in LIMITS), strict=True)
    best = max(enumerate(ranked), key=lambda numbered: numbered[1])
    return LIMITS[best[0]]


def legend(cells: Iterable[Sequence[int]], width: int | None = None) -> tuple[TextSpan, ...]:
    """`█ KV pages 12 %  ─ nothing waits 88 %  `: the limits of all steps in view, the commonest
    first, and as many as have room in `width` cells."""
    shares = _shares(cells)
    found: list[TextSpan] = []
    for limit, share in shares:
        look = LOOKS[limit]
        entry: list[TextSpan] = [
            (f"{look.mark} ", look.style),
            (look.name, "text"),
            (f" {units.share(share)}  ", "dim"),
        ]
        if width is not None and length([*found, *entry]) > width:
            break
        found += entry
    return tuple(found)


def reading(counts: Sequence[int]) -> tuple[TextSpan, ...]:
    """What one cell says: its limits with their shares, and for the commonest what can be done."""
    limit = _commonest(counts)
    if limit is None:
        return (("no step", "dim"),)
    return (*legend([counts]), (LOOKS[limit].remedy, "dim"))


def _shares(cells: Iterable[Sequence[int]]) -> list[tuple[StepLimit, float]]:
    """The share of each limit that occurs, the largest first."""
    totals = [sum(kind) for kind in zip(*cells, strict=True)]
    steps = sum(totals)
    known = [(limit, total / steps) for limit, total in zip(LIMITS, totals, strict=False) if total]
    return sorted(known, key=lambda pair: -pair[1])

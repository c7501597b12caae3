"""`progress_bars`: which are of a start, and which are over once a process is gone."""

from __future__ import annotations

from ...pipeline.messages import Progress

RANK = "worker-"


def is_of_a_start(bar: Progress) -> bool:
    """An adapter is verified while all is up."""
    return bar.stage != "verify"


def goes_with(bar: Progress, name: str) -> bool:
    """Whether it is over with a process: its own are, and workers that come anew read every adapter
    again, of which the router tells."""
    return bar.source == name or (bar.stage == "adapters" and name.startswith(RANK))

"""`loraconsole scheduler`: who is admitted first, shown and changed while requests run."""

from __future__ import annotations

import argparse
import asyncio
from typing import Any

from ...pipeline.config import Config, parse_weight
from ...pipeline.errors import OperatorError
from ...pipeline.messages import AdapterReply, ClientWeight, SchedulerSettings, SetScheduler
from ..client.pending_orders import order_id
from ..client.remote import Remote
from .pipeline import say

NUMBERS = ("batch_num_adapters", "slo_seconds", "max_wait_tokens", "max_per_adapter")
"""Of `SchedulerSettings`, beside policy and weights; each is a flag too."""


def scheduler(config: Config, given: argparse.Namespace) -> int:
    """Shows the settings; where any is given, after it was changed."""

    async def carry() -> SchedulerSettings:
        async with Remote(config) as remote:
            changes = changes_of(given)
            if not changes:
                router = (await remote.snapshot()).router
                if router is None:
                    raise OperatorError("the router has not been heard yet", "wait a moment")
                return router.scheduling
            order = SetScheduler(order=order_id(), reply_to=remote.name, **changes)
            reply: AdapterReply = await remote.order(order)
            if reply.status != 200 or reply.scheduling is None:
                raise OperatorError(reply.text, "see: loraconsole scheduler --help")
            return reply.scheduling

    settings = asyncio.run(carry())
    weights = {weight.name or config.model: weight.weight for weight in settings.weights}
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    lines = [f"policy {settings.policy}", *(f"  {n} {value:g}" for n, value in numbers.items())]
    lines += [f"  weight of {name} {weight:g}" for name, weight in weights.items()]
    say({"policy": settings.policy, "weights": weights, **numbers}, "\n".join(lines), given.json)
    return 0


def changes_of(given: argparse.Namespace) -> dict[str, Any]:
    """The fields of `SetScheduler` that the command line names."""
    wanted = {name: getattr(given, name) for name in ("policy", *NUMBERS)}
    changes: dict[str, Any] = {n: value for n, value in wanted.items() if value is not None}
    if given.fair_weight is not None:
        pairs = [parse_weight(entry) for entry in given.fair_weight]
        changes["weights"] = tuple(ClientWeight(name, weight) for name, weight in pairs)
    return changes

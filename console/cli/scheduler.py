"""`loraconsole scheduler`: shows or changes the admission order while requests run."""

from __future__ import annotations

import asyncio

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import SchedulerSettings
from ..client.ask import first_report
from ..client.remote import Remote
from ..commands.pipeline import NUMBERS, SchedulerCommand
from ..text import units
from .documents import SchedulerDocument
from .printing import print_json


def scheduler(config: Config, command: SchedulerCommand) -> int:
    """Applies the settings that are given, then prints all."""

    async def carry() -> SchedulerSettings:
        async with Remote(config) as remote:
            if not command.changes:
                router = await first_report(remote, lambda s: s.router, "router", "its state")
                return router.scheduling
            reply = await remote.order(command.order(remote.name))
            if reply.status != 200 or reply.scheduling is None:
                raise OperatorError(reply.text, "see: loraconsole scheduler --help")
            return reply.scheduling

    settings = asyncio.run(carry())
    weights = {weight.name or config.model_name: weight.weight for weight in settings.weights}
    numbers = {name: getattr(settings, name) for name in NUMBERS}
    lines = [f"policy {settings.policy}", *(f"  {n} {value:g}" for n, value in numbers.items())]
    lines += [f"  weight of {name} {weight:g}" for name, weight in weights.items()]
    if command.json:
        print_json(SchedulerDocument(policy=settings.policy, weights=weights, **numbers))
    else:
        print(*map(units.visible, lines), sep="\n")
    return 0

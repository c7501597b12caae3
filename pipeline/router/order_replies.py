"""`OrderReplies`: answers to operators' orders about adapters. Each order is answered once."""

from __future__ import annotations

from ..messages import AdapterOrder, AdapterPlan, AdapterReply, PlanAdapters, Verification
from ..schedule.adapter_registry import AdapterRegistry
from .effects import Effects


class OrderReplies:
    """Sends an `AdapterReply` to the inbox that an order names."""

    def __init__(self, effects: Effects, registry: AdapterRegistry) -> None:
        self._effects, self._registry = effects, registry

    def send(
        self,
        order: AdapterOrder,
        status: int,
        text: str,
        now: float,
        *,
        plans: tuple[AdapterPlan, ...] = (),
        verification: Verification | None = None,
    ) -> None:
        """With the adapter as it is now: the operator must not see an older one."""
        name = "" if isinstance(order, PlanAdapters) else order.name
        self._effects.send(
            order.reply_to,
            AdapterReply(
                order=order.order,
                status=status,
                text=text,
                at=now,
                name=name,
                adapters=self._registry.views_of(name),
                plans=plans,
                verification=verification,
            ),
        )

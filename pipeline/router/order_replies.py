"""`OrderReplies`: replies to operators' orders about adapters, one for each order."""

from __future__ import annotations

from ..messages import AdapterOrder, AdapterPlan, AdapterReply, PlanAdapters, Verification
from ..schedule.adapter_registry import AdapterRegistry
from .effects import Effects


class OrderReplies:
    """Sends `AdapterReply` messages to the inboxes that orders name."""

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
        """Replies to an order, with the adapter's present state so that the sender shows no older
        one."""
        name = "" if isinstance(order, PlanAdapters) else order.name
        self._effects.send(
            order.reply_to,
            AdapterReply(
                order=order.order,
                status=status,
                text=text,
                at=now,
                name=name,
                adapters=self._registry.views_of(name, now),
                plans=plans,
                verification=verification,
            ),
        )

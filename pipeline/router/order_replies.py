"""`OrderReplies`: replies to operators' orders, one for each order, and the last ones again for
senders that have not got them."""

from __future__ import annotations

from collections.abc import Iterable

from ..messages import (
    AdapterOrder,
    AdapterPlan,
    AdapterReply,
    Order,
    PlanAdapters,
    SchedulerSettings,
    SetScheduler,
    Verification,
    VerifyAdapter,
)
from ..schedule.adapter_registry import AdapterRegistry
from .effects import Effects
from .record import AnsweredOrder

ANSWERED_KEPT = 64
"""Orders that may be sent again and are then answered again, but not carried out twice."""


class OrderReplies:
    """Sends `AdapterReply` messages to the inboxes that orders name."""

    def __init__(self, effects: Effects, registry: AdapterRegistry) -> None:
        self._effects, self._registry = effects, registry
        self._answered: dict[str, AnsweredOrder] = {}

    @property
    def answered(self) -> tuple[AnsweredOrder, ...]:
        """The last orders that changed something, oldest first."""
        return tuple(self._answered.values())

    def restore(self, answered: Iterable[AnsweredOrder]) -> None:
        """Takes over the orders that an earlier router has answered."""
        self._answered = {order.order: order for order in answered}

    def repeat(self, order: Order, now: float, settings: SchedulerSettings) -> bool:
        """Answers an order again that was answered before; False if it was not."""
        known = self._answered.get(order.order)
        if known is not None:
            self._send(known, now, scheduling=settings if known.is_scheduler else None)
        return known is not None

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
        answered = AnsweredOrder(
            order=order.order, reply_to=order.reply_to, status=status, text=text, name=name
        )
        if not isinstance(order, PlanAdapters | VerifyAdapter):  # those change nothing
            self._keep(answered)
        self._send(answered, now, plans=plans, verification=verification)

    def send_scheduling(
        self, order: SetScheduler, status: int, text: str, now: float, settings: SchedulerSettings
    ) -> None:
        """Replies to a `SetScheduler` with the settings after it."""
        answered = AnsweredOrder(
            order=order.order,
            reply_to=order.reply_to,
            status=status,
            text=text,
            name="",
            is_scheduler=True,
        )
        self._keep(answered)
        self._send(answered, now, scheduling=settings)

    def _keep(self, answered: AnsweredOrder) -> None:
        self._answered[answered.order] = answered
        while len(self._answered) > ANSWERED_KEPT:
            del self._answered[next(iter(self._answered))]
        self._effects.record_changed = True

    def _send(
        self,
        answered: AnsweredOrder,
        now: float,
        *,
        plans: tuple[AdapterPlan, ...] = (),
        verification: Verification | None = None,
        scheduling: SchedulerSettings | None = None,
    ) -> None:
        self._effects.send(
            answered.reply_to,
            AdapterReply(
                order=answered.order,
                status=answered.status,
                text=answered.text,
                at=now,
                name=answered.name,
                adapters=self._registry.views_of(answered.name, now),
                plans=plans,
                verification=verification,
                scheduling=scheduling,
            ),
        )

"""`PendingOrders`: orders to the router that have no answer yet, and the listeners for the answers.

Knows no widget and no socket: it gets a function to send with, and is called with each answer. Each
order gets exactly one reply: the router's, or one made here with the reason why there is none.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

from msgspec import Struct, structs

from ...pipeline.messages import (
    AdapterReply,
    LoadAdapter,
    MergeAdapter,
    Order,
    PinAdapter,
    PlanAdapters,
    ReloadAdapter,
    SetScheduler,
    UnloadAdapter,
    VerifyAdapter,
)
from ...pipeline.runtime.sockets import InboxFull
from ..state.store import Store

QUICK_SECONDS = 20.0
"""Timeout of orders that the router answers from its tables or a file's header."""
SLOW_SECONDS = 1800.0
"""Timeout of orders that wait for files, running requests or the device."""
ANSWERED_KEPT = 64
"""Ids of the last answered orders that are remembered."""
UNANSWERED, NOT_THERE = 504, 503
ReplyListener: TypeAlias = Callable[[AdapterReply], bool]
"""Called with the reply; returns whether it showed the reply to the operator."""


class PendingOrder(Struct, frozen=True):
    """An order that has no answer yet."""

    order: Order
    given_at: float
    router: int | None
    """Incarnation of the router that it was sent to."""
    listener: ReplyListener


class PendingOrders:
    """`give` an order, call `answered` with each reply, `sweep` now and then."""

    def __init__(
        self,
        store: Store,
        inbox: str,
        send: Callable[[Order], None],
        forget: Callable[[], None],
        tell: Callable[[Order | None, AdapterReply], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`inbox` is the inbox for answers. `forget` drops messages that were sent and not yet
        received; `tell` shows a reply that no listener showed, with its order."""
        self.inbox = inbox
        self._store, self._send, self._forget, self._tell = store, send, forget, tell
        self._clock = clock
        self._pending: dict[str, PendingOrder] = {}
        self._answered: deque[str] = deque(maxlen=ANSWERED_KEPT)

    def give(self, order: Order, listener: ReplyListener = lambda _: False) -> None:
        """Sends an order. The listener is called once with the reply; at once if the order cannot
        be sent."""
        now = self._clock()
        router = self._store.incarnation("router")
        pending = PendingOrder(order, now, router, listener)
        if not self._store.is_alive("router", now):
            self._end(pending, self._refusal(order, NOT_THERE, "the router is not running"))
            return
        try:
            self._send(order)
        except InboxFull as error:
            self._end(pending, self._refusal(order, NOT_THERE, str(error)))
            return
        self._pending[order.order] = pending
        self._note(order)

    def answered(self, reply: AdapterReply) -> None:
        """Handles a reply of the router. One to an order that has timed out is still shown; a
        second one to an order that was sent again is not."""
        pending = self._pending.pop(reply.order, None)
        if pending is None and reply.order in self._answered:
            return
        self._answered.append(reply.order)
        is_gone = pending is not None and isinstance(pending.order, UnloadAdapter)
        self._store.fold_reply(reply, is_gone and reply.status == 200)
        if pending is None:
            self._tell(None, reply)
        else:
            self._end(pending, reply)

    def sweep(self) -> None:
        """Sends a restarted router the orders that have no answer yet; it carries out each once.
        Ends the orders that are not answered in time."""
        now = self._clock()
        router = self._store.incarnation("router")
        late: list[tuple[PendingOrder, float]] = []
        for pending in [*self._pending.values()]:
            quick = isinstance(pending.order, PlanAdapters | PinAdapter | SetScheduler)
            limit = QUICK_SECONDS if quick else SLOW_SECONDS
            if now - pending.given_at > limit:
                late.append((pending, limit))
            elif router != pending.router:
                self._send_again(structs.replace(pending, given_at=now, router=router))
        if late:
            self._forget()
        for pending, limit in late:
            del self._pending[pending.order.order]
            why = f"the router has not answered for {limit:.0f} s"
            self._end(pending, self._refusal(pending.order, UNANSWERED, why))

    def _send_again(self, pending: PendingOrder) -> None:
        with contextlib.suppress(InboxFull):  # it ends when its time is over
            self._send(pending.order)
            self._pending[pending.order.order] = pending

    def is_pending(self, order: str) -> bool:
        """Whether the order with this id has no answer yet."""
        return order in self._pending

    def is_verifying(self, name: str) -> bool:
        orders = (pending.order for pending in self._pending.values())
        return any(isinstance(order, VerifyAdapter) and order.name == name for order in orders)

    def _end(self, pending: PendingOrder, reply: AdapterReply) -> None:
        self._note(pending.order)
        if not pending.listener(reply):
            self._tell(pending.order, reply)

    def _note(self, order: Order) -> None:
        """Records in the store what is being done to an adapter."""
        if isinstance(order, PlanAdapters | SetScheduler):
            return
        orders = [p.order for p in self._pending.values() if name_of(p.order) == order.name]
        self._store.note_order(order.name, doing(orders[-1]) if orders else "")

    def _refusal(self, order: Order, status: int, text: str) -> AdapterReply:
        return AdapterReply(
            order=order.order, status=status, text=text, at=self._clock(), name=name_of(order)
        )


def name_of(order: Order) -> str:
    """The name of the adapter that an order is about; "" if it is about none."""
    return "" if isinstance(order, PlanAdapters | SetScheduler) else order.name


def doing(order: Order) -> str:
    """The verb shown while an order is carried out: `loading`."""
    match order:
        case LoadAdapter():
            return "loading"
        case ReloadAdapter():
            return "reloading"
        case UnloadAdapter():
            return "unloading"
        case PinAdapter(pinned=pinned):
            return "pinning" if pinned else "unpinning"
        case PlanAdapters():
            return "planning"
        case SetScheduler():
            return "setting the scheduler"
        case VerifyAdapter():
            return "verifying"
        case MergeAdapter(name=name):
            return "merging" if name else "unmerging"

"""`OrderAsked` and `OrdersAsked`: a panel's request that the app send orders to the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from textual.message import Message

from ...client.pending_orders import ReplyListener
from ...client.telemetry import PipelineOrder


class OrderAsked(Message):
    """Requests that `order` be sent, after a confirmation if something is lost by it.

    `listener` receives the reply to an adapter order. `is_agreed` skips the confirmation: the order
    was chosen from a list that describes it.
    """

    def __init__(
        self, order: PipelineOrder, listener: ReplyListener | None = None, is_agreed: bool = False
    ) -> None:
        super().__init__()
        self.order, self.listener, self.is_agreed = order, listener, is_agreed


class OrdersAsked(Message):
    """Requests that the orders about all marked rows of a table be sent, after one confirmation.

    `listener` receives the reply if it is a single adapter order. `on_sent` is called once they are
    sent, and not if the operator says no.
    """

    def __init__(
        self,
        orders: Sequence[PipelineOrder],
        listener: ReplyListener | None,
        on_sent: Callable[[], None],
    ) -> None:
        super().__init__()
        self.orders, self.listener, self.on_sent = orders, listener, on_sent

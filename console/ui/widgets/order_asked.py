"""`OrderAsked`: a panel's request that the app send an order to the pipeline."""

from __future__ import annotations

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

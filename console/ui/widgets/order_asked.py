"""`OrderAsked`: a panel asks the app to send an order to the pipeline."""

from __future__ import annotations

from textual.message import Message

from ...client.pending_orders import ReplyListener
from ...client.telemetry import PipelineOrder


class OrderAsked(Message):
    """A key asks for `order`. What it costs is said, and agreed to, before it is sent.

    `listener` hears the answer of an order about adapters. Where `is_agreed`, the operator has
    chosen it from a list that says what it does, and is not asked again.
    """

    def __init__(
        self, order: PipelineOrder, listener: ReplyListener | None = None, is_agreed: bool = False
    ) -> None:
        super().__init__()
        self.order, self.listener, self.is_agreed = order, listener, is_agreed

"""`HeldMessages`: messages that a router cannot handle before its workers are ready."""

from __future__ import annotations

from ..messages import Abort, AnswerHeard, Message, ResumeRequest
from .effects import AdapterFetched


class HeldMessages:
    """Requests of an earlier router, and what ends them."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        """In the order in which they are to be handled."""

    def hold(self, message: Message | AdapterFetched) -> bool:
        """Keeps a message that must wait. False if it is to be handled now."""
        if isinstance(message, ResumeRequest | Abort | AnswerHeard):
            self.messages.append(message)
            return True
        return False

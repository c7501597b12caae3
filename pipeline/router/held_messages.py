"""`HeldMessages`: messages that a router cannot handle before the other processes are there."""

from __future__ import annotations

from ..messages import (
    Abort,
    AdapterOrder,
    AnswerHeard,
    Drain,
    Message,
    Request,
    Resume,
    ResumeRequest,
    SetScheduler,
)
from .effects import AdapterFetched

UNTIL_WORKERS = (ResumeRequest, Abort, AnswerHeard)
UNTIL_ALL = (*UNTIL_WORKERS, Request, AdapterOrder, SetScheduler, Drain, Resume)


class HeldMessages:
    """Requests of an earlier router and what ends them. A router that continues holds new requests
    and orders too: they must not change an adapter before the server has named the requests that
    use it."""

    def __init__(self, *, continues: bool) -> None:
        self._kinds = UNTIL_ALL if continues else UNTIL_WORKERS
        self._messages: list[Message] = []

    def hold(self, message: Message | AdapterFetched) -> bool:
        """Keeps a message that must wait. False if it is to be handled now."""
        if isinstance(message, self._kinds):
            assert not isinstance(message, AdapterFetched)
            self._messages.append(message)
            return True
        return False

    @property
    def num_requests(self) -> int:
        """Requests of an earlier router."""
        return sum(isinstance(message, ResumeRequest) for message in self._messages)

    def in_order(self) -> list[Message]:
        """The requests of an earlier router, then all others in the order of their arrival."""
        return sorted(self._messages, key=lambda message: not isinstance(message, ResumeRequest))

"""Orders to the router: their ids, and its answer."""

from __future__ import annotations

from ...messages import AdapterReply, Order
from ...order_id import make_order_id
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest


def order_ticket() -> dict[str, str]:
    """Fields of every order: its id, and the inbox for its answer."""
    return {"order": make_order_id(), "reply_to": "server"}


async def carry(gateway: Gateway, order: Order, field: str) -> AdapterReply:
    """The router's answer to an order that is sent here. Raises `BadRequest` if it refuses; `field`
    is what it may object to."""
    reply = await gateway.carry_order(order)
    if reply.status != 200:
        raise BadRequest(reply.text, status=reply.status, param=field)
    return reply

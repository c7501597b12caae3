"""Orders to the router: their ids, and its answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...adapter_name import LONGEST_NAME, objection
from ...messages import AdapterReply, Order
from ...order_id import make_order_id
from ...run_directory import is_hub_id
from ..gateway.gateway import Gateway
from ..http.bad_request import BadRequest, shortened


def order_ticket() -> dict[str, str]:
    """Fields of every order: its id, and the inbox for its answer."""
    return {"order": make_order_id(), "reply_to": "server"}


def adapter_ticket(name: str, field: str = "name") -> dict[str, Any]:
    """Fields of every order about an adapter, which `field` of the request names. Raises
    `BadRequest` for a name that none has."""
    if len(name) > LONGEST_NAME:
        raise BadRequest(objection(name), param=field)
    return {**order_ticket(), "name": name}


def check_path(path: str, field: str) -> None:
    """Raises `BadRequest` for a path that no worker could read; `field` of the body has it."""
    if not Path(path).is_absolute() and not is_hub_id(path):
        raise BadRequest(
            f"{shortened(path)!r} is neither an absolute path on the server's machine nor a hub id",
            param=field,
        )


async def carry(gateway: Gateway, order: Order, field: str) -> AdapterReply:
    """The router's answer to an order that is sent here. Raises `BadRequest` if it refuses; `field`
    is what it may object to."""
    reply = await gateway.carry_order(order)
    if reply.status != 200:
        raise BadRequest(reply.text, status=reply.status, param=field)
    return reply

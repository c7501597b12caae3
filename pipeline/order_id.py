"""`make_order_id`: the id of an order, which its answer repeats."""

from __future__ import annotations

import os


def make_order_id() -> str:
    """A new id, unique across processes: 32 hexadecimal digits."""
    return os.urandom(16).hex()

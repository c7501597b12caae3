"""`make_order_id`: the id of an order, by which its answer is found again."""

from __future__ import annotations

import os


def make_order_id() -> str:
    """A new id, unlike every other of any process: 32 hexadecimal digits."""
    return os.urandom(16).hex()

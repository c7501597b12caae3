"""`CallShape`: the text around a call's name and arguments, as a model of one format writes it."""

from __future__ import annotations

from typing import Literal

import msgspec


class CallShape(msgspec.Struct, frozen=True):
    """Calls are `begin`, then for each call `before_name` NAME `before_arguments` ARGUMENTS
    `after_arguments`, with `between` between two, then `end`."""

    before_name: str
    before_arguments: str
    after_arguments: str
    begin: str = ""
    between: str = ""
    end: str = ""
    arguments: Literal["json", "python", "xml"] = "json"
    """How they are written: a JSON object, `a=1, b=2` with JSON values, or an element for each."""
    trigger: str = ""
    """The mark after which a call must follow; "" if calls are recognised by their place."""

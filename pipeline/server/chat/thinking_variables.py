"""`thinking_variables`: variables of a chat template for what a request says of reasoning."""

from __future__ import annotations

from typing import Any

from ...text.chat_template import ChatTemplate
from ..bodies.thinking_fields import Thinking
from ..http.bad_request import BadRequest

SWITCHES = ("enable_thinking", "thinking")
"""Variables that turn reasoning on and off; templates read one of them or none."""


def thinking_variables(
    template: ChatTemplate, thinking: Thinking, *, can_reason: bool
) -> dict[str, Any]:
    """The variables by name. `can_reason`: whether answers may have reasoning. Raises `BadRequest`
    naming the field if the template cannot do it."""
    found: dict[str, Any] = {}
    switches = [name for name in SWITCHES if template.reads(name)]
    is_on, field = thinking.is_on, thinking.switch_field
    if thinking.effort is not None:
        if template.reads("reasoning_effort"):
            found["reasoning_effort"] = thinking.effort
        elif thinking.effort == "none":
            is_on, field = False if is_on is None else is_on, thinking.effort_field
        else:
            raise BadRequest(
                f"{thinking.effort_field} is not supported: the chat template reads no "
                f"reasoning_effort{f', but {switches[0]}' if switches else ''}",
                param=thinking.effort_field,
            )
    if is_on is not None and switches:
        found[switches[0]] = is_on
    elif is_on is not None and is_on != can_reason:
        state = "always reasons" if can_reason else "does not reason"
        raise BadRequest(
            f"{field} is not supported: the chat template has no switch for it, and the model "
            f"{state}",
            param=field,
        )
    return found

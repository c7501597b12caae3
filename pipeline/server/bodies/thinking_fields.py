"""`Thinking`: what a request says of the model's reasoning, in the words of several servers."""

from __future__ import annotations

from typing import Any

import msgspec

from ..http.bad_request import BadRequest

EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")


class Thinking(msgspec.Struct, frozen=True):
    """Whether and how much the model is to reason. `fields` are the request's names of them."""

    effort: str | None = None
    is_on: bool | None = None
    effort_field: str = "reasoning_effort"
    switch_field: str = "enable_thinking"


def read_thinking(
    effort: str | None, enable_thinking: bool | None, thinking: Any, reasoning: Any
) -> Thinking:
    """From `reasoning_effort`, `enable_thinking`, `thinking` (true, false, or `{"type":
    "enabled"}`) and `reasoning` (`{"effort": …, "enabled": …}`). Raises `BadRequest` naming the
    field."""
    found = Thinking(effort, enable_thinking)
    if thinking is not None:
        found = msgspec.structs.replace(found, is_on=_switch(thinking), switch_field="thinking")
    if reasoning:
        found = _with_reasoning(found, reasoning)
    if found.effort is not None and found.effort not in EFFORTS:
        raise BadRequest(
            f"{found.effort_field} must be one of {', '.join(EFFORTS)}", param=found.effort_field
        )
    return found


def _switch(value: Any) -> bool | None:
    """`thinking` of several servers; None leaves it to the model."""
    if isinstance(value, bool):
        return value
    kinds = {"enabled": True, "disabled": False, "auto": None}
    kind = value.get("type") if isinstance(value, dict) else None
    if kind not in kinds:
        raise BadRequest(
            'thinking must be true, false or {"type": "enabled"}, "disabled" or "auto"',
            param="thinking",
        )
    if others := sorted(set(value) - {"type"}):
        raise BadRequest(
            f"thinking.{others[0]} is not supported: use max_tokens", param=f"thinking.{others[0]}"
        )
    return kinds[kind]


def _with_reasoning(found: Thinking, reasoning: Any) -> Thinking:
    if not isinstance(reasoning, dict):
        raise BadRequest("reasoning is not an object", param="reasoning")
    for name, value in reasoning.items():
        at = f"reasoning.{name}"
        if value is None:
            continue
        if name == "effort" and isinstance(value, str):
            found = msgspec.structs.replace(found, effort=value, effort_field=at)
        elif name == "enabled" and isinstance(value, bool):
            found = msgspec.structs.replace(found, is_on=value, switch_field=at)
        else:
            raise BadRequest(
                f"{at} is not supported; effort (a text) and enabled (true or false) are", param=at
            )
    return found

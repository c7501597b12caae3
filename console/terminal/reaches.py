"""`switched_off`: the stages of this folder that are off with the installed Textual and rich.

A stage relies on private names of these libraries. It checks them itself (`why_off`) and is off if
one is missing or different: the console then works as Textual alone does.
"""

from __future__ import annotations

from typing import NamedTuple

from . import driver, memory_trim, own_bindings, strip_cache, terminal_app

STAGES = (
    ("sending only changed cells", terminal_app.why_diff_is_off),
    ("waiting for the terminal's replies", terminal_app.why_pacing_is_off),
    ("title, OSC 9 and byte count", driver.why_driver_is_hidden),
    ("counting the writer's queue", driver.why_queue_is_off),
    ("strips without caches", strip_cache.why_off),
    ("memory trim", memory_trim.why_off),
    ("terminal driver", driver.why_driver_is_off),
    ("input thread that sleeps", driver.why_sleep_is_off),
    ("keys of a dialog that is not up yet", own_bindings.why_off),
    ("suspending the whole job", driver.why_suspend_is_off),
)
"""Each stage's description, and the function that returns why it is off."""


class SwitchedOff(NamedTuple):
    """A stage that is off, and the reason: `textual 8.9.0 has no textual.strip.FIFOCache`."""

    stage: str
    reason: str


def switched_off() -> list[SwitchedOff]:
    """Every stage that is off; usually none."""
    return [SwitchedOff(stage, reason) for stage, why in STAGES if (reason := why())]

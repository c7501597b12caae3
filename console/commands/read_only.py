"""The commands and keys that a console opened with --read-only refuses."""

from __future__ import annotations

READ_ONLY = "Read-only console (--read-only)"
NO_ORDERS = "A recording is read-only"
CHANGES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("load", "unload", "reload", "pin", "merge", "verify")},
    **{name: () for name in ("unpin", "unmerge")},
    "abort": ("abort", "request-abort"),
    "prompt": ("send", "retry"),
    "bench": ("bench-new", "bench-cancel"),
    "restart": ("restart", "kill"),
    "stop": ("stop",),
    "start": ("start-pipeline",),
    "signal": ("signal",),
    "drain": ("drain",),
    "down": ("down",),
    "profile": ("record",),
}
"""Commands that change a pipeline or send it work, and the ids of the keys that do the same. These
commands and keys are hidden. `scheduler` is not listed, since it also shows the settings: its order
is refused when it is sent."""
CHANGING_KEYS = frozenset(key for keys in CHANGES.values() for key in keys)
QUESTION_KEYS = frozenset({"plan"})
"""Keys that ask a pipeline something: there is none behind a recording."""


def is_changing_command(name: str) -> bool:
    """Whether a read-only console refuses this command."""
    return name in CHANGES


def is_changing_key(id: str | None) -> bool:
    """Whether a read-only console refuses the key with this id."""
    return id in CHANGING_KEYS

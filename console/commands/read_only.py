"""What a console that was opened with --read-only refuses: one table, of commands and of keys."""

from __future__ import annotations

READ_ONLY = "This console only looks: it was opened with --read-only"
CHANGES: dict[str, tuple[str, ...]] = {
    **{name: (name,) for name in ("load", "unload", "reload", "pin", "merge", "verify")},
    **{name: () for name in ("unpin", "unmerge")},
    "abort": ("abort", "request-abort"),
    "prompt": ("send", "retry"),
    "bench": ("bench-new", "bench-cancel"),
    "restart": ("restart", "kill"),
    "stop": ("stop",),
    "start": (),
    "signal": ("signal",),
    "drain": ("drain",),
    "down": ("down",),
    "profile": ("record",),
}
"""Each command that changes something in a pipeline or asks something of it, and the keys, by their
ids, that do the same. Such a key is not shown, such a command not offered. `scheduler` is not among
them, since it also shows the settings: its order is refused when it is sent."""
CHANGING_KEYS = frozenset(key for keys in CHANGES.values() for key in keys)


def is_changing_command(name: str) -> bool:
    """Whether a read-only console refuses the command of that name."""
    return name in CHANGES


def is_changing_key(id: str | None) -> bool:
    """Whether a read-only console refuses the key of that id."""
    return id in CHANGING_KEYS

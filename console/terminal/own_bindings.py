"""Key bindings of a single widget; Textual binds keys for all widgets of a class."""

from __future__ import annotations

from textual.dom import DOMNode

from ...pipeline.runtime.library import missing, unused


def why_off() -> str:
    """What the installed Textual lacks for it; without it a dialog gets keys only once it is up."""
    return missing("textual.binding:BindingsMap.bind") or unused(
        "textual.dom:DOMNode.__init__", "_bindings"
    )


def bind_key(node: DOMNode, key: str, action: str, description: str) -> bool:
    """Binds `key` on this widget, not shown in the footer. False if `why_off` has a reason or the
    call fails."""
    try:
        if why_off():
            return False
        node._bindings.bind(key, action, description, show=False)
    except (AttributeError, TypeError):  # another signature in this Textual
        return False
    return True

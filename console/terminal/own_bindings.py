"""Keys that are bound for one widget alone; Textual binds them for all widgets of a class."""

from __future__ import annotations

from textual.dom import DOMNode

from ...pipeline.runtime.library import missing, unused


def why_off() -> str:
    """What the installed Textual has not for it; a dialog hears its keys once it is up then."""
    return missing("textual.binding:BindingsMap.bind") or unused(
        "textual.dom:DOMNode.__init__", "_bindings"
    )


def bind_key(node: DOMNode, key: str, action: str, description: str) -> bool:
    """Binds `key` on this widget, without a place in the footer. False where `why_off` has a
    reason, or the call fails."""
    try:
        if why_off():
            return False
        node._bindings.bind(key, action, description, show=False)
    except (AttributeError, TypeError):  # it is called in another way
        return False
    return True

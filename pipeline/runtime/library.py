"""Checks which names an installed library has; never fails: `find`, `missing`, `changed`, `unused`.

The last three return the reason why a stage that needs a name is off, to be shown, or "".
"""

from __future__ import annotations

import importlib
import inspect
from typing import Any


def find(path: str) -> Any:
    """The module or object at `module` or `module:attribute.attribute`; None if any part of the
    path is missing."""
    module, _, attributes = path.partition(":")
    try:
        found: Any = importlib.import_module(module)
        for attribute in filter(None, attributes.split(".")):
            found = getattr(found, attribute)
    except Exception:  # another version may fail in any way while it is imported
        return None
    return found


def missing(*paths: str) -> str:
    """`textual 8.9.0 has no textual.strip.FIFOCache` for the first path not found, else ""."""
    for path in paths:
        if find(path) is None:
            return f"{_version(path)} has no {_spelled(path)}"
    return ""


def changed(path: str, *parameters: str) -> str:
    """A reason unless the function at `path` has exactly these parameters, in this order."""
    try:
        is_same = tuple(inspect.signature(find(path)).parameters) == parameters
    except (TypeError, ValueError):  # None, or written in C
        is_same = False
    return "" if is_same else f"{_version(path)} has other parameters for {_spelled(path)}"


def unused(path: str, *names: str) -> str:
    """A reason naming the first of `names` that the code of the function at `path` does not use as
    an attribute or a global; else ""."""
    code = getattr(find(path), "__code__", None)
    known = getattr(code, "co_names", ())
    for name in names:
        if name not in known:
            return f"{_version(path)} has no {name} in {_spelled(path)}"
    return ""


def _version(path: str) -> str:
    from importlib import metadata  # 2 MiB, and usually nothing is missing

    package = path.partition(":")[0].partition(".")[0]
    try:
        return f"{package} {metadata.version(package)}"
    except metadata.PackageNotFoundError:
        return package


def _spelled(path: str) -> str:
    return path.replace(":", ".")

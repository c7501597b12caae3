"""Private names of other libraries are used in a few files, which check that they are there."""

import ast
import importlib
import inspect
import pkgutil
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import loraconsole.console
import loraconsole.pipeline

ROOT = Path(__file__).resolve().parents[2]
PLACES = ("console/terminal/", "console/cli/web.py", "kernels/precompile.py")
PLACES += ("pipeline/model/cpu_kernels.py", "pipeline/server/http/http_connection.py")
"""Where they may be used."""
STANDARD = sys.stdlib_module_names
MADE_BY_TEXTUAL = {"_css_type_name", "_css_type_names", "_decorated_handlers", "_merged_bindings"}
MADE_BY_TEXTUAL |= {"_computes", "_reactives", "_inherit_bindings", "_inherit_component_classes"}
MADE_BY_TEXTUAL |= {"_inherit_css", "_abc_impl"}
MADE_BY_TQDM = {"_instances", "_lock"}
"""Names that a base class gives to every subclass."""


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def uses(tree: ast.Module) -> Iterator[str]:
    """Private names of other packages that are imported, or reached from what is imported."""
    foreign = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and not node.level and node.module:
            if node.module.partition(".")[0] in STANDARD:
                continue
            for name in (*node.module.split("."), *(each.name for each in node.names)):
                if is_private(name):
                    yield f"{node.module}: {name}"
            foreign |= {each.asname or each.name for each in node.names}
        elif isinstance(node, ast.Import):
            names = {each.asname or each.name.partition(".")[0] for each in node.names}
            foreign |= names - STANDARD
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            root = node.value
            while isinstance(root, ast.Attribute):
                root = root.value
            if isinstance(root, ast.Name) and root.id in foreign:
                yield ast.unparse(node)


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("from textual._compositor import Compositor", ["textual._compositor: _compositor"]),
        (
            "from textual.keys import _character_to_key, format_key",
            ["textual.keys: _character_to_key"],
        ),
        ("import torch\ntorch.ops.mkldnn._linear(1)", ["torch.ops.mkldnn._linear"]),
        ("from rich.style import Style\nStyle._null", ["Style._null"]),
        ("import os\nos._exit(0)\nfrom .own import thing\nthing._part", []),
    ],
)
def test_a_use_is_seen(source: str, found: list[str]) -> None:
    assert list(uses(ast.parse(source))) == found


def test_private_names_of_other_libraries_are_used_where_they_are_checked_alone() -> None:
    found = [
        f"{place}: {use}"
        for room in ("console", "pipeline", "kernels")
        for path in (ROOT / room).rglob("*.py")
        if not (place := str(path.relative_to(ROOT))).startswith(PLACES)
        for use in uses(ast.parse(path.read_text()))
    ]
    assert found == []


@pytest.mark.slow
def test_no_class_elsewhere_overrides_or_reads_a_private_name_of_a_foreign_base() -> None:
    found = []
    for package in (loraconsole.console, loraconsole.pipeline):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            place = module.name.removeprefix("loraconsole.").replace(".", "/")
            if place.endswith("__main__") or f"{place}.py".startswith(PLACES):
                continue
            for kind in vars(importlib.import_module(module.name)).values():
                if inspect.isclass(kind) and kind.__module__ == module.name:
                    found += [f"{place}: {kind.__name__}.{name}" for name in shared_names(kind)]
    assert found == []


def shared_names(kind: type) -> set[str]:
    """Private names of a class that a base from another library has as well."""
    bases = [base for base in kind.__mro__ if base.__module__.partition(".")[0] not in STANDARD]
    foreign = [base for base in bases if not base.__module__.startswith("loraconsole")]
    if not foreign:
        return set()
    own = {name for name in vars(kind) if is_private(name)}
    own |= set(re.findall(r"(?:self|cls|super\(\))\.(_[a-z]\w*)", inspect.getsource(kind)))
    theirs = {name for base in foreign for name in vars(base)}
    for base in foreign:
        try:
            theirs |= set(re.findall(r"self\.(_[a-z]\w*)\b[^=\n]*=[^=]", inspect.getsource(base)))
        except (OSError, TypeError):  # written in C
            continue
    return (own & theirs) - MADE_BY_TEXTUAL - MADE_BY_TQDM

"""The project's structural rules as figures: `python tests/house.py [ROOT]` prints a table of the
code below ROOT (default: this project) and exits 1 if a figure exceeds its bound.

Counted over the source of console/, pipeline/, kernels/ and themes/; nothing is imported. Imports
count everywhere: at the top, under TYPE_CHECKING, inside a function.
"""

from __future__ import annotations

import ast
import itertools
import re
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FLOORS = ("console", "pipeline", "kernels", "themes")

MOST_MODULES = 26
"""Modules in one folder."""
MOST_BACK_ARROWS = 1
"""Imports from a folder to one above it, in the order of folders with the fewest of them."""
MOST_MARKED_WORDS = 1.5
"""Per 1 000 lines: words that make sentences here hard to read."""
LONG_FUNCTION = 60
"""Lines from which a function counts as long."""

MARKED = re.compile(r"\b(whoever|whom|nobody|somebody|told|so many|so long|anew)\b", re.IGNORECASE)

TWINS = {
    "main": "what `python -m` runs",
    "silu_mul": "a kernel and its plain twin",
    "why_off": "what the installed libraries lack for a file's use of their private names",
}
"""Public names that several modules may define, and why."""
PLAIN_TWINS = "kernels.reference"
"""The module of the kernels' plain twins, which have the kernels' names."""


@dataclass(frozen=True)
class Module:
    """A source file: its dotted name below the root, and its tree."""

    name: str
    is_package: bool
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        """Its folder; a file directly below a folder of `FLOORS` is its own room."""
        folder = self.name.rpartition(".")[0]
        return self.name if self.is_package or folder in FLOORS else folder


def read_modules(root: Path) -> dict[str, Module]:
    modules = {}
    for path in sorted(path for floor in FLOORS for path in (root / floor).rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        text = path.read_text()
        modules[name] = Module(name, is_package, text, ast.parse(text))
    return modules


def imports_of(module: Module, modules: Mapping[str, Module]) -> set[str]:
    """The project's modules that this one imports anywhere."""
    found = set()
    for node in ast.walk(module.tree):
        if not isinstance(node, ast.ImportFrom):
            continue
        if node.level:
            parts = module.name.split(".")
            depth = node.level - module.is_package
            base = parts[: len(parts) - depth] + ([node.module] if node.module else [])
        elif (node.module or "").split(".")[0] == "loraconsole":
            base = (node.module or "").split(".")[1:]
        else:
            continue
        for alias in node.names:
            name = ".".join([*base, alias.name])
            found.add(name if name in modules else ".".join(base))
    return {name for name in found if name in modules and name != module.name}


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of two or more nodes (Tarjan 1972)."""
    index: dict[str, int] = {}
    lowest: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = lowest[node] = len(index)
        stack.append(node)
        for other in arrows[node]:
            if other not in index:
                visit(other)
                lowest[node] = min(lowest[node], lowest[other])
            elif other in stack:
                lowest[node] = min(lowest[node], index[other])
        if lowest[node] == index[node]:
            component = stack[stack.index(node) :]
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(sorted(component))

    sys.setrecursionlimit(max(sys.getrecursionlimit(), 4 * len(arrows) + 1000))
    for node in arrows:
        if node not in index:
            visit(node)
    return found


def room_arrows(
    arrows: Mapping[str, set[str]], modules: Mapping[str, Module]
) -> dict[str, set[str]]:
    rooms: dict[str, set[str]] = {module.room: set() for module in modules.values()}
    for name, others in arrows.items():
        for other in others:
            here, there = modules[name].room, modules[other].room
            if here != there and not modules[other].is_package:
                rooms[here].add(there)
    return rooms


def back_arrows(rooms: Mapping[str, set[str]]) -> int:
    """The fewest back arrows in any order of the rooms: the minimum over all orders for a circle of
    up to 8 rooms; for a larger one, those in the order by arrows in minus out."""
    total = 0
    for circle in circles(rooms):
        inside = {room: rooms[room] & set(circle) for room in circle}

        def against(order: tuple[str, ...], inside: dict[str, set[str]] = inside) -> int:
            place = {room: n for n, room in enumerate(order)}
            return sum(place[there] < place[here] for here in order for there in inside[here])

        if len(circle) <= 8:
            total += min(map(against, itertools.permutations(circle)))
        else:
            ways_in = Counter(there for here in circle for there in inside[here])
            total += against(tuple(sorted(circle, key=lambda r: ways_in[r] - len(inside[r]))))
    return total


def public_names(module: Module) -> Iterator[str]:
    """Public classes and functions at the top level of a module."""
    for node in module.tree.body:
        is_definition = isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if is_definition and not node.name.startswith("_"):
            yield node.name


def shared_names(modules: Mapping[str, Module]) -> dict[str, list[str]]:
    """Public names that several modules define, with these modules."""
    places = defaultdict(list)
    for module in modules.values():
        for name in public_names(module):
            if module.name != PLAIN_TWINS and name not in TWINS:
                places[name].append(module.name)
    return {name: places[name] for name in sorted(places) if len(places[name]) > 1}


def functions(modules: Mapping[str, Module]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for module in modules.values():
        for node in ast.walk(module.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield node


def is_typed(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    arguments = function.args
    named = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    named = [argument for argument in named if argument.arg not in ("self", "cls")]
    named += [argument for argument in (arguments.vararg, arguments.kwarg) if argument]
    return function.returns is not None and all(argument.annotation for argument in named)


@dataclass(frozen=True)
class Figure:
    """One line of the table. `evidence` lists the places, printed if `within` is False."""

    name: str
    value: str
    within: bool = True
    evidence: tuple[str, ...] = ()


def figures(root: Path) -> list[Figure]:
    modules = read_modules(root)
    arrows = {name: imports_of(module, modules) for name, module in modules.items()}
    lines = sum(module.text.count("\n") for module in modules.values())
    files = Counter(m.name.rpartition(".")[0] for m in modules.values() if not m.is_package)
    folder, most = files.most_common(1)[0]
    found = circles(arrows)
    rooms = room_arrows(arrows, modules)
    back = back_arrows(rooms)
    shared = shared_names(modules)
    marked = [
        f"{module.name}:{number}: {line.strip()}"
        for module in modules.values()
        for number, line in enumerate(module.text.splitlines(), 1)
        for _ in MARKED.findall(line)
    ]
    rate = 1000 * len(marked) / lines
    all_functions = list(functions(modules))
    long = sum((f.end_lineno or 0) - f.lineno >= LONG_FUNCTION for f in all_functions)
    typed = sum(map(is_typed, all_functions)) / len(all_functions)
    return [
        Figure("code files / lines", f"{len(modules)} / {lines}"),
        Figure("modules in the largest folder", f"{most} ({folder})", most <= MOST_MODULES),
        Figure(
            "circles / files in them",
            f"{len(found)} / {sum(map(len, found))}",
            not found,
            tuple(" ".join(circle) for circle in found),
        ),
        Figure(
            "arrows between rooms that run back",
            str(back),
            back <= MOST_BACK_ARROWS,
            tuple(" ".join(circle) for circle in circles(rooms)),
        ),
        Figure(
            "public names with several meanings",
            str(len(shared)),
            not shared,
            tuple(f"{name}: {', '.join(places)}" for name, places in shared.items()),
        ),
        Figure(
            "marked words per 1 000 lines",
            f"{rate:.1f} ({len(marked)})",
            rate <= MOST_MARKED_WORDS,
            tuple(marked),
        ),
        Figure(
            f"functions over {LONG_FUNCTION} lines, per 1 000",
            f"{1000 * long / len(all_functions):.0f}",
        ),
        Figure("signatures wholly typed", f"{typed:.0%}"),
    ]


def main() -> int:
    root = Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).resolve().parents[1]
    table = figures(root)
    for figure in table:
        print(f"{figure.name:<40} {figure.value}{'' if figure.within else '   <- too many'}")
    for figure in table:
        if not figure.within:
            print(f"\n{figure.name}:", *figure.evidence, sep="\n  ")
    return 0 if all(figure.within for figure in table) else 1


if __name__ == "__main__":
    sys.exit(main())

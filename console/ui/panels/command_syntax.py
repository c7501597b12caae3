"""`LineCommand`: a name that the `:` line knows; how a line of such names is read and completed."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ....pipeline.errors import OperatorError
from ...state.board import Board


class LineCommand(NamedTuple):
    """A name that `:` knows: its arguments, its help, and its function."""

    name: str
    usage: str
    help: str
    run: Callable[[Sequence[str]], Awaitable[Any] | Any]
    """Called with the words after the name. Raises `OperatorError` if they are wrong."""
    words: Callable[[Board, Sequence[str]], Iterable[str]] = lambda board, before: ()
    """Completions of the last of these words."""
    about: Mapping[str, str] = {}
    """The help of single words."""
    is_refused: bool = False
    """A read-only console refuses it; it is not offered then."""


def read_line(text: str, commands: dict[str, LineCommand]) -> tuple[LineCommand, list[str]]:
    """Raises `OperatorError` for a name that is not there, or quotes that do not end."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OperatorError(str(error).lower(), "quotes go in pairs") from error
    if not words:
        raise OperatorError("nothing is said", "tab shows what can be")
    name = words[0]
    if name not in commands:
        starts = [known for known in commands if known.startswith(name)]
        if len(starts) != 1:
            near = starts or [known for known in commands if name in known]
            hint = f"is it {', '.join(near[:6])}?" if near else "tab shows what there is"
            raise OperatorError(f"no command {name!r}", hint)
        name = starts[0]
    return commands[name], words[1:]


def candidates(text: str, commands: dict[str, LineCommand], board: Board) -> list[tuple[str, str]]:
    """Completions of the last word of `text`, each with its help."""
    head, _, last = text.rpartition(" ")
    if not head.strip():
        return [
            (c.name, f"{c.usage}  {c.help}".strip())
            for c in commands.values()
            if c.name.startswith(last) and not c.is_refused
        ]
    try:
        before = shlex.split(head)
    except ValueError:
        return []
    command = commands.get(before[0])
    if command is None:
        return []
    found = dict.fromkeys(command.words(board, [*before[1:], last]))
    return [
        (word, command.about.get(word, command.help))
        for word in found
        if word.startswith(last) and word != last
    ]


def hint(text: str, commands: dict[str, LineCommand]) -> str:
    """Usage and help of the command being typed; "" while its name is not whole."""
    name, blank, _ = text.lstrip().partition(" ")
    command = commands.get(name) if blank else None
    return f"{command.name} {command.usage}  {command.help}" if command else ""

"""`LineCommand`: one command of the `:` line; functions to parse and complete a line."""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ....pipeline.errors import OperatorError
from ...state.board import Board
from ...text.near_words import did_you_mean
from .candidates import Candidate


class LineCommand(NamedTuple):
    """A command of the `:` line: its name, arguments, help and function."""

    name: str
    usage: str
    help: str
    run: Callable[[Sequence[str]], Awaitable[Any] | Any]
    """Called with the words after the name. Raises `OperatorError` if they are wrong."""
    words: Callable[[Board, Sequence[str]], Iterable[str]] = lambda board, before: ()
    """Completions of the last of the given words."""
    about: Mapping[str, str] = {}
    """Help by completion."""
    group: str = ""
    """The title that it is listed under."""
    is_refused: bool = False
    """Whether this read-only console refuses it; then it is not offered."""


def read_line(text: str, commands: dict[str, LineCommand]) -> tuple[LineCommand, list[str]]:
    """The command of a line, and its words. Raises `OperatorError` for an unknown or ambiguous
    name, or an unclosed quote."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OperatorError(str(error).lower(), "close the quotes") from error
    if not words:
        raise OperatorError("no command is given", "tab lists the commands")
    name = words[0]
    if name not in commands:
        starts = [known for known in commands if known.startswith(name)]
        if len(starts) != 1:
            meant = did_you_mean(
                name, [each.name for each in commands.values() if not each.is_refused]
            )
            raise OperatorError(f"no command {name!r}", meant or "tab lists the commands")
        name = starts[0]
    return commands[name], words[1:]


def candidates(text: str, commands: dict[str, LineCommand], board: Board) -> list[Candidate]:
    """Completions of the last word of `text`, each with its help; for the first word those that
    contain it if none starts with it."""
    head, _, last = text.rpartition(" ")
    if not head.strip():
        offered = [command for command in commands.values() if not command.is_refused]
        starts = [command for command in offered if command.name.startswith(last)]
        return [
            Candidate(command.name, f"{command.usage}  {command.help}".strip(), command.group)
            for command in starts or [each for each in offered if last in each.name]
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
        Candidate(word, command.about.get(word, command.help))
        for word in found
        if word.startswith(last) and word != last
    ]


def hint(text: str, commands: dict[str, LineCommand]) -> str:
    """Usage and help of the command being typed; "" until its name is complete."""
    name, blank, _ = text.lstrip().partition(" ")
    command = commands.get(name) if blank else None
    return f"{command.name} {command.usage}  {command.help}" if command else ""

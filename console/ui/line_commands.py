"""The commands of the `:` line, by name. The palette lists actions by title.

A name is an action's id (the right column of the help), a command of the command line, or one of
the few in `_own`. The command line's parser parses commands, so `:` accepts the same arguments as a
shell. A command without a console action of its own runs in a process, and its output is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from contextlib import closing
from functools import cache, partial
from typing import Any, TypeAlias

from textual.binding import ActiveBinding

from ...pipeline.errors import OperatorError
from ...pipeline.messages import POLICIES, Abort, Drain, Resume, StopPipeline
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..client.ask import find_request
from ..client.telemetry import ABORTED, DRAIN_SECONDS
from ..client.transcripts import open_transcripts
from ..commands.adapters import (
    AdapterCommand,
    LoadCommand,
    NamedAdapterCommand,
    VerifyCommand,
)
from ..commands.argument import Argument, arguments_of, usage_of
from ..commands.base import Command
from ..commands.consoles import AttachCommand, PlayCommand
from ..commands.inspect import LogsCommand
from ..commands.parser import CommandParser, command_parser, parse_with
from ..commands.pipeline import (
    AbortCommand,
    BenchCommand,
    DownCommand,
    DrainCommand,
    SchedulerCommand,
    UpCommand,
)
from ..commands.processes import ProcessCommand
from ..commands.read_only import is_changing_command
from ..commands.table import COMMANDS, CommandGroup
from ..commands.transcripts import DeleteTranscriptsCommand
from ..state.board import SUPERVISOR, Board
from ..text import units
from ..text.lines import TextLine, line
from ..text.near_words import did_you_mean, with_choices
from . import actions
from .screen_app import ScreenApp
from .widgets.command_syntax import LineCommand
from .widgets.dialogs import LiveDialog
from .widgets.path_input import ANY_FILE, DIRECTORIES, PathKind, paths_like

Known: TypeAlias = type[Command] | CommandGroup
GROUPS = {
    "here": "here",
    "": "go",
    "adapters": "adapters",
    "processes": "processes",
    "pipeline": "pipeline",
    "inspect": "look",
    "consoles": "recordings",
    "transcripts": "transcripts",
    "app": "console",
    "screens": "screens",
    "moves": "cursor",
}
"""Titles of the groups of commands, in the order in which they are listed. Those of the command
line are grouped by the modules of their records."""
MOVES = ("move(", "page(", "jump(", "match(", "scroll", "app.focus_", "cursor_", "palette")
"""Prefixes of actions listed last: cursor moves, and opening the palette."""
WITH_A_SCREEN: tuple[Known, ...] = (UpCommand, AttachCommand, PlayCommand)
"""Commands that `:` does not know, since they open a console or start a pipeline."""
MOST_OUTPUT = 5000
SVG = PathKind(suffixes=(".svg",))


# --- the commands -------------------------------------------------------------------------------


def all_commands(
    app: ScreenApp, bindings: Iterable[ActiveBinding] | None = None
) -> dict[str, LineCommand]:
    """The commands by name, in the order of `GROUPS`, those of the focused pane first. If an action
    and a command share a name, arguments select the command."""
    found: dict[str, LineCommand] = {}
    if bindings is None:
        bindings = app.screen.active_bindings.values()
    for active in bindings:
        binding = active.binding
        if binding.id and binding.description and not binding.system and active.enabled:
            found.setdefault(binding.id, _action(app, active))
    for command in (*_own(app), *_verbs(app)):
        action = found.get(command.name)
        found[command.name] = _either(action, command) if action else command
    order = list(GROUPS.values())
    return {c.name: c for c in sorted(found.values(), key=lambda each: order.index(each.group))}


def _action(app: ScreenApp, active: ActiveBinding) -> LineCommand:
    binding = active.binding
    what = active.tooltip or binding.description

    async def run(words: Sequence[str]) -> None:
        if words:
            raise OperatorError(f"{binding.id} takes no arguments", what)
        await app.run_action(binding.action, active.node)

    group = "app" if active.node is app else "here"
    if binding.action.startswith("show("):
        group = "screens"
    elif binding.action.startswith(MOVES):
        group = "moves"
    refused = app.refuses(binding.id)
    return LineCommand(binding.id or "", "", what, run, group=GROUPS[group], is_refused=refused)


def _either(action: LineCommand, verb: LineCommand) -> LineCommand:
    async def run(words: Sequence[str]) -> None:
        done = (verb if words else action).run(words)
        if isinstance(done, Awaitable):
            await done

    usage = verb.usage if verb.usage.startswith("[") or not verb.usage else f"[{verb.usage}]"
    refused = verb.is_refused and action.is_refused
    group = action.group if action.group == GROUPS["here"] else verb.group
    return verb._replace(usage=usage, run=run, group=group, is_refused=refused)


def _own(app: ScreenApp) -> Iterator[LineCommand]:
    screens = app.screen_names

    async def goto(words: Sequence[str]) -> None:
        wanted = " ".join(words).lower()
        near = [name for name in screens if wanted and name.lower().startswith(wanted)]
        if len(near) != 1:
            low = [name.lower() for name in screens]
            hint = with_choices(did_you_mean(wanted, low), low)
            raise OperatorError(f"no screen {wanted!r}", hint)
        await app.action_show(near[0])

    def theme(words: Sequence[str]) -> None:
        name = " ".join(words)
        if name not in app.themes:
            hint = with_choices(did_you_mean(name, app.themes), app.themes)
            raise OperatorError(f"no theme {name!r}", hint)
        app.wear_theme(name)

    def filter(words: Sequence[str]) -> None:
        app.filter_panel(" ".join(words))

    yield LineCommand(
        *("goto", "SCREEN", "a screen by its name", goto),
        group=GROUPS[""],
        words=lambda board, before: (name.lower() for name in screens) if len(before) == 1 else (),
    )
    yield LineCommand(
        *("theme", "NAME", "colours", theme),
        group=GROUPS[""],
        words=lambda board, before: app.themes if len(before) == 1 else (),
    )
    what = "filter the list on this screen; no text shows all rows"
    yield LineCommand("filter", "EXPRESSION", what, filter, group=GROUPS[""])
    if app.telemetry.controls is not None:
        what = "3:07 from the start of the recording, +90 or -1:30 from here"
        yield LineCommand(
            "seek", "TIME", what, lambda w: app.seek_to(" ".join(w)), group=GROUPS[""]
        )
    yield LineCommand(
        *("screenshot", "[PATH]", "the screen as SVG", lambda words: app.save_picture(*words[:1])),
        group=GROUPS[""],
        words=lambda board, before: (each.word for each in paths_like(before[-1], SVG)),
    )


def _verbs(app: ScreenApp) -> Iterator[LineCommand]:
    for known in COMMANDS:
        if known not in WITH_A_SCREEN:
            yield _verb(app, known, known.NAME)
        if isinstance(known, CommandGroup):
            for verb in known.verbs:
                if issubclass(verb, AdapterCommand):
                    yield _verb(app, verb, known.NAME, verb.NAME)


def _verb(app: ScreenApp, known: Known, *typed: str) -> LineCommand:
    """A command of the command line; `typed` are the words that invoke it there."""
    name = typed[-1]
    is_grouped = isinstance(known, CommandGroup) or len(typed) > 1
    group = typed[0] if is_grouped else known.__module__.rpartition(".")[2]
    return LineCommand(
        name,
        usage_of(arguments_of(known)) if not isinstance(known, CommandGroup) else "[VERB …]",
        known.HELP,
        partial(_run_verb, app, typed),
        partial(_words, known),
        _about(known),
        GROUPS[group],
        app.is_read_only and is_changing_command(name),
    )


# --- commands of the command line ---------------------------------------------------------------


@cache
def _parser() -> argparse.ArgumentParser:
    return command_parser(LineParser)


class LineParser(CommandParser):
    """Raises `OperatorError` where a shell's parser prints the help and exits the process."""

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        raise OperatorError((message or "").strip() or self.format_help())

    def print_help(self, file: Any = None) -> None:
        """Prints nothing, since `exit` raises the help as an error."""


def _words(known: Known, board: Board, before: Sequence[str]) -> Iterator[str]:
    """Completions of the last word of `before`: verbs, flags, or values of an argument."""
    if isinstance(known, CommandGroup):
        verbs = {verb.NAME: verb for verb in known.verbs}
        if len(before) == 1:
            yield from verbs
        elif before[0] in verbs:
            yield from _words(verbs[before[0]], board, before[1:])
        return
    *done, last = before
    arguments = arguments_of(known)
    if last.startswith("-"):
        flags = (flag for each in arguments if each.name != "run" for flag in each.spellings)
        yield from (flag for flag in flags if flag not in done)
        return
    options = {flag: each for each in arguments for flag in each.flags if each.takes_value}
    if done and (option := options.get(done[-1])):
        yield from option.choices or _values(known, option, board, last)
        return
    values = {at + 1 for at, word in enumerate(done) if word in options}
    given = [w for at, w in enumerate(done) if at not in values and not w.startswith("-")]
    wanted = [each for each in arguments if each.is_positional]
    if wanted and (len(given) < len(wanted) or wanted[-1].takes_many):
        argument = wanted[min(len(given), len(wanted) - 1)]
        yield from argument.choices or _values(known, argument, board, last)


def _values(known: type[Command], argument: Argument, board: Board, begin: str) -> Iterable[str]:
    """Completions for a value of the argument, from the board or the file system."""
    match argument.name:
        case "policy":
            return POLICIES
        case "process":
            return [row.name for row in board.processes if row.name != SUPERVISOR]
        case "adapter" if argument.metavar == "NAME":
            return _adapters(board)
        case "name" if known is not LoadCommand:
            return _adapters(board)
        case "request":
            return [row.view.request_id for row in board.requests]
    if argument.metavar in ("FILE", "PATH"):
        kind = DIRECTORIES if issubclass(known, AdapterCommand) else ANY_FILE
        return [each.word for each in paths_like(begin, kind)]
    return ()


def _about(known: Known) -> dict[str, str]:
    """The help text of each verb, flag and policy."""
    if isinstance(known, CommandGroup):
        return {verb.NAME: verb.HELP for verb in known.verbs}
    arguments = arguments_of(known)
    about = {flag: each.help for each in arguments for flag in each.spellings if each.help}
    return about | (dict(POLICIES) if known is SchedulerCommand else {})


def _adapters(board: Board) -> Iterator[str]:
    return (shlex.quote(row.name) for row in board.adapters if not row.is_base)


async def _run_verb(app: ScreenApp, verb: Sequence[str], typed: Sequence[str]) -> None:
    """Carries out a command by a console action if there is one; otherwise runs it in a process and
    shows its output."""
    arguments = [*verb, *typed]
    if not typed and (screen := verb[-1].capitalize()) in app.screen_names:
        await app.action_show(screen)  # `:adapters`, `:logs`: the screen shows more than the output
        return
    bench = list(verb) == [BenchCommand.NAME]
    command = BenchCommand() if bench else parse_with(_parser(), arguments)
    match command:
        case AdapterCommand() if not (isinstance(command, VerifyCommand) and command.against):
            if isinstance(command, NamedAdapterCommand):
                _check_adapter(app, command.name)
            actions.give(app, command.order(app.orders.inbox))
        case ProcessCommand():
            known = [row.name for row in app.board.processes if row.name != SUPERVISOR]
            actions.give(app, command.order(known))
        case AbortCommand(request=request):
            ids = [row.view.request_id for row in app.board.requests]
            actions.give(app, Abort(find_request(request, ids), ABORTED))
        case DrainCommand(resume=resume):
            actions.give(app, Resume() if resume else Drain())
        case SchedulerCommand() if typed:
            if not command.changes:
                raise OperatorError("no changes", f"there are {', '.join(POLICIES)}")
            actions.give(app, command.order(app.orders.inbox))
        case DownCommand(now=now):
            actions.give(app, StopPipeline(0.0 if now else DRAIN_SECONDS))
        case LogsCommand(process=process) if process or command.follow:
            await app.action_show("Logs")
            app.filter_panel(f"^{process} " if process else "")
        case _ if app.is_read_only and is_changing_command(command.NAME):
            raise OperatorError(app.refusal)
        case DeleteTranscriptsCommand(conversations=conversations, all=every):
            with closing(open_transcripts()) as kept:
                lost = kept.describe(kept.choose(conversations, every))
            question = actions.Confirmation(
                "Delete transcripts?",
                f"{lost} will be deleted. This cannot be undone.",
                "Delete them",
            )
            actions.ask(app, question, partial(_show_output, app, arguments))
        case _:
            _show_output(app, arguments)


def _check_adapter(app: ScreenApp, name: str) -> None:
    """Raises `OperatorError` if no adapter has this name, and none is being loaded under it."""
    names = [row.name for row in app.board.adapters if not row.is_base]
    if names and name not in names and name not in app.board.orders:
        hint = did_you_mean(name, names) or ":adapters lists them"
        raise OperatorError(f"no adapter {name!r}", hint)


def _show_output(app: ScreenApp, arguments: Sequence[str]) -> None:
    app.push_screen(OutputDialog(arguments, app.config.run))


class OutputDialog(LiveDialog):
    """Shows a command's output as it arrives. Closing the dialog terminates the command."""

    def __init__(self, arguments: Sequence[str], run: str) -> None:
        super().__init__(f"loraconsole {' '.join(arguments)}", self._lines)
        self._arguments, self._run = list(arguments), run
        self._printed: list[str] = []
        self._end = "running …"
        self.is_carried_out = False

    def on_mount(self) -> None:
        super().on_mount()
        self.run_worker(self._carry_out(), name="verb", exit_on_error=True)

    async def _carry_out(self) -> None:
        command = [sys.executable, "-P", "-m", "loraconsole.console", *self._arguments]
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, **UTF8_OUTPUT}
            | {"LORACONSOLE_RUN": self._run, "COLUMNS": "78", "NO_COLOR": "1"},
        )
        try:
            assert process.stdout is not None
            async for row in process.stdout:
                if len(self._printed) < MOST_OUTPUT:
                    self._printed.append(row.decode(errors="replace").rstrip("\n"))
            code = await process.wait()
            self._end = "" if code == 0 else f"exit status {code}"
        finally:
            if process.returncode is None:
                process.terminate()
                await process.wait()
        self.is_carried_out = True
        self._pane.paint()

    def _lines(self, board: Board, width: int) -> Sequence[TextLine]:
        wide = [part for row in self._printed for part in units.wrap(units.clean(row), width)]
        found = [line((row, "text")) for row in wide]
        if self._end:
            found.append(line((self._end, "bad" if self._end.startswith("exit") else "dim")))
        return found

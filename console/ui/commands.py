"""What can be done, by name: the `:` line, and the palette that shows the same.

A name is an action's (as the help has it at the right), a verb's of the command line, or one of
the few below. Verbs are parsed by the command line's own parser, so that what is right in a shell
is right here; those that the console has no way of its own for run as a shell would run them, and
their output is shown.
"""

from __future__ import annotations

import argparse
import asyncio
import glob
import os
import shlex
import sys
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.binding import ActiveBinding
from textual.command import DiscoveryHit, Hit, Hits, Provider

from ...pipeline.errors import OperatorError
from ...pipeline.messages import POLICIES, AdapterOrder, SetScheduler, UnloadAdapter
from ...pipeline.runtime.text_output import UTF8_OUTPUT
from ..client.pending_orders import READ_ONLY, order_id
from ..state.board import SUPERVISOR, Board, ProcessRow
from ..text import units
from ..text.lines import TextLine, line
from . import actions
from .widgets.dialogs import LiveDialog

if TYPE_CHECKING:
    from .app import ConsoleApp

WITHOUT_A_SCREEN = ("console", "up", "attach", "play")
"""Verbs that make no sense on a running console: they bring one of their own."""
CHANGES = (
    *("load", "unload", "reload", "pin", "unpin", "merge", "unmerge", "verify"),
    *("restart", "stop", "start", "signal", "abort", "drain", "down"),
    *("bench", "profile", "prompt"),
)
"""Verbs that a console which only looks refuses, and so does not offer."""
MOST_OUTPUT = 5000
ADAPTER_VERBS = (
    *("load", "unload", "reload", "pin", "unpin", "merge", "unmerge", "verify", "plan"),
)
"""`:load` is short for `:adapters load`."""


class Command(NamedTuple):
    """One name: what follows it, what it does, and who carries it out."""

    name: str
    usage: str
    help: str
    run: Callable[[Sequence[str]], Awaitable[Any] | Any]
    """Given the words after the name. Raises `OperatorError` where they are wrong."""
    words: Callable[[Board, Sequence[str]], Iterable[str]] = lambda board, before: ()
    """What may come next, after these words."""
    about: Mapping[str, str] = {}
    """A line of help for such words as have their own."""
    is_refused: bool = False
    """This console only looks, and says so to whoever types it all the same."""


def read(text: str, commands: dict[str, Command]) -> tuple[Command, list[str]]:
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


def candidates(text: str, commands: dict[str, Command], board: Board) -> list[tuple[str, str]]:
    """What the last word of `text` may become, each with a word of help."""
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


def hint(text: str, commands: dict[str, Command]) -> str:
    """What the command being typed takes; "" before its name is whole."""
    name, blank, _ = text.lstrip().partition(" ")
    command = commands.get(name) if blank else None
    return f"{command.name} {command.usage}  {command.help}" if command else ""


# --- what there is ------------------------------------------------------------------------------


def all_commands(
    app: ConsoleApp, bindings: Iterable[ActiveBinding] | None = None
) -> dict[str, Command]:
    """By name, those of the focused pane first. Where an action and a verb share a name, the verb
    is what takes arguments."""
    found: dict[str, Command] = {}
    if bindings is None:
        bindings = app.screen.active_bindings.values()
    for active in bindings:
        binding = active.binding
        if binding.id and binding.description and not binding.system and active.enabled:
            found.setdefault(binding.id, _action(app, active))
    for command in (*_own(app), *_verbs(app)):
        action = found.get(command.name)
        found[command.name] = _either(action, command) if action else command
    return found


def _action(app: ConsoleApp, active: ActiveBinding) -> Command:
    binding = active.binding
    what = active.tooltip or binding.description

    async def run(words: Sequence[str]) -> None:
        if words:
            raise OperatorError(f"{binding.id} takes no words", what)
        await app.run_action(binding.action, active.node)

    refused = app.refuses(binding.id)
    return Command(binding.id or "", "", what, run, is_refused=refused)


def _either(action: Command, verb: Command) -> Command:
    async def run(words: Sequence[str]) -> None:
        done = (verb if words else action).run(words)
        if isinstance(done, Awaitable):
            await done

    usage = verb.usage if verb.usage.startswith("[") or not verb.usage else f"[{verb.usage}]"
    refused = verb.is_refused and action.is_refused
    return verb._replace(usage=usage, run=run, is_refused=refused)


def _own(app: ConsoleApp) -> Iterator[Command]:
    screens = app.screen_names

    async def goto(words: Sequence[str]) -> None:
        wanted = " ".join(words).lower()
        near = [name for name in screens if wanted and name.lower().startswith(wanted)]
        if len(near) != 1:
            raise OperatorError(f"no screen {wanted!r}", f"there are {', '.join(screens).lower()}")
        await app.action_show(near[0])

    def theme(words: Sequence[str]) -> None:
        name = " ".join(words)
        if name not in app.themes:
            raise OperatorError(f"no theme {name!r}", f"there are {', '.join(app.themes)}")
        app.wear_theme(name)

    def filter(words: Sequence[str]) -> None:
        app.filter_panel(" ".join(words))

    yield Command(
        *("goto", "SCREEN", "a screen by its name", goto),
        words=lambda board, before: (name.lower() for name in screens) if len(before) == 1 else (),
    )
    yield Command(
        *("theme", "NAME", "colours", theme),
        words=lambda board, before: app.themes if len(before) == 1 else (),
    )
    yield Command("filter", "EXPRESSION", "the list on this screen; nothing shows all", filter)
    yield Command("screenshot", "", "the screen as SVG", lambda _: app.save_picture())


def _verbs(app: ConsoleApp) -> Iterator[Command]:
    for name, (parser, help) in cli_verbs().items():
        if name in WITHOUT_A_SCREEN:
            continue
        run = partial(_run_verb, app, name)
        words, refused = partial(_words, parser, name), app.is_read_only and name in CHANGES
        yield Command(name, usage_of(parser), help, run, words, _about(parser, name), refused)
    for name, (parser, help) in _subverbs("adapters").items():
        if name in ADAPTER_VERBS:
            run = partial(_run_verb, app, "adapters", name)
            words, refused = partial(_words, parser, name), app.is_read_only and name in CHANGES
            yield Command(name, usage_of(parser), help, run, words, _about(parser, name), refused)


# --- verbs of the command line ------------------------------------------------------------------


def cli_verbs() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """The command line's commands, as its own parser has them."""
    return _choices(_parser())


def _subverbs(name: str) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    return _choices(cli_verbs()[name][0])


@cache
def _parser() -> argparse.ArgumentParser:
    from ..__main__ import command_parser

    return command_parser(LineParser)


class LineParser(argparse.ArgumentParser):
    """Raises what is wrong instead of ending the process."""

    def error(self, message: str) -> Any:
        raise OperatorError(message, usage_of(self))

    def exit(self, status: int = 0, message: str | None = None) -> Any:
        raise OperatorError((message or "").strip() or self.format_help(), usage_of(self))

    def print_help(self, file: Any = None) -> None:
        """`--help` is told by `exit`."""


def _choices(
    parser: argparse.ArgumentParser,
) -> dict[str, tuple[argparse.ArgumentParser, str]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            helps = {choice.dest: choice.help or "" for choice in action._choices_actions}
            return {name: (found, helps.get(name, "")) for name, found in action.choices.items()}
    return {}


def usage_of(parser: argparse.ArgumentParser) -> str:
    """`NAME PATH [--pin]`: without what is the same for all."""
    words = []
    for action in parser._actions:
        if set(action.option_strings) & {"--help", "--json", "--run"}:
            continue
        if isinstance(action, argparse._SubParsersAction):
            words.append("[VERB …]")
        elif action.option_strings:
            value = f" {action.metavar}" if action.metavar and action.nargs != 0 else ""
            words.append(f"[{action.option_strings[0]}{value}]")
        else:
            name = str(action.metavar or action.dest).upper()
            name += "…" if action.nargs in ("+", "*") else ""
            words.append(f"[{name}]" if action.nargs in ("?", "*") else name)
    return " ".join(words)


def _words(
    parser: argparse.ArgumentParser, name: str, board: Board, before: Sequence[str]
) -> Iterator[str]:
    """Flags of the verb, and what its next argument may be."""
    subverbs = _choices(parser)
    if subverbs:
        if len(before) == 1:
            yield from subverbs
        elif before[0] in subverbs:
            yield from _words(subverbs[before[0]][0], before[0], board, before[1:])
        return
    *done, last = before
    if last.startswith("-"):
        for action in parser._actions:
            if not set(action.option_strings) & {"--help", "--run"}:
                yield from (flag for flag in action.option_strings if flag not in done)
        return
    given = [word for word in done if not word.startswith("-")]
    wanted = [action for action in parser._actions if not action.option_strings]
    if done and done[-1] == "--adapter":
        yield from _adapters(board)
    elif wanted and (len(given) < len(wanted) or wanted[-1].nargs in ("+", "*")):
        action = wanted[min(len(given), len(wanted) - 1)]
        if action.choices:
            yield from map(str, action.choices)
        elif action.dest == "policy":
            yield from POLICIES
        elif action.dest == "process":
            yield from (row.name for row in board.processes if row.name != SUPERVISOR)
        elif action.dest == "name" and name != "load":
            yield from _adapters(board)
        elif action.dest == "request":
            yield from (row.view.request_id for row in board.requests)
        elif action.dest in ("path", "paths"):
            yield from _directories(last)


def _about(parser: argparse.ArgumentParser, name: str) -> dict[str, str]:
    """What subverbs, flags and policies are, each in its own words."""
    about = {verb: help for verb, (_, help) in _choices(parser).items()}
    about |= {f: a.help for a in parser._actions for f in a.option_strings if a.help}
    return about | (dict(POLICIES) if name == "scheduler" else {})


def _adapters(board: Board) -> Iterator[str]:
    return (shlex.quote(row.name) for row in board.adapters if not row.is_base)


def _directories(begin: str) -> Iterator[str]:
    """Of this machine, which is the pipeline's unless it is a remote one."""
    at = os.path.expanduser(begin)
    for path in sorted(glob.glob(glob.escape(at) + "*"))[:50]:
        if os.path.isdir(path):
            yield begin + path[len(at) :] + "/"


async def _run_verb(app: ConsoleApp, *words: Any) -> None:
    """`words` are the verb and, last, what was typed after it."""
    *verb, typed = words
    arguments = [*verb, *typed]
    if not typed and (screen := verb[-1].capitalize()) in app.screen_names:
        await app.action_show(screen)  # `:adapters`, `:logs`: the verb's own screen says more
        return
    given = _parser().parse_args(arguments) if verb != ["bench"] else argparse.Namespace()
    match verb[0]:
        case "adapters" if given.verb not in (None, "list"):
            from ..cli.adapters import make_order

            _give(app, make_order(given, app.orders.inbox))
        case "restart" | "stop" | "start" | "signal":
            from ..cli.processes import process_order
            from .process_actions import ask

            known = [row.name for row in app.board.processes if row.name != SUPERVISOR]
            ask(app, process_order(given, known))
        case "abort":
            from ..cli.pipeline import find_request

            ids = [row.view.request_id for row in app.board.requests]
            actions.ask_abort(app, find_request(given.request, ids))
        case "drain":
            (actions.resume if given.resume else actions.ask_drain)(app)
        case "scheduler" if typed:
            from ..cli.scheduler import changes_of

            changes = changes_of(given)
            if not changes:
                raise OperatorError("nothing is changed", f"there are {', '.join(POLICIES)}")
            inbox = app.orders.inbox
            app.orders.give(SetScheduler(order=order_id(), reply_to=inbox, **changes))
        case "down":
            actions.ask_stop(app, given.now)
        case "logs" if given.follow or given.process:
            await app.action_show("Logs")
            app.filter_panel(f"^{given.process} " if given.process else "")
        case name if app.is_read_only and name in CHANGES:
            raise OperatorError(READ_ONLY)
        case "transcripts" if given.verb == "delete":
            from ..cli.transcripts import forgetting

            actions.confirm(
                app,
                "Delete transcripts?",
                f"{forgetting(given)} will be forgotten; nothing brings them back.",
                "Delete them",
                partial(_show_output, app, arguments),
            )
        case _:
            _show_output(app, arguments)


def _give(app: ConsoleApp, order: AdapterOrder) -> None:
    """What takes an adapter away asks first, as its key does."""
    give = partial(app.orders.give, order)
    rows = {row.name: row for row in app.board.adapters if not row.is_base}
    if not isinstance(order, UnloadAdapter) or (row := rows.get(order.name)) is None:
        give()
        return
    from .panels.adapter_details import unload_costs

    actions.confirm(app, f"Unload {row.name}?", unload_costs(row), f"Unload {row.name}", give)


def _show_output(app: ConsoleApp, arguments: Sequence[str]) -> None:
    app.push_screen(OutputDialog(arguments, app.config.run))


class OutputDialog(LiveDialog):
    """What a verb prints, as it comes. Closing it ends the verb."""

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


# --- the palette --------------------------------------------------------------------------------


SCREENS, HERE, ORDERS, APP, MOVING = range(5)
"""Kinds of entries, in the order in which they are listed."""
MOVES = (
    *("move(", "page(", "jump(", "match(", "scroll", "app.focus_", "cursor_"),
    "command_palette",
)
"""Actions that nobody looks up by name: those of the cursor, and what has opened the list. Of the
same kind is what has no id: how Textual edits a text."""


class Entry(NamedTuple):
    """One line of the palette."""

    title: str
    help: str
    run: Callable[[], Awaitable[Any] | Any]


class ConsoleCommands(Provider):
    """Bindings of the panel on top and of the app, themes, and orders to the pipeline."""

    @property
    def _console(self) -> ConsoleApp:
        from .app import ConsoleApp

        app = self.app
        assert isinstance(app, ConsoleApp)
        return app

    def _entries(self) -> Iterator[Entry]:
        """As they are wanted: where to go, what can be done here and to the pipeline, then the
        console's own keys and looks. What a hand does without looking comes last."""
        by_rank: dict[int, list[Entry]] = {rank: [] for rank in range(5)}
        bound = list(self._bound())
        for rank, entry in (*bound, *self._unbound(bound), *self._orders(), *self._themes()):
            by_rank[rank].append(entry)
        for entries in by_rank.values():
            yield from entries

    def _bound(self) -> Iterator[tuple[int, Entry]]:
        app = self._console
        seen = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.system or not binding.description or binding.action in seen:
                continue
            if app.refuses(binding.id):
                continue
            seen.add(binding.action)
            title, rank = binding.description, APP if active.node is app else HERE
            if binding.action.startswith("show("):
                title, rank = f"Go to {title}", SCREENS
            elif not binding.id or binding.action.startswith(MOVES):
                rank = MOVING
            key = f"key {app.get_key_display(binding)}"
            help = f"{key}: {active.tooltip}" if active.tooltip else key
            yield rank, Entry(title, help, partial(app.run_action, binding.action, active.node))

    def _unbound(self, bound: Sequence[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
        """Screens whose keys are typed where the cursor is."""
        known = {entry.title for _, entry in bound}
        for name in self._console.screen_names:
            if f"Go to {name}" not in known:
                show = partial(self._console.action_show, name)
                yield SCREENS, Entry(f"Go to {name}", "a screen", show)

    def _themes(self) -> Iterator[tuple[int, Entry]]:
        app = self._console
        for name in app.themes:
            mark = " (now)" if name == app.theme else ""
            yield APP, Entry(f"Theme {name}{mark}", "colours", partial(app.wear_theme, name))
        yield APP, Entry("Save a picture", "the screen as SVG", app.save_picture)

    def _orders(self) -> Iterator[tuple[int, Entry]]:
        app = self._console
        if app.is_read_only:
            return
        for process in app.board.processes:
            if process.name not in ("supervisor", "fetch"):
                for entry in self._orders_to(process):
                    yield ORDERS, entry
        if router := app.board.router:
            for name, help in POLICIES.items():
                mark = " (now)" if name == router.scheduling.policy else ""
                set_policy = partial(actions.set_policy, app, name)
                yield ORDERS, Entry(f"Policy {name}{mark}", help, set_policy)
        stop = partial(actions.ask_stop, app)
        yield ORDERS, Entry("Stop the pipeline", "every process of the ring", stop)

    def _orders_to(self, process: ProcessRow) -> Iterator[Entry]:
        from . import process_actions

        app, name = self._console, process.name
        state = f"now {process.state.value}"
        yield Entry(f"Restart {name}", state, partial(process_actions.ask_restart, app, name))
        if process.pid:
            yield Entry(f"Stop {name}", state, partial(process_actions.ask_stop, app, name))
            yield Entry(f"Signal {name}", state, partial(process_actions.ask_signal, app, name))
        else:
            yield Entry(f"Start {name}", state, partial(process_actions.start, app, name))

    async def discover(self) -> Hits:
        for entry in self._entries():
            yield DiscoveryHit(entry.title, entry.run, help=entry.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for entry in self._entries():
            if (score := matcher.match(entry.title)) > 0:
                yield Hit(score, matcher.highlight(entry.title), entry.run, help=entry.help)

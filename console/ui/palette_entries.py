"""What the palette finds: actions of the focused pane, screens, orders, themes, and things, i.e.
adapters, requests, processes and settings, each with what can be done to it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from ...pipeline.messages import (
    POLICIES,
    Abort,
    RestartProcess,
    SignalProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
)
from ...pipeline.runtime.wording import short_id
from ..client.telemetry import ABORTED, DRAIN_SECONDS
from ..commands.adapters import (
    AdapterCommand,
    MergeCommand,
    PinCommand,
    ReloadCommand,
    UnloadCommand,
    UnmergeCommand,
    UnpinCommand,
    VerifyCommand,
)
from ..commands.argument import arguments_of
from ..commands.pipeline import SchedulerCommand
from ..commands.read_only import is_changing_command
from ..commands.table import COMMANDS, CommandGroup
from ..state.board import WHERE, AdapterRow, ProcessRow, RequestRow
from ..text import units
from . import actions
from .line_commands import MOVES, WITH_A_SCREEN
from .screen_app import ScreenApp
from .widgets.styles import MainScreen
from .widgets.table import TablePane

SCREENS, HERE, ORDERS, APP, THINGS, LINE, MOVING = range(7)
"""Kinds of entries, in the order in which they are listed. Actions without an id, i.e. Textual's
text editing, are listed last, as cursor moves are."""
WITHOUT_ORDERS = ("supervisor", "fetch")
"""Processes that take no orders."""


class Entry(NamedTuple):
    """A line of the palette."""

    title: str
    help: str
    run: Callable[[], Awaitable[Any] | Any]
    key: str = ""
    thing: str = ""
    """The name of what it acts on; "" if that is what the cursor is on, or the whole."""
    about: str = ""
    """More words that find it."""
    theme: str = ""
    """The theme that it puts on, which is shown while the entry is under the cursor."""


def all_entries(app: ScreenApp) -> list[Entry]:
    """The entries in order: screens, actions of the pane, orders to the pipeline, the app's keys
    and themes, things, the `:` line's commands, cursor moves."""
    by_rank: dict[int, list[Entry]] = {rank: [] for rank in range(7)}
    bound = list(_bound(app))
    for rank, entry in (*bound, *_unbound(app, bound), *_orders(app), *_appearance(app)):
        by_rank[rank].append(entry)
    if isinstance(app.screen, MainScreen):
        by_rank[THINGS] += [*_adapters(app), *_requests(app), *_settings(app)]
        by_rank[LINE] += _line(app)
    return [entry for entries in by_rank.values() for entry in entries]


def _bound(app: ScreenApp) -> Iterator[tuple[int, Entry]]:
    seen = set()
    for active in app.screen.active_bindings.values():
        binding = active.binding
        if binding.system or not binding.description or binding.action in seen:
            continue
        if app.refuses(binding.id) or not active.enabled:
            continue
        seen.add(binding.action)
        title, rank, about = binding.description, APP if active.node is app else HERE, ""
        if binding.action.startswith("show("):
            title, rank, about = f"Go to {title}", SCREENS, "screen"
        elif not binding.id or binding.action.startswith(MOVES):
            rank = MOVING
        run = partial(app.run_action, binding.action, active.node)
        yield rank, Entry(title, active.tooltip, run, app.get_key_display(binding), about=about)


def _unbound(app: ScreenApp, bound: Sequence[tuple[int, Entry]]) -> Iterator[tuple[int, Entry]]:
    """Screens whose keys are not active, because the focused widget takes them as text."""
    known = {entry.title for _, entry in bound}
    for name in app.screen_names:
        if f"Go to {name}" not in known:
            yield (
                SCREENS,
                Entry(f"Go to {name}", "", partial(app.action_show, name), about="screen"),
            )


def _appearance(app: ScreenApp) -> Iterator[tuple[int, Entry]]:
    for name in app.themes:
        mark = "now" if name == app.theme else ""
        run = partial(app.wear_theme, name)
        yield APP, Entry(f"Theme {name}", mark, run, thing=name, about="colours", theme=name)
    yield APP, Entry("Save a picture", "the screen as SVG", app.save_picture, about="screenshot")


# --- orders to the pipeline and its processes ---------------------------------------------------


def _orders(app: ScreenApp) -> Iterator[tuple[int, Entry]]:
    for process in app.board.processes:
        for entry in _of_process(app, process):
            yield ORDERS, entry
    if app.is_read_only:
        return
    if router := app.board.router:
        for name, help in POLICIES.items():
            mark = "now: " if name == router.scheduling.policy else ""
            run = partial(_set_policy, app, name)
            yield ORDERS, Entry(f"Policy {name}", mark + help, run, thing=name, about="scheduler")
    stop = partial(actions.give, app, StopPipeline(DRAIN_SECONDS))
    yield ORDERS, Entry("Stop the pipeline", "every process of the ring", stop)


def _set_policy(app: ScreenApp, name: str) -> None:
    actions.give(app, SchedulerCommand(policy=name).order(app.orders.inbox))


def _of_process(app: ScreenApp, process: ProcessRow) -> Iterator[Entry]:
    name, state = process.name, process.state.value

    def entry(verb: str, run: Callable[[], Any], help: str = state) -> Entry:
        return Entry(f"{verb} {name}", help, run, thing=name, about="process")

    give = partial(actions.give, app)
    if isinstance(app.screen, MainScreen):
        yield entry("Open", partial(_open, app, "Processes", name))
        yield entry("Logs of", partial(_logs_of, app, name), "its log lines alone")
    if app.is_read_only or name in WITHOUT_ORDERS:
        return
    yield entry("Restart", partial(give, RestartProcess(name)))
    if process.pid:
        yield entry("Stop", partial(give, StopProcess(name)))
        yield entry("Signal", partial(_signal, app, process))
    else:
        yield entry("Start", partial(give, StartProcess(name)))


async def _logs_of(app: ScreenApp, process: str) -> None:
    await app.action_show("Logs")
    app.filter_panel(f"^{process} ")


def _signal(app: ScreenApp, process: ProcessRow) -> None:
    from .panels.processes import signal_dialog

    def send(signal: str | None) -> None:
        if signal:
            actions.give(app, SignalProcess(process.name, signal), is_agreed=True)

    app.push_screen(signal_dialog(process), send)


# --- things -------------------------------------------------------------------------------------


async def _open(app: ScreenApp, screen: str, key: str) -> None:
    """Shows a screen with the cursor on a row, and opens it."""
    table = await _go_to(app, screen, key)
    table.action_open()


async def _go_to(app: ScreenApp, screen: str, key: str) -> TablePane[Any]:
    await app.action_show(screen)
    table = app.active_panel.query(TablePane).first()
    table.focus(scroll_visible=False)
    table.go_to(key)
    return table


def _adapters(app: ScreenApp) -> Iterator[Entry]:
    for row in app.board.adapters:
        yield from _of_adapter(app, row)


def _of_adapter(app: ScreenApp, row: AdapterRow) -> Iterator[Entry]:
    name, view = row.name, row.view
    shown = units.visible(name)
    key = "" if row.is_base else f"{name}@{view.generation}"
    opens = partial(_open, app, "Adapters", key)
    yield Entry(
        f"Open {shown}", WHERE.get(view.state, view.state.value), opens, thing=name, about="adapter"
    )
    if app.is_read_only or row.is_base:
        return
    pin = UnpinCommand(name=name) if view.pinned else PinCommand(name=name)
    merge = UnmergeCommand() if view.merged else MergeCommand(name=name)
    named = (UnloadCommand(name=name), ReloadCommand(name=name), pin, VerifyCommand(name=name))
    for command in (*named, merge):
        title = f"{command.NAME.capitalize()} {shown}"
        run = partial(_order, app, command)
        yield Entry(title, command.HELP, run, thing=name, about="adapter")


def _order(app: ScreenApp, command: AdapterCommand) -> None:
    actions.give(app, command.order(app.orders.inbox))


def _requests(app: ScreenApp) -> Iterator[Entry]:
    for row in app.board.requests:
        yield from _of_request(app, row)


def _of_request(app: ScreenApp, row: RequestRow) -> Iterator[Entry]:
    view = row.view
    short = short_id(view.request_id)
    adapter = units.visible(app.board.name_of(view.adapter))
    help = f"{adapter}, {view.reason or view.phase}"
    about = f"request {adapter} {view.request_id}".lower()
    opens = partial(_open, app, "Batch", view.request_id)
    yield Entry(f"Open request {short}", help, opens, thing=short, about=about)
    if not app.is_read_only:
        abort = partial(actions.give, app, Abort(view.request_id, ABORTED))
        yield Entry(f"Abort request {short}", help, abort, thing=short, about=about)


def _settings(app: ScreenApp) -> Iterator[Entry]:
    for row in app.chosen.table:
        run = partial(_go_to, app, "Settings", row.name)
        help = f"{row.value}: {row.help}"
        yield Entry(f"Setting {row.name}", help, run, thing=row.name, about="change edit")


# --- the `:` line -------------------------------------------------------------------------------


def _line(app: ScreenApp) -> Iterator[Entry]:
    """The commands of the command line: those that need arguments, or have verbs, open the `:` line
    with their name."""
    for known in COMMANDS:
        if known in WITH_A_SCREEN or (app.is_read_only and is_changing_command(known.NAME)):
            continue
        is_group = isinstance(known, CommandGroup)
        needs = is_group or any(each.is_required for each in arguments_of(known))
        text = f"{known.NAME} " if needs else known.NAME
        run = partial(app.action_command, text)
        yield Entry(f": {known.NAME}", known.HELP, run, key=":", thing=known.NAME, about="command")

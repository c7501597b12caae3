"""The palette: a list of the actions available here, searched by title; `ctrl+p` opens it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

from textual.command import DiscoveryHit, Hit, Hits, Provider

from ...pipeline.messages import (
    POLICIES,
    RestartProcess,
    SignalProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
)
from ..client.telemetry import DRAIN_SECONDS
from ..commands.pipeline import SchedulerCommand
from ..state.board import ProcessRow
from . import actions
from .screen_app import ScreenApp

SCREENS, HERE, ORDERS, APP, MOVING = range(5)
"""Kinds of entries, in the order in which they are listed."""
MOVES = (
    *("move(", "page(", "jump(", "match(", "scroll", "app.focus_", "cursor_"),
    "command_palette",
)
"""Prefixes of actions listed last: cursor moves, and opening the palette. Actions without an id are
also listed last: Textual's text editing."""


class Entry(NamedTuple):
    """A line of the palette."""

    title: str
    help: str
    run: Callable[[], Awaitable[Any] | Any]


class ConsoleCommands(Provider):
    """Bindings of the active panel and of the app, themes, and orders to the pipeline."""

    @property
    def _console(self) -> ScreenApp:
        app = self.app
        assert isinstance(app, ScreenApp)
        return app

    def _entries(self) -> Iterator[Entry]:
        """The entries in order: screens, actions of the panel, orders to the pipeline, the app's
        keys and themes, cursor moves."""
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
        """Screens whose keys are not active, because the focused widget takes them as text."""
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
                policy = SchedulerCommand(policy=name)
                yield ORDERS, Entry(f"Policy {name}{mark}", help, partial(self._set, policy))
        stop = partial(actions.give, app, StopPipeline(DRAIN_SECONDS))
        yield ORDERS, Entry("Stop the pipeline", "every process of the ring", stop)

    def _set(self, policy: SchedulerCommand) -> None:
        actions.give(self._console, policy.order(self._console.orders.inbox))

    def _orders_to(self, process: ProcessRow) -> Iterator[Entry]:
        name, state = process.name, f"now {process.state.value}"
        give = partial(actions.give, self._console)
        yield Entry(f"Restart {name}", state, partial(give, RestartProcess(name)))
        if process.pid:
            yield Entry(f"Stop {name}", state, partial(give, StopProcess(name)))
            yield Entry(f"Signal {name}", state, partial(self._signal, process))
        else:
            yield Entry(f"Start {name}", state, partial(give, StartProcess(name)))

    def _signal(self, process: ProcessRow) -> None:
        from .panels.processes import signal_dialog

        app = self._console

        def send(signal: str | None) -> None:
            if signal:
                actions.give(app, SignalProcess(process.name, signal), is_agreed=True)

        app.push_screen(signal_dialog(process), send)

    async def discover(self) -> Hits:
        for entry in self._entries():
            yield DiscoveryHit(entry.title, entry.run, help=entry.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for entry in self._entries():
            if (score := matcher.match(entry.title)) > 0:
                yield Hit(score, matcher.highlight(entry.title), entry.run, help=entry.help)

"""`ConsoleCommands`: the palette. Every key's action is in it, and what has no key."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from textual.command import DiscoveryHit, Hit, Hits, Provider

from ..pipeline.messages import POLICIES

if TYPE_CHECKING:
    from .app import ConsoleApp


class Command(NamedTuple):
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

    def _commands(self) -> Iterator[Command]:
        app = self._console
        seen = set()
        for active in self.screen.active_bindings.values():
            binding = active.binding
            if binding.system or not binding.description or binding.action in seen:
                continue
            seen.add(binding.action)
            key = app.get_key_display(binding)
            title = binding.description
            if binding.action.startswith("show("):
                title = f"Go to {title}"
            yield Command(title, f"key {key}", partial(app.run_action, binding.action, active.node))
        for name in app.themes:
            mark = " (now)" if name == app.theme else ""
            yield Command(f"Theme {name}{mark}", "colours", partial(setattr, app, "theme", name))
        for process in app.board.processes:
            if process.name not in ("supervisor", "fetch"):
                name = process.name
                yield Command(
                    f"Restart {name}",
                    f"now {process.state.value}",
                    partial(app.restart_process, name),
                )
        if router := app.board.router:
            for name in POLICIES:
                mark = " (now)" if name == router.scheduling.policy else ""
                yield Command(
                    f"Policy {name}{mark}",
                    "who is admitted first",
                    partial(app.set_policy, name),
                )
        yield Command("Stop the pipeline", "every process of the ring", app.stop_pipeline)
        yield Command("Save a picture", "the screen as SVG", app.deliver_screenshot)

    async def discover(self) -> Hits:
        for command in self._commands():
            yield DiscoveryHit(command.title, command.run, help=command.help)

    async def search(self, query: str) -> Hits:
        matcher = self.matcher(query)
        for command in self._commands():
            if (score := matcher.match(command.title)) > 0:
                yield Hit(score, matcher.highlight(command.title), command.run, help=command.help)

"""`ConsoleApp`: wires sockets to panels. One store, one tick, one repaint a frame.

Readers only enter messages into the store; the tick makes a `Board` of it and gives it to the
panel on top. Nothing calls a widget per message, and nothing is drawn that is not to be seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from rich.console import RenderableType
from textual import events, messages
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.command import Provider
from textual.containers import Container
from textual.driver import Driver
from textual.screen import Screen
from textual.widget import Widget

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ..client.pending_orders import Orders
from ..client.telemetry import Telemetry
from ..settings.settings import Chosen, Settings, choose, missing_theme, settings_stamp
from ..settings.theme_files import ThemeShelf
from ..settings.toml_document import Problem
from ..settings.ui_state import UiState
from ..state.adapter_colors import AdapterColors
from ..state.alert_book import AlertBook
from ..state.alerts import AlertFinding
from ..state.board import STALE_S, Board
from ..state.impact import quit_costs
from ..state.store import Store
from ..terminal import driver, input_driver, memory_trim, screen_diff, strip_cache
from ..terminal.draw_cost import Meter
from ..terminal.frame_pacer import QUESTION, FramePacer
from ..terminal.key_queue import Follower, TypeAhead
from ..text.ascii import PLAIN, TAME
from ..text.filter import Filter
from .notifications import Herald
from .panels.cost import CostPane, diagnostics
from .panels.events import EventPane
from .panels.footer import Footer
from .panels.header import Header
from .panels.overview import Overview
from .screens import PAGES, PANELS, make_panel
from .widgets.dialogs import Choice, ChoiceDialog, LiveDialog, LiveScreen
from .widgets.filter import FilterPane
from .widgets.pane import PaintedApp, Panel
from .widgets.styles import MainScreen

if TYPE_CHECKING:
    from textual.filter import LineFilter

    from .panels.alerts import AlertsPanel
    from .panels.batch import BatchTable
    from .panels.command_line import CommandLine
    from .panels.processes import ProcessTablePane

QUIET_SECONDS = 4.0
"""While beats alone come in, the picture is looked over this often: an idle console is to cost
nothing, and what ages is only the ages."""
DEFAULT_THEME = "dark"
LOOK_SECONDS = 2.0
"""So often it is looked what is wrong, and whether a theme or the settings were written to: some
120 us, in the loop that paints (a timer of Textual's would be another 500)."""
SELDOM_SECONDS = 10.0


def palette() -> type[Provider]:
    """Imported when it is first opened."""
    from .commands import ConsoleCommands

    return ConsoleCommands


class ConsoleApp(PaintedApp):
    """The console on one run directory. `run()` returns "leave" or "stop"."""

    TITLE = "loraconsole"
    CSS_PATH = Path(__file__).with_name("console.tcss")
    COMMANDS = {palette}  # noqa: RUF012
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"show('{name}')", name, show=False, id=f"show-{module}")
            for key, (name, module) in (PANELS | PAGES).items()
        ),
        Binding("colon", "command", "Command", key_display=":", id="command"),
        Binding("space,p", "pause", "Pause", id="pause", tooltip="freeze the view, keep the data"),
        Binding("z", "zoom", "Zoom", show=False, id="zoom", tooltip="a pane alone, then the next"),
        Binding("escape", "unzoom", "All panes", show=False, id="unzoom"),
        Binding("t", "next_theme", "Theme", id="next-theme", tooltip="the next theme"),
        Binding("question_mark", "help", "Help", key_display="?", id="help"),
        Binding("q", "ask_quit", "Quit", id="quit"),
        Binding("ctrl+q,ctrl+c", "ask_quit", "Quit", show=False, id="quit-anywhere"),
        Binding(
            "plus", "hasten(1)", "Faster", show=False, id="faster", tooltip="more frames a second"
        ),
        Binding("minus", "hasten(-1)", "Slower", show=False, id="slower", tooltip="fewer frames"),
        Binding("ctrl+l", "redraw", "Redraw", show=False, id="redraw"),
        Binding(
            "ctrl+z",
            "suspend",
            "Suspend",
            show=False,
            priority=True,  # in a dialog too
            id="suspend",
            tooltip="back to the shell; fg comes back here",
        ),
        Binding("C", "toggle_cost", "Cost", show=False, id="cost", tooltip="of this screen"),
        Binding("D", "diagnostics", "Diagnostics", show=False, id="diagnostics"),
        Binding(
            "H", "toggle_hour", "Hour", show=False, id="hour", tooltip="plots of the last hour"
        ),
        Binding(
            "ctrl+p", "command_palette", "Palette", show=False, id="palette", tooltip="every action"
        ),
        Binding("ctrl+o", "jump", "Jump", show=False, id="jump", tooltip="to a pane by a letter"),
    ]

    def __init__(
        self,
        config: Config,
        *,
        fps: float | None = None,
        theme: str | None = None,
        ascii: bool = False,
        low_bandwidth: bool | None = None,
        adapter_colors: AdapterColors | None = None,
        ui_state: UiState | None = None,
        clock: Callable[[], float] = time.time,
        label: str = "",
        source: Callable[..., Telemetry] = Telemetry,
        shows_cost: bool = False,
        is_read_only: bool = False,
    ) -> None:
        """`label` names what is shown where that is no pipeline; `source` makes the telemetry
        client, from the arguments of `Telemetry`. `fps`, `theme`, `ascii` and `low_bandwidth` win
        over the settings' file. `ui_state` has the theme and the sorting of last time. With
        `is_read_only` nothing is asked of the pipeline."""
        has_no_color = os.environ.get("NO_COLOR") is not None
        # Without colours Textual must treat the theme as the terminal's own, or it sends greys.
        super().__init__(ansi_color=True if has_no_color else None)
        self.config = config
        self.is_read_only = is_read_only
        self.api_key = config.api_key
        self.clock = clock
        self.ui_state = ui_state or UiState()
        self._shelf = ThemeShelf()
        self._take_themes()
        self._read = partial(choose, theme, fps, ascii, low_bandwidth=low_bandwidth)
        self.chosen = self._choose()
        settings = self.chosen.settings
        self.herald = Herald(self)
        self.store = Store(config.run, adapter_colors)
        self.alert_book = AlertBook(settings.alerts)
        self.is_ascii = settings.ascii
        self.telemetry = source(
            config,
            self.store,
            clock,
            on_news=self.wake,
            on_reply=lambda reply: self.orders.answered(reply),
            is_read_only=is_read_only,
        )
        self.orders = Orders(
            self.store,
            self.telemetry.inbox_name,
            send=lambda order: self.telemetry.order(order),
            forget=self.telemetry.forget_orders,
            tell=self.herald.tell_reply,
            clock=clock,
        )
        self.board: Board = self.store.board(clock())
        self.is_paused = False
        self.animation_level = "none"
        self.type_ahead = TypeAhead(self, self.on_event)
        self.pace = FramePacer(settings.fps)
        self.meter = Meter()
        self._label = label
        self._drawn = self.store.moves
        self._drawn_at = time.monotonic()
        self._news = asyncio.Event()
        self._ask_terminal = False
        self._woken_at = 0.0
        """Monotonic time at which `suspend` last came to its end."""
        strip_cache.let_go()
        self._memory = screen_diff.ScreenMemory() if screen_diff.is_wanted() else None
        self._settings_stamp = settings_stamp()
        self._looked_at = self._seldom_looked_at = 0.0
        self._wear(settings, Settings(theme=""))
        badge = " ".join(word for word in (label, "READ-ONLY" if is_read_only else "") if word)
        self.header = Header({key: name for key, (name, _) in PANELS.items()}, badge)
        self.cost_pane = CostPane()
        self.cost_pane.display = shows_cost
        self._panels: dict[str, Panel] = {"Overview": Overview()}
        self._active = self.header.active = "Overview"

    def get_driver_class(self) -> type[Driver]:
        return input_driver.patient(super().get_driver_class())

    def _choose(self) -> Chosen:
        """What was said to be; the theme of last time where nothing was said of one."""
        chosen = self._read()
        if chosen.settings.keys:
            from ..settings.keymap import with_known_keys
            from .bindings import catalogue  # imports every panel

            chosen = with_known_keys(chosen, catalogue())
        if "theme" in chosen.origins or self.ui_state.theme not in self.themes:
            return chosen
        return chosen.with_flag("theme", self.ui_state.theme, "last time")

    def _take_themes(self) -> bool:
        """Reads what has changed; a theme on the screen changes with its file."""
        before = self._shelf.themes
        if not self._shelf.refresh():
            return False
        for name, theme in self._shelf.themes.items():
            self.register_theme(theme)
            if name == self.theme and before and before.get(name) != theme:
                self._watch_theme(name)
        return True

    def _wear(self, settings: Settings, before: Settings) -> None:
        """What can change while it runs: colours, keys, characters, limits, speed."""
        if settings.theme != before.theme:  # else `t` has the last word
            self.theme = settings.theme if settings.theme in self.themes else DEFAULT_THEME
        if settings.fps != before.fps:
            self.pace.fps = settings.fps
        self.is_ascii = settings.ascii
        self.set_class(settings.ascii, "-ascii")
        self.set_keymap(settings.keys)
        self.alert_book.limits = settings.alerts

    @property
    def complaints(self) -> list[Problem]:  # type: ignore[override]  # reckoned here
        """What is wrong with the files of settings and themes."""
        missing = missing_theme(self.chosen, self.themes)
        return [*self.chosen.problems, *self._shelf.problems, *missing]

    def _look_around(self) -> None:
        """What no message tells: files that were written to, alerts, the room on the disk."""
        has_changed = self._take_themes()
        if (stamp := settings_stamp()) != self._settings_stamp:
            self._settings_stamp = stamp
            before, self.chosen = self.chosen, self._choose()
            if before.settings != self.chosen.settings:
                self._wear(self.chosen.settings, before.settings)
            has_changed = True
        if has_changed:
            self.herald.tell_problems(self.complaints)
            self._paint_active()
        memory_trim.forget_toasts(self.screen_stack[0])
        memory_trim.trim()
        now = self._looked_at = time.monotonic()
        if now - self._seldom_looked_at >= SELDOM_SECONDS:
            self._seldom_looked_at = now
            memory_trim.give_back()
            with contextlib.suppress(OSError):  # the run directory is another machine's
                self.store.disk_free_bytes = shutil.disk_usage(self.config.run).free
        board = self.store.board(self.clock())
        self.watch_alerts(board)
        self.herald.entitle(board)
        is_counted = self.chosen.settings.low_bandwidth
        self.header.bytes_s = self.meter.cost.bytes_s if is_counted else None

    def watch_alerts(self, board: Board) -> None:
        """Enters what is wrong in the book, and tells what is new."""
        fresh = self.alert_book.update(board)
        self.herald.tell_alerts(fresh, is_seen=self._active == "Alerts")

    # -- what it is made of

    def get_default_screen(self) -> MainScreen:
        screen = MainScreen()
        self.text_styles = screen.text_styles
        return screen

    def compose(self) -> ComposeResult:
        yield self.header
        yield Container(self._panels["Overview"], id="panels")
        yield self.cost_pane
        yield Footer()

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        """After the first frame: what the screen does not need in order to appear."""
        own = self._driver
        if own is not None:
            driver.count_bytes(own, self.meter.wrote)
        if own is not None and not self.is_headless:
            # What was imported stays: looking through it for garbage would take 100 ms each time.
            gc.collect()
            gc.freeze()
            loop = asyncio.get_running_loop()
            driver.mind_being_stopped(own, loop, self.action_redraw)
        self.herald.tell_problems(self.complaints)
        self.run_worker(self.telemetry.run(), name="telemetry", exit_on_error=True)
        self.run_worker(self._paint_forever(), name="paint", exit_on_error=True)

    @property
    def active_panel(self) -> Panel:
        return self._panels[self._active]

    @property
    def themes(self) -> list[str]:
        """Names of the themes that could be read."""
        return list(self._shelf.themes)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """What Textual's widgets pass on their way to the screen; panes turn their own text."""
        filters = [*super().get_line_filters(), TAME]
        return [*filters, PLAIN] if self.is_ascii else filters

    def get_key_display(self, binding: Binding) -> str:
        """As Textual has it, but in ASCII `enter` for what else is an arrow."""
        shown = super().get_key_display(binding)
        return binding.key if self.is_ascii and not shown.isascii() else shown

    @property
    def screen_names(self) -> list[str]:
        """What `action_show` takes."""
        return [name for name, _ in (PANELS | PAGES).values()]

    # -- the tick

    async def _paint_forever(self) -> None:
        """Frames at their rate while something moves; else sleeps until there is news."""
        due, is_done = time.monotonic(), True
        while True:
            if is_done and not self._has_moved:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_SECONDS)
                due = time.monotonic()
            if not self.is_running:  # it is closing, and its widgets go one after the other
                return
            is_done = self.tick(time.monotonic() - due)
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._look_around()
            due = max(due + self.pace.period_s, time.monotonic())
            await asyncio.sleep(due - time.monotonic())

    @property
    def _has_moved(self) -> bool:
        return (
            self.store.moves != self._drawn
            or self.active_panel.is_live
            or self._is_silence_due(time.monotonic())
        )

    def _is_silence_due(self, monotonic: float) -> bool:
        """While nobody is heard, how long that lasts is shown every second."""
        age_s = self.store.link_age_s(self.clock())
        return age_s is not None and age_s > STALE_S and monotonic - self._drawn_at >= 1.0

    def wake(self) -> None:
        """Something was heard or done: if it moved the picture, a frame is due."""
        if self._has_moved:
            self._news.set()

    def tick(self, late_s: float = 0.0) -> bool:
        """One frame, where there is something to draw and the terminal has taken the last.

        False while the terminal is behind: the frame is still due.
        """
        monotonic = time.monotonic()
        if not self._has_moved and monotonic - self._drawn_at < QUIET_SECONDS:
            return True
        if not self.pace.may_paint(monotonic, self.queued):
            self.meter.held_back()
            return False
        self._drawn, self._drawn_at = self.store.moves, monotonic
        self.pace.painted(monotonic)
        self._ask_terminal = self.pace.answers
        self.meter.painted(late_s)
        self.paint(self.store.board(self.clock()))
        return True

    def paint(self, board: Board) -> None:
        """Draws a board on whatever is to be seen; a paused view keeps the one it has."""
        self.herald.tell_events(self.store.drain_events())
        self.orders.sweep()
        if not self.is_paused:
            self.board = board
        self.header.round_trip_s = self.pace.round_trip_s
        self.header.paint(board)  # under a dialog too: there it is still to be seen
        screen = self.screen
        if isinstance(screen, LiveScreen):
            screen.paint(self.board)
        elif isinstance(screen, MainScreen):
            if self.cost_pane.display:
                self.cost_pane.paint(board)
            if not self.is_paused or self.active_panel.is_live:
                self.active_panel.paint(self.board)

    # -- the way to the terminal

    @property
    def is_diffed(self) -> bool:
        """Whether only what changed is sent."""
        return self._memory is not None

    @property
    def queued(self) -> int:
        """Writes the terminal has not taken yet."""
        return driver.queued(self._driver)

    def on_terminal_supports_synchronized_output(
        self, message: messages.TerminalSupportsSynchronizedOutput
    ) -> None:
        """Every answer to `QUESTION` arrives here."""
        self.pace.answered(time.monotonic())

    def on_resize(self, event: events.Resize) -> None:
        if self._memory is not None:
            self._memory.forget()

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """Textual's own, with the frame reduced to what changed; nothing is sent for nothing."""
        is_seen = self._running and not self._batch_count and not self.is_headless
        if is_seen and self._memory is not None:
            if isinstance(renderable, ChopsUpdate | LayoutUpdate):
                sequence = self._memory.frame(renderable, self.console, self.size.width)
                cursor = self.screen.outer_size.clamp_offset(self.cursor_position)
                if not sequence and cursor == self._previous_cursor_position:
                    return
                renderable = screen_diff.Frame(sequence)
            elif renderable is not None:
                self._memory.forget()
        super()._display(screen, renderable)
        if is_seen and self._ask_terminal and self._driver is not None:
            self._ask_terminal = False
            self.pace.asked(time.monotonic())
            self._driver.write(QUESTION)
            self._driver.flush()

    # -- keys that always work

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key | events.Paste):
            if event.time < self._woken_at:
                return  # typed before we slept, and meant for the shell
            is_new = not event.is_forwarded
            if is_new and self.type_ahead.holds(event):
                return
        await super().on_event(event)

    async def on_follower(self, message: Follower) -> None:
        await self.type_ahead.arrived(message)

    async def action_show(self, name: str) -> None:
        """Brings a panel to the top; it is made when it is first wanted."""
        if isinstance(self.screen, MainScreen) and name != self._active:
            await self._show(name)

    async def _show(self, name: str) -> None:
        if name not in self._panels:
            panel = self._panels[name] = make_panel(name)
            panel.display = False
            await self.query_one("#panels").mount(panel)
        with self.batch_update():
            for other, panel in self._panels.items():
                panel.display = other == name
                if other != name:
                    for pane in panel.panes:
                        pane.release()
            self._active = self.header.active = name
            self.header.paint()
        self.active_panel.focus_first()
        self.call_after_refresh(self._paint_active)

    def _paint_active(self) -> None:
        """A panel that was hidden catches up at once."""
        self.active_panel.paint(self.board)

    async def on_header_chosen(self, message: Header.Chosen) -> None:
        await self.action_show((PANELS | PAGES)[message.key][0])

    def action_pause(self) -> None:
        self.is_paused = self.header.is_paused = not self.is_paused
        self.header.paint()
        if not self.is_paused:
            self.paint(self.store.board(self.clock()))

    def action_zoom(self) -> None:
        if isinstance(self.screen, MainScreen):
            self.active_panel.zoom()

    def action_unzoom(self) -> None:
        self.active_panel.unzoom()

    def action_next_theme(self) -> None:
        names = self.themes
        at = names.index(self.theme) if self.theme in names else -1
        self.wear_theme(names[(at + 1) % len(names)])
        self.notify(f"theme {self.theme}", timeout=2)

    def wear_theme(self, name: str) -> None:
        """Now, and next time where nothing else is said."""
        self.theme = self.ui_state.theme = name

    def action_hasten(self, steps: int) -> None:
        """The next of the usual rates, for this session."""
        self.pace.hasten(steps)
        self.notify(f"{self.pace.fps:g} frames a second while something moves")

    def action_redraw(self) -> None:
        """Sends the whole screen again: something else wrote on the terminal."""
        if self._memory is not None:
            self._memory.forget()
        self.screen.refresh(layout=True)

    def action_suspend(self) -> None:
        """Gives the terminal to the shell until that brings us back. The pipeline goes on."""
        own = self._driver
        if not isinstance(own, input_driver.PatientDriver):
            self.notify("a browser has no shell to go back to", severity="warning")
        elif not driver.has_job_control():
            told = "no shell waits behind this console, so nothing would bring it back"
            self.notify(f"{told}; q leaves it", title="cannot be suspended", severity="warning")
        else:
            self.herald.give_title_back()
            self._suspend_signal()
            own.sleep()
            self._woken_at = time.monotonic()

    def action_toggle_cost(self) -> None:
        self.cost_pane.display = not self.cost_pane.display

    def action_toggle_hour(self) -> None:
        """Load and throughput over the last hour, or over the last minutes again."""
        self.store.shows_hour = not self.store.shows_hour
        self.board = self.store.board(self.clock())
        for pane in self.active_panel.panes:  # now, whether they are due or not
            if pane.display:
                pane.paint(self.board)

    def save_picture(self) -> None:
        """Beside the transcripts: a server has no folder of downloads. In a browser it is one."""
        from ..client.transcripts import data_directory

        directory = data_directory() / "pictures"
        with contextlib.suppress(OSError):  # it will be said that it cannot be saved
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.deliver_screenshot(path=str(directory))

    def action_diagnostics(self) -> None:
        dialog = LiveDialog("diagnostics", lambda board, width: diagnostics(self, board))
        self.push_screen(dialog)

    def action_help(self) -> None:
        from .help import HelpDialog

        remapped = self.chosen.settings.keys
        self.push_screen(HelpDialog(self.screen.active_bindings, remapped))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """`:` is nothing in a dialog; where a text is written, `ctrl+z` takes back what was."""
        if action == "command":
            return isinstance(self.screen, MainScreen)
        if action == "suspend" and hasattr(self.focused, "action_undo"):
            return False
        return super().check_action(action, parameters)

    async def action_command(self, text: str = "") -> None:
        """Opens the line to type a command in, at the foot of the panels."""
        from .commands import all_commands
        from .panels.command_line import CommandLine

        for open_line in self.query(CommandLine):
            open_line.input.focus()
            return
        commands = CommandLine(all_commands(self), self.focused, text)
        await self.query_one("#panels").mount(commands)
        self.screen.set_focus(commands.input)  # at once: the next key is meant for it

    async def on_command_line_said(self, message: CommandLine.Said) -> None:
        await message.line.carry_out(message.text)

    async def action_close_command(self) -> None:
        from .panels.command_line import CommandLine

        for command_line in self.screen_stack[0].query(CommandLine):
            command_line.release_focus()
            await command_line.remove()

    def action_jump(self) -> None:
        """A letter on every pane; typing it goes there."""
        from .jump import JumpScreen

        targets = [widget for widget in self.screen.focus_chain if widget.region]
        self.push_screen(JumpScreen(targets), self._jump)

    def _jump(self, target: Widget | None) -> None:
        if target is not None:
            target.focus(scroll_visible=False)

    def filter_panel(self, text: str) -> None:
        """Filters what the screen on top lists. Raises `OperatorError` where it lists nothing."""
        if error := Filter.parse(text).error:
            raise OperatorError(f"/{text}: {error}", "a regular expression; ! in front inverts it")
        panes = list(self.active_panel.query(FilterPane))
        if not panes:
            raise OperatorError(f"{self._active} lists nothing", "go to Batch, Adapters, Logs …")
        focused = [pane for pane in panes if pane.has_focus]
        (focused or panes)[0].set_filter(text)

    def action_ask_quit(self) -> None:
        if any(isinstance(screen, ChoiceDialog) for screen in self.screen_stack):
            return
        has_nothing = self._label or self.board.is_stopped
        if has_nothing or self.is_read_only:  # nothing to stop, or it must not be
            self.exit("leave")
            return
        self.push_screen(
            ChoiceDialog(
                "Quit the console",
                "The pipeline belongs to the supervisor and goes on without a screen. "
                + quit_costs(self.board),
                (
                    Choice("l", "leave", "Leave it running"),
                    Choice("s", "stop", "Stop the pipeline as well"),
                    Choice("c", "", "Stay here"),
                ),
            ),
            self._quit,
        )

    def _quit(self, answer: str | None) -> None:
        if answer:
            self.exit(answer)

    async def on_event_pane_traced(self, message: EventPane.Traced) -> None:
        """From an alert to what it stems from, from an event to its line or what was said then."""
        from . import log_actions

        if isinstance(message.source, AlertFinding):
            await log_actions.show(self, message.source)
        else:
            await log_actions.show_event(self, message.source)

    async def on_alerts_panel_traced(self, message: AlertsPanel.Traced) -> None:
        from . import log_actions

        await log_actions.show(self, message.finding)

    # -- orders

    def ask_text(self, request_id: str, offset: int) -> None:
        self.telemetry.ask_text(request_id, offset)

    def ask_spans(self, stamp: str) -> None:
        self.telemetry.ask_spans(stamp)

    def record_spans(self, wanted: bool) -> None:
        from . import actions

        actions.record_spans(self, wanted)

    def on_batch_table_abort_asked(self, message: BatchTable.AbortAsked) -> None:
        from . import actions

        actions.ask_abort(self, message.request_id)

    def on_process_table_pane_asked(self, message: ProcessTablePane.Asked) -> None:
        from . import process_actions

        process_actions.obey(self, message.what, message.name)

    def on_process_table_pane_stop_all_asked(self) -> None:
        from . import actions

        actions.ask_stop(self)

    def on_process_table_pane_drain_asked(self) -> None:
        from . import actions

        actions.drain_or_resume(self)

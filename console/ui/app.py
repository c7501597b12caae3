"""`ConsoleApp`: wires sockets to panels. One store, one tick, one repaint per frame.

Readers only fold messages into the store; the tick makes a `Board` from it and gives it to the
active panel. No message calls a widget, and hidden panels are not drawn.
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
from typing import TYPE_CHECKING, ClassVar

from textual import events
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Container
from textual.widget import Widget

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.private_files import users_umask
from ...pipeline.runtime.health import LATE_SECONDS
from ..client.pending_orders import PendingOrders
from ..client.telemetry import TelemetryClient
from ..paths import user_themes
from ..settings.settings import Chosen, Settings, choose, missing_theme, settings_stamp
from ..settings.theme_files import ThemeShelf
from ..settings.toml_document import Problem
from ..settings.ui_state import UiState
from ..state.adapter_colors import AdapterColors
from ..state.alert_book import AlertBook
from ..state.alerts import AlertFinding
from ..state.board import Board
from ..state.store import Store
from ..terminal import driver, memory_trim
from ..terminal.key_queue import KeyFollower, KeyQueue
from ..text import units
from ..text.ascii import PLAIN, TAME
from ..text.filter import Filter
from .notifications import Notifier
from .panels.cost import CostPane, diagnostics
from .panels.events import EventPane
from .panels.footer import Footer
from .panels.header import Header
from .panels.overview import Overview
from .playback_keys import PlaybackKeys
from .screens import PAGES, PANELS, make_panel
from .widgets.clipboard import copy_text
from .widgets.dialogs import ChoiceDialog, LiveDialog, LiveScreen
from .widgets.filter import FilterPane
from .widgets.order_asked import OrderAsked, OrdersAsked
from .widgets.pane import Pane, Panel
from .widgets.styles import MainScreen
from .widgets.too_small import TooSmallPane, is_too_small

if TYPE_CHECKING:
    from textual.filter import LineFilter

    from .panels.alerts import AlertsPanel
    from .panels.command_line import CommandLine

QUIET_SECONDS = 4.0
"""Seconds between frames while only heartbeats arrive, so that only ages change on the screen."""
DEFAULT_THEME, LIGHT_THEME = "dark", "light"
LOOK_SECONDS = 2.0
"""Seconds between two checks of alerts, themes and settings: 120 us each in the paint loop; a
Textual timer would cost 500 us more."""
SELDOM_SECONDS = 10.0
FIRST_HINT = "? help · 1-9 screens · ctrl+p everything"
"""What a first user needs; shown once."""
HINT_SECONDS = 30.0


class ConsoleApp(PlaybackKeys):
    """The console on one run directory. `run()` returns "leave" or "stop"."""

    TITLE = "loraconsole"
    CSS_PATH = Path(__file__).with_name("console.tcss")
    ENABLE_COMMAND_PALETTE = False  # `action_palette` opens the console's own
    BINDINGS: ClassVar[list[BindingType]] = [
        *(
            Binding(key, f"show('{name}')", name, show=False, id=f"show-{module}")
            for key, (name, module) in (PANELS | PAGES).items()
        ),
        Binding("colon", "command", "Command", key_display=":", id="command"),
        Binding(
            *("space,p,P", "pause", "Pause"),
            id="pause",
            tooltip="freeze the screen; data still arrives",
        ),
        Binding(
            "z", "zoom", "Zoom", show=False, id="zoom", tooltip="maximise a pane, then the next"
        ),
        Binding("escape", "unzoom", "All panes", show=False, id="unzoom"),
        Binding(
            "S",
            "start_pipeline",
            "Start",
            priority=True,  # in a table S is another key; but only what runs has an order
            id="start-pipeline",
            tooltip="the stopped pipeline, with its last options",
        ),
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
        Binding(
            "C",
            "toggle_cost",
            "Cost",
            show=False,
            id="cost",
            tooltip="CPU and output of this console",
        ),
        Binding("D", "diagnostics", "Diagnostics", show=False, id="diagnostics"),
        Binding(
            "H", "toggle_hour", "Hour", show=False, id="hour", tooltip="plots of the last hour"
        ),
        Binding(
            "ctrl+p",
            "palette",
            "Palette",
            show=False,
            id="palette",
            tooltip="find actions, adapters, requests, processes, settings",
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
        source: Callable[..., TelemetryClient] = TelemetryClient,
        shows_cost: bool = False,
        is_read_only: bool = False,
        starter: Callable[[], int] | None = None,
    ) -> None:
        """`label` is a badge in the header (MOCK, an ssh host): quitting then offers no stop of
        the pipeline. `source` makes the telemetry client, from the arguments of `TelemetryClient`.
        `fps`, `theme`, `ascii` and `low_bandwidth` override the settings file. `ui_state` has the
        saved theme and sorting. With `is_read_only` the console changes nothing. `starter` starts
        the pipeline again once it has stopped; without one it is not offered."""
        has_no_color = os.environ.get("NO_COLOR") is not None
        # Without colours Textual must treat the theme as the terminal's own, or it sends greys.
        super().__init__(ansi_color=True if has_no_color else None)
        self.config = config
        self.is_read_only = is_read_only
        self.starter = starter
        self.api_key = config.api_key
        self.clock = clock
        self.ui_state = ui_state or UiState()
        self._is_light = False
        """Whether the terminal has said that its background is light."""
        self._shelf = ThemeShelf()
        self._take_themes()
        self._read = partial(choose, theme, fps, ascii, low_bandwidth=low_bandwidth)
        self.chosen = self._choose()
        settings = self.chosen.settings
        self.notifier = Notifier(self)
        self.store = Store(config.run, adapter_colors)
        self.alert_book = AlertBook(settings.alerts)
        self.is_ascii = settings.ascii
        self._listen(source)
        self.board: Board = self.store.board(clock())
        self._watched = self.board.process_states
        """States of the processes when the alerts were last judged."""
        self.is_paused = False
        self.animation_level = "none"
        self.key_queue = KeyQueue(self, self.on_event)
        self.pace.fps = settings.fps
        self._label = label
        self._was_down = False
        self._drawn = self.store.moves
        self._drawn_at = time.monotonic()
        self._news = asyncio.Event()
        self._woken_at = 0.0
        """Monotonic time at which `suspend` last returned."""
        self._settings_stamp = settings_stamp()
        self._looked_at = self._seldom_looked_at = 0.0
        self._wear(settings, Settings(theme=""))
        says_so = is_read_only and self.playback is None
        badge = " ".join(word for word in (label, "READ-ONLY" if says_so else "") if word)
        self.header = Header({key: name for key, (name, _) in (PANELS | PAGES).items()}, badge)
        self.footer = Footer()
        self.cost_pane = CostPane()
        self.cost_pane.display = shows_cost
        self._panels: dict[str, Panel] = {"Overview": Overview()}
        self._active = self.header.active = "Overview"

    def _listen(self, source: Callable[..., TelemetryClient]) -> None:
        """Makes the telemetry client, and the `PendingOrders` that receive replies to orders."""
        self.telemetry = source(
            self.config,
            self.store,
            self.clock,
            on_news=self.wake,
            on_reply=lambda reply: self.orders.answered(reply),
            is_read_only=self.is_read_only,
        )
        self.orders = PendingOrders(
            self.store,
            self.telemetry.inbox_name,
            send=lambda order: self.telemetry.send_order(order),
            forget=self.telemetry.forget_orders,
            tell=self.notifier.tell_reply,
            clock=self.clock,
        )

    def _choose(self) -> Chosen:
        """Reads the settings; if none sets a theme, uses the saved one."""
        chosen = self._read()
        if chosen.settings.keys:
            from ..settings.keymap import with_known_keys
            from .bindings import catalogue  # imports every panel

            chosen = with_known_keys(chosen, catalogue())
        if "theme" in chosen.origins:
            return chosen
        if self.ui_state.theme in self.themes:
            return chosen.with_flag("theme", self.ui_state.theme, "last time")
        if self._is_light:
            return chosen.with_flag("theme", LIGHT_THEME, "light terminal")
        return chosen

    @property
    def asks_background(self) -> bool:  # type: ignore[override]  # computed here
        """Whether neither the settings nor an earlier choice name a theme."""
        return "theme" not in self.chosen.origins

    def background_found(self, is_light: bool) -> None:
        """Takes the light theme on a light terminal, unless a theme was chosen meanwhile."""
        if is_light and self.asks_background and not self.ui_state.theme:
            self._is_light = True
            before, self.chosen = self.chosen, self._choose()
            self._wear(self.chosen.settings, before.settings)

    def _take_themes(self) -> bool:
        """Reads changed theme files; returns whether there were any."""
        before = self._shelf.themes
        if not self._shelf.refresh():
            return False
        for name, theme in self._shelf.themes.items():
            self.register_theme(theme)
            if name == self.theme and before and before.get(name) != theme:
                self.mutate_reactive(ConsoleApp.theme)
        return True

    def _wear(self, settings: Settings, before: Settings) -> None:
        """Applies settings that can change while the console runs."""
        if settings.theme != before.theme:  # else the theme chosen with `t` stays
            self.theme = settings.theme if settings.theme in self.themes else DEFAULT_THEME
        if settings.fps != before.fps:
            self.pace.fps = settings.fps
        self.is_ascii = settings.ascii
        self.set_class(settings.ascii, "-ascii")
        if settings.ascii != before.ascii and self.is_running:
            for pane in self.screen_stack[0].query(Pane):
                pane.release()
                pane.refresh()
        self.set_keymap(settings.keys)
        self.alert_book.limits = settings.alerts

    @property
    def complaints(self) -> list[Problem]:  # type: ignore[override]  # computed here
        """Problems in the settings and theme files."""
        missing = missing_theme(self.chosen, self.themes)
        return [*self.chosen.problems, *self._shelf.problems, *missing]

    def reload_settings(self) -> None:
        if (stamp := settings_stamp()) != self._settings_stamp:
            self._settings_stamp = stamp
            before, self.chosen = self.chosen, self._choose()
            if before.settings != self.chosen.settings:
                self._wear(self.chosen.settings, before.settings)
            self._tell_problems()

    def _tell_problems(self) -> None:
        self.notifier.tell_problems(self.complaints)
        self._paint_active()

    def _look_around(self) -> None:
        """Checks state that no message reports: changed files, alerts, free disk space."""
        now = self._looked_at = time.monotonic()
        is_seldom = now - self._seldom_looked_at >= SELDOM_SECONDS
        # Only the user's own themes are edited; to look at all takes 200 us of an idle console.
        if (is_seldom or user_themes().is_dir()) and self._take_themes():
            self._tell_problems()
        self.reload_settings()
        memory_trim.forget_borders()
        memory_trim.trim_caches()
        if is_seldom:
            self._seldom_looked_at = now
            memory_trim.give_back_pages()
            with contextlib.suppress(OSError):  # the run directory is on another machine
                self.store.disk_free_bytes = shutil.disk_usage(self.config.run).free
        board = self.store.board(self.clock())
        self.watch_alerts(board)
        self.notifier.entitle(board)
        is_counted = self.chosen.settings.low_bandwidth
        self.header.bytes_s = self.meter.cost.bytes_s if is_counted else None

    def watch_alerts(self, board: Board) -> None:
        """Updates the alert book from `board` and notifies of new alerts."""
        self._watched = board.process_states
        fresh = self.alert_book.update(board)
        self.notifier.tell_alerts(fresh, board, is_seen=self._active == "Alerts")

    # -- start

    def get_default_screen(self) -> MainScreen:
        screen = MainScreen()
        self.text_styles = screen.text_styles
        return screen

    def compose(self) -> ComposeResult:
        yield TooSmallPane()
        yield self.header
        yield Container(self._panels["Overview"], id="panels")
        yield self.cost_pane
        yield self.footer

    def on_mount(self) -> None:
        self.app_resume_signal.subscribe(self, lambda _: self.action_redraw())
        self.call_after_refresh(self._start)

    def _start(self) -> None:
        """Starts, after the first frame, everything which that frame does not need."""
        own = driver.driver_of(self)
        if own is not None:
            driver.count_bytes(own, self.meter.add_bytes)
        if own is not None and not self.is_headless:
            # Imported modules stay: scanning them for garbage would take 100 ms each time.
            gc.collect()
            gc.freeze()
        gc.enable()  # the command turned it off
        self.notifier.tell_problems(self.complaints)
        if self.ui_state.is_new:
            self.ui_state.forget_new()
            self.notify(FIRST_HINT, timeout=HINT_SECONDS)
        self.run_worker(self.telemetry.run(), name="telemetry", exit_on_error=True)
        self.run_worker(self._paint_forever(), name="paint", exit_on_error=True)

    @property
    def active_panel(self) -> Panel:
        return self._panels[self._active]

    @property
    def themes(self) -> list[str]:
        """Names of all valid themes."""
        return list(self._shelf.themes)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """Filters for the output of Textual's own widgets; panes convert their own text."""
        filters = [*super().get_line_filters(), TAME]
        return [*filters, PLAIN] if self.is_ascii else filters

    def get_key_display(self, binding: Binding) -> str:
        """Textual's display of a key; in ASCII mode its name if that display is not ASCII."""
        shown = super().get_key_display(binding)
        return binding.key if self.is_ascii and not shown.isascii() else shown

    @property
    def screen_names(self) -> list[str]:
        """The screen names that `action_show` accepts."""
        return [name for name, _ in (PANELS | PAGES).values()]

    # -- the tick

    async def _paint_forever(self) -> None:
        """Draws frames at their rate while something changes; otherwise sleeps until woken."""
        due, is_done = time.monotonic(), True
        while True:
            if is_done and not self._has_moved:
                self._news.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), LOOK_SECONDS)
                due = time.monotonic()
            if not self.is_running:  # it is closing, and its widgets are being removed
                return
            drawn_at = self._drawn_at
            is_done = self.tick(time.monotonic() - due)
            if time.monotonic() - self._looked_at >= LOOK_SECONDS:
                self._look_around()
            due = max(due + self.pace.period_s, time.monotonic())
            if self._drawn_at != drawn_at or not is_done:
                await asyncio.sleep(due - time.monotonic())

    @property
    def _has_moved(self) -> bool:
        return (
            self.store.moves != self._drawn
            or self.active_panel.is_live
            or self._is_silence_due(time.monotonic())
        )

    def _is_silence_due(self, monotonic: float) -> bool:
        """Whether the displayed length of a silence needs an update, once a second."""
        age_s = self.store.link_age_s(self.clock())
        return age_s is not None and age_s > LATE_SECONDS and monotonic - self._drawn_at >= 1.0

    def wake(self) -> None:
        """Called after a message or an action; wakes the paint loop if the display changes."""
        if self._has_moved:
            self._news.set()

    def tick(self, late_s: float = 0.0) -> bool:
        """Draws a frame if there is something to draw. Returns False if the frame is still due
        because the terminal has not consumed the last one.
        """
        monotonic = time.monotonic()
        if not self._has_moved and monotonic - self._drawn_at < QUIET_SECONDS:
            return True
        if not self.pace.may_paint(monotonic, self.queued):
            self.meter.add_withheld()
            return False
        self._drawn, self._drawn_at = self.store.moves, monotonic
        self.pace.painted(monotonic)
        self.ask_terminal()
        self.meter.add_frame(late_s)
        self.paint(self.store.board(self.clock()))
        return True

    def paint(self, board: Board) -> None:
        """Draws `board` on the visible widgets; a paused view keeps its board."""
        events = self.store.drain_events()
        self.notifier.tell_events(events, is_seen=self._active == "Alerts")
        self.orders.sweep()
        if not self.is_paused:
            self.board = board
        if board.process_states != self._watched:  # a death is said at once
            self.watch_alerts(board)
        if board.is_down != self._was_down:
            self._was_down = board.is_down
            self.refresh_bindings()  # S, in the footer
        self.header.round_trip_s = self.pace.round_trip_s
        self.header.paint(board)  # under a dialog too, where it is still visible
        screen = self.screen
        if isinstance(screen, LiveScreen):
            screen.paint(self.board)
        elif isinstance(screen, MainScreen):
            if self.cost_pane.display:
                self.cost_pane.paint(board)
            if not self.is_paused or self.active_panel.is_live:
                self.active_panel.paint(self.board)

    def on_resize(self, event: events.Resize) -> None:
        """Textual calls that of `TerminalApp` as well."""
        self.screen_stack[0].set_class(is_too_small(event.size), "-too-small")

    # -- keys that always work

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Key | events.Paste):
            if event.time < self._woken_at:
                return  # typed while suspended, and meant for the shell
            is_new = not event.is_forwarded
            if is_new and self.key_queue.holds(event):
                return
        await super().on_event(event)

    async def on_key_follower(self, message: KeyFollower) -> None:
        await self.key_queue.arrived(message)

    async def action_show(self, name: str) -> None:
        """Shows a panel, made at its first use."""
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
        self.notifier.leave_screen(name)
        self.active_panel.focus_first()
        self.call_after_refresh(self._paint_active)

    def draw_notices(self) -> None:
        self.footer.notices_changed()

    def _paint_active(self) -> None:
        """Paints the active panel, e.g. one that was hidden."""
        self.active_panel.paint(self.board)

    def on_footer_notice_clicked(self, message: Footer.NoticeClicked) -> None:
        """Shows a notice that the footer cuts, whole."""
        from ..text.lines import line

        notice = message.notice
        self.push_screen(
            LiveDialog(
                notice.title or "notice",
                lambda board, width: [
                    line((part, "text")) for part in units.wrap(notice.message, width)
                ],
            )
        )

    async def on_header_chosen(self, message: Header.Chosen) -> None:
        await self.action_show((PANELS | PAGES)[message.key][0])

    def action_pause(self) -> None:
        if controls := self.playback:  # the recording stands, rather than the view of it
            self.footer.is_paused = controls.toggle_pause()
            self.footer.paint()
            return
        self.is_paused = self.header.is_paused = self.footer.is_paused = not self.is_paused
        self.header.paint()
        self.footer.paint()
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
        place = f"{names.index(self.theme) + 1} of {len(names)}"
        self.notify(f"theme {self.theme} ({place})", timeout=4)

    def wear_theme(self, name: str) -> None:
        """Changes the theme and saves the choice for later runs."""
        self.theme = self.ui_state.theme = name

    def action_hasten(self, steps: int) -> None:
        """Moves by `steps` in the list of usual frame rates, for this session."""
        self.pace.change_rate(steps)
        self.notify(f"{self.pace.fps:g} frames/s while the screen changes")

    def action_redraw(self) -> None:
        """Redraws the whole screen, e.g. after another program wrote to the terminal."""
        self.forget_screen()
        self.screen.refresh(layout=True)

    def action_suspend(self) -> None:
        """Gives the terminal to the shell until `fg`. The pipeline goes on."""
        own = driver.driver_of(self)
        if own is None or not own.can_suspend:
            self.notify("the browser console has no shell", severity="warning")
        elif not driver.has_job_control():
            reason = "this console was not started from a shell"
            self.notify(f"{reason}; q leaves it", title="cannot be suspended", severity="warning")
        else:
            self.notifier.give_title_back()
            if not driver.suspend_job(self):
                self.action_suspend_process()
            self._woken_at = time.monotonic()

    def action_toggle_cost(self) -> None:
        self.cost_pane.display = not self.cost_pane.display

    def action_toggle_hour(self) -> None:
        """Switches plots between the last minutes and the last hour."""
        self.store.shows_hour = not self.store.shows_hour
        self.board = self.store.board(self.clock())
        for pane in self.active_panel.panes:  # now, whether they are due or not
            if pane.display:
                pane.paint(self.board)

    async def save_picture(self, path: str = "") -> None:
        """Saves the screen, without a command line, as SVG: to `path`, or beside the transcripts,
        or in a browser's downloads. Raises `OperatorError` if `path` cannot be written."""
        from ..paths import data_directory

        wanted = Path(path).expanduser().absolute()
        if path:
            try:
                with users_umask():
                    wanted.open("a").close()
            except OSError as error:
                raise OperatorError(f"{wanted}: {error.strerror}", "a file for the SVG") from error
        await self.action_close_command()
        if path:
            self.call_after_refresh(self._draw_picture, wanted)
            return
        directory = data_directory() / "pictures"
        with contextlib.suppress(OSError):  # `deliver_screenshot` reports that it cannot save
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.call_after_refresh(self.deliver_screenshot, path=str(directory))

    def _draw_picture(self, path: Path) -> None:
        with users_umask():
            path.write_text(self.export_screenshot(), encoding="utf-8")
        self.notify(str(path), title="The screen is saved", markup=False)

    def action_diagnostics(self) -> None:
        dialog = LiveDialog("diagnostics", lambda board, width: diagnostics(self, board))
        self.push_screen(dialog)

    def action_help(self) -> None:
        from .help import HelpDialog

        remapped = self.chosen.settings.keys
        self.push_screen(HelpDialog(self._active, self.screen.active_bindings, remapped))

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Whether an action is available now: `:` not in a dialog; in a text `ctrl+z` is undo."""
        if action == "command":
            return isinstance(self.screen, MainScreen)
        if action == "start_pipeline":
            return self._may_start()
        if action == "suspend" and hasattr(self.focused, "action_undo"):
            return False
        return super().check_action(action, parameters)

    def _may_start(self) -> bool:
        """Whether `S` starts the pipeline: it is down, and no input takes the key as text."""
        is_typing = self.focused is not None and self.focused.check_consume_key("S", "S")
        return self.can_start and isinstance(self.screen, MainScreen) and not is_typing

    async def action_start_pipeline(self) -> None:
        from . import actions

        # A worker: on another machine it takes as long as the model, and the screen shows that.
        self.run_worker(actions.start_pipeline(self), name="start", exit_on_error=True)

    async def action_command(self, text: str = "") -> None:
        """Opens the command line below the panels."""
        from .line_commands import all_commands
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

    def action_palette(self) -> None:
        from .palette import open_palette

        open_palette(self)

    def on_text_selected(self) -> None:
        """Copies what was selected with the mouse in one of Textual's own widgets."""
        if text := self.screen.get_selected_text():
            copy_text(self.screen, text, units.glimpse(text))

    def action_jump(self) -> None:
        """Shows a letter on every pane; typing it focuses that pane."""
        from .jump import JumpScreen

        targets = [widget for widget in self.screen.focus_chain if widget.region]
        self.push_screen(JumpScreen(targets), self._jump)

    def _jump(self, target: Widget | None) -> None:
        if target is not None:
            target.focus(scroll_visible=False)

    def filter_panel(self, text: str) -> None:
        """Filters the active screen's list. Raises `OperatorError` if it has none, or for an
        invalid expression."""
        if error := Filter.parse(text).error:
            raise OperatorError(f"/{text}: {error}", "regex; !regex to exclude")
        panes = list(self.active_panel.query(FilterPane))
        if not panes:
            raise OperatorError(f"{self._active} has no list", "go to Batch, Adapters, Logs …")
        focused = [pane for pane in panes if pane.has_focus]
        (focused or panes)[0].set_filter(text)

    def action_ask_quit(self) -> None:
        if any(isinstance(screen, ChoiceDialog) for screen in self.screen_stack):
            return
        has_nothing = self._label or self.board.is_stopped
        if has_nothing or self.is_read_only:  # nothing to stop, or stopping is not allowed
            self.exit("leave")
            return
        from .quitting import ask_quit

        ask_quit(self)

    async def on_event_pane_traced(self, message: EventPane.Traced) -> None:
        """Shows the log line of an alert or an event, or else the screen that shows it."""
        from . import log_actions

        if isinstance(message.source, AlertFinding):
            await log_actions.show_finding(self, message.source)
        else:
            await log_actions.show_event(self, message.source)

    async def on_alerts_panel_traced(self, message: AlertsPanel.Traced) -> None:
        from . import log_actions

        await log_actions.show_finding(self, message.finding)

    # -- orders

    def ask_text(self, request_id: str, offset: int) -> None:
        self.telemetry.ask_text(request_id, offset)

    def ask_spans(self, stamp: str) -> None:
        self.telemetry.ask_spans(stamp)

    def on_order_asked(self, message: OrderAsked) -> None:
        from . import actions

        actions.give(self, message.order, message.listener, message.is_agreed)

    def on_orders_asked(self, message: OrdersAsked) -> None:
        from . import actions

        actions.give_all(self, message.orders, message.listener, on_sent=message.on_sent)

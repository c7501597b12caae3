"""The console as its keys drive it: panels, dialogs, orders, pause, themes, the palette."""

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from stage import KEYS, StagedApp, screen_text, staged, wait
from textual import events
from textual.pilot import Pilot
from textual.widgets import OptionList
from textual.widgets._toast import Toast

from loraconsole.console.client.telemetry import ABORTED, DRAIN_SECONDS
from loraconsole.console.settings.ui_state import UiState
from loraconsole.console.state.board import SUPERVISOR
from loraconsole.console.terminal.key_queue import KeyFollower
from loraconsole.console.ui.app import FIRST_HINT, QUIET_SECONDS, ConsoleApp
from loraconsole.console.ui.help import TERMS, HelpDialog
from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.screens import PAGES, PANELS
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, LiveDialog
from loraconsole.console.ui.widgets.pane import Pane
from loraconsole.console.ui.widgets.styles import MainScreen
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.messages import (
    Abort,
    Drain,
    Event,
    ProcessState,
    ProcessTable,
    RestartProcess,
    Resume,
    SignalProcess,
    StartProcess,
    StopPipeline,
    StopProcess,
)

pytestmark = pytest.mark.slow

Act = Callable[[StagedApp, Pilot[str]], Coroutine[Any, Any, None]]


def on_stage(act: Act, **options: Any) -> None:
    """Runs one scene."""

    async def main() -> None:
        async with staged(**options) as (app, pilot):
            await act(app, pilot)

    asyncio.run(main())


# --- panels -------------------------------------------------------------------------------------


def test_every_key_brings_its_panel_to_the_top() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key, (name, _) in (PANELS | PAGES).items():
            await pilot.press("escape")  # the prompt keeps the keys until it is left
            await pilot.press(key)
            await pilot.pause()
            assert name == app.active_panel.NAME
            assert f"{',' if key == 'comma' else key} {name}" in screen_text(app)
            others = [panel for panel in app._panels.values() if panel is not app.active_panel]
            assert all(not panel.display for panel in others)

    on_stage(act)


def test_a_click_on_a_tab_does_the_same() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.click("Header", offset=(16, 1))
        await pilot.pause()
        assert app.active_panel.NAME == "Batch"

    on_stage(act)


def test_a_click_on_a_key_in_the_footer_presses_it() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        x = screen_text(app).splitlines()[-1].index("Pause")
        await pilot.click("Footer", offset=(x, 0))
        await pilot.pause()
        assert app.is_paused
        assert "space Resume" in screen_text(app).splitlines()[-1]

    on_stage(act)


def test_a_hidden_panel_is_not_drawn() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        overview = app.active_panel.panes
        await pilot.press("2")
        await pilot.pause()
        before = [pane.frames for pane in overview]
        for _ in range(10):
            app.advance(1.0)
            app.show()
        await pilot.pause()
        assert [pane.frames for pane in overview] == before
        assert app.active_panel.query_one(Pane).frames > 9

    on_stage(act)


def test_lines_that_did_not_change_are_not_drawn_again() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(Pane)
        app.show()
        await pilot.pause()
        strips = [table._strip(y) for y in range(table.size.height)]
        app.show()
        assert table._strips == strips
        app.advance(0.4)
        app.show()
        kept = sum(new is old for new, old in zip(table._strips, strips, strict=True))
        assert 0 < kept < len(strips)

    on_stage(act, panel="Batch")


def test_a_frame_is_due_only_when_something_moved_or_after_a_while() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.pace.answered(0.0)
        app.tick()
        app._drawn_at = app._drawn_at - 0.5
        frames = app.header.frames
        app.tick()
        assert app.header.frames == frames
        app._drawn_at -= QUIET_SECONDS
        app.tick()
        assert app.header.frames == frames + 1
        app.pace.answered(0.0)
        app.store.fold_message(Event(app.now, "info", "router", "moved"), app.now)
        app.tick()
        assert app.header.frames == frames + 2

    on_stage(act, scenario="empty")


def test_ready_is_a_word_on_the_status_line() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        status = screen_text(app).splitlines()[0]
        for word in ("READY", "SmolLM2-135M-Instruct", "cpu int4", "tok/s", " run", "live"):
            assert word in status

    on_stage(act)


def test_a_silent_pipeline_shows_as_stale() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.now += 3.2
        app.show()
        await pilot.pause()
        assert "stale 3.2 s" in screen_text(app)
        assert "NO SUPERVISOR" in screen_text(app)

    on_stage(act)


def test_without_any_pipeline_the_screen_says_what_to_do() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = screen_text(app)
        assert "CONNECTING" in text and "loraconsole up" in text and "/run/loraconsole" in text
        for key in KEYS.values():
            await pilot.press("escape", key)  # every panel bears that nothing is known

    on_stage(act, scenario=None)


# --- pause, themes, help ------------------------------------------------------------------------


def test_space_freezes_the_view_but_not_the_books() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("space")
        held, lines = app.board, screen_text(app).splitlines()[2:]
        app.advance(5.0)
        app.show()
        await pilot.pause()
        text = screen_text(app)
        assert "PAUSED" in text
        assert text.splitlines()[2:] == lines
        assert len(app.store.board(app.now).logs) > len(held.logs)
        await pilot.press("space")
        await pilot.pause()
        assert "PAUSED" not in screen_text(app)
        assert screen_text(app).splitlines()[2:] != lines

    on_stage(act, panel="Logs")


def test_z_gives_the_panel_to_one_pane_after_the_other() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        panel = app.active_panel
        before = {pane: pane.region for pane in panel.panes if pane.display}
        assert app.screen.focused is None
        for pane in before:
            await pilot.press("z")
            await pilot.pause()
            assert panel.zoomed is pane and pane.size == panel.size
            assert screen_text(app).count("zoomed (esc)") == 1
            assert [other for other in panel.panes if other.display] == [pane]
            assert pane.frames and screen_text(app).splitlines()[2].startswith("╭")
        await pilot.press("z")  # behind the last one
        await pilot.pause()
        assert {pane: pane.region for pane in panel.panes if pane.display} == before
        await pilot.press("tab", "z")  # the pane that has the keyboard first
        await pilot.pause()
        assert panel.zoomed is app.screen.focused
        await pilot.press("escape")
        await pilot.pause()
        assert {pane: pane.region for pane in panel.panes if pane.display} == before

    on_stage(act)


def test_t_goes_round_all_themes() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        seen = []
        for _ in app.themes:
            await pilot.press("t")
            seen.append(app.theme)
        assert sorted(seen) == sorted(app.themes)
        assert app.theme == "dark"

    on_stage(act)


def test_help_lists_every_key_of_the_panel_and_of_the_app() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        descriptions = {
            active.binding.description for active in app.screen.active_bindings.values()
        }
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpDialog)
        text = screen_text(app)
        await pilot.press("pagedown", "pagedown", "pagedown")
        await pilot.pause()
        text += screen_text(app)
        assert all(description in text for description in descriptions if description)
        await pilot.press("escape")
        assert isinstance(app.screen, MainScreen)

    on_stage(act, panel="Batch")


@pytest.mark.parametrize(
    ("panel", "own"),
    [
        ("Batch", "in live batch"),
        ("Adapters", "in adapters"),
        ("Processes", "in processes"),
        ("Alerts", "in alerts"),
    ],
)
def test_help_begins_with_the_keys_of_the_screen(panel: str, own: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("question_mark")
        await pilot.pause()
        assert isinstance(app.screen, HelpDialog)
        lines = app.screen._lines(app.board, 80)
        titles = [line.spans[0][0] for line in lines if line.spans and line.spans[0][1] == "title"]
        assert titles[:2] == [own, "terms on this screen"]
        assert {"every table", "everywhere"} < set(titles[2:])

    on_stage(act, panel=panel)


def test_every_key_of_every_screen_has_a_name_of_its_own_and_says_what_it_does() -> None:
    """What settings bind anew, the palette lists and help explains."""

    def own_actions(kind: type) -> set[str]:
        ours = [base for base in kind.__mro__ if base.__module__.startswith("loraconsole.")]
        return {own.action for base in ours for own in base.__dict__.get("BINDINGS", ())}

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key in KEYS.values():
            await pilot.press("escape", "escape", key)
            await pilot.pause()
            for pane in app.active_panel.query("*"):
                if not pane.can_focus or not pane.display:
                    continue
                pane.focus()
                await pilot.pause()
                named: dict[str, str] = {}
                for active in app.screen.active_bindings.values():
                    binding = active.binding
                    if binding.action in own_actions(type(active.node)):
                        assert binding.id and binding.description, (active.node, binding)
                        known = named.setdefault(binding.id, binding.action)
                        assert known == binding.action, binding

    on_stage(act)


# --- orders -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "answer"),
    [
        ("q l", "leave"),
        ("q s y", "stop"),
        ("q s", None),
        ("q s s", None),
        ("q s enter", None),
        ("q s n", None),
        ("q c", None),
        ("ctrl+c ctrl+c", "leave"),
        ("ctrl+q ctrl+q", "leave"),
        ("q ctrl+c", "leave"),
    ],
)
def test_q_asks_and_asks_again_before_everything_stops(keys: str, answer: str | None) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key in keys.split():
            assert not app._exit
            await pilot.press(key)
            await pilot.pause()
        assert app.return_value == answer
        assert app._exit is (answer is not None)

    on_stage(act)


def test_escape_stays() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key in ("q", "ctrl+q", "ctrl+c"):
            await pilot.press(key)
            await pilot.pause()
            assert isinstance(app.screen, ChoiceDialog)
            await pilot.press("escape")
            await pilot.pause()
            assert isinstance(app.screen, MainScreen) and not app._exit

    on_stage(act)


def test_a_stray_click_stops_nothing() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("q")
        await pilot.pause()
        await pilot.click(OptionList, offset=(6, 1))  # "Stop the pipeline as well"
        await pilot.pause()
        assert not app._exit and "Stop the pipeline and quit?" in screen_text(app)

    on_stage(act)


def test_a_request_is_aborted_after_a_yes() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("down", "x", "n")
        assert app.told == []
        await pilot.press("x", "y")
        await pilot.pause()
        assert app.told == [Abort(app.board.requests[1].view.request_id, ABORTED)]

    on_stage(act, panel="Batch")


def test_a_process_is_restarted_after_a_yes() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("r")  # the supervisor itself is not its own to restart
        assert isinstance(app.screen, MainScreen)
        assert app.board.processes[0].name == SUPERVISOR
        await pilot.press("down", "down", "r", "y")
        await pilot.pause()
        assert app.told == [RestartProcess("worker-0")]
        await pilot.press("X", "enter")  # which is no
        assert app.told[1:] == []
        await pilot.press("X", "y")
        await pilot.pause()
        assert app.told[1:] == [StopPipeline(DRAIN_SECONDS)]

    on_stage(act, panel="Processes")


def test_a_process_is_stopped_killed_and_signalled_after_a_yes_and_started_without() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("x")
        assert isinstance(app.screen, MainScreen)  # not the supervisor
        await pilot.press("down", "down", "x")
        await pilot.pause()
        costs = str(app.screen.query_one("Static.body").render())
        assert "24 live requests stand still" in costs and "(503) until it is started" in costs
        await pilot.press("y", "R")
        await pilot.pause()
        assert "killed at once" in str(app.screen.query_one("Static.body").render())
        await pilot.press("n", "K")
        await pilot.pause()
        assert "USR1" in screen_text(app) and "suspends it" in screen_text(app)
        await pilot.press("s")
        await pilot.pause()
        app.scenario.hold("worker-0")  # type: ignore[union-attr]
        app.advance(1.0)
        app.show()
        await pilot.pause()
        text = screen_text(app)
        assert "INCOMPLETE" in text and "stopped by an operator" in text
        await pilot.press("K", "x")
        await pilot.pause()
        assert isinstance(app.screen, MainScreen)  # it has no pid; and a start costs nothing
        assert app.told == [
            StopProcess("worker-0"),
            SignalProcess("worker-0", "STOP"),
            StartProcess("worker-0"),
        ]

    on_stage(act, panel="Processes")


@pytest.mark.parametrize(
    ("downs", "loss"),
    [
        (2, "24 live requests wait meanwhile"),
        (3, "their text is sent again, none is lost"),
        (4, "24 live requests END with an error"),
        (5, "24 open streams BREAK"),
    ],
)
def test_what_a_restart_costs_is_said_before_it(downs: int, loss: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press(*["down"] * downs, "r")
        await pilot.pause()
        box = app.screen.query_one("Static.body")
        assert loss in str(box.render())

    on_stage(act, panel="Processes")


def test_draining_is_asked_for_and_undone() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("d", "y")
        await pilot.pause()
        app.scenario._set("router", ProcessState.DRAINING, "new requests are refused")  # type: ignore[union-attr]
        app.advance(1.0)
        app.show()
        await pilot.press("d")
        await pilot.pause()
        assert app.told == [Drain(), Resume()]

    on_stage(act, panel="Processes")


# --- events -------------------------------------------------------------------------------------


def test_of_many_events_the_worst_is_shown_in_one_line_of_the_footer() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for number in range(50):
            app.store.fold_message(Event(app.now, "info", "supervisor", f"note {number}"), app.now)
        app.show()
        assert [notice.message for notice in app.notices] == ["note 49"]
        app.store.fold_message(Event(app.now, "info", "router", "adapter x on device"), app.now)
        app.store.fold_message(Event(app.now, "error", "worker-0", "[b]it[/b] fell"), app.now)
        app.show()
        app.store.fold_message(Event(app.now, "warning", "router", "less"), app.now)
        app.show()
        await pilot.pause()
        assert [notice.message for notice in app.notices] == ["note 49", "[b]it[/b] fell"]
        assert "▲ worker-0: [b]it[/b] fell" in screen_text(app).splitlines()[-1]

    on_stage(act)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)], ids=str)
def test_a_notice_takes_the_footer_alone_and_leaves_its_keys_again(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        before = screen_text(app).splitlines()
        app.notify("x" * 300, severity="error", timeout=0.3)
        await pilot.pause()
        rows = screen_text(app).splitlines()
        assert rows[:-1] == before[:-1]
        assert "xxx…" in rows[-1] and "? Help" in rows[-1] and "q Quit" in rows[-1]
        await wait(lambda: "xxx" not in screen_text(app))
        await pilot.pause()
        assert screen_text(app).splitlines()[-1] == before[-1]

    on_stage(act, size=size, scenario="empty")


def test_a_notice_under_a_dialog_covers_none_of_it() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("q")
        await pilot.pause()
        before = screen_text(app).splitlines()
        app.notify("adapter sql failed: no such directory", severity="error")
        await pilot.pause()
        rows = screen_text(app).splitlines()
        assert rows[:23] == before[:23] and "adapter sql failed" in rows[23]
        await pilot.press("escape", "question_mark")
        await pilot.pause()
        assert not any(screen.query(Toast) for screen in app.screen_stack)

    on_stage(act, size=(80, 24))


def test_one_cause_is_one_notice() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for title in ("router", "loading sql"):
            app.notify("adapter sql failed: no such directory", title=title, severity="error")
        assert [notice.title for notice in app.notices] == ["loading sql"]

    on_stage(act)


def test_the_notice_of_an_event_says_why_within_eighty_cells() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        path = "/home/me/adapters/tenant-0042/adapter_model.safetensors"
        text = f"adapter trunc failed: {path} is cut short: its header names 1843200 bytes"
        app.store.fold_message(Event(app.now, "error", "router", text), app.now)
        app.show()
        await pilot.pause()
        assert "▲ adapter trunc failed: cut short: its header" in screen_text(app).splitlines()[-1]

    on_stage(act, size=(80, 24), scenario="empty")


def test_what_a_screen_says_is_gone_with_it_and_what_the_pipeline_says_is_not() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("8", "home", "x")  # the supervisor takes no orders
        app.store.fold_message(Event(app.now, "error", "worker-0", "it fell"), app.now)
        app.show()
        await pilot.pause()
        assert len(app.notices) == 2
        await pilot.press("2")
        await pilot.pause()
        assert [notice.message for notice in app.notices] == ["it fell"]

    on_stage(act)


def test_a_notice_that_is_cut_is_read_whole_by_a_click() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.notify(f"{'word ' * 40}end", title="router")
        await pilot.pause()
        await pilot.click("Footer", offset=(70, 0))
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog)
        app.show()
        await pilot.pause()
        assert "word end" in screen_text(app)

    on_stage(act, size=(80, 24))


def test_enter_on_an_event_leads_to_its_log_lines() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        from loraconsole.console.ui.panels.events import EventPane

        app.active_panel.query_one(EventPane).focus()
        await pilot.press("enter")
        await pilot.pause()
        assert app.active_panel.NAME == "Logs"

    on_stage(act)


# --- cost ---------------------------------------------------------------------------------------


@pytest.mark.processes
def test_the_console_never_pays_for_torch() -> None:
    code = (
        "import sys; from loraconsole.console.ui.app import ConsoleApp\n"
        "from loraconsole.console.ui.screens import PANELS, make_panel\n"
        "[make_panel(name) for name, _ in PANELS.values() if name != 'Overview']\n"
        "heavy = {'torch', 'transformers', 'triton', 'httpx', 'numpy', 'uvicorn', 'tqdm'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    run = [sys.executable, "-P", "-c", code]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.processes
def test_the_first_frame_does_not_wait_for_the_other_panels() -> None:
    code = (
        "import sys; from loraconsole.console.ui.app import ConsoleApp\n"
        "print([n for n in sys.modules if n.startswith('loraconsole.console.ui.panels.')])"
    )
    run = [sys.executable, "-P", "-c", code]
    loaded = subprocess.run(run, capture_output=True, text=True, check=True).stdout
    assert "overview" in loaded and "prompt" not in loaded and "latency" not in loaded


def test_an_unknown_theme_falls_back_and_says_so() -> None:
    async def main() -> None:
        app = ConsoleApp(Config(run="/run/loraconsole"), theme="neon")
        async with app.run_test(notifications=True) as pilot:
            await pilot.pause()
            assert app.theme == "dark"
            await wait(lambda: any("neon" in note.message for note in app.notices))

    asyncio.run(main())


def test_keys_in_one_write_are_obeyed_in_turn_and_each_waits_but_once() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        arrived, rounds = app.key_queue.arrived, 0

        async def count(follower: KeyFollower) -> None:
            nonlocal rounds
            rounds += 1
            await arrived(follower)

        app.key_queue.arrived = count  # type: ignore[method-assign]
        table = app.active_panel.query_one(BatchTable)
        for key in "jjjkjj":  # row 4 is reached by the last
            app.post_message(events.Key(key, key))
        await wait(lambda: table.selected is table._rows[4])
        assert rounds <= 3 * 5

    on_stage(act, panel="Batch")


def test_under_a_dialog_the_header_goes_on_and_the_footer_has_no_keys() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        def behind() -> list[str]:
            return [strip.text for strip in app.screen_stack[0]._compositor.render_strips()]

        assert "Theme" in behind()[-1]
        await pilot.press("question_mark")
        await wait(lambda: isinstance(app.screen, HelpDialog) and not behind()[-1].strip())
        before = behind()[0]
        app.advance(20.0)
        app.show()
        await wait(lambda: behind()[0] != before)
        await pilot.press("escape")
        await wait(lambda: "Theme" in behind()[-1])

    on_stage(act)


def test_of_a_pipeline_that_was_stopped_nothing_is_asked_and_nothing_claimed() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("8")
        assert app.scenario is not None
        app.scenario.stop()
        app.advance(20.0)
        app.show()
        assert app.board.is_stopped
        assert {row.name for row in app.board.processes if row.rss_bytes} <= {SUPERVISOR}
        assert not [found for found in app.alert_book.findings(app.board) if "silent" in found.text]
        assert "tok/s" not in screen_text(app).splitlines()[0]
        await pilot.press("j", "j", "r")
        await wait(lambda: any("is stopped" in note.title for note in app.notices))
        assert isinstance(app.screen, MainScreen)
        await pilot.press("q")  # and there is nothing to be asked about
        await wait(lambda: app.return_value == "leave")

    on_stage(act)


# --- the frame at every size --------------------------------------------------------------------


@pytest.mark.parametrize("size", [(60, 15), (80, 24), (120, 40), (200, 60)], ids=str)
def test_tabs_never_move_and_a_click_on_each_opens_its_screen(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        lines = set()
        for key, (name, _) in (PANELS | PAGES).items():
            x = screen_text(app).splitlines()[1].index("," if key == "comma" else key)
            await pilot.click("Header", offset=(x, 1))
            await pilot.pause()
            assert name == app.active_panel.NAME
            lines.add(screen_text(app).splitlines()[1])
        assert len(lines) == 1 and len(lines.pop()) <= size[0]

    on_stage(act, size=size)


@pytest.mark.parametrize("size", [(50, 14), (60, 15), (80, 24), (100, 24)], ids=str)
def test_fields_of_the_header_never_touch(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for keys in ("", "space"):
            if keys:
                await pilot.press(keys)
                await pilot.pause()
            spans = app.header._drawn[0].spans
            badges = [at for at, (_, style) in enumerate(spans) if style.startswith("badge")]
            for at in badges:
                before, after = "".join(t for t, _ in spans[:at]), spans[at + 1][0]
                assert not before or before.endswith(" ")
                assert after.startswith(" ")
            assert "READY" in screen_text(app).splitlines()[0]
            assert len(screen_text(app).splitlines()[0]) <= size[0]

    on_stage(act, size=size)


def test_at_80x24_the_ring_is_a_line_and_adapters_and_percentiles_are_there() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        rows = screen_text(app).splitlines()
        assert all(name in rows[3] for name in ("server", "router", "worker-0", "supervisor"))
        text = "\n".join(rows)
        for words in ("TTFT", "inter-token", "● pirate", "throughput", "alerts and events"):
            assert words in text, words

    on_stage(act, size=(80, 24))


@pytest.mark.parametrize("size", [(40, 10), (49, 24), (80, 13), (12, 3), (5, 1)], ids=str)
def test_a_terminal_that_is_too_small_shows_one_line(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        lines = [line for line in screen_text(app).splitlines() if line.strip()]
        assert len(lines) == 1
        assert "needs 50x14"[: size[0] - 1] in lines[0]
        await pilot.resize_terminal(80, 24)
        await pilot.pause()
        assert "1 Overview" in screen_text(app)
        await pilot.resize_terminal(*size)
        await pilot.pause()
        assert len([line for line in screen_text(app).splitlines() if line.strip()]) == 1

    on_stage(act, size=size)


def test_a_badge_says_rec_while_spans_are_recorded_by_any_console() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert " REC " not in screen_text(app).splitlines()[0]
        assert app.scenario is not None
        app.scenario.is_recording = True
        app.advance(1.0)
        app.show()
        await pilot.pause()
        assert " REC  SmolLM2-135M-Instruct " in screen_text(app).splitlines()[0]
        app.scenario.is_recording = False
        app.advance(1.0)
        app.show()
        await pilot.pause()
        assert " REC " not in screen_text(app).splitlines()[0]

    on_stage(act, size=(80, 24))


# --- a stopped pipeline -------------------------------------------------------------------------


def stop(app: StagedApp) -> None:
    """The pipeline stops, and its supervisor ends."""
    assert app.scenario is not None
    app.store.fold_message(
        ProcessTable(app.now, ProcessState.STOPPED, app.store.board(app.now).table.processes),  # type: ignore[union-attr]
        app.now,
    )
    app.now += 5.0
    app.show()


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=str)
def test_a_stopped_pipeline_says_which_key_starts_it(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.starter = lambda: 1
        stop(app)
        await pilot.pause()
        rows = screen_text(app).splitlines()
        assert "STOPPED   S starts it again" in rows[0]
        assert "S  starts it again, with its last options" in "\n".join(rows)
        assert "S Start" in rows[-1]
        assert "SILENT" not in "\n".join(rows) and "0 B" not in "\n".join(rows)
        supervisor = app.board.process("supervisor")
        assert supervisor is not None and supervisor.word == "stopped" and supervisor.pid == 0
        await pilot.press("8")
        await pilot.pause()
        assert "silent" not in screen_text(app) and "heartbeat " not in screen_text(app)
        keys = screen_text(app).splitlines()[-1]
        assert "S Start" in keys and "Restart" not in keys and "Stop" not in keys
        await pilot.press("4")
        await pilot.pause()
        assert "● on device" not in screen_text(app)

    on_stage(act, size=size)


def test_a_start_is_given_once_and_its_failure_is_said() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        given: list[int] = []

        def refuse() -> int:
            given.append(1)
            raise OperatorError("port 8000 is taken", "stop what listens there")

        await pilot.press("S")
        app.starter = refuse
        await pilot.press("S")  # it runs: no key
        assert given == []
        stop(app)
        await pilot.press("S")
        await wait(lambda: bool(app.notices))
        assert given == [1]
        assert "port 8000 is taken" in screen_text(app).splitlines()[-1]
        assert app.store.board(app.now).condition.word == "STOPPED"

    on_stage(act)


def test_a_console_that_cannot_start_it_offers_no_key() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        stop(app)
        await pilot.pause()
        assert "S start" not in screen_text(app) and "S Start" not in screen_text(app)
        app.starter, app.is_read_only = (lambda: 1), True
        app.show()
        await pilot.pause()
        assert "S start" not in screen_text(app) and "S Start" not in screen_text(app)

    on_stage(act)


# --- what a new user needs ----------------------------------------------------------------------


def test_help_explains_the_terms_of_every_screen() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for key, (name, _) in (PANELS | PAGES).items():
            await pilot.press("escape", key, "escape", "question_mark")
            await pilot.pause()
            app.show()
            dialog = app.screen
            assert isinstance(dialog, HelpDialog), name
            lines = dialog._lines(app.board, 60)
            text = [" ".join(words for words, _ in line.spans) for line in lines]
            assert TERMS[name]
            for term, _ in TERMS[name]:
                assert any(term in row for row in text), term
            assert not any("…" in row for row in text[text.index("terms on this screen") :][:8])
            await pilot.press("escape")

    assert set(TERMS) == {name for name, _ in (PANELS | PAGES).values()}
    on_stage(act)


def test_a_new_user_gets_a_hint_once() -> None:
    async def hints(ui_state: UiState) -> list[str]:
        app = ConsoleApp(Config(run="/run/loraconsole"), ui_state=ui_state)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            await pilot.pause()
            last = screen_text(app).splitlines()[-1]
            return [notice.message for notice in app.notices if notice.message in last]

    assert asyncio.run(hints(UiState.remembered())) == [FIRST_HINT]
    assert asyncio.run(hints(UiState.remembered())) == []
    assert asyncio.run(hints(UiState())) == []

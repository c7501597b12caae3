"""Details of an adapter and a process: the keys of their tables act on them, and are shown."""

from typing import Any

import msgspec
import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.state.board import Board
from loraconsole.console.text.lines import length
from loraconsole.console.ui.panels.adapter_details import unload_costs
from loraconsole.console.ui.panels.adapters import AdapterDialog, AdapterTablePane
from loraconsole.console.ui.panels.processes import ProcessDetails, ProcessDialog, ProcessTablePane
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, LiveDialog, ScrollPane
from loraconsole.console.ui.widgets.styles import MainScreen
from loraconsole.pipeline.messages import (
    LoadAdapter,
    PinAdapter,
    ProcessState,
    ReloadAdapter,
    RestartProcess,
    StopProcess,
    UnloadAdapter,
    VerifyAdapter,
)

pytestmark = pytest.mark.slow


def hint(app: StagedApp) -> str:
    """The keys in the lower frame of the dialog."""
    app.show()
    dialog = app.screen
    assert isinstance(dialog, LiveDialog)
    return "".join(text for text, _ in dialog._pane.hint(app.board))


def test_an_adapters_details_act_on_it_whatever_is_marked() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        await pilot.press("down", "space", "space")  # pirate and sql are marked
        row = table.selected
        assert row is not None and row.name == "json" and len(table.marked) == 2
        await pilot.press("enter")
        assert isinstance(app.screen, AdapterDialog)
        shown = hint(app)
        for key in ("u unload", "r reload", "p pin", "v verify", "m merge", "esc closes"):
            assert key in shown
        await pilot.press("p", "r", "v", "u")
        await pilot.pause()
        assert isinstance(app.screen, ChoiceDialog)  # unloading asks
        await pilot.press("y")
        await pilot.pause()
        kinds = [(type(order), order.name) for order in app.ordered if hasattr(order, "name")]
        assert kinds == [
            (kind, "json") for kind in (PinAdapter, ReloadAdapter, VerifyAdapter, UnloadAdapter)
        ]
        app.advance(3.0)
        app.show()
        await pilot.pause()
        assert hint(app) == "esc closes"  # it is gone
        await pilot.press("p")
        assert len(app.ordered) == 4

    on_stage(act, panel="Adapters")


def test_a_verification_asked_for_in_the_details_is_shown_there_alone() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("down", "enter", "v")
        await pilot.pause()
        app.show()
        await pilot.pause()
        assert isinstance(app.screen, AdapterDialog)
        assert not app.notices
        assert "verification" in screen_text(app)

    on_stage(act, panel="Adapters")


def test_the_base_takes_no_orders_and_its_details_offer_none() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("enter")
        assert hint(app) == "esc closes"
        await pilot.press("u")
        assert isinstance(app.screen, AdapterDialog) and app.ordered == []

    on_stage(act, panel="Adapters")


def test_a_process_is_restarted_and_stopped_from_its_details() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("enter")  # the supervisor
        assert isinstance(app.screen, ProcessDialog) and hint(app) == "esc closes"
        await pilot.press("escape")
        table = app.active_panel.query_one(ProcessTablePane)
        table.go_to("router")
        await pilot.press("enter")
        for key in ("r restart", "x stop", "K signal"):
            assert key in hint(app)
        await pilot.press("r", "y", "x", "y", "K")
        assert app.told == [RestartProcess("router"), StopProcess("router")]
        assert isinstance(app.screen, ChoiceDialog) and app.screen._title == "Signal router"

    on_stage(act, panel="Processes")


def test_the_cursor_goes_to_an_adapter_that_was_loaded() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        table = app.active_panel.query_one(AdapterTablePane)
        app.filter_panel("pirate")
        await pilot.press("l", *"mine", "enter", *"/large/one", "enter")
        await pilot.pause()
        assert isinstance(app.screen, MainScreen)
        assert isinstance(app.ordered[0], LoadAdapter)
        app.show()
        await pilot.pause()
        row = table.selected
        assert row is not None and row.name == "mine"  # the filter no longer hides it
        await pilot.press("up")
        app.show()
        assert table.selected is not None and table.selected.name != "mine"  # once

    on_stage(act, panel="Adapters")


@pytest.mark.parametrize(
    ("live", "pages", "wanted"),
    [
        ((0, 0), 0, "No running requests. It holds no pages."),
        ((0, 0), 1, "No running requests. 1 page (928 KiB) is freed."),
        ((2, 1), 32, "2 running and 1 waiting requests finish first. Then 32 pages (928 KiB) are"),
    ],
)
def test_what_unloading_frees_is_said_in_one_sentence(
    live: tuple[int, int], pages: int, wanted: str
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        row = app.board.adapters[1]
        view = msgspec.structs.replace(row.view, running=live[0], waiting=live[1], pages=pages)
        assert wanted in unload_costs(msgspec.structs.replace(row, view=view))

    on_stage(act)


def test_a_dialog_has_its_height_from_its_first_frame_on() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        heights = []
        draw = ScrollPane.draw_lines

        def seen(self: ScrollPane, board: Board, width: int, height: int) -> Any:
            heights.append(height)
            return draw(self, board, width, height)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(ScrollPane, "draw_lines", seen)
            await pilot.press("down", "v")
            await pilot.pause()
            for _ in range(3):
                app.show()
                await pilot.pause()
        assert isinstance(app.screen, LiveDialog) and len(set(heights)) == 1

    on_stage(act, panel="Adapters")


def test_a_process_says_why_it_failed_in_full() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        row = app.board.process("worker-0")
        assert row is not None
        path = "/home/me/models/" + "a-long-name/" * 6 + "model.safetensors"
        reason = f"{path}: the header says 12 345 678 bytes, the file has 12"
        failed = msgspec.structs.replace(row, state=ProcessState.FAILED, reason=reason)
        board = msgspec.structs.replace(
            app.board,
            processes=tuple(failed if r.name == row.name else r for r in app.board.processes),
        )
        lines = ProcessDetails(failed).lines(board, 60)
        text = "".join("".join(t for t, _ in each.spans).strip() for each in lines[1:6])
        assert text.startswith("why         the header says 12 345 678 bytes")
        assert "model.safetensors)" in text.replace(" ", "")
        assert all(length(each.spans) <= 60 for each in lines[1:6])

    on_stage(act, panel="Processes")

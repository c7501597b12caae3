"""A dead worker on every screen: what stands still says so, and the last figures stay, dimmed."""

from __future__ import annotations

import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.ui.panels.batch import BatchTable
from loraconsole.console.ui.panels.processes import TailPane
from loraconsole.console.ui.panels.start import StartPane
from loraconsole.console.ui.widgets.pane import Pane
from loraconsole.pipeline.messages import LogLine, LogLines

DEAD_S = 40.0
"""Seconds into the scenario `recovering`: its worker was killed six seconds before."""
SIZES = [(80, 24), (120, 40), (200, 60)]


def styles_of(pane: Pane) -> set[str]:
    """The styles of a pane's content and title, without its frame."""
    spans = (span for drawn in pane._drawn for span in drawn.spans)
    return {style for text, style in spans if text.strip() and not style.startswith("border")}


async def frame(app: StagedApp, pilot: Pilot[str]) -> str:
    for _ in range(2):  # the first makes the layout of a restart, the second fills it
        app.show()
        await pilot.pause()
    return screen_text(app)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_the_overview_keeps_its_last_figures_dimmed_beside_the_bars_of_the_restart(
    size: tuple[int, int],
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = await frame(app, pilot)
        assert "RECOVERING" in text.splitlines()[0] and " STARTING" not in text
        assert "24 requests wait 6 s for worker-0" in text.splitlines()[0]
        assert " run " not in text.splitlines()[0] and "tok/s" not in text.splitlines()[0]
        assert text.startswith("  RECOVERING "), "the state stays where it is, whatever follows"
        assert "worker-0 died 6 s ago (killed by SIGKILL)" in text
        assert app.active_panel.query_one(StartPane).display
        assert "weights" in text and "40 %" in text and "left" in text
        for name in ("#throughput", "#quantiles", "#busiest"):
            pane = app.active_panel.query_one(name, Pane)
            assert pane.display and styles_of(pane) == {"dim"}, name
        assert "336 ms" in text  # the median of the first tokens, as it was

    on_stage(act, scenario="recovering", seconds=DEAD_S, size=size)


def test_the_figures_are_lit_again_and_the_bars_go_once_it_is_back() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        assert app.scenario is not None
        await frame(app, pilot)
        app.scenario.fall("worker-0", "killed by SIGKILL", 1.0)  # and this restart ends
        app.advance(4.0)
        text = await frame(app, pilot)
        assert "READY" in text.splitlines()[0]
        assert not app.active_panel.query_one(StartPane).display
        throughput = app.active_panel.query_one("#throughput", Pane)
        assert styles_of(throughput) > {"dim"}

    on_stage(act, scenario="recovering", seconds=DEAD_S)


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_each_request_says_what_it_waits_for(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = await frame(app, pilot)
        shown = min(24, app.active_panel.query_one(BatchTable).size.height - 3)
        assert text.count("◌ stalled") >= shown  # and beside the table, where it is wide
        assert text.count("worker-0 restarting, 40 %") >= shown
        assert "● decode" not in text
        await pilot.press("enter")
        await pilot.pause()
        assert "waits for   worker-0 restarting, 40 %" in screen_text(app)

    on_stage(act, scenario="recovering", seconds=DEAD_S, size=size, panel="Batch")


def test_the_alert_leads_to_the_line_that_says_why() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = await frame(app, pilot)
        assert "▲ firing" in text and "✓" not in text
        assert "worker-0 died 6 s ago (killed by SIGKILL), restarting: weights 40 %" in text
        await pilot.press("enter")
        await pilot.pause()
        text = await frame(app, pilot)
        assert app.active_panel.NAME == "Logs"
        assert "worker-0 died (killed by SIGKILL); restarting in 1 s" in text

    on_stage(act, scenario="recovering", seconds=DEAD_S, panel="Alerts")


def test_a_process_that_is_down_shows_where_it_crashed_instead_of_the_end_of_its_stack() -> None:
    stack = (
        "Fatal Python error: Segmentation fault",
        "",
        "Current thread 0x01 (most recent call first):",
        *(f'  File "/x/llama.py", line {n} in forward_{n}' for n in range(40)),
    )

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        numbered = enumerate(stack, app.board.logs[-1].number + 1)
        lines = (LogLine(n, app.now - 6, "worker-0", "ERROR", text) for n, text in numbered)
        app.store.fold_message(LogLines(tuple(lines)), app.now)
        await pilot.press("down", "down")
        text = await frame(app, pilot)
        assert "killed by SIGKILL, weights 40 %" in text
        tail = app.active_panel.query_one(TailPane)
        shown = ["".join(text for text, _ in drawn.spans) for drawn in tail._drawn]
        assert "where it crashed" in shown[1]
        assert "Segmentation fault" in shown[2] and "forward_0 (llama.py:0)" in shown[3]
        assert "more frames in its log" in shown[-2]

    on_stage(act, scenario="recovering", seconds=DEAD_S, panel="Processes")


def test_no_adapter_is_on_the_device_of_a_dead_worker() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        text = await frame(app, pilot)
        assert app.board.has_worker_down
        assert "● on device" not in text and text.count("○ worker down") >= 2
        assert app.scenario is not None
        app.scenario.fall("worker-0", "killed by SIGKILL", 1.0)  # and this restart ends
        app.advance(4.0)
        text = await frame(app, pilot)
        assert "● on device" in text and "worker down" not in text

    on_stage(act, panel="Adapters", scenario="recovering", seconds=DEAD_S)

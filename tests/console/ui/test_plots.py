"""Plots: one time for all, a cursor that reads their values, the strip of limits."""

from __future__ import annotations

import math

import pytest
from stage import StagedApp, on_stage, screen_text
from textual.pilot import Pilot

from loraconsole.console.mock import scenario
from loraconsole.console.state.plot_history import LIMITS
from loraconsole.console.state.time_series import PlotColumns, Series
from loraconsole.console.text import plot, units
from loraconsole.console.text.lines import length
from loraconsole.console.ui.plots.limit_strip import LOOKS, legend, reading, strip
from loraconsole.console.ui.plots.load_plots import LoadPane, ThroughputPane
from loraconsole.console.ui.plots.plot_pane import PlotPane
from loraconsole.console.ui.plots.step_plots import PartsPane
from loraconsole.pipeline.messages import StepLimit


def caption(pane: PlotPane, app: StagedApp) -> str:
    return "".join(text for text, _ in pane.caption(app.board))


async def frame(app: StagedApp, pilot: Pilot[str], later_s: float = 0.0) -> None:
    app.now += later_s
    app.show()
    await pilot.pause()


@pytest.mark.parametrize("key", ["", "H"], ids=["minute", "hour"])
def test_all_plots_of_the_overview_and_of_latency_span_the_same_time(key: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        if key:
            await pilot.press(key)
        found = []
        for panel in ("1", "3"):
            await pilot.press(panel)
            await frame(app, pilot, 1.0)
            for pane in app.active_panel.panes:
                if isinstance(pane, PlotPane) and pane.display:
                    origin = pane.origin(app.board)
                    assert origin is not None
                    found.append(origin[1:])
        assert found == [((3600.0 if key else 60.0), 0.0)] * 3

    on_stage(act, seconds=20.0)


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)])
def test_the_cursor_reads_the_time_and_the_values_under_it(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(ThroughputPane)
        pane.focus()
        await pilot.press("left", "shift+left", "right")
        await frame(app, pilot)
        at = pane.cursor_at
        assert at is not None
        columns = PlotColumns.of(0.5, app.board.now, 2 * pane._cells)
        cell = columns.cell_at(at)
        assert columns.cell_at(app.board.now) - cell == 9
        means = app.board.decode.window(app.board.now, 2 * pane._cells).means
        wanted = units.rate(sum(means[2 * cell : 2 * cell + 2]) / 2)
        assert f"{units.clock(at)}, {units.age(app.now - at)} ago  {wanted} decode" in caption(
            pane, app
        )
        column = 2 + pane.BEFORE + cell
        assert screen_text(app).splitlines()[pane.region.y + 1][column] == "│"
        await pilot.press("0")
        assert pane.cursor_at is None and "ago" not in caption(pane, app)

    on_stage(act, seconds=40.0, size=size)


def test_a_click_puts_the_cursor_there_and_it_stays_with_what_it_reads() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(LoadPane)
        await pilot.click(pane, offset=(2 + pane.BEFORE + 10, 2))
        at = pane.cursor_at
        assert at is not None and pane.has_focus
        assert pane.cell(app.board) == 10
        read = pane.value(pane.plotted(app.board.running, app.board, pane._cells), app.board)
        await frame(app, pilot, 10.0)
        assert pane.cursor_at == at
        cell = pane.cell(app.board)
        assert cell is not None and cell < 10
        again = pane.value(pane.plotted(app.board.running, app.board, pane._cells), app.board)
        assert again == pytest.approx(read, abs=1.0)
        await frame(app, pilot, 300.0)  # the plots go no further than the cursor
        assert (pane.cell(app.board) or 0) <= 1 and pane.back_s(app.board) > 200

    on_stage(act, seconds=60.0)


def test_the_cursor_goes_back_as_far_as_is_known_and_forth_to_now() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PartsPane)
        for _ in range(60):
            pane.action_cursor(-10)
        assert pane.cursor_at is not None
        assert app.board.now - pane.cursor_at == pytest.approx(100.0, abs=2.0)
        assert (pane.cell(app.board) or 0) <= 1
        for _ in range(60):
            pane.action_cursor(10)
        assert pane.cursor_at is None and pane.back_s(app.board) == 0.0

    on_stage(act, panel="Latency", seconds=100.0)


def test_the_parts_of_a_step_show_their_values_under_the_cursor() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PartsPane)
        now = {
            curve: pane._part(app.board, curve, pane._cells).figure for curve in ("busy", "host")
        }
        await pilot.press("left", "shift+left", "shift+left")
        await frame(app, pilot)
        window = pane.plotted(app.board.parts["busy"], app.board, pane._cells)
        value = pane.value(window, app.board)
        assert value is not None
        figure = pane._part(app.board, "busy", pane._cells).figure
        assert figure == units.milliseconds(value) != now["busy"]
        assert figure in screen_text(app)

    on_stage(act, panel="Latency", seconds=60.0)


def tally(**steps: int) -> tuple[int, ...]:
    return tuple(steps.get(limit.name.lower(), 0) for limit in LIMITS)


def test_a_cell_of_the_strip_is_of_the_commonest_limit_and_blank_without_steps() -> None:
    cells = [tally(), tally(rows=3), tally(rows=2, nothing=2), tally(nothing=5, kv_pages=4)]
    assert strip(cells) == ((" ", "text"), ("▓▓", LOOKS[StepLimit.ROWS].style), ("─", "faint"))
    words = "".join(text for text, _ in legend(cells))
    assert words == "─ nothing waits 44 %  ▓ rows 31 %  █ KV pages 25 %  "
    for width in range(len(words) + 1):  # an entry is whole or absent, with a gap behind it
        kept = "".join(text for text, _ in legend(cells, width))
        assert words.startswith(kept) and len(kept) <= width and kept[-2:] in ("", "  ")
    assert len({look.mark for look in LOOKS.values()}) == len(LIMITS)  # also without colours


@pytest.mark.parametrize("limit", LIMITS)
def test_what_a_limit_says_when_stopped_at_fits_beside_its_share(limit: StepLimit) -> None:
    words = reading(tally(**{limit.name.lower(): 7}))
    text = "".join(word for word, _ in words)
    assert text.startswith(f"{LOOKS[limit].mark} {LOOKS[limit].name} 100 %  ")
    assert text.endswith(LOOKS[limit].remedy) and length(words) <= 80
    assert reading(tally()) == (("no step", "dim"),)


def test_the_strip_shows_what_steps_said_and_its_reading_when_stopped_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scenario, "_limit_of", lambda requests: StepLimit.KV_PAGES)

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(ThroughputPane)
        text = screen_text(app)
        assert "limit" in text and "███" in text and "█ KV pages" in text
        pane.focus()
        await pilot.press("left", "left", "left")
        await frame(app, pilot)
        assert "█ KV pages 100 %" in screen_text(app)
        assert LOOKS[StepLimit.KV_PAGES].remedy[:24] in screen_text(app)

    on_stage(act, seconds=40.0)


@pytest.mark.parametrize("highest", [0.03, 0.5, 1, 1.3, 7, 9.9, 54.6, 128, 140, 2047, 31_000])
def test_an_axis_ends_near_its_highest_value_and_its_label_says_where(highest: float) -> None:
    top = plot.top_of(highest)
    assert highest * 0.999 <= top <= highest * 4 / 3 + 1e-9
    label = units.tick(top)
    assert len(label) <= 5
    scale = {"k": 1e3, "M": 1e6}.get(label[-1], 1.0)
    assert float(label.rstrip("kM").replace(" ", "")) * scale == pytest.approx(top)


def test_a_plot_of_low_bandwidth_reads_the_cell_that_is_marked() -> None:
    series = Series(0.5)
    for number in range(400):
        series.add(1000 + number / 2, float(number))
    now, count = 1199.9, 120
    columns = PlotColumns.of(0.5, now, count)
    still = series.track.window(now, count)
    swept = series.track.window(now, count, sweeps=True)
    cell = columns.cell_at(1180.1)
    place = (columns.first // 2 + cell) % (count // 2)
    assert swept.means[2 * place : 2 * place + 2] == still.means[2 * cell : 2 * cell + 2]
    assert not any(math.isnan(mean) for mean in still.means[:-2])

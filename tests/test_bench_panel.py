"""The bench's screen: workloads run in a child, watched, kept and compared."""

import os
from pathlib import Path
from typing import Any

import pytest
from stage import StagedApp, keep_result, on_stage, screen_text, wait, with_a_ring
from textual.pilot import Pilot
from textual.widgets import Input

from loraconsole.console.app import ConsoleApp
from loraconsole.console.bench_run import WORKLOADS, BenchFiles, BenchPlan
from loraconsole.console.dialogs import LiveDialog
from loraconsole.console.panels.bench import BenchPanel, ResultTable
from loraconsole.console.panels.bench_dialog import BenchDialog
from loraconsole.pipeline.bench import make_parser
from loraconsole.pipeline.load import make_loads


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    directory = tmp_path / "loraconsole" / "bench"
    directory.mkdir(parents=True)
    return directory


@pytest.mark.parametrize("workload", WORKLOADS)
@pytest.mark.parametrize("at_once", [None, 4])
def test_every_plan_is_what_the_bench_takes(workload: str, at_once: int | None) -> None:
    plan = BenchPlan(workload=workload, requests=12, at_once=at_once, rate=3.0, tokens=16)
    given = make_parser().parse_args(["--url", "http://x", *plan.flags()])
    (load,) = make_loads(given, num_models=4)
    assert len(load.workload) == 12 and load.concurrency == at_once
    assert {arrival.output_len for arrival in load.workload.arrivals} == {16}


def test_a_workload_is_run_watched_kept_and_compared(data: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("escape", "6", "n")
        await pilot.pause()
        dialog = app.screen
        assert isinstance(dialog, BenchDialog)
        for name, value in (("requests", "9"), ("at_once", "3"), ("tokens", "6")):
            dialog.query_one(f"#{name}", Input).value = value
        await pilot.press("enter")
        panel = app.active_panel
        assert isinstance(panel, BenchPanel)
        await wait(lambda: panel.is_live)
        await pilot.press("n")  # one at a time
        assert not isinstance(app.screen, BenchDialog)
        await wait(lambda: "of 9 requests" in screen_text(app), 30)
        await wait(lambda: not panel.is_live, 30)
        await pilot.pause()
        run = panel._run
        assert run is not None and run.error == "" and run.live is not None
        assert run.live.done == 9 and run.live.errors == 0 and run.live.tokens == 54
        assert run.live.ttft_ms[0] and run.live.inter_token_ms[2]
        app.paint(app.ledger.board(app.clock()))
        await pilot.pause()
        text = screen_text(app)
        assert "chat 3 at once" in text and "finished" in text and "100 %" in text
        (kept,) = BenchFiles().rows()
        assert kept.path.parent == data and kept.row.result.completed == 9

    with_a_ring(act)


def test_a_run_is_cancelled_and_leaves_nothing(data: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("escape", "6", "n", "enter")
        panel = app.active_panel
        assert isinstance(panel, BenchPanel)
        await wait(lambda: panel._run is not None and panel._run.live is not None, 30)
        await pilot.press("c")
        await wait(lambda: not panel.is_live)
        await pilot.pause()
        assert "cancelled" in screen_text(app)
        assert BenchFiles().rows() == []

    with_a_ring(act, pace=2.0)


def test_what_cannot_be_run_says_why() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("n", "enter")  # the story's server is nowhere
        panel = app.active_panel
        assert isinstance(panel, BenchPanel)
        await wait(lambda: panel._run is not None and not panel._run.is_running, 30)
        await pilot.pause()
        assert "does not list its models" in screen_text(app)

    on_stage(act, panel="Bench")


@pytest.mark.parametrize(("field", "text"), [("requests", ""), ("at_once", "0"), ("rate", "1.2.3")])
def test_a_field_that_is_no_number_is_gone_to(field: str, text: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("n")
        await pilot.pause()
        app.screen.query_one(f"#{field}", Input).value = text
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, BenchDialog)
        assert app.screen.query_one(f"#{field}", Input).has_focus
        assert "a number above 0" in screen_text(app)
        await pilot.press("escape")
        assert app.active_panel.query_one(ResultTable).has_focus

    on_stage(act, panel="Bench")


def test_runs_are_held_against_the_one_before_or_the_baseline(data: Path) -> None:
    for number, slow in enumerate((1.0, 2.0, 1.5)):
        keep_result(data / f"{number}.jsonl", slow)
        os.utime(data / f"{number}.jsonl", (1e9 + number, 1e9 + number))

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        def row(label: str) -> str:
            return next(line for line in screen_text(app).splitlines() if label in line)

        assert "1.33x ▲ better" in row("tokens/s ")  # against the run before it
        assert "0.75x ▲ better" in row("TTFT ms p50")
        await pilot.press("end", "b", "home")
        await pilot.pause()
        assert "◆" in screen_text(app)
        assert "0.67x ▼ worse" in row("tokens/s ")
        await pilot.press("enter")
        await pilot.pause()
        assert isinstance(app.screen, LiveDialog)
        assert "0.67x ▼ worse" in screen_text(app) and "decode tokens/s" in screen_text(app)
        await pilot.press("escape", "end", "b", "home")
        await pilot.pause()
        assert "1.33x ▲ better" in row("tokens/s ")

    on_stage(act, panel="Bench")


def test_results_of_other_files_are_opened_and_broken_ones_refused(
    data: Path, tmp_path: Path
) -> None:
    keep_result(tmp_path / "other.jsonl", 1.0, "elsewhere")
    (tmp_path / "broken.jsonl").write_text("{}\n{}\n")

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        async def give(path: Any) -> None:
            await pilot.press("o")
            await pilot.pause()
            app.screen.query_one("#path", Input).value = str(path)
            await pilot.press("enter")
            await pilot.pause()

        await give(tmp_path / "broken.jsonl")
        assert any("line 1" in note.title for note in app._notifications)
        assert "no result is kept yet" in screen_text(app)
        await give(tmp_path / "other.jsonl")
        assert "elsewhere 2 at once" in screen_text(app)

    on_stage(act, panel="Bench")

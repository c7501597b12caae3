"""The bench's screen: workloads run in a child, watched, kept and compared."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from ring import BASE, Ring
from stage import StagedApp, keep_result, on_stage, screen_text, wait, with_a_ring
from textual.pilot import Pilot
from textual.widgets import Input, OptionList

from loraconsole.console.client.bench_run import (
    FLAGS,
    SUITES,
    WORKLOADS,
    BenchFiles,
    BenchPlan,
    BenchRun,
)
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.panels.bench import BenchPanel, ResultTable, RunPane
from loraconsole.console.ui.panels.bench_dialog import BenchDialog
from loraconsole.console.ui.widgets.dialogs import LiveDialog
from loraconsole.pipeline.bench import workload as workloads
from loraconsole.pipeline.bench.bench import make_parser
from loraconsole.pipeline.bench.load_spec import TAKEN_BY, LoadSpec, make_load_specs
from loraconsole.pipeline.bench.stats import Live
from loraconsole.pipeline.bench.workload import suite_named
from loraconsole.pipeline.config import Config


@pytest.fixture(autouse=True)
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where results are kept."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    directory = tmp_path / "loraconsole" / "bench"
    directory.mkdir(parents=True)
    return directory


OTHERS = ("suite", "adapters", "concurrency", "requests")
"""Flags of several workloads, beside those that are of some alone."""
SCRIPT = """
ind = [0, 1, -1, 0]
input_lens = [12, 9, 8, 7]
output_lens = [5, 4, 3, 6]
intervals = [0, 0.1, 0, 0.2]
"""
TRACE = """TIMESTAMP,ContextTokens,GeneratedTokens
2023-11-16 18:17:03.9799600,12,4
2023-11-16 18:17:04.0319600,9,5
2023-11-16 18:17:04.0781681,30,6
"""


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """What scripts and traces are read from, by workload."""
    found = {"script": tmp_path / "list.toml", "trace": tmp_path / "azure.csv"}
    found["script"].write_text(SCRIPT)
    found["trace"].write_text(TRACE)
    return found


@pytest.mark.parametrize("name", [n for n in WORKLOADS if "rate" in WORKLOADS[n].takes])
@pytest.mark.parametrize("at_once", [None, 4])
def test_every_generators_plan_is_what_the_bench_takes(name: str, at_once: int | None) -> None:
    plan = BenchPlan(workload=name, requests=12, at_once=at_once, rate=3.0, tokens=(16, 17))
    (load,) = loads_of(plan)
    assert len(load.workload) == 12 and load.concurrency == at_once
    assert {arrival.output_len for arrival in load.workload.arrivals} == {16}


def test_models_are_asked_for_by_name() -> None:
    plan = BenchPlan(workload="chat", models=("sql", "pirate"))
    given = make_parser().parse_args(["--url", "http://x", *plan.flags()])
    assert given.model == ["sql", "pirate"]
    assert make_parser().parse_args(["--url", "http://x", *BenchPlan().flags()]).model is None


@pytest.mark.slow
def test_names_of_models_are_completed_after_each_comma() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("n")
        await pilot.pause()
        given = app.screen.query_one("#models", Input)
        given.focus()
        await pilot.press(*"sq")
        await pilot.pause(0.1)
        await pilot.press("right", *", pi")
        await pilot.pause(0.1)
        await pilot.press("right")
        assert given.value == "sql, pirate"

    on_stage(act, panel="Bench")


def live_run(done: int, streamed: int, tokens: int, is_running: bool = True) -> BenchRun:
    run = BenchRun(BenchPlan(), "http://x", "", "x", Path("/x"))
    run.live = Live(
        load="chat 8 at once",
        run=1,
        runs=1,
        done=done,
        total=24,
        seconds=2.0,
        tokens=tokens,
        streamed=streamed,
    )
    run.is_running = is_running
    return run


@pytest.mark.slow
@pytest.mark.parametrize(
    ("run", "wanted"),
    [
        (live_run(0, 0, 0), "— requests/s  — tokens/s"),
        (live_run(0, 30, 0), "— requests/s  15.0 tokens/s"),  # those of requests that run
        (live_run(4, 90, 40), "2.00 requests/s  45.0 tokens/s"),
        (live_run(24, 99, 60, is_running=False), "12.0 requests/s  30.0 tokens/s"),
    ],
)
def test_no_rate_is_shown_before_the_first_token(run: BenchRun, wanted: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(RunPane)
        pane.run = run
        live = run.live
        assert live is not None
        for width in (40, 90):
            lines = pane.draw_lines(app.board, width, 7)
            rows = ["".join(text for text, _ in each.spans) for each in lines]
            assert any(wanted in row for row in rows)
            assert len(rows[1]) == width and rows[1].endswith("%")  # a bar as wide as the pane
            assert any(f"{live.done} of 24 requests" in row for row in rows)

    on_stage(act, panel="Bench")


def loads_of(plan: BenchPlan) -> list[LoadSpec]:
    given = make_parser().parse_args(["--url", "http://x", *plan.flags()])
    assert given.slo_seconds == plan.slo
    return make_load_specs(given, num_models=4)


def test_plans_of_files_and_suites_are_what_the_bench_takes(files: dict[str, Path]) -> None:
    for name, count in (("script", 4), ("trace", 3)):
        usual = msgspec.structs.replace(BenchPlan.usual(name), file=str(files[name]))
        (load,) = loads_of(usual)
        assert len(load.workload) == count and load.concurrency is None
        (fast,) = loads_of(msgspec.structs.replace(usual, speed=4.0, requests=2, at_once=3))
        assert len(fast.workload) == 2 and fast.concurrency == 3
        assert fast.workload.arrivals[1].at == load.workload.arrivals[1].at / 4
    suite = BenchPlan(
        workload="suite", suite="cv", scale=2.0, seconds=10.0, adapters=3, tokens=None
    )
    points = loads_of(suite)
    assert [point.parameters["cv"] for point in points] == [1, 2, 4, 6, 8]
    assert {p.parameters["num_adapters"] for p in points} == {3}
    assert {p.parameters["rate"] for p in points} == {4.0}
    assert {suite_named(name) is not None for name in SUITES} == {True}
    assert {id(suite_named(name)) for name in SUITES} == {id(s) for s in workloads.SUITES.values()}


def test_the_form_has_every_workload_of_the_command_line_and_every_flag() -> None:
    asked = {WORKLOADS[name].flags[1] for name in WORKLOADS if name != "suite"}
    parser = make_parser()
    choices = {a.dest: a.choices for a in parser._actions if a.choices}
    assert asked == set(choices["workload"] or ())
    assert {w.flags[3] for w in WORKLOADS.values() if len(w.flags) > 2} == set(
        choices["popularity"] or ()
    )
    ours = {"seed", "max_tokens", "popularity"}  # published, `tokens` of a chat, a workload each
    flags = {flag for flag in FLAGS.values() if flag != "--slo-seconds"}
    theirs = {a.option_strings[0] for a in parser._actions if a.dest in (*TAKEN_BY, *OTHERS)}
    assert theirs - {f"--{name.replace('_', '-')}" for name in ours} == flags


@pytest.mark.processes
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
        assert run.live.streamed == 9 * 7  # the last piece of each has no token
        assert run.speeds and max(run.speeds) < 63 / 0.15
        app.paint(app.store.board(app.clock()))
        table = panel.query_one(ResultTable)
        assert table.selected is not None and table.selected.path == run.out  # the new result
        assert "first run of this workload" in screen_text(app)
        assert any("chat is finished: " in note.message for note in app.notices)
        await pilot.pause()
        text = screen_text(app)
        assert "chat 3 at once" in text and "finished" in text and "100 %" in text
        (kept,) = BenchFiles().rows()
        assert kept.path.parent == data and kept.row.result.completed == 9

    with_a_ring(act)


def test_steps_longer_than_an_interval_draw_no_comb(tmp_path: Path) -> None:
    """64 streams get a token each every 0.8 s; the child reports twice a second."""
    run = BenchRun(BenchPlan(), "http://here", "", "here", tmp_path / "out.jsonl")
    gaps = (800.0, 800.0, 800.0)
    for half in range(1, 60):
        told = {"done": 1, "total": 99, "seconds": half / 2, "streamed": 64 * int(half / 2 / 0.8)}
        live = Live(load="chat", run=1, runs=1, inter_token_ms=gaps, **told)
        run._take(msgspec.json.encode(live))
    assert run.interval_s == 0.5
    settled = run.speeds[8:]
    assert min(settled) > 0.75 * 80 and max(settled) < 1.25 * 80


def test_the_last_lines_of_a_run_do_not_make_a_rate_of_next_to_nothing(tmp_path: Path) -> None:
    run = BenchRun(BenchPlan(), "http://here", "", "here", tmp_path / "out.jsonl")

    def hear(done: int, seconds: float, number: int = 1) -> None:
        told = {"done": done, "total": 8, "seconds": seconds, "streamed": 64 * done}
        run._take(msgspec.json.encode(Live(load="chat", run=number, runs=2, **told)))

    hear(0, 0.0)
    assert run.speeds == []
    hear(4, 8.0)
    hear(7, 14.0)
    hear(8, 14.0004)
    assert run.speeds == pytest.approx([4 * 64 / 8.0, 4 * 64 / 6.0004])
    hear(0, 0.0, 2)
    hear(8, 0.1, 2)  # all that there is to know
    assert run.speeds == [5120.0]


async def fill(pilot: Pilot[str], workload: str, **fields: str) -> None:
    """Opens the form, and has what stands in it run."""
    await pilot.press("n")
    await pilot.pause()
    dialog = pilot.app.screen
    assert isinstance(dialog, BenchDialog)
    dialog.query_one(OptionList).highlighted = list(WORKLOADS).index(workload)
    await pilot.pause()
    for name, text in fields.items():
        dialog.query_one(f"#{name}", Input).value = text
    await pilot.press("enter")
    await pilot.pause()


@pytest.mark.processes
def test_a_script_and_a_trace_run_to_the_end_on_a_real_pipeline(
    ring: Ring, files: dict[str, Path], data: Path
) -> None:
    async def main() -> None:
        app = ConsoleApp(Config.load(str(ring.run)))
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await wait(lambda: app.board.server is not None and bool(app.board.adapters))
            await pilot.press("6")
            for number, (workload, path) in enumerate(files.items(), 1):
                await fill(pilot, workload, file=str(path), speed="2")
                await wait(lambda n=number: len(BenchFiles().rows()) == n, 60)  # type: ignore[misc]
                await wait(lambda: not app.active_panel.is_live)
                await pilot.pause()
            assert "script speed=2" in screen_text(app) and "trace" in screen_text(app)
        rows = {kept.row.config.workload: kept.row for kept in BenchFiles().rows()}
        assert rows["script"].result.completed == 4 and rows["trace"].result.completed == 3
        assert rows["script"].config.parameters["file"] == "list.toml"
        # Answers are as long as their lists say, to the base model (-1) as well.
        assert rows["script"].result.output_tokens == 18
        assert BASE in rows["script"].result.adapters

    asyncio.run(main())


@pytest.mark.slow
def test_each_workload_shows_its_own_fields_and_keeps_what_was_typed() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("n")
        await pilot.pause()
        dialog = app.screen
        for name, each in WORKLOADS.items():
            dialog.query_one(OptionList).highlighted = list(WORKLOADS).index(name)
            await pilot.pause()
            shown = {i.id for i in dialog.query(Input) if i.parent and i.parent.display}
            assert shown == set(each.takes)
            assert all(i.region.bottom <= 23 for i in dialog.query(Input)), "it fits"
            dialog.query_one("#requests", Input).value = str(len(name))
        dialog.query_one(OptionList).highlighted = 0
        await pilot.pause()
        assert dialog.query_one("#requests", Input).value == str(len("chat"))

    on_stage(act, panel="Bench", size=(80, 24))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("workload", "fields", "what"),
    [
        ("script", {"file": ""}, "file required"),
        ("trace", {"file": "/nowhere/x.csv"}, "/nowhere/x.csv: No such file"),
        ("trace", {"file": "/"}, "/: Is a directory"),
        ("suite", {"suite": "best"}, "there are num-adapter, alpha"),
        ("slora", {"tokens": "9-9"}, "or two like 8-512"),
        ("slora", {"tokens": ""}, "a number of tokens above 0"),
        ("slora", {"adapters": "1.5"}, "0 or more"),
        ("chat", {"models": "sql, pirat"}, "no model pirat; did you mean pirate?"),
    ],
)
def test_what_is_wrong_in_the_form_is_said_there(
    workload: str, fields: dict[str, str], what: str
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await fill(pilot, workload, **fields)
        assert isinstance(app.screen, BenchDialog)
        assert what in screen_text(app)
        assert app.screen.query_one(f"#{next(iter(fields))}", Input).has_focus

    on_stage(act, panel="Bench", size=(80, 24))


@pytest.mark.processes
def test_a_broken_file_is_told_with_its_line_and_the_form_comes_back(
    files: dict[str, Path], data: Path
) -> None:
    files["trace"].write_text(TRACE + "yesterday,1,2\n")
    files["script"].write_text("ind = [0]")

    async def act(app: ConsoleApp, pilot: Pilot[str]) -> None:
        await pilot.press("escape", "6")
        for workload, what in (("trace", "line 5: TIMESTAMP"), ("script", "missing required")):
            await fill(pilot, workload, file=str(files[workload]), slo="3")
            await wait(lambda w=what: w in screen_text(app).replace("\n", ""), 30)  # type: ignore[misc]
            dialog = app.screen
            assert isinstance(dialog, BenchDialog)
            assert dialog.query_one("#file", Input).value == str(files[workload])
            assert dialog.query_one("#slo", Input).value == "3"
            await pilot.press("escape")
        assert BenchFiles().rows() == []

    with_a_ring(act)


@pytest.mark.processes
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


@pytest.mark.processes
def test_what_cannot_be_run_says_why() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("n", "enter")  # the scenario's server is nowhere
        panel = app.active_panel
        assert isinstance(panel, BenchPanel)
        await wait(lambda: panel._run is not None and not panel._run.is_running, 60)
        await pilot.pause()
        assert "does not list its models" in screen_text(app)

    on_stage(act, panel="Bench")


@pytest.mark.slow
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
        assert "number above 0" in screen_text(app)
        await pilot.press("escape")
        assert app.active_panel.query_one(ResultTable).has_focus

    on_stage(act, panel="Bench")


def test_runs_are_held_against_the_one_before_or_the_baseline(data: Path) -> None:
    for number, slow in enumerate((1.0, 2.0, 1.5)):
        keep_result(data / f"{number}.jsonl", slow, server="SmolLM2-135M-Instruct")
        os.utime(data / f"{number}.jsonl", (1e9 + number, 1e9 + number))

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        def row(label: str) -> str:
            return next(line for line in screen_text(app).splitlines() if label in line)

        assert "vs previous run" in screen_text(app)
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

        await pilot.press("end")
        await pilot.pause()
        assert "b sets a baseline" in screen_text(app)
        assert "first run of this workload" in screen_text(app)
        assert screen_text(app).count("SmolLM2-135M-Instruct") == 4  # in the head as well

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
        assert any("line 1" in note.title for note in app.notices)
        assert "no results yet" in screen_text(app)
        await give(tmp_path / "other.jsonl")
        assert "elsewhere 2 at once" in screen_text(app)

    on_stage(act, panel="Bench")

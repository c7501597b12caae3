"""The mock pipeline: the same seed tells the same shift, and what it tells could be true."""

import asyncio
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from pseudo_terminal import PseudoTerminal
from stage import START, screen_text
from waiting import wait_for

from loraconsole.console.mock.demo_scenario import MAX_RUNNING, DemoScenario
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.mock.server import MockRing, mock_pipeline
from loraconsole.console.mock.spans import MockSpans
from loraconsole.console.state.span_tail import SpanTail
from loraconsole.console.state.store import Store
from loraconsole.console.supervisor.span_files import span_ends
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterState,
    AdapterTable,
    BatchView,
    LogLines,
    Message,
    PlanAdapters,
    PoolMap,
    ProcessTable,
    RouterStats,
    Step,
    VerifyAdapter,
)


def told(seed: int, seconds: int, boots: bool = True) -> list[tuple[str, Message]]:
    scenario = DemoScenario(seed, start=START, boots=boots)
    return [pair for tenth in range(seconds * 10) for pair in scenario.advance(START + tenth / 10)]


def test_a_seed_is_a_shift() -> None:
    assert told(3, 30) == told(3, 30)
    assert told(3, 30) != told(4, 30)


def test_a_start_goes_through_its_stages_to_ready() -> None:
    store, scenario = Store("/run"), DemoScenario(5, start=START)
    words, stages = [], []
    for tenth in range(150):
        now = START + tenth / 10
        for _, message in scenario.advance(now):
            store.fold_message(message, now)
        board = store.board(now)
        words.append(board.condition.word)
        stages += [bar.stage for bar in board.progress if not bar.done]
    assert list(dict.fromkeys(stages)) == ["fetch", "weights", "warm-up", "adapters"]
    assert list(dict.fromkeys(words)) == ["STARTING", "READY"]
    assert 90 < words.index("READY") < 100


@pytest.mark.parametrize("seed", [1, 2])
def test_ten_minutes_could_be_true(seed: int) -> None:
    """Pages and places are kept to; everything that can happen happens; what waits says why."""
    reasons: Counter[str] = Counter()
    states, words = set(), Counter[str]()
    before: RouterStats | None = None
    for _, message in told(seed, 600, boots=False):
        match message:
            case BatchView(requests=requests):
                assert sum(view.phase != "waiting" for view in requests) <= MAX_RUNNING
                for view in requests:
                    assert (view.phase == "waiting") == bool(view.reason)
                    assert view.num_output <= view.max_tokens
                    assert view.pages == 0 or view.pages * 16 >= view.num_computed
                    reasons[view.reason.split(":")[0].split(" ")[0]] += 1
            case RouterStats() as stats:
                assert stats.pages_kv + stats.pages_adapters <= stats.pages_total
                assert before is None or stats.decode_tokens >= before.decode_tokens
                before = stats
            case PoolMap(pages=pages, owners=owners):
                numbers = memoryview(pages).cast("H")
                assert max(numbers) <= len(owners)
            case AdapterTable(adapters=adapters):
                states |= {view.state for view in adapters}
            case ProcessTable(processes=processes):
                words.update(view.state.value for view in processes)
    assert before is not None and before.decode_tokens > 20_000
    assert {"batch", "waits", "behind", "adapter"} <= set(reasons)
    wanted = {*AdapterState} - {AdapterState.REGISTERED, AdapterState.GONE, AdapterState.FAILED}
    assert states >= wanted
    assert words["backoff"] and words["starting"]


def test_figures_of_adapters_follow_from_their_rank_and_add_up() -> None:
    scenario = Scenario("busy", start=START)
    last = {type(message): message for _, message in scenario.advance(START + 5)}
    table, stats, pool = last[AdapterTable], last[RouterStats], last[PoolMap]
    assert isinstance(table, AdapterTable) and isinstance(stats, RouterStats)
    assert isinstance(pool, PoolMap)
    assert {view.rank for view in table.adapters} == {8, 16, 32}
    assert {(view.num_bytes / view.rank, view.pages / view.rank) for view in table.adapters} == {
        (118_750, 4)
    }
    assert stats.pages_adapters == sum(view.pages for view in table.adapters)
    order = PlanAdapters(order="1", reply_to="", paths=("/mine/tax", "/large/tax"))
    answer = scenario.obey(order)
    assert answer is not None
    free = stats.pages_total - stats.pages_kv - stats.pages_adapters
    assert {plan.free_pages for plan in answer.plans} == {free}
    assert [plan.fits for plan in answer.plans] == [True, False]
    for plan in answer.plans:
        assert plan.fits == (plan.pages <= free) and 4 * plan.num_bytes == plan.pages * 118_750
    verdict = scenario.obey(VerifyAdapter(order="2", reply_to="", name="sql"))
    assert verdict is not None and verdict.verification is not None
    names = {row.adapter for row in verdict.verification.comparisons}
    assert names == {"sql", None, "pirate"}


def test_its_log_says_what_fits_its_source_and_its_level() -> None:
    levels: dict[str, set[tuple[str, str]]] = {}
    for _, message in told(3, 120, boots=False):
        for line in message.lines if isinstance(message, LogLines) else ():
            levels.setdefault(line.text.split(" ")[0], set()).add((line.source, line.level))
    assert levels["admitted"] == {("router", "INFO")} and levels["adapter"] == {
        ("worker-0", "INFO")
    }
    assert levels["refused"] == {("server", "ERROR")} and levels["the"] == {("server", "WARNING")}


def test_the_server_tells_the_router_of_every_request() -> None:
    store, scenario = Store("/run"), DemoScenario(7, start=START, boots=False)
    for tenth in range(300):
        for _, message in scenario.advance(START + tenth / 10):
            store.fold_message(message, START + tenth / 10)
    board = store.board(START + 29.9)
    server = board.process("server")
    assert server and board.request_rate > 1.0
    assert server.frames_to("router") == pytest.approx(board.request_rate, rel=0.01)


def test_it_records_spans_while_that_is_asked_for(tmp_path: Path) -> None:
    spans, scenario = MockSpans(tmp_path), Scenario("busy", start=START)
    for second in range(1, 5):
        if second == 2:
            spans.start("20261129-120000")
        if second == 4:
            spans.stop()
        for _, message in scenario.advance(START + second):
            if isinstance(message, Step):
                spans.take(message)
    tail = SpanTail()
    tail.fold_ends(span_ends(tmp_path))
    assert tail.recording == "20261129-120000"
    assert START + 2.9 < tail.end / 1e6 <= START + 3.01
    rows = tail.rows(tail.end - 80_000, tail.end, 8)
    assert {row.process for row in rows} == {"router", "worker-0"}
    assert {row.depth for row in rows} == {0, 1}


def test_a_console_that_attaches_to_a_mock_says_so() -> None:
    async def main() -> None:
        for label, shown in (("", " MOCK "), ("READ-ONLY", " MOCK READ-ONLY ")):
            app = ConsoleApp(Config(run="/run/loraconsole"), label=label)
            async with app.run_test(size=(80, 24)) as pilot:
                await pilot.pause()
                assert "MOCK" not in screen_text(app)
                app.store.fold_snapshot(Scenario("busy", start=START).snapshot(), time.time())
                app.paint(app.store.board(time.time()))
                await pilot.pause()
                assert shown in screen_text(app).splitlines()[0]

    asyncio.run(main())


def test_it_is_labelled_and_leaves_at_once() -> None:
    async def main() -> None:
        app = ConsoleApp(Config(run="/run/loraconsole"), label="MOCK")
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            assert "MOCK" in screen_text(app).splitlines()[0]
            await pilot.press("q")
            await pilot.pause()
        assert app.return_value == "leave"

    asyncio.run(main())


@pytest.mark.processes
def test_it_is_one_small_process_without_torch_and_leaves_nothing() -> None:
    with mock_pipeline(7) as config:
        run = Path(config.run)
        status = [sys.executable, "-P", "-m", "loraconsole.console", "status", "--run", config.run]
        done = subprocess.run([*status, "--json"], capture_output=True, text=True)
        assert '"worker-0"' in done.stdout
        assert run.stat().st_mode & 0o777 == 0o700
    assert not run.exists()
    code = "import sys, loraconsole.console.mock.server; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.processes
def test_it_ends_quietly_at_sigterm(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console.mock.server", "--run"]
    ring = subprocess.Popen([*command, str(tmp_path / "r"), "--ready"], stderr=subprocess.PIPE)
    status = [sys.executable, "-P", "-m", "loraconsole.console", "status", "--run"]
    wait_for(lambda: not subprocess.run([*status, str(tmp_path / "r")]).returncode)
    ring.terminate()
    assert (ring.communicate(timeout=60)[1], ring.returncode) == (b"", 0)


def test_it_ends_if_it_was_told_so_before_it_served(tmp_path: Path) -> None:
    """A console that fails at its start sends SIGTERM as soon as config.json is there."""

    async def main() -> None:
        scenario = Scenario("busy", rows=4, adapters=4, start=START)
        ring = MockRing(Config(run=str(tmp_path / "r"), port=0), scenario)
        ring.end()
        await ring.main()

    asyncio.run(main())


@pytest.mark.processes
def test_the_flag_opens_it_and_takes_it_away() -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "--mock=11", "--show-cost"]
    terminal = PseudoTerminal(command)
    try:
        terminal.wait_for("MOCK")
        terminal.wait_for("weights")
        terminal.wait_for("frames/s")
        terminal.send("q")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()

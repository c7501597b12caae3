"""The mock pipeline: the same seed tells the same shift, and what it tells could be true."""

import asyncio
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from pseudo_terminal import PseudoTerminal
from stage import START, screen_text

from loraconsole.console.app import ConsoleApp
from loraconsole.console.ledger import Ledger
from loraconsole.console.mock import mock_pipeline
from loraconsole.console.shift import MAX_RUNNING, Shift
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterState,
    AdapterTable,
    BatchView,
    Message,
    PoolMap,
    ProcessTable,
    RouterStats,
)


def told(seed: int, seconds: int, boots: bool = True) -> list[tuple[str, Message]]:
    story = Shift(seed, start=START, boots=boots)
    return [pair for tenth in range(seconds * 10) for pair in story.advance(START + tenth / 10)]


def test_a_seed_is_a_shift() -> None:
    assert told(3, 30) == told(3, 30)
    assert told(3, 30) != told(4, 30)


def test_a_start_goes_through_its_stages_to_ready() -> None:
    ledger, story = Ledger("/run"), Shift(5, start=START)
    words, stages = [], []
    for tenth in range(150):
        now = START + tenth / 10
        for _, message in story.advance(now):
            ledger.take(message, now)
        board = ledger.board(now)
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
    assert {"batch", "no", "adapter"} <= set(reasons)
    wanted = {*AdapterState} - {AdapterState.REGISTERED, AdapterState.GONE, AdapterState.FAILED}
    assert states >= wanted
    assert words["backoff"] and words["starting"]


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


def test_it_is_one_small_process_without_torch_and_leaves_nothing() -> None:
    with mock_pipeline(7) as config:
        run = Path(config.run)
        status = [sys.executable, "-P", "-m", "loraconsole.console", "status", "--run", config.run]
        done = subprocess.run([*status, "--json"], capture_output=True, text=True)
        assert '"worker-0"' in done.stdout
        assert run.stat().st_mode & 0o777 == 0o700
    assert not run.exists()
    code = "import sys, loraconsole.console.mock; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False"


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

"""What limited the steps of a running ring, as its worker reports and the supervisor remembers."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from ring import Ring, tiny_model

from loraconsole.console.client.remote import Remote
from loraconsole.console.state.store import Store
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Snapshot, StepLimit
from loraconsole.pipeline.runtime.latest_telemetry import STEPS_KEPT

pytestmark = pytest.mark.processes


def ask(ring: Ring, count: int, max_tokens: int) -> None:
    """Sends requests at once and waits for their answers."""

    def one(number: int) -> None:
        body = {"model": "", "prompt": f"the sea {number}", "max_tokens": max_tokens}
        more = {"temperature": 0, "ignore_eos": True}
        response = ring.http.post("/v1/completions", json=body | more, timeout=90)
        assert response.status_code == 200, response.text

    with ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))


def known(ring: Ring) -> Snapshot:
    async def asked() -> Snapshot:
        async with Remote(Config(run=str(ring.run))) as remote:
            return await remote.snapshot(history_s=60.0, steps=STEPS_KEPT)

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("option", "limit"),
    [(("--max-running", "2"), StepLimit.ROWS), (("--max-total-tokens", "256"), StepLimit.KV_PAGES)],
    ids=["rows", "pages"],
)
def test_the_limit_of_a_step_reaches_the_console_and_the_history(
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
    option: tuple[str, str],
    limit: StepLimit,
) -> None:
    run = ("--model", str(tiny_model(tmp_path)), "--dummy", *option)
    with Ring(tmp_path_factory.mktemp("r"), *run) as ring:
        ask(ring, 1, 20)
        alone = known(ring)
        assert alone.steps and {step.limit for step in alone.steps} == {StepLimit.NOTHING}
        last = alone.steps[-1].step
        ask(ring, 5, 100)
        time.sleep(1.2)  # the second of the last step becomes a moment
        found = known(ring)
        limits = Counter(step.limit for step in found.steps if step.step > last)
        assert limits.most_common(1)[0][0] is limit, limits
        assert set(limits) <= {limit, StepLimit.NOTHING, StepLimit.PROMPT_TOKENS}
        assert all(step.prompt_tokens <= step.tokens for step in found.steps)
        index = tuple(StepLimit).index(limit)
        assert sum(moment.limits[index] for moment in found.moments if moment.limits) > 50
        store = Store(ring.run.as_posix())
        store.fold_snapshot(found, time.time())
        board = store.board(time.time())
        assert sum(board.limits.counts[index]) > 50 and board.decode.window(board.now, 120).highest

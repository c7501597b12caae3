"""Tokens go on from the KV that was computed before the worker, or its router, was replaced."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from driver import GREEDY, Driver, save_model

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Admission, Batch, BatchRow, KeptSequence, WorkerReady
from loraconsole.pipeline.runner.runner import ModelRunner
from loraconsole.pipeline.runtime.held_memory import HeldMemory, link_of


@pytest.fixture
def model(tmp_path: Path) -> Path:
    save_model(tmp_path / "model", "llama")
    (tmp_path / "config.json").write_text("{}")
    return tmp_path / "model"


def start(model: Path, run: Path) -> tuple[ModelRunner, WorkerReady]:
    config = Config(device="cpu", dtype="float32", threads=1, max_total_tokens=4096)
    runner = ModelRunner(config, model, 0, lambda message: None, run=run)
    return runner, runner.load()


def test_tokens_after_a_restart_come_from_the_kv_before_it(model: Path, tmp_path: Path) -> None:
    first, ready = start(model, tmp_path)
    assert not ready.has_kept_kv
    held = HeldMemory(tmp_path)
    held.hold(0, ready.pid, ready.pool_fd)
    driver, prompt = Driver(first), list(range(4, 40))
    whole, cut = driver.add(prompt), driver.add(prompt)
    driver.generate([whole, cut], 5)
    driver.decode([whole], 6)
    expected, logits = driver.tokens[whole], driver.logits[whole]

    second, again = start(model, tmp_path)
    assert again.has_kept_kv and again.num_pages == ready.num_pages
    held.hold(0, again.pid, again.pool_fd)
    tokens = prompt + driver.tokens[cut]
    pages = tuple(driver.pages[cut])
    admission = Admission(0, tuple(tokens), len(prompt), GREEDY, None, len(tokens) - 1)
    found = []
    for step in range(6):
        new = pages if not step else ()
        admit = () if step else (admission,)
        pending = second.launch(Batch(1, step, (), admit, (BatchRow(0, 1, new),)), keep_logits=True)
        found.append(pending.wait()[0][0].token_id)
        assert pending.logits is not None
        assert torch.equal(pending.logits[0], logits[5 + step])
    assert found == expected[5:]
    held.close()


def test_tokens_for_another_router_come_from_the_kv_of_the_one_before(
    model: Path, tmp_path: Path
) -> None:
    runner, _ = start(model, tmp_path)
    prompt = tuple(range(4, 40))
    asked = Admission(3, prompt, len(prompt), GREEDY, None, request_id="r", arrived_at=5.0)
    unasked = Admission(4, prompt, len(prompt), GREEDY, None)
    pages = (9, 2, 7, 30)
    rows = (BatchRow(3, len(prompt), pages), BatchRow(4, 1, (1,)))
    steps = [Batch(1, 0, (), (asked, unasked), rows)]
    steps += [Batch(1, number, (), (), (BatchRow(3, 1),)) for number in range(1, 12)]
    pending = [runner.launch(batch, keep_logits=True) for batch in steps]
    expected = [each.wait()[0][0].token_id for each in pending]

    assert runner.reset() == (KeptSequence("r", 5.0, None, len(prompt) + 11, pages),)
    assert runner.reset() == ()
    known = prompt + tuple(expected[:6])
    again = Admission(0, known, len(prompt), GREEDY, None, len(known) - 1)
    for step in range(6):
        admit, new = ((), ()) if step else ((again,), pages)
        batch = Batch(2, step, (), admit, (BatchRow(0, 1, new),))
        found = runner.launch(batch, keep_logits=True)
        assert found.wait()[0][0].token_id == expected[6 + step]
        logits, before = found.logits, pending[6 + step].logits
        assert logits is not None and before is not None
        assert torch.equal(logits[0], before[0])


def test_without_the_router_nothing_is_kept(model: Path, tmp_path: Path) -> None:
    start(model, tmp_path)
    assert not start(model, tmp_path)[1].has_kept_kv


def test_a_worker_that_must_warm_up_gives_the_memory_back(model: Path, tmp_path: Path) -> None:
    """The steps of its warm-up would be written over the KV."""
    runner, ready = start(model, tmp_path)
    held = HeldMemory(tmp_path)
    held.hold(0, ready.pid, ready.pool_fd)
    assert runner.record
    runner.record.remove()
    del runner
    assert not start(model, tmp_path)[1].has_kept_kv
    assert link_of(tmp_path, 0).stat().st_size == 0
    held.close()

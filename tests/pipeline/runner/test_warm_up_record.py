"""What a warm-up measures, how long it may take, and that a worker that starts again keeps it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from driver import Driver, save_adapter, save_model

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Message, SyncPoint
from loraconsole.pipeline.runner import warm_up
from loraconsole.pipeline.runner.runner import ModelRunner


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_model(directory, "llama")
    return directory


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    return tmp_path


def start(model: Path, run: Path) -> tuple[ModelRunner, int]:
    """A loaded runner, and the number of steps of its warm-up."""
    heard: list[Message] = []
    config = Config(device="cpu", dtype="float32", threads=1, max_total_tokens=4096)
    runner = ModelRunner(config, model, 0, heard.append, run=run)
    runner.load()
    return runner, sum(isinstance(m, SyncPoint) and m.name == "warm-up" for m in heard)


def test_a_worker_that_starts_again_measures_nothing_and_knows_as_much(
    model: Path, run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    first, num_steps = start(model, run)
    assert num_steps == 5 * len(warm_up.WARM_UP_ROWS)
    second, again = start(model, run)
    assert again == 0
    known = first.timer.measured()
    assert second.timer.measured() == known and known.copy_bytes_s > 0
    assert sorted(known.steps) == list(warm_up.WARM_UP_ROWS)
    assert second.stats().copy_bytes_s == first.stats().copy_bytes_s

    adapter = save_adapter(tmp_path_factory.mktemp("adapter"), model, 0)
    info = second.adapters.read("a", str(adapter))
    pages = range(second.loaded.pool.num_pages - info.pages, second.loaded.pool.num_pages)
    second.adapters.place("a", pages).result()
    driver = Driver(second)
    driver.generate([driver.add(range(4, 24), adapter="a")], 2)
    assert driver.last_step.base_us > 0


def test_another_start_of_the_pipeline_or_a_broken_record_is_measured(
    model: Path, run: Path
) -> None:
    runner, num_steps = start(model, run)
    os.utime(run / "config.json", (1, 1))
    assert start(model, run)[1] == num_steps
    record = run / "warm-up-0.json"
    record.write_bytes(record.read_bytes()[:-9])
    assert start(model, run)[1] == num_steps
    assert start(model, run)[1] == 0
    assert runner.record is not None
    runner.record.remove()
    assert [path.name for path in run.iterdir()] == ["config.json"]
    assert start(model, run)[1] == num_steps


def test_a_record_that_cannot_be_kept_costs_only_the_next_warm_up(
    model: Path, run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (run / "warm-up-0.new").mkdir()  # in the way of the file
    assert start(model, run)[1] == start(model, run)[1] > 0
    assert "cannot keep what the warm-up measured" in caplog.text


def test_a_warm_up_on_a_slow_cpu_ends_early_with_whole_numbers_of_rows(
    model: Path, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(warm_up, "CPU_SECONDS", 0.0)
    runner, num_steps = start(model, run)
    assert num_steps == 5
    assert list(runner.timer.measured().steps) == [1]
    driver = Driver(runner)
    number = driver.add(range(4, 24))
    driver.generate([number], 2)
    assert driver.last_step.rows == 1

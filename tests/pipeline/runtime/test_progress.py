"""The bar that is also a message."""

from __future__ import annotations

import msgspec
import pytest

from loraconsole.console.cli.printing import Bars
from loraconsole.pipeline.messages import Progress
from loraconsole.pipeline.runtime.progress import ProgressBar


def test_a_bar_publishes_its_way_and_its_end() -> None:
    published: list[Progress] = []
    with ProgressBar(total=10, publish=published.append, source="worker-0", stage="weights") as bar:
        for _ in range(10):
            bar.update()
    last = published[-1]
    assert (last.source, last.stage, last.current, last.total) == ("worker-0", "weights", 10, 10)
    assert last.done and not last.failed
    assert not published[0].done


@pytest.mark.parametrize("total", [10, 3, None])
def test_a_bar_left_by_an_error_is_failed_whatever_it_has_counted(total: int | None) -> None:
    published: list[Progress] = []
    with (
        pytest.raises(OSError),
        ProgressBar(total=total, publish=published.append, source="fetch", stage="fetch") as bar,
    ):
        bar.update(3)
        raise OSError
    assert published[-1].done and published[-1].failed and published[-1].current == 3


def test_a_bar_draws_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    list(ProgressBar(range(3), publish=lambda message: None, source="s", stage="t"))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


def said(current: float, total: float, elapsed_s: float, unit: str = "layer") -> Progress:
    return Progress(
        source="worker-0",
        stage="weights",
        label="weights",
        current=current,
        total=total,
        unit=unit,
        elapsed_s=elapsed_s,
        done=current == total,
    )


def test_a_finished_bar_stays_as_it_was_and_counts_whole_numbers(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("tqdm.std.time", lambda: now)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bars = Bars()
    for done in (10.0, 31.0):
        bars.show(said(done, 31.0, done / 10))
    then = capsys.readouterr().err.rpartition("\r")[2].strip()
    assert "31/31 [00:03<00:00, 10.00 layer/s]" in then
    now += 1.1
    bars.close()
    assert capsys.readouterr().err.rpartition("\r")[2].strip() == then


def test_a_rate_is_of_the_time_the_stage_took_even_if_it_is_heard_of_at_its_end(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bars = Bars()
    bars.show(said(98.4e6, 98.4e6, 0.5, "B"))
    bars.close()
    last = capsys.readouterr().err.rpartition("\r")[2]
    assert "98.4M/98.4M [00:00<00:00, 197MB/s]" in last


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_stage_that_failed_is_not_called_done(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: is_terminal, raising=False)
    bars = Bars()
    failed = msgspec.structs.replace(said(0.0, 0.0, 0.1), done=True, failed=True, total=None)
    bars.show(failed)
    bars.close()
    shown = capsys.readouterr().err
    assert "weights failed" in shown and "done" not in shown

"""The bar that is also a message."""

from __future__ import annotations

import pytest

from loraconsole.pipeline.messages import Progress
from loraconsole.pipeline.progress import ProgressBar


def test_a_bar_publishes_its_way_and_its_end() -> None:
    published: list[Progress] = []
    with ProgressBar(total=10, publish=published.append, source="worker-0", stage="weights") as bar:
        for _ in range(10):
            bar.update()
    last = published[-1]
    assert (last.source, last.stage, last.current, last.total) == ("worker-0", "weights", 10, 10)
    assert last.done and not last.failed
    assert not published[0].done


def test_a_bar_left_by_an_error_is_failed() -> None:
    published: list[Progress] = []
    with (
        pytest.raises(OSError),
        ProgressBar(total=10, publish=published.append, source="fetch", stage="fetch") as bar,
    ):
        bar.update(3)
        raise OSError
    assert published[-1].failed and published[-1].current == 3


def test_a_bar_draws_nothing_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    list(ProgressBar(range(3), publish=lambda message: None, source="s", stage="t"))
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""

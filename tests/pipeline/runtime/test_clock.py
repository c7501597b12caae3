"""The pipeline's clock, while the machine's is set back and forward."""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import pytest

import loraconsole
from loraconsole.pipeline.runtime import clock
from loraconsole.pipeline.runtime.clock import CLOCK, ClockWatch, new_clock, own_clock, unix_time
from loraconsole.pipeline.runtime.process import make_record

HOUR = 3600.0
ROOT = Path(loraconsole.__file__).parent


class MachineClock:
    """The machine's clock, which a test may set."""

    def __init__(self) -> None:
        self.ahead_s = 0.0
        self._time, self._time_ns = time.time, time.time_ns

    def time(self) -> float:
        return self._time() + self.ahead_s

    def time_ns(self) -> int:
        return self._time_ns() + int(self.ahead_s * 1e9)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> MachineClock:
    found = MachineClock()
    monkeypatch.setattr(time, "time", found.time)
    monkeypatch.setattr(time, "time_ns", found.time_ns)
    return found


@pytest.mark.parametrize("step_s", (-30 * 24 * HOUR, -HOUR, HOUR, 400 * 24 * HOUR))
def test_the_pipelines_clock_goes_on_when_the_machines_is_set(
    machine: MachineClock, step_s: float
) -> None:
    before, began = unix_time(), time.monotonic()
    machine.ahead_s = step_s
    after = unix_time()
    assert 0.0 <= after - before <= time.monotonic() - began + 0.01
    assert abs(clock.seconds_set() - step_s) < 0.5
    assert abs(make_record("a", logging.INFO, "", 0, "x", (), None).created - after) < 0.5


def test_a_step_of_the_machines_clock_is_said_once(machine: MachineClock) -> None:
    watch = ClockWatch()
    assert watch.look() == ""
    machine.ahead_s = -HOUR
    text = watch.look()
    assert text.startswith("the machine's clock was set back by 3600 s")
    assert "stays 3600 s ahead of it until the pipeline is started again" in text
    assert watch.look() == ""
    machine.ahead_s = 0.0
    assert watch.look().endswith("it agrees with the pipeline's clock again")


def test_a_pipeline_that_starts_takes_the_machines_clock_and_hands_its_own_down(
    machine: MachineClock,
) -> None:
    machine.ahead_s = HOUR
    assert int(new_clock()[CLOCK]) - int(own_clock()[CLOCK]) == pytest.approx(HOUR * 1e9, rel=1e-3)


def test_no_process_of_the_ring_reads_the_machines_clock() -> None:
    """All but what Prometheus is given as the time of a value."""
    allowed = {"pipeline/runtime/clock.py": 1, "pipeline/server/gateway/vllm_metrics.py": 1}
    found = []
    for folder in ("router", "schedule", "runner", "runtime", "server", "handover"):
        found += sorted((ROOT / "pipeline" / folder).rglob("*.py"))
    found += [ROOT / "pipeline" / name for name in ("worker.py", "detokenizer.py")]
    found += sorted((ROOT / "console" / "supervisor").glob("*.py"))
    reads = {
        str(path.relative_to(ROOT)): count
        for path in found
        if (count := len(re.findall(r"\btime\.time(_ns)?\b", path.read_text())))
    }
    assert reads == allowed

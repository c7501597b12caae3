"""The newest message of each kind is what a console that comes late gets."""

import msgspec

from loraconsole.console.mock.scenario import Scenario
from loraconsole.pipeline.messages import Progress
from loraconsole.pipeline.runtime.latest_telemetry import STEPS_KEPT, LatestTelemetry

START = 1_790_000_000.0


def bar(source: str, stage: str) -> Progress:
    return Progress(
        source=source,
        stage=stage,
        label=stage,
        current=1,
        total=2,
        unit="x",
        elapsed_s=1.0,
    )


def told(seconds: float = 20.0) -> tuple[Scenario, LatestTelemetry]:
    scenario, latest = Scenario("busy", start=START), LatestTelemetry()
    for _, message in scenario.advance(START + seconds):
        latest.fold_message(message)
    return scenario, latest


def test_a_snapshot_has_the_newest_of_each_kind_and_the_last_steps() -> None:
    scenario, latest = told()
    known = scenario.snapshot()
    snapshot = latest.snapshot(
        at=known.at,
        version=known.version,
        started_at=known.started_at,
        processes=known.processes,
        events=known.events,
        logs=known.logs,
    )
    assert snapshot == known
    assert len(snapshot.steps) == STEPS_KEPT and snapshot.router is not None
    few = latest.snapshot(
        at=0.0,
        version="",
        started_at=0.0,
        processes=known.processes,
        events=(),
        logs=(),
        steps=3,
    )
    assert few.steps == known.steps[-3:]


def test_steps_are_those_of_the_first_rank() -> None:
    _, latest = told()
    before = list(latest.steps)
    latest.fold_message(msgspec.structs.replace(before[-1], rank=1))
    assert list(latest.steps) == before


def test_bars_of_a_process_end_with_its_life() -> None:
    _, latest = told()
    latest.progress.clear()
    for message in (bar("worker-0", "weights"), bar("router", "adapters"), bar("fetch", "fetch")):
        latest.fold_message(message)
    beat = latest.heartbeats["worker-0"]
    latest.fold_message(msgspec.structs.replace(beat, incarnation=beat.incarnation + 100))
    assert [bar.stage for bar in latest.progress.values()] == ["fetch"]

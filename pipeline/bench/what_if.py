"""What a recorded day would have been under other settings: an event log played as it was, and
simulated with the changes, side by side.

`loraconsole replay FILE --against NAME=VALUE …`. The same log is also simulated without a change:
its distance from the log is the simulation's own error, which is printed beside the result.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ..config import DECISIVE, Config
from ..errors import OperatorError, UsageError
from ..router.event_lines import Decided, Started
from ..router.event_log import read_log
from ..router.observation import Observation
from ..router.player import Differs
from ..router.replay import first_difference
from ..router.replay_recorder import ReplayRecorder
from ..router.request_times import ABORTED, REFUSED, RequestTime, RequestTimes
from ..router.simulation import Simulation
from ..router.step_times import StepTimes
from ..runtime.json_document import to_document
from ..runtime.percentile import percentile
from ..runtime.process import set_up_log
from ..runtime.stdout import ends_with_its_reader
from ..runtime.text_output import json_text
from .stats import Timeline, counter_gap, jain_index
from .what_if_results import ModelError, ReplayedClient, ReplayedRun, WhatIfDocument

ALIASES = {"policy": "scheduler", "pool": "max_total_tokens"}


# --- settings -----------------------------------------------------------------------------------


def changed_config(config: Config, words: Sequence[str]) -> tuple[Config, frozenset[str]]:
    """The config with each NAME=VALUE, and the names that were given. Raises `UsageError`."""
    changes: dict[str, Any] = {}
    for word in words:
        name, equals, value = word.partition("=")
        name = ALIASES.get(name.replace("-", "_"), name.replace("-", "_"))
        if not equals or name not in DECISIVE:
            known = ", ".join(sorted({*DECISIVE, *ALIASES} - set(ALIASES.values())))
            raise UsageError(f"--against {word!r} is not NAME=VALUE", f"names: {known}")
        if isinstance(getattr(config, name), tuple):
            changes[name] = (*changes.get(name, ()), value)
        else:
            changes[name] = value
    try:
        changed = msgspec.convert(msgspec.to_builtins(config) | changes, Config, strict=False)
        changed.scheduling()
    except msgspec.ValidationError as error:
        raise UsageError(f"--against {' '.join(words)}: {error}") from error
    return changed, frozenset(changes)


# --- runs ---------------------------------------------------------------------------------------


def observe(path: Path, recording: Path | None) -> Observation:
    """Plays a log as it was. Raises `OperatorError` if it is not a log, or if this version decides
    otherwise."""
    seen: Observation | None = None
    recorder: ReplayRecorder | None = None
    try:
        for number, line in read_log(path):
            if isinstance(line, Started):
                seen = Observation(line)
                if recording is not None:
                    player = seen.player
                    recorder = ReplayRecorder(
                        recording, player.core, player.times, line.at, "a replay"
                    )
                continue
            assert seen is not None
            if recorder is not None:
                recorder.advance(line.at)
            try:
                decided = seen.play_line(line)
            except Differs as error:
                raise OperatorError(f"line {number} of {path}: {error}", _OTHER_VERSION) from error
            if isinstance(line, Decided) and decided is not None and decided != line:
                difference = first_difference(line, decided)
                raise OperatorError(f"line {number} of {path}: {difference}", _OTHER_VERSION)
            if recorder is not None:
                recorder.show_effects(seen.effects)
                if seen.answered is not None:
                    recorder.show_step(seen.answered)
    finally:
        if recorder is not None:
            recorder.close("as it was")
    assert seen is not None
    return seen


_OTHER_VERSION = "a log is compared by the version that wrote it: loraconsole replay FILE"


def simulate(
    seen: Observation,
    times: StepTimes,
    config: Config,
    changed: frozenset[str],
    recording: Path | None = None,
) -> Simulation:
    """Runs the log with another config; `changed` names its differing settings."""
    recorder: ReplayRecorder | None = None

    def watch(simulation: Simulation, now: float) -> None:
        if recorder is not None:
            recorder.show_effects(simulation.shown)
            if simulation.answered is not None:
                recorder.show_step(simulation.answered)
            recorder.advance(now)

    simulation = Simulation(seen, times, config, changed, watch)
    if recording is not None:
        start = seen.start.at
        recorder = ReplayRecorder(
            recording, simulation.core, simulation.times, start, "a simulation"
        )
    try:
        simulation.run()
    finally:
        if recorder is not None:
            recorder.close("simulated")
    return simulation


# --- results ------------------------------------------------------------------------------------


def summarise_run(times: RequestTimes, base: str, steps: int, preemptions: int) -> ReplayedRun:
    """A run's figures; `base` is the base model's name."""
    requests = list(times.by_id.values())
    until = max((request.arrived_at for request in requests), default=0.0)
    by_adapter: dict[str, list[RequestTime]] = {}
    for request in requests:
        by_adapter.setdefault(request.adapter or base, []).append(request)
    adapters = {
        name: ReplayedClient(**_figures(own, until)) for name, own in sorted(by_adapter.items())
    }
    tokens = [at for request in requests for at in request.tokens]
    first = min((request.arrived_at for request in requests), default=0.0)
    seconds = max(tokens, default=first) - first
    gaps = [
        (later - earlier) * 1e3
        for request in requests
        for earlier, later in zip(request.tokens, request.tokens[1:], strict=False)
    ]
    return ReplayedRun(
        **_figures(requests, until),
        seconds=round(seconds, 3),
        tokens_s=round(len(tokens) / seconds, 2) if seconds else 0.0,
        inter_token_ms_p50=_percentile(gaps, 0.5),
        inter_token_ms_p99=_percentile(gaps, 0.99),
        steps=steps,
        preemptions=preemptions,
        jain=jain_index([client.service for client in adapters.values()]),
        counter_gap=round(counter_gap([_timeline(each, base) for each in requests]), 2),
        adapters=adapters,
    )


def _figures(requests: Sequence[RequestTime], until: float) -> dict[str, Any]:
    ttft = [(r.tokens[0] - r.arrived_at) * 1e3 for r in requests if r.tokens]
    waits = [(r.admitted_at - r.arrived_at) * 1e3 for r in requests if r.admitted_at is not None]
    served = sum(
        amount
        for request in requests
        for at, amount in _timeline(request, "").service()
        if at <= until
    )
    return {
        "requests": len(requests),
        "answered": sum(request.is_answered for request in requests),
        "refused": sum(request.end == REFUSED for request in requests),
        "aborted": sum(request.end == ABORTED for request in requests),
        "ttft_ms_p50": _percentile(ttft, 0.5),
        "ttft_ms_p99": _percentile(ttft, 0.99),
        "wait_ms_p50": _percentile(waits, 0.5),
        "wait_ms_p99": _percentile(waits, 0.99),
        "output_tokens": sum(len(request.tokens) for request in requests),
        "service": round(served, 2),
    }


def _timeline(request: RequestTime, base: str) -> Timeline:
    return Timeline(
        model=request.adapter or base,
        sent=request.arrived_at,
        chunks=list(request.tokens),
        input_len=request.num_prompt,
        tokens=len(request.tokens),
        error=request.reason,
    )


def _percentile(values: Iterable[float], share: float) -> float | None:
    found = percentile(sorted(values), share)
    return None if found is None else round(found, 3)


def _relative(there: float | None, here: float | None) -> float | None:
    return None if not there or here is None else round(here / there - 1, 4)


def compare_runs(
    path: Path, words: Sequence[str], recordings: tuple[Path, Path] | None = None
) -> WhatIfDocument:
    """Both runs of a log, and the simulation's error. `recordings`: of the log as it was, and of
    the changed one. Raises `OperatorError`."""
    start = next(read_log(path))[1]
    assert isinstance(start, Started)
    config, changed = changed_config(start.config, words)
    real, other = recordings or (None, None)
    seen = observe(path, real)
    times = StepTimes.fit(seen.samples)
    if times is None:
        raise OperatorError(f"no step was answered in {path}", "there is nothing to learn from")
    base = start.config.model_name
    core = seen.player.core
    recorded = summarise_run(
        seen.player.times, base, core.scheduler.step, core.scheduler.preemptions
    )

    def summary(done: Simulation) -> ReplayedRun:
        scheduler = done.core.scheduler
        return summarise_run(done.times, base, scheduler.step, scheduler.preemptions)

    other_run = summary(simulate(seen, times, config, changed, other))
    same = summary(simulate(seen, times, start.config, frozenset()))
    names = ("constant", "decode_row", "prompt_token", "adapter", "thousand_kv_tokens")
    return WhatIfDocument(
        file=str(path),
        against={name: getattr(config, name) for name in sorted(changed)},
        was={name: getattr(start.config, name) for name in sorted(changed)},
        recorded=recorded,
        unchanged=same,
        changed=other_run,
        model=ModelError(
            step_error=round(times.error, 4),
            ttft_p50_error=_relative(recorded.ttft_ms_p50, same.ttft_ms_p50),
            ttft_p99_error=_relative(recorded.ttft_ms_p99, same.ttft_ms_p99),
            tokens_s_error=_relative(recorded.tokens_s, same.tokens_s) or 0.0,
            step_prices_ms={
                name: round(price * 1e3, 4) for name, price in zip(names, times.prices, strict=True)
            },
            steps_measured=len(seen.samples),
            failures=seen.failures,
        ),
    )


@ends_with_its_reader()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--against", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--record", type=Path, nargs=2, metavar="FILE")
    given = parser.parse_args()
    set_up_log()
    try:
        found = compare_runs(given.file, given.against, given.record and tuple(given.record))
    except OperatorError as error:
        print(json.dumps({"error": error.what, "hint": error.hint}))
        sys.exit(2 if isinstance(error, UsageError) else 1)
    print(json_text(msgspec.json.encode(to_document(found))))


if __name__ == "__main__":
    main()

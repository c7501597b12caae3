"""What a month brings to processes that never end: names that come once. None of it is kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from loraconsole.console.state.store import UNLOADED_KEPT, Store
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import (
    AdapterReply,
    AdapterState,
    AdapterTable,
    AdapterView,
    SchedulerSettings,
)
from loraconsole.pipeline.router.router import Router
from loraconsole.pipeline.schedule import policies
from loraconsole.pipeline.schedule.policies import VirtualTokenCounter
from loraconsole.pipeline.schedule.waiting_queue import WaitingQueue

START = 1_800_000_000.0


def of_client(name: str) -> Any:
    """What the fair policy reads of a sequence."""
    return SimpleNamespace(adapter=SimpleNamespace(name=name))


def table(at: float, *names: str) -> AdapterTable:
    rows = [
        AdapterView(name, "/a", AdapterState.GPU, "", START, 1, "", 8, (), 0, 0, 0, 0, 0, 0, 0)
        for name in ("", *names)
    ]
    return AdapterTable(at, "base", tuple(rows[1:]), rows[0])


def test_a_process_closes_its_sockets_to_consoles_that_have_ended(tmp_path: Path) -> None:
    router = Router(Config(run=str(tmp_path)))
    router.outbox("server")
    for number in range(300):
        inbox = tmp_path / f"console-{number}.inbox"
        inbox.touch()
        router.outbox(f"console-{number}").send(
            AdapterReply(order="o", status=200, text="", at=0.0, name="")
        )
        if number:  # the first one stays
            inbox.unlink()
    router.outbox("detokenizer")
    peers = {stats.peer for stats in router.socket_stats()}
    assert peers == {"router", "server", "detokenizer", "console-0"}
    router.context.linger = 0
    router.close()


def test_of_the_recordings_of_spans_the_newest_are_kept(tmp_path: Path) -> None:
    router = Router(Config(run=str(tmp_path)))
    for day in range(1, 9):
        path = tmp_path / "spans" / f"202611{day:02}-120000" / "router.jsonl"
        router._record(path)
        router._stop_recording()
    kept = sorted(path.name for path in (tmp_path / "spans").iterdir())
    assert kept == [f"202611{day:02}-120000" for day in (5, 6, 7, 8)]
    router.close()


def test_the_fair_policy_forgets_clients_that_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies, "MOST_CLIENTS", 16)
    policy, queue = VirtualTokenCounter(SchedulerSettings(policy="vtc_fair")), WaitingQueue()
    policy.on_arrival(of_client("busy"), queue)
    for number in range(500):
        policy.on_arrival(of_client(f"guest-{number}"), queue)
        policy.on_tokens([of_client(f"guest-{number}"), of_client("busy")])
    assert len(policy.counters) <= 17 and len(policy._costs) <= 17
    assert policy.counters["busy"] == 1000.0, "a counter that is in use was dropped"


def test_a_console_drops_the_rates_of_adapters_that_are_gone() -> None:
    store = Store("/run/here")
    for number in range(4 * UNLOADED_KEPT):
        at = START + 2.0 * number
        store.fold_message(table(at, "stays", f"guest-{number}"), at)
    kept = len(store._adapter_tokens), len(store._adapter_series)
    assert max(kept) <= UNLOADED_KEPT + 3
    assert {"", "stays"} <= store._adapter_series.keys()
    assert len(store._adapter_history._known) <= 4 * UNLOADED_KEPT

"""What an adapter costs, and what happened to it, from the router's tables."""

from __future__ import annotations

import msgspec
import pytest

from loraconsole.console.state.adapter_costs import CostShares, cost_shares
from loraconsole.console.state.adapter_history import MARKS_KEPT, AdapterHistory
from loraconsole.console.state.store import Store
from loraconsole.pipeline.messages import AdapterState, AdapterTable, AdapterView


def view(name: str, **fields: object) -> AdapterView:
    made = AdapterView(*(name, "/a", AdapterState.GPU, "", 0.0, 1, "", 8, (), 0, 0, 0, 0), 0, 0, 0)
    changed: AdapterView = msgspec.structs.replace(made, **fields)
    return changed


def table(*views: AdapterView, at: float = 10.0, **base: object) -> AdapterTable:
    return AdapterTable(at, "base", views, view("", **base))


def test_shares_add_up_to_one_over_the_base_and_all_adapters() -> None:
    found = cost_shares(
        table(
            view("sql", recent_device_us=600, recent_tokens=30, device_us=900, output_tokens=5),
            view("chat", recent_device_us=100, recent_tokens=10, device_us=50, prompt_tokens=15),
            recent_device_us=300,
            device_us=50,
        )
    )
    assert found["sql"] == CostShares(0.6, 0.75, 0.9, 0.25)
    assert sum(share.device or 0.0 for share in found.values()) == pytest.approx(1.0)
    assert sum(share.run_tokens or 0.0 for share in found.values()) == pytest.approx(1.0)


def test_generations_share_their_counters_and_count_once() -> None:
    old = view("sql", generation=1, device_us=500, state=AdapterState.DRAINING)
    found = cost_shares(table(view("sql", generation=2, device_us=500), old, device_us=500))
    assert found["sql"].run_device == 0.5


def test_without_work_or_without_times_no_share_is_said() -> None:
    assert cost_shares(table(view("sql")))["sql"] == CostShares()
    found = cost_shares(table(view("sql", recent_tokens=5, output_tokens=5)))
    assert found["sql"] == CostShares(None, 1.0, None, 1.0)


def test_the_costliest_is_first_now_then_over_the_run_then_as_the_router_lists() -> None:
    store = Store("/run")
    store.fold_message(
        table(
            view("idle"),
            view("once", device_us=10_000),
            view("now", recent_device_us=500, device_us=700),
            recent_device_us=100,
            device_us=90_000,
        ),
        10.0,
    )
    assert [row.view.name for row in store.board(10.0).costliest] == ["now", "", "once", "idle"]


def test_a_table_tells_what_happened_since_the_last_one() -> None:
    history = AdapterHistory()
    history.fold_table(table(view("sql", placements=3, hits=9), at=10.0))
    assert not history.marks, "what happened before this console was attached has no time"
    history.fold_table(table(view("sql", placements=3, evictions=1, hits=9), at=12.0))
    history.fold_table(table(view("sql", placements=4, evictions=1, hits=10), at=14.0))
    history.fold_table(table(view("sql", placements=4, evictions=1, hits=11), at=14.5))
    new = view("sql", placements=5, evictions=1, hits=12, generation=2)
    old = view("sql", placements=5, evictions=1, hits=12, state=AdapterState.DRAINING)
    history.fold_table(table(new, old, at=17.0))
    history.fold_table(table(new, old, at=18.0))
    failed = msgspec.structs.replace(new, state=AdapterState.FAILED)
    history.fold_table(table(failed, at=19.0))
    assert history.marks["sql"] == (
        *((12.0, "evict"), (14.0, "load"), (14.0, "hit")),
        *((17.0, "generation"), (17.0, "load"), (17.0, "hit"), (19.0, "fail")),
    )


def test_a_restarted_router_counts_anew_and_that_is_no_load() -> None:
    history = AdapterHistory()
    history.fold_table(table(view("sql", placements=3, hits=9), at=10.0))
    history.fold_table(table(view("sql", placements=1), at=12.0))
    assert not history.marks
    history.fold_table(table(view("sql", placements=2), at=14.0))
    assert history.marks["sql"] == ((14.0, "load"),)


def test_marks_and_names_are_bounded() -> None:
    history = AdapterHistory()
    for number in range(2 * MARKS_KEPT):
        at = 10.0 + number
        history.fold_table(table(view("sql", placements=number), view(f"t{number}"), at=at))
    assert len(history.marks["sql"]) == MARKS_KEPT
    assert len(history._known) < 100

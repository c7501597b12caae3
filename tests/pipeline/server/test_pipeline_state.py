"""What the server answers from: the newest table, orders that no table shows yet, sync points."""

from loraconsole.pipeline.messages import (
    AdapterReply,
    AdapterState,
    AdapterTable,
    AdapterView,
    SyncPoint,
)
from loraconsole.pipeline.server.gateway.pipeline_state import PipelineState

NAMES = ("worker-0", "router")
NOW = 1000.0


def view(name: str, state: AdapterState = AdapterState.GPU) -> AdapterView:
    return AdapterView(name, "/a", state, "", NOW, 1, "", 8, (), 0, 0, 0, 0, 0, 0, 0)


def table(*views: AdapterView, at: float = NOW) -> AdapterTable:
    return AdapterTable(at, "base", views, view(""))


def reply(*views: AdapterView, at: float) -> AdapterReply:
    return AdapterReply(order="o", status=200, text="", at=at, name="b", adapters=views)


def states(pipeline: PipelineState) -> dict[str, AdapterState]:
    assert pipeline.adapters is not None
    return {known.name: known.state for known in pipeline.adapters.adapters}


def test_tables_never_go_back_in_time() -> None:
    pipeline = PipelineState(NAMES)
    newer = table(view("a"), at=NOW + 1)
    pipeline.fold_message(newer)
    pipeline.fold_message(table(at=NOW))
    assert pipeline.adapters is newer


def test_an_order_shows_before_the_next_table() -> None:
    pipeline = PipelineState(NAMES)
    pipeline.fold_message(table(view("a"), view("b")))
    pipeline.fold_reply(reply(at=NOW + 1))
    assert states(pipeline) == {"a": AdapterState.GPU}
    pipeline.fold_reply(reply(view("b", AdapterState.HOST), at=NOW + 2))
    assert states(pipeline) == {"a": AdapterState.GPU, "b": AdapterState.HOST}
    pipeline.fold_message(table(view("a"), at=NOW + 1))  # made before the order was carried out
    assert states(pipeline) == {"a": AdapterState.GPU, "b": AdapterState.HOST}


def test_a_reply_older_than_the_table_changes_nothing() -> None:
    pipeline = PipelineState(NAMES)
    pipeline.fold_message(table(view("a"), view("b"), at=NOW + 1))
    pipeline.fold_reply(reply(at=NOW))
    assert set(states(pipeline)) == {"a", "b"}


def test_sync_points_of_the_first_worker_are_summed() -> None:
    pipeline = PipelineState(NAMES)
    for rank, wait_us in ((0, 500_000), (1, 9_000_000), (0, 250_000)):
        pipeline.fold_message(SyncPoint(rank, "warm-up", NOW, wait_us))
    assert pipeline.sync_waits == {"warm-up": (2, 0.75)}

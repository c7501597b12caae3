"""Spans of the whole ring: over HTTP, by the command line, and from the start."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families
from ring import BASE, Ring

pytestmark = pytest.mark.processes

QUESTION = "Tell me about the sea."
PROCESSES = {"worker-0", "detokenizer", "router", "server"}


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("p"), "--dtype", "float32", "--sync-points") as ring:
        yield ring


def totals(ring: Ring, *path: str) -> dict[tuple[str, str], dict[str, Any]]:
    """What `loraconsole spans` says, by process and name."""
    rows = json.loads(ring.cli("spans", *path, "--json").stdout)
    return {(row["process"], row["name"]): row for row in rows}


def test_spans_of_all_processes_start_and_stop_over_http(ring: Ring) -> None:
    post = ring.http.post
    before = ring.answer("pirate", QUESTION)
    idle = post("/profiler/stop").json()
    assert idle["directory"] is None and not any(p["is_on"] for p in idle["processes"].values())
    started = post("/profiler/start", json={"layers": True}).json()
    assert started["status"] == "ok" and set(started["processes"]) == PROCESSES
    assert all(p["is_on"] and p["layers"] for p in started["processes"].values())
    again = post("/profiler/start", json={"layers": True}).json()
    assert again["directory"] == started["directory"]
    assert ring.answer("pirate", QUESTION) == before
    stopped = post("/profiler/stop").json()
    assert stopped["directory"] == started["directory"]
    told = {(n, p["path"], p["spans"]) for n, p in stopped["processes"].items()}
    for name, path, count in told:
        lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
        assert Path(path).name == f"{name}.jsonl" and count
        assert sum(line["ph"] == "X" for line in lines) == count
    assert post("/profiler/stop").json() == stopped
    ring.answer("pirate", QUESTION)
    assert post("/profiler/stop").json()["spans"] == stopped["spans"]
    found = totals(ring, stopped["directory"])
    steps = found["router", "_decode_batch"]["count"] + found["router", "_prefill_batch"]["count"]
    assert steps >= 16
    for name in ("launch", "wait", "forward"):
        assert abs(found["worker-0", name]["count"] - steps) <= 2
    assert found["worker-0", "attention"]["count"] == found["worker-0", "mlp"]["count"]
    assert found["worker-0", "layer_{}"]["count"] == 30 * found["worker-0", "forward"]["count"]
    inside = found["worker-0", "attention"]["total_ms"] + found["worker-0", "mlp"]["total_ms"]
    assert inside <= found["worker-0", "layer_{}"]["total_ms"] + 1
    assert found["server", "deliver"]["count"] and found["detokenizer", "detokenize"]["count"]


def test_the_command_line_starts_stops_and_makes_one_trace(ring: Ring, tmp_path: Path) -> None:
    started = json.loads(ring.cli("profile", "start", "--json").stdout)
    (directory,) = started["directories"]
    ring.answer(BASE, QUESTION)
    assert f"spans in {directory}" in ring.cli("profile", "stop").stdout
    text = ring.cli("spans", "--trace", str(tmp_path / "trace.json")).stdout
    assert "_add_token_id_to_req" in text and "layer_{}" not in text
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    assert {e["args"]["name"] for e in events if e["name"] == "process_name"} == PROCESSES
    shown = totals(ring)
    assert len([e for e in events if e["ph"] == "X"]) == sum(r["count"] for r in shown.values())


def test_waits_before_prompts_are_published(ring: Ring) -> None:
    ring.answer(BASE, QUESTION)
    families = text_string_to_metric_families(ring.http.get("/metrics").text)
    counts = {
        sample.labels["name"]: sample.value
        for family in families
        for sample in family.samples
        if sample.name == "loraconsole_sync_points_total"
    }
    assert counts["prefill: before"] >= 1


def test_bad_orders_are_refused(ring: Ring, tmp_path: Path) -> None:
    answer = ring.http.post("/profiler/start", json={"layers": "all"})
    assert answer.status_code == 400 and "layers" in answer.text
    done = ring.cli("spans", str(tmp_path), check=False)
    assert done.returncode == 1 and f"no spans in {tmp_path}" in done.stderr
    (tmp_path / "x.jsonl").write_text("no span\n")
    done = ring.cli("spans", str(tmp_path), check=False)
    assert done.returncode == 1 and "line 1 of" in done.stderr


def test_from_the_start_the_start_itself_is_recorded(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    run = tmp_path_factory.mktemp("p")
    options = ("--profile", "--bmm", "--no-prefetch", "--dtype", "float32")
    with Ring(run, *options, "--api-key", "key") as ring:
        assert ring.http.post("/profiler/stop").status_code == 403
        ring.http.headers["authorization"] = "Bearer key"
        assert ring.answer("pirate", QUESTION) != ring.answer(BASE, QUESTION)
        ring.kill("detokenizer")
        ring.wait_ready()
        ring.cli("down")
        found = totals(ring)
    assert found["worker-0", "init_model(rank_id_{})"]["count"] == 1
    for name in ("wait_to_model_ready", "clean_up", "_remove_batch"):
        assert found["router", name]["count"] >= 1
    assert found["worker-0", "load_adapter({})"]["count"] >= 1
    assert found["detokenizer", "detokenize"]["count"] >= 16

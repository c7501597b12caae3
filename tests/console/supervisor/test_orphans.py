"""A supervisor dies: its ring goes on, starts the next one, and can be stopped."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ring import BASE, Ring
from waiting import wait_for

from loraconsole.console.supervisor.lock import is_running
from loraconsole.console.supervisor.orphans import ensure_supervised, is_orphaned
from loraconsole.console.supervisor.ring_processes import find_processes
from loraconsole.pipeline.handover.ring_record import start_ticks

pytestmark = pytest.mark.processes

RING = ("worker-0", "detokenizer", "router", "server")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("o"), "--dtype", "float32") as ring:
        yield ring


def stream(ring: Ring, pieces: list[str]) -> None:
    """Reads a greedy answer into `pieces`."""
    body = {"model": BASE, "prompt": "Once upon a time", "max_tokens": 80, "temperature": 0}
    with httpx.stream(
        "POST",
        f"{ring.url}/v1/completions",
        json=body | {"ignore_eos": True, "stream": True},
        timeout=60,
        trust_env=False,
    ) as response:
        if response.status_code != 200:
            pieces.append(f"{response.status_code} {response.read().decode()}")
        for line in response.iter_lines():
            if line.startswith("data: {"):
                event: dict[str, Any] = json.loads(line[6:])
                pieces.append(event["choices"][0]["text"] if "choices" in event else str(event))


def kill_supervisor(ring: Ring) -> int:
    """Kills it; returns once another answers."""
    before = ring.supervisor()
    os.kill(before, signal.SIGKILL)
    wait_for(lambda: ensure_supervised(ring.run) and ring.supervisor() not in (0, before))
    ring.snapshot()
    return before


def rows(ring: Ring) -> dict[str, dict[str, Any]]:
    return {row["name"]: row for row in ring.snapshot()["processes"]["processes"]}


def test_streams_and_processes_do_not_notice_that_the_supervisor_is_killed(ring: Ring) -> None:
    undisturbed: list[str] = []
    stream(ring, undisturbed)
    before, pieces = ring.snapshot(), list[str]()
    reading = threading.Thread(target=stream, args=(ring, pieces))
    reading.start()
    wait_for(lambda: pieces)
    kill_supervisor(ring)
    reading.join(60)
    assert "".join(pieces) == "".join(undisturbed)
    after = ring.snapshot()
    pids = [row["pid"] for row in before["processes"]["processes"]]
    assert [row["pid"] for row in after["processes"]["processes"]] == pids
    assert after["started_at"] == before["started_at"]  # of the pipeline
    assert after["processes"]["supervisor_restarts"] == 1
    assert "supervisor restarted; it adopted 4 processes" in [e["text"] for e in after["events"]]
    assert "adopted" in ring.cli("logs", "supervisor", "-n", "5").stdout
    wait_for(lambda: ring.snapshot()["adapters"])  # what the ring publishes is heard again
    ring.wait_ready()


def test_counts_stopped_processes_and_history_survive_the_supervisor(ring: Ring) -> None:
    ring.kill("detokenizer")
    wait_for(lambda: rows(ring)["detokenizer"]["falls"] and rows(ring)["detokenizer"]["pid"])
    ring.wait_ready()
    ring.cli("stop", "server")
    before, events = rows(ring), len(ring.snapshot()["events"])
    kill_supervisor(ring)
    after = rows(ring)
    kept = ("pid", "restarts", "falls", "fell_at", "fall_reason", "held", "started_at", "since")
    for name in RING:
        assert [after[name][key] for key in kept] == [before[name][key] for key in kept]
    assert after["server"]["reason"] == "stopped by an operator"
    assert len(ring.snapshot()["events"]) >= events
    status = ring.cli("status", check=False)
    assert "INCOMPLETE (server stopped by an operator)" in status.stdout
    assert "is READY" in ring.cli("start", "server").stdout
    ring.wait_ready()  # at the same address, which the new supervisor has inherited


@pytest.mark.parametrize("name", ["detokenizer", "worker-0", "router"])
def test_a_process_that_dies_with_the_supervisor_is_restarted(ring: Ring, name: str) -> None:
    ring.wait_ready()
    undisturbed: list[str] = []
    stream(ring, undisturbed)
    pieces: list[str] = []
    reading = threading.Thread(target=stream, args=(ring, pieces))
    reading.start()
    wait_for(lambda: pieces)
    falls, pid = rows(ring)[name]["falls"], rows(ring)[name]["pid"]
    os.kill(ring.supervisor(), signal.SIGKILL)
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: ensure_supervised(ring.run) and rows(ring)[name]["falls"] == falls + 1)
    reading.join(60)
    assert "".join(pieces) == "".join(undisturbed)
    ring.wait_ready()
    assert rows(ring)[name]["pid"] != pid and not start_ticks(pid)
    assert rows(ring)[name]["fall_reason"] == "killed by a signal"
    assert find_processes(ring.run)[name] == [rows(ring)[name]["pid"]]  # it was started once


def test_an_adopted_process_that_dies_is_restarted(ring: Ring) -> None:
    kill_supervisor(ring)
    before = rows(ring)["server"]
    ring.kill("server")
    wait_for(lambda: rows(ring)["server"]["pid"] not in (0, before["pid"]))
    ring.wait_ready()
    assert rows(ring)["server"]["falls"] == before["falls"] + 1


def test_a_process_that_is_not_recorded_is_adopted(ring: Ring) -> None:
    """The supervisor may die between starting a process and writing that down."""
    supervisor, pid = ring.supervisor(), rows(ring)["detokenizer"]["pid"]
    os.kill(supervisor, signal.SIGSTOP)  # so that nothing is written any more
    record = ring.run / "processes.json"
    record.write_text(record.read_text().replace(f"{pid},", "0,"))
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: ensure_supervised(ring.run) and ring.supervisor() not in (0, supervisor))
    wait_for(lambda: rows(ring)["detokenizer"]["state"] == "ready")
    assert rows(ring)["detokenizer"]["pid"] == pid
    assert {name: len(pids) for name, pids in find_processes(ring.run).items()} == dict.fromkeys(
        RING, 1
    )


def test_a_ring_without_a_supervisor_is_found_and_not_started_twice(ring: Ring) -> None:
    os.kill(ring.supervisor(), signal.SIGKILL)
    assert is_running(ring.run)  # be it before or after the next one has the lock
    refused = ring.cli("up", "--port", "0", check=False)
    assert refused.returncode == 1 and "a pipeline already runs in" in refused.stderr
    wait_for(lambda: not is_orphaned(ring.run))
    ring.wait_ready()
    assert {len(pids) for pids in find_processes(ring.run).values()} == {1}


def test_the_run_directory_is_made_again(ring: Ring) -> None:
    pieces: list[str] = []
    reading = threading.Thread(target=stream, args=(ring, pieces))
    reading.start()
    wait_for(lambda: pieces)
    subprocess.run(["rm", "-rf", str(ring.run)], check=True)
    ring.cli("status", check=False)  # whatever it finds, it is no traceback
    sockets = [f"{name}.inbox" for name in (*RING, "supervisor")]
    wait_for(lambda: all((ring.run / name).exists() for name in sockets))
    reading.join(60)
    assert len("".join(pieces)) > 100
    wait_for(lambda: "was removed while the pipeline runs" in ring.cli("logs").stdout)
    ring.kill("detokenizer")  # which needs config, model and every socket again
    wait_for(lambda: rows(ring)["detokenizer"]["falls"])
    ring.wait_ready()
    kill_supervisor(ring)
    ring.wait_ready()


def test_the_run_directory_is_made_again_without_a_supervisor(ring: Ring) -> None:
    supervisor = ring.supervisor()
    os.kill(supervisor, signal.SIGSTOP)  # so that it makes nothing
    subprocess.run(["rm", "-rf", str(ring.run)], check=True)
    os.kill(supervisor, signal.SIGKILL)
    wait_for(lambda: (ring.run / "server.inbox").exists() and ensure_supervised(ring.run))
    ring.kill("detokenizer")  # which needs config, model and every socket again
    wait_for(lambda: rows(ring)["detokenizer"]["falls"])
    ring.wait_ready()
    assert ring.answer(BASE, "hi")


def test_hangups_are_ignored_by_all(ring: Ring) -> None:
    ring.snapshot()
    pids = {name: ring.process(name)["pid"] for name in rows(ring) if name != "fetch"}
    pids["supervisor"] = ring.supervisor()
    for name, pid in pids.items():
        os.kill(pid, signal.SIGHUP)
        wait_for(lambda name=name: "SIGHUP is ignored" in ring.cli("logs", name).stdout)
    assert ring.supervisor() == pids.pop("supervisor")
    assert {name: ring.process(name)["pid"] for name in pids} == pids


# --- ends


def test_down_ends_a_ring_whose_supervisors_die_young(tmp_path: Path) -> None:
    """Five in a minute; the ring serves on without one. `down` lets one start, or ends all."""
    with Ring(tmp_path / "r", "--dtype", "float32") as ring:
        pids = [row["pid"] for row in rows(ring).values() if row["pid"]]
        log = ring.run / "logs" / "server.log"
        (ring.run / "config.json").rename(ring.run / "config.aside")  # none can start
        os.kill(ring.supervisor(), signal.SIGKILL)
        told = "no new supervisor: 5 died within a minute"
        logs = [log.with_name(f"{name}.log") for name in RING]
        wait_for(lambda: any(told in path.read_text() for path in logs), 60)
        assert ring.http.get("/v1/models").status_code == 200
        (ring.run / "config.aside").rename(ring.run / "config.json")
        assert ring.cli("down", "--now").returncode == 0
        assert not any(start_ticks(pid) for pid in pids)
        left = {path.name for path in ring.run.iterdir()}
        assert left <= {"config.json", "history", "lock", "logs", "model", "warm-up-0.json"}


def test_down_ends_a_ring_that_can_have_no_supervisor(tmp_path: Path) -> None:
    with Ring(tmp_path / "r", "--dtype", "float32") as ring:
        pids = [row["pid"] for row in rows(ring).values() if row["pid"]]
        supervisor = ring.supervisor()
        config = ring.run / "config.json"
        config.write_text(config.read_text().replace('"port"', '"prot"'))  # refused by a new one
        os.kill(supervisor, signal.SIGKILL)
        done = ring.cli("down", "--now", check=False)
        assert done.returncode == 0, done.stderr
        assert not any(start_ticks(pid) for pid in pids)
        assert not list(ring.run.glob("*.inbox"))


def test_a_stop_goes_on_when_the_supervisor_dies_in_the_midst_of_it(tmp_path: Path) -> None:
    with Ring(tmp_path / "r", "--dtype", "float32") as ring:
        pieces: list[str] = []
        reading = threading.Thread(target=stream, args=(ring, pieces))
        reading.start()
        wait_for(lambda: pieces)
        supervisor = ring.supervisor()
        command = [sys.executable, "-P", "-m", "loraconsole.console", "down"]
        down = subprocess.Popen([*command, "--run", str(ring.run)])
        wait_for(lambda: ring.http.get("/health").status_code == 503)  # it drains
        os.kill(supervisor, signal.SIGKILL)
        assert down.wait(60) == 0
        reading.join(60)
        assert len("".join(pieces)) > 100
        assert not find_processes(ring.run)


def test_a_ring_that_is_killed_as_a_whole_stays_dead(tmp_path: Path) -> None:
    with Ring(tmp_path / "r", "--dtype", "float32") as ring:
        pids = [ring.supervisor(), *(row["pid"] for row in rows(ring).values() if row["pid"])]
        for pid in pids:  # the supervisor first: one of the others may start another before it dies
            os.kill(pid, signal.SIGKILL)
        wait_for(lambda: not is_running(ring.run))
        time.sleep(1.0)  # a supervisor that finds no process to adopt has ended by then
        wait_for(lambda: not is_running(ring.run))
        assert ring.cli("status", check=False).returncode == 3
        with Ring(ring.run, "--dtype", "float32") as again:
            assert again.answer(BASE, "hi")

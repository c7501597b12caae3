"""Event logs of a real ring, decided again: the same, or the line that differs."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pseudo_terminal import SEQUENCES, PseudoTerminal
from ring import ADAPTERS, Ring, shipped
from waiting import wait_for

from loraconsole.console.client.recording import RecordingPlayer, fold_recorded
from loraconsole.console.client.tape import Tape
from loraconsole.console.state.store import Store
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import PROTOCOL, Abort, BatchView
from loraconsole.pipeline.router.event_lines import Got
from loraconsole.pipeline.router.event_log import EventLog
from loraconsole.pipeline.schedule.pets import LatencyTable

pytestmark = pytest.mark.processes

SECRET = "the word that is in no log"


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What a router wrote down while all that can happen to it did."""
    options = ("--event-log", "--dtype", "float32", "--max-running", "3", "--max-total-tokens")
    with Ring(tmp_path_factory.mktemp("r"), *options, "1500", "--api-key", "hidden") as ring:
        ring.http.headers["authorization"] = "Bearer hidden"
        stop = threading.Event()
        done: list[str] = []
        ring.cli("adapters", "load", "again", str(shipped("pirate")))
        ring.cli("adapters", "verify", "again")

        def ask(number: int) -> None:
            while not stop.is_set():
                name = [*ADAPTERS, ""][number % 5]
                text = f"{SECRET} {'sea ' * (number * 5)}"
                answer = ring.chat(name, text, max_tokens=4 + number * 3, temperature=0)
                if answer.status_code == 200:
                    done.append(name)
                else:  # who asks again at once keeps the worker from starting
                    stop.wait(0.3)

        def serve() -> None:
            """Until six more requests are answered."""
            enough = len(done) + 6
            wait_for(lambda: len(done) >= enough, 60)

        with ThreadPoolExecutor(10) as pool:
            asking = [pool.submit(ask, number) for number in range(10)]
            try:
                for policy in ("vtc_fair", "merged", "pets", "cluster"):
                    ring.cli("scheduler", policy, "--fair-weight", "pirate=2")
                    serve()
                ring.cli("scheduler", "credit", "--max-per-adapter", "1")
                ring.cli("adapters", "pin", "again")
                ring.kill("worker-0")
                wait_for(lambda: ring.http.get("/health").status_code != 200)
                ring.wait_ready()
                ring.cli("adapters", "reload", "again")
                ring.cli("adapters", "unload", "again")
                ring.cli("scheduler", "abort", "--slo-seconds", "0.8", "--max-wait-tokens", "10")
                serve()
                ring.kill("detokenizer")
                ring.wait_ready()
                ring.cli("scheduler", "lifo", "--max-wait-tokens", "0")
                serve()
            finally:  # else the pool waits forever for those that ask
                stop.set()
            for one in asking:
                one.result()
        ring.wait_idle()
        idle_at = time.time()
        wait_for(lambda: ring.snapshot()["adapters"]["at"] > idle_at)  # all hits are in the list
        [path] = (ring.run / "events").iterdir()
        kept = tmp_path_factory.mktemp("logs") / path.name
        kept.write_bytes(path.read_bytes())
        kept.with_name("adapters.json").write_text(ring.cli("adapters", "list", "--json").stdout)
        assert path.stat().st_mode & 0o077 == 0, "readable by others"
    yield kept


def replay(path: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "replay", str(path), *flags]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_log_of_a_ring_is_decided_again_alike(log: Path) -> None:
    done = replay(log)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all the same" in done.stdout
    document = json.loads(replay(log, "--json").stdout)
    assert document["same"] and document["lines"] == len(lines_of(log))
    decisions = [d for line in lines_of(log) for d in line.get("decisions", ())]
    assert sum(d["is_admitted"] for d in decisions) > 30
    assert any(d.get("reason") for d in decisions), (
        "no request had to wait, or the reason is missing"
    )


def test_a_log_tells_the_arithmetic_and_no_secret(log: Path) -> None:
    text = log.read_text()
    assert SECRET not in text and "hidden" not in text
    for line in lines_of(log):
        for decision in line.get("decisions", ()):
            if decision["is_admitted"]:
                pages = decision["need"] + decision["adapters"]
                assert 0 < pages <= decision["total"]
                assert decision["running"] < 3 and decision["budget"] > 0
    shown = replay(log, "--show").stdout
    assert " admitted (holds " in shown and " waits: batch is full" in shown
    assert " given up" in shown


def test_a_changed_decision_is_found_by_its_line(log: Path, tmp_path: Path) -> None:
    lines = log.read_text().splitlines(keepends=True)
    at = next(n for n, line in enumerate(lines) if n > 50 and '"is_admitted":true' in line)
    decided = json.loads(lines[at])
    decided["decisions"][0]["need"] += 1
    changed = tmp_path / "changed.jsonl"
    changed.write_text("".join([*lines[:at], json.dumps(decided) + "\n", *lines[at + 1 :]]))
    done = replay(changed)
    assert done.returncode == 1
    assert f"line {at + 1}: decisions was Decision(" in done.stdout
    gone = next(n for n, line in enumerate(lines) if '"event":"asked"' in line)
    changed.write_text("".join([*lines[:gone], *lines[gone + 1 :]]))
    done = replay(changed)
    found = re.search(r"line (\d+)", done.stdout)
    # Wherever the request that is missing in the log is missed first.
    assert done.returncode == 1 and found and int(found[1]) > gone, done.stdout


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        (lambda lines: [*lines[:9], lines[9][:20]], "line 10 of .* is cut off"),
        (lambda lines: [*lines[:5], "{}\n"], "line 6 of .* is not an event: .*event"),
        (lambda lines: [*lines[:5], "rubbish\n"], "line 6 of .* is not an event"),
        (lambda lines: lines[1:], "does not begin with the router's start"),
        (
            lambda lines: [lines[0].replace('"format":2', '"format":99'), *lines[1:]],
            "has format 99, this is 2\n  replay it with the loraconsole that wrote it",
        ),
        (
            # As versions before wrote it, with a setting that is none any more.
            lambda lines: [
                lines[0]
                .replace(f'"protocol":{PROTOCOL},', "")
                .replace('"no_prefetch"', '"prefetch":false,"no_prefetch"'),
                *lines[1:],
            ],
            f"has protocol 1, this is {PROTOCOL}\n  replay it with the loraconsole that wrote it",
        ),
        (lambda lines: [], "is empty"),
    ],
)
def test_a_damaged_log_is_refused_with_its_line(
    log: Path, tmp_path: Path, damage: Any, what: str
) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text("".join(damage(log.read_text().splitlines(keepends=True))))
    done = replay(path)
    assert done.returncode == 1
    assert re.search(what, done.stderr), done.stderr
    assert "Traceback" not in done.stderr
    missing = replay(tmp_path / "none.jsonl")
    assert missing.returncode == 1 and "cannot read" in missing.stderr


def test_a_log_ends_at_its_size_and_says_so_and_few_are_kept(tmp_path: Path) -> None:
    for incarnation in range(6):
        log = EventLog()
        config = Config(run=str(tmp_path), api_key="hidden")
        log.open(tmp_path, incarnation, config, LatencyTable(), 1.0, max_bytes=3000)
        line = Got(at=1.0, message=Abort("r-1", "client gone"))
        while log.is_open:
            log.write_line(line)
        log.write_line(line)
    files = sorted(tmp_path.iterdir())
    assert [path.name for path in files] == [f"router-{n}.jsonl" for n in range(2, 6)]
    assert all(path.stat().st_size < 3100 for path in files)
    assert lines_of(files[0])[-1] == {"event": "full", "at": 1.0}
    done = replay(files[0])
    assert done.returncode == 0 and "the file was full" in done.stdout, done.stderr


def test_a_replay_is_recorded_as_the_ring_was(log: Path, tmp_path: Path) -> None:
    """What the console's books say of the recording that a replay makes."""
    recording = tmp_path / "recording"
    command = [sys.executable, "-P", "-m", "loraconsole.pipeline.router.replay", str(log)]
    done = subprocess.run([*command, "--record", str(recording)], capture_output=True, text=True)
    assert "all the same" in done.stdout, done.stderr
    asked = [line["at"] for line in lines_of(log) if line["event"] == "asked"]
    with closing(Tape(recording)) as tape:
        assert tape.start == asked[0] > lines_of(log)[0]["at"], "it begins at the first request"
        clock = 0.0
        player = RecordingPlayer(tape, clock=lambda: clock)
        clock, heard = 1e6, []
        while not player.is_over:
            heard += list(player.take())
    times = [message.at for message in heard]
    assert times == sorted(times)
    store = Store("replay")
    for message in heard:
        fold_recorded(store, message)
    board = store.board(times[-1])
    assert board.condition.word == "READY"
    states = {row.name: row.state.value for row in board.processes}
    assert (states["router"], states["supervisor"], states["worker-0"]) == (
        "ready",
        "ready",
        "stopped",
    )
    assert board.events[-1].text == "the log ends here: all the same"
    assert board.router is not None and board.router.steps > 100
    assert {row.view.name for row in board.adapters} >= set(ADAPTERS)
    said = json.loads(log.with_name("adapters.json").read_text())["adapters"]
    hits = {row.view.name: row.view.hits for row in board.adapters if row.view.name in ADAPTERS}
    assert hits == {row["name"]: row["hits"] for row in said if row["name"] in ADAPTERS}
    assert any(hits.values()), "no request found its adapter in the pool"
    views = [each.message for each in heard if isinstance(each.message, BatchView)]
    assert any(view.phase == "decode" for shown in views for view in shown.requests)
    assert max(len(shown.requests) for shown in views) >= 5
    assert all(0 <= shown.at - v.arrived_at < 60 for shown in views for v in shown.requests)
    # The server's side: a first token for each answer, at the time of the step that gave it.
    server = store.board(times[-1]).server
    assert server is not None and server.requests == len(asked)
    answered = sum(server.ttft)
    assert 0 < answered <= len(asked)
    assert sum(server.inter_token) == server.output_tokens - answered


def test_a_replay_that_nobody_reads_any_more_ends_quietly(log: Path) -> None:
    command = f"{sys.executable} -P -m loraconsole.console replay {log} --show"
    script = f"set -o pipefail; {command} | head -n 1"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, ""), done
    assert len(done.stdout.splitlines()) == 1


def test_the_console_says_that_it_shows_a_replay_and_where_it_stands(log: Path) -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "replay", str(log), "--console"]
    terminal = PseudoTerminal([*command, "--speed", "50"])
    try:
        # Without its first word: that may stand there already, of the event before.
        terminal.wait_for("log ends here")
        told = b"".join(data for _, data in terminal.chunks)
        seen = SEQUENCES.sub(b"", told).decode(errors="replace")
        assert " REPLAY " in seen and " run" in seen and " x50" in seen
        terminal.wait_for("end ")
        assert "● live" not in terminal.text.splitlines()[0]
        terminal.send("q")
        assert terminal.exit_code() == 0
    finally:
        terminal.close()

"""`loraconsole bench` on a real ring, and on stand-ins for servers that do things their own way."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from ring import ADAPTERS, BASE, Ring
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from loraconsole.pipeline.bench import workload
from loraconsole.pipeline.bench.bench import Watcher, main, make_parser, print_medians
from loraconsole.pipeline.bench.load_client import Client
from loraconsole.pipeline.bench.results import ResultFile, ResultRow, RunConfig, read_rows
from loraconsole.pipeline.bench.stats import Live, Timeline, summarise
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.runtime.wording import counted
from loraconsole.pipeline.schedule.pets import LatencyTable

SHORT = ("--input-range", "8", "20", "--output-range", "4", "8")
OPEN = ("bench", "--workload", "slora", "--rate", "20", "--duration", "1", *SHORT)


def rows_of(ring: Ring, *flags: str) -> list[dict[str, Any]]:
    return json.loads(ring.cli(*flags, "--json").stdout)


def test_an_open_loop_serves_sloras_requests_to_the_token(ring: Ring) -> None:
    (row,) = rows_of(ring, *OPEN)
    load = workload.slora(
        num_adapters=4,
        alpha=1,
        rate=20,
        cv=1,
        duration=1,
        input_range=(8, 20),
        output_range=(4, 8),
    )
    result = row["result"]
    assert result["completed"] == result["requests"] == 20
    assert result["input_tokens"] == sum(a.input_len for a in load.arrivals)
    assert result["output_tokens"] == sum(a.output_len for a in load.arrivals)
    asked = Counter(ADAPTERS[a.adapter or 0] for a in load.arrivals)
    assert {name: found["requests"] for name, found in result["adapters"].items()} == asked
    assert result["seconds"] >= load.arrivals[-1].at  # nobody was asked before its time
    assert result["slo_attainment"] > 0
    assert row["config"]["parameters"]["num_adapters"] == 4
    ring.wait_idle()


def test_a_closed_loop_keeps_so_many_and_no_more_under_way(ring: Ring) -> None:
    flags = ("--workload", "punica", "--popularity", "distinct", "--rate", "6", "--duration", "1")
    (row,) = rows_of(ring, "bench", *flags, *SHORT[3:], "--concurrency", "2", "--adapters", "3")
    result = row["result"]
    assert result["completed"] == 6
    assert result["late_ms_max"] < 1  # a closed loop is never behind
    assert [found["requests"] for found in result["adapters"].values()] == [2, 2, 2]
    assert row["config"]["concurrency"] == 2


def test_a_chat_asks_all_models_in_turn(ring: Ring) -> None:
    rows = rows_of(ring, "bench", "--concurrency", "1", "5", "--max-tokens", "4", "--rounds", "2")
    assert [(r["config"]["concurrency"], r["config"]["round"]) for r in rows] == [
        (1, 0),
        (5, 0),
        (1, 1),
        (5, 1),
    ]
    assert set(rows[1]["result"]["adapters"]) == {BASE, *ADAPTERS}
    assert rows[1]["result"]["output_tokens"] == 20


def test_no_adapters_is_the_base_model(ring: Ring) -> None:
    (row,) = rows_of(ring, *OPEN, "--adapters", "0", "--requests", "3")
    assert set(row["result"]["adapters"]) == {BASE}
    assert row["result"]["requests"] == 3


def test_a_script_is_served_as_written(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "list.toml"
    lists = "ind = [1, -1]\ninput_lens = [30, 8]\noutput_lens = [3, 5]\nintervals = [0, 0.1]"
    path.write_text(lists)
    (row,) = rows_of(ring, "bench", "--workload", "script", "--file", str(path))
    assert (row["result"]["input_tokens"], row["result"]["output_tokens"]) == (38, 8)
    assert set(row["result"]["adapters"]) == {BASE, ADAPTERS[1]}


def test_a_suite_runs_its_points_over_the_adapters_there_are(ring: Ring) -> None:
    flags = ("--suite", "cv", "--adapters", "3", "--scale", "10", "--duration", "1")
    rows = rows_of(ring, "bench", *flags, *SHORT, "--requests", "3")
    points = [row["config"]["parameters"] for row in rows]
    assert [(p["cv"], p["num_adapters"], p["rate"]) for p in points] == [
        (cv, 3, 20) for cv in (1, 2, 4, 6, 8)
    ]
    assert [row["result"]["completed"] for row in rows] == [3] * 5


def test_a_trace_keeps_its_lengths_and_is_played_faster(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:17:03.0,40,3\n2023-11-16 18:18:03.0,30,4\n2023-11-16 19:18:03.0,20,5\n"
    )
    flags = ("--workload", "trace", "--file", str(path), "--speed", "100", "--duration", "2")
    (row,) = rows_of(ring, "bench", *flags)
    result = row["result"]
    assert (result["input_tokens"], result["output_tokens"]) == (70, 7)
    assert result["seconds"] >= 0.6


@pytest.mark.parametrize(
    "flags, status, told",
    [
        (("--workload", "slora", "--adapters", "9"), 1, "has 4 adapters, 9 are needed"),
        (("--suite", "a10g-num-adapter"), 1, "has 4 adapters, 20 are needed"),
        (("--suite", "nonsense"), 2, "suites are a10g-num-adapter"),
        (("--workload", "trace"), 2, "--workload trace needs --file"),
        (("--suite", "cv", "--rate", "2"), 2, "--rate is not for suite"),
        (("--max-tokens", "9", "--workload", "slora"), 2, "--max-tokens is not for slora"),
        (("--cv", "2"), 2, "give a --rate"),
        (("--workload", "trace", "--file", "/nowhere.csv"), 2, "cannot read /nowhere.csv"),
        (("--workload", "slora", "--rate", "0"), 2, "0 is not above 0"),
        (("--label", "a", "--label", "b"), 2, "2 --label for 1 --url"),
        (("--out", "/dev/full"), 1, "cannot write /dev/full: No space left"),
        (("--out", "/nowhere/a.jsonl"), 1, "cannot write /nowhere/a.jsonl"),
        (("--url", "http://127.0.0.1:9"), 1, "does not list its models"),
    ],
)
def test_what_cannot_be_run_says_why(
    ring: Ring, flags: tuple[str, ...], status: int, told: str
) -> None:
    done = ring.cli("bench", *flags, check=False)
    assert (done.returncode, done.stdout) == (status, "")
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_that_was_cut_short_goes_on_where_it_was(ring: Ring, tmp_path: Path) -> None:
    out = tmp_path / "a.jsonl"
    flags = (*OPEN, "--requests", "4", "--label", "ours", "--out", str(out))
    ring.cli(*flags, "--rounds", "2")
    first, second, _ = out.read_bytes().split(b"\n")
    out.write_bytes(first + b"\n" + second[:50])
    rows = rows_of(ring, *flags, "--rounds", "3")
    assert [row["config"]["round"] for row in rows] == [0, 1, 2]
    lines = out.read_bytes().splitlines()
    assert len(lines) == 3
    assert lines[0] == first  # measured once
    assert lines[1] != second  # and this anew
    ring.cli(*flags, "--rounds", "3", "--again")
    assert len(out.read_bytes().splitlines()) == 6


def test_ctrl_c_keeps_what_is_finished_and_leaves_nothing_running(
    ring: Ring, tmp_path: Path
) -> None:
    out = tmp_path / "a.jsonl"
    command = [sys.executable, "-P", "-m", "loraconsole.console", "bench", "--out", str(out)]
    command += ["--workload", "slora", "--rate", "20", "--duration", "1", "--rounds", "500", *SHORT]
    bench = subprocess.Popen(
        command,
        env={**os.environ, "LORACONSOLE_RUN": str(ring.run)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (out.exists() and b"result" in out.read_bytes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    bench.send_signal(signal.SIGINT)
    stdout, stderr = bench.communicate(timeout=60)
    assert bench.returncode == 130
    finished = len(read_rows(out))
    assert f"stopped; {counted(finished, 'run', 'are')} finished" in stderr
    assert "Traceback" not in stderr
    assert "slora n=4" in stdout  # the table of what there is
    ring.wait_idle()


def test_a_profile_has_every_batch_and_length_of_base_and_ranks(ring: Ring, tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    flags = ("--profile-batches", "1", "2", "--profile-lengths", "16", "48")
    ring.cli("bench", "--profile", str(path), *flags, "--profile-rounds", "2")
    LatencyTable.decode(path.read_bytes())  # as --scheduler pets reads it
    table = msgspec.json.decode(path.read_bytes())
    assert list(table["rank"]) == ["8"]
    for cells in (table["base"], table["rank"]["8"]):
        assert {batch: list(by_length) for batch, by_length in cells.items()} == {
            "1": ["16", "48"],
            "2": ["16", "48"],
        }
        assert all(ms > 0 for by_length in cells.values() for ms in by_length.values())
        assert cells["2"]["48"] > cells["1"]["16"]  # six times the tokens


def test_a_prompt_that_is_too_long_to_profile_is_told(ring: Ring, tmp_path: Path) -> None:
    flags = ("--profile-lengths", "16", "100000", "--profile-batches", "1")
    done = ring.cli("bench", "--profile", str(tmp_path / "p.json"), *flags, check=False)
    assert done.returncode == 1
    assert "1 prompts of 100000 tokens" in done.stderr


# --- other servers ------------------------------------------------------------------------------


def answer(*events: dict[str, Any]) -> StreamingResponse:
    lines = [f"data: {json.dumps(event)}\n\n" for event in events]
    return StreamingResponse(iter([*lines, "data: [DONE]\n\n"]), media_type="text/event-stream")


WORD: dict[str, Any] = {"choices": [{"index": 0, "text": "a", "finish_reason": None}]}


async def models(request: Request) -> Response:
    names = ("base", "whole", "refuses", "gives-up", "breaks")
    rows = [{"id": n, "parent": "base" if n != "base" else None} for n in names]
    return JSONResponse({"object": "list", "data": rows})


async def completions(request: Request) -> Response:
    """Text prompts alone, no usage, and each model a habit of its own."""
    body = await request.json()
    if not isinstance(body["prompt"], str):
        return JSONResponse({"error": {"message": "prompt: not a string"}}, 422)
    match body["model"]:
        case "refuses":
            return PlainTextResponse("come again", 429)
        case "gives-up":
            return JSONResponse({"error": {"message": "aborted: would start after 9 s"}}, 503)
        case "breaks":
            return answer(WORD, {"error": {"message": "the worker died"}})
    return answer(*[WORD] * len(body["prompt"].split()))


async def chat(request: Request) -> Response:
    body = await request.json()
    words = len(body["messages"][0]["content"].split())
    return answer(WORD, {"choices": [], "usage": {"completion_tokens": 7, "prompt_tokens": words}})


@contextlib.contextmanager
def serving(**posts: Callable[[Request], Awaitable[Response]]) -> Iterator[str]:
    """URL of a server that is not ours."""
    routes = [Route("/v1/models", models)]
    routes += [Route(f"/v1/{at}", handler, methods=["POST"]) for at, handler in posts.items()]
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(Starlette(routes=routes), log_config=None, lifespan="off")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listening],), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def takes_text() -> Iterator[str]:
    with serving(completions=completions) as url:
        yield url


@pytest.fixture(scope="module")
def takes_chats() -> Iterator[str]:
    with serving(**{"chat/completions": chat}) as url:
        yield url


def bench(*flags: str) -> list[dict[str, Any]]:
    command = [sys.executable, "-P", "-m", "loraconsole.pipeline.bench.bench", *flags, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


FIVE = (*OPEN[1:], "--requests", "5")
FIVE_PROMPTS = sum(
    arrival.input_len
    for arrival in workload.slora(
        num_adapters=1, alpha=1, rate=20, cv=1, duration=1, input_range=(8, 20)
    ).arrivals[:5]
)


@pytest.mark.processes
def test_prompts_go_as_text_where_ids_are_not_taken(takes_text: str) -> None:
    (row,) = bench("--url", takes_text, "--adapters", "1", *FIVE)
    assert row["result"]["completed"] == 5
    # It answers each word with a chunk, and without usage a chunk counts as a token.
    assert row["result"]["input_tokens"] == row["result"]["output_tokens"] == FIVE_PROMPTS


@pytest.mark.processes
def test_prompts_go_as_chats_where_nothing_else_is_taken(takes_chats: str) -> None:
    (row,) = bench("--url", takes_chats, "--adapters", "1", *FIVE)
    assert row["result"]["completed"] == 5
    assert row["result"]["input_tokens"] == FIVE_PROMPTS
    assert row["result"]["output_tokens"] == 5 * 7


@pytest.mark.processes
def test_several_servers_are_measured_in_turns(takes_text: str, takes_chats: str) -> None:
    servers = ("--url", takes_text, "--label", "one", "--url", takes_chats, "--label", "two")
    rows = bench(*servers, *FIVE, "--rounds", "2")
    assert [row["config"]["server"] for row in rows] == ["one", "two"] * 2


@pytest.mark.processes
def test_refusals_aborts_and_broken_streams_are_told_apart(takes_text: str) -> None:
    (row,) = bench(
        *("--url", takes_text, "--workload", "punica", "--popularity", "distinct"),
        *("--rate", "8", "--duration", "1", "--concurrency", "1"),
    )
    result = row["result"]
    assert {name: found["completed"] for name, found in result["adapters"].items()} == {
        "whole": 2,
        "refuses": 0,
        "gives-up": 0,
        "breaks": 0,
    }
    assert (result["completed"], result["aborted"], result["errors"]) == (2, 2, 4)
    assert result["slo_attainment"] == 0.25


@pytest.mark.processes
def test_a_server_that_fails_every_request_is_an_error(takes_text: str) -> None:
    command = [sys.executable, "-P", "-m", "loraconsole.pipeline.bench.bench", "--url", takes_text]
    command += ["--workload", "slora", "--requests", "2", "--model", "refuses"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "429 come again" in done.stderr


# --- result files, and their comparison ---------------------------------------------------------


def row(server: str = "a", load: float = 1.0, number: int = 0, seconds: float = 2.0) -> ResultRow:
    config = RunConfig(
        server=server,
        workload="slora",
        parameters={"num_adapters": 4, "cv": load},
        concurrency=None,
        slo_seconds=6.0,
        round=number,
    )
    return ResultRow(config, summarise([Timeline("x", 0.0, [1.0], tokens=1)], seconds))


def test_a_result_file_gives_back_what_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    file = ResultFile(path)
    rows = [row(), row(number=1), row("b")]
    for one in rows:
        file.append(one)
    assert ResultFile(path).rows == rows
    assert ResultFile(path).by_config()[rows[2].config.key()] == rows[2]
    assert path.read_bytes().count(b"\n") == 3  # opening again leaves no trace


@pytest.mark.parametrize("kept", range(0, 400, 7))
def test_a_torn_last_line_is_cut_off_wherever_it_is_torn(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "a.jsonl"
    whole, torn = (msgspec.json.encode(one) for one in (row(), row(number=1)))
    path.write_bytes(whole + b"\n" + torn[:kept])
    assert len(torn) > 400
    file = ResultFile(path)
    file.append(row("b"))
    assert read_rows(path) == [row(), row("b")]


def test_a_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(msgspec.json.encode(row()))
    ResultFile(path).append(row("b"))
    assert read_rows(path) == [row(), row("b")]


@pytest.mark.parametrize("line", [b"{}", b"[1]", b"what?", b'{"config": 1, "result": 2}'])
def test_a_line_of_something_else_is_named_and_the_file_left_alone(
    tmp_path: Path, line: bytes
) -> None:
    path = tmp_path / "a.jsonl"
    content = msgspec.json.encode(row()) + b"\n" + line + b"\n" + msgspec.json.encode(row("b"))
    path.write_bytes(content)
    with pytest.raises(OperatorError, match="line 2: not a result of loraconsole bench"):
        ResultFile(path)
    assert path.read_bytes() == content


def compare(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "loraconsole.console", "bench", "compare"]
    return subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )


def write(path: Path, *rows: ResultRow) -> Path:
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in rows))
    return path


@pytest.mark.processes
def test_two_files_are_compared_by_medians_and_what_only_one_has_is_named(tmp_path: Path) -> None:
    a = write(
        tmp_path / "before.jsonl", *(row(number=i, seconds=s) for i, s in enumerate((2, 4, 9)))
    )
    b = write(tmp_path / "after.jsonl", row(seconds=1.0), row(load=8.0))
    done = compare(a, b, "--metric", "throughput")
    assert done.returncode == 0
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("requests/s "))
    assert line.split() == ["requests/s", "0.25", "1", "4.00x"]
    assert "before" in done.stdout and "after" in done.stdout
    assert "not in before: slora n=4 cv=8" in done.stdout
    before, after = (line for line in done.stdout.splitlines() if "━" in line)
    assert after.count("━") == pytest.approx(4 * before.count("━"), abs=2)


@pytest.mark.processes
def test_a_comparison_is_had_as_json_too(tmp_path: Path) -> None:
    a = write(tmp_path / "before.jsonl", row(seconds=2.0), row(number=1, seconds=4.0))
    b = write(tmp_path / "after.jsonl", row(seconds=1.0))
    (document,) = json.loads(compare(a, b, "--json").stdout)
    assert document["parameters"] == {"num_adapters": 4, "cv": 1.0}
    assert document["sides"]["before"]["throughput"] == (0.5 + 0.25) / 2
    assert document["sides"]["after"]["throughput"] == 1.0


def test_the_help_does_not_ask_for_a_url_and_without_one_the_module_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "[--url URL]" in make_parser().format_usage()
    monkeypatch.setattr("sys.argv", ["bench", "--requests", "1"])
    with pytest.raises(SystemExit, match="2"):
        main()
    assert "required: --url" in capsys.readouterr().err


@pytest.mark.processes
def test_servers_of_one_file_are_compared_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", row("ours"), row("theirs", seconds=4.0))
    done = compare(path, "--all")
    assert done.returncode == 0
    assert "0.50x" in done.stdout
    head = next(line for line in done.stdout.splitlines() if "ours" in line)
    assert head.split() == ["ours", "theirs", "ratio"]


@pytest.mark.processes
def test_files_with_nothing_in_common_are_told_so(tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", row(load=1.0))
    b = write(tmp_path / "b.jsonl", row(load=2.0))
    done = compare(a, b)
    assert done.returncode == 1
    assert "no load was run twice" in done.stderr
    assert "slora n=4 cv=1" in done.stderr and "slora n=4 cv=2" in done.stderr


@pytest.mark.processes
def test_a_file_that_is_not_there_is_an_operators_error(tmp_path: Path) -> None:
    done = compare(tmp_path / "none.jsonl")
    assert done.returncode == 1
    assert "cannot read" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.processes
def test_what_cannot_be_compared_is_told_in_json_too(tmp_path: Path) -> None:
    done = compare(tmp_path / "none.jsonl", "--json")
    assert done.returncode == 1
    assert "none.jsonl" in json.loads(done.stdout)["error"]
    a = write(tmp_path / "a.jsonl", row(load=1.0))
    b = write(tmp_path / "b.jsonl", row(load=2.0))
    assert "no load was run twice" in json.loads(compare(a, b, "--json").stdout)["error"]


def test_why_requests_failed_is_printed_under_the_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    failed = msgspec.structs.replace(row().result, errors=12, error="503 worker-0 is stopped")
    print_medians([msgspec.structs.replace(row(), result=failed)])
    assert (
        "12 requests failed, most often by:\n  503 worker-0 is stopped" in capsys.readouterr().out
    )


def test_a_run_that_is_watched_tells_of_answers_that_still_come(
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = Client("http://nowhere")
    client.streamed = 7  # of a run before
    watcher = Watcher("chat 8 at once", 1, 1, 2, client)
    out = ""

    async def wait_for_rows(count: int) -> None:
        nonlocal out
        async with asyncio.timeout(10.0):
            while out.count("\n") < count:
                await asyncio.sleep(0.01)
                out += capsys.readouterr().out

    async def watch() -> None:
        telling = asyncio.create_task(watcher.tell_forever())
        await wait_for_rows(1)
        client.streamed += 100
        await wait_for_rows(2)
        telling.cancel()

    asyncio.run(watch())
    watcher.ended(Timeline("base", 0.0, [0.2, 0.3], tokens=2))
    watcher.ended(Timeline("base", 0.0, [0.2, 0.3], tokens=2))
    out += capsys.readouterr().out
    told = [msgspec.json.decode(row, type=Live) for row in out.splitlines()]
    assert [(now.done, now.streamed) for now in told] == [(0, 0), (0, 100), (2, 100)]
    assert told[0].seconds < told[1].seconds <= told[2].seconds
    assert told[2].tokens == 4 and told[2].ttft_ms[0] == 200.0

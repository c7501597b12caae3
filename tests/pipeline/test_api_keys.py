"""Keys on their way to a process: files, the environment, pipes and command lines."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.pretty import pretty_repr
from ring import Ring, tiny_model
from waiting import wait_for

from loraconsole.console.client.bench_run import BenchPlan, BenchRun
from loraconsole.console.client.http_client import Http
from loraconsole.pipeline.api_keys import key_pipe, read_key, without_keys
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.config_flags import config_from_flags
from loraconsole.pipeline.errors import UsageError

KEY, ADMIN = "sesame-open-yourself", "operator-only"


def test_a_key_is_read_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "key"
    file.write_text(f"{KEY}\n")
    assert read_key(f"@{file}", "--api-key") == KEY
    assert read_key(KEY, "--api-key") == KEY
    settings = tmp_path / "settings.toml"
    settings.write_text(f'api-key = "@{file}"\n')
    monkeypatch.setenv("LORACONSOLE_ADMIN_KEY", f"@{file}")
    config = config_from_flags({"config": str(settings)})
    assert (config.api_key, config.admin_key) == (KEY, KEY)
    assert config_from_flags({"api_key": f"@{file}"}).api_key == KEY


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file"),
        (b"", "is empty"),
        (b"one\ntwo", "one line"),
        (b"\xff\xfe", "UTF-8"),
        ("öffne".encode(), "ASCII"),
        (b"one two", "spaces"),
        (b"x" * 5000, "4096"),
    ],
)
def test_a_file_without_a_key_is_refused(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=reason) as raised:
        config_from_flags({"admin_key": f"@{file}"})
    assert raised.value.what.startswith("--admin-key: ")


def test_a_child_gets_no_key_in_its_environment() -> None:
    given = {"HOME": "/", "LORACONSOLE_API_KEY": "a", "LORACONSOLE_BENCH_API_KEY": "b"}
    assert without_keys(given | {"LORACONSOLE_ADMIN_KEY": "c"}) == {"HOME": "/"}


@pytest.mark.processes
def test_a_child_reads_its_key_from_a_pipe() -> None:
    program = (
        "import sys; from loraconsole.pipeline.api_keys import read_key;"
        "sys.stdout.buffer.write(read_key(sys.argv[2], sys.argv[1]).encode())"
    )
    with key_pipe(KEY) as (words, descriptors):
        assert KEY not in words
        command = [sys.executable, "-P", "-c", program, *words]
        done = subprocess.run(command, pass_fds=descriptors, capture_output=True, check=True)
    assert done.stdout.decode() == KEY
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptors[0])


def test_no_representation_shows_a_key() -> None:
    config = Config(api_key=KEY, admin_key=ADMIN)
    for shown in (repr(config), pretty_repr(config), f"{config}", repr(Http("http://x", KEY))):
        assert KEY not in shown and ADMIN not in shown
    assert "model='SmolLM2-135M-Instruct'" in repr(config)
    assert "api_key=''" in repr(Config())


HOLDS = (
    "from loraconsole.pipeline.api_keys import hide_key_arguments;"
    "hide_key_arguments(); print('hidden', flush=True); input()"
)


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize(
    "words",
    [
        ("up", "--api-key", KEY, "--admin-key", ADMIN, "--port", "1"),
        ("up", f"--api-key={KEY}", f"--adm={ADMIN}", "--port", "1"),
        ("up", "--api-key", KEY, "--api-key", ADMIN, "--port", "1"),
    ],
)
def test_keys_on_a_command_line_are_overwritten(words: tuple[str, ...]) -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDS, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"hidden\n"
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(b"\n")
    assert KEY.encode() not in shown and ADMIN.encode() not in shown
    assert shown.endswith(b"\0--port\x001\0") and b"*****" in shown
    assert process.returncode == 0


@pytest.mark.processes
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_file_of_a_key_stays_on_the_command_line() -> None:
    process = subprocess.Popen(
        [sys.executable, "-P", "-c", HOLDS, "--api-key", "@/run/key", "--admin-key=@/run/admin"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        process.stdout.readline()
        shown = Path(f"/proc/{process.pid}/cmdline").read_bytes()
        process.communicate(b"\n")
    assert shown.endswith(b"--api-key\0@/run/key\0--admin-key=@/run/admin\0")


# --- a pipeline whose keys come from the environment --------------------------------------------


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    patch = pytest.MonkeyPatch()
    patch.setenv("LORACONSOLE_API_KEY", KEY)
    patch.setenv("LORACONSOLE_ADMIN_KEY", ADMIN)
    try:
        with Ring(
            tmp_path_factory.mktemp("r"), "--dummy", "--model", str(model), "--event-log"
        ) as ring:
            patch.undo()
            yield ring
    finally:
        patch.undo()


@pytest.mark.processes
def test_no_process_has_a_key_in_its_environment_or_command_line(guarded: Ring) -> None:
    rows = guarded.snapshot()["processes"]["processes"]
    pids = {row["pid"] for row in rows if row["pid"]}
    parent = Path(f"/proc/{min(pids)}/stat").read_text().rpartition(")")[2].split()[1]
    for pid in (*pids, int(parent)):
        for name in ("environ", "cmdline"):
            held = Path(f"/proc/{pid}/{name}").read_bytes()
            assert b"loraconsole" in held
            assert KEY.encode() not in held and ADMIN.encode() not in held


@pytest.mark.processes
def test_a_key_is_in_no_file_but_the_settings(guarded: Ring) -> None:
    wrong = guarded.http.get("/v1/models", headers={"authorization": b"Bearer wrong-guess"})
    assert wrong.status_code == 401
    right = guarded.http.get("/v1/models", headers={"authorization": f"Bearer {KEY}".encode()})
    assert right.status_code == 200
    wait_for(lambda: "wrong or missing key" in guarded.cli("logs").stdout)
    metrics = guarded.http.get("/metrics").text
    assert "loraconsole_key_refusals_total 1.0" in metrics
    files = [path for path in guarded.run.rglob("*") if path.is_file() and not path.is_symlink()]
    files = [path for path in files if "model" not in path.relative_to(guarded.run).parts]
    assert {path.suffix for path in files} >= {".log", ".json", ".jsonl"}
    said = guarded.cli("status", "--json").stdout + guarded.cli("logs").stdout + metrics
    for secret in (KEY, ADMIN, "wrong-guess"):
        holders = [path.name for path in files if secret.encode() in path.read_bytes()]
        assert holders == ([] if secret == "wrong-guess" else ["config.json"])
        assert secret not in said
    assert guarded.run.joinpath("config.json").stat().st_mode & 0o777 == 0o600
    answer = guarded.cli("prompt", "hi", "--max-tokens", "2", check=False)
    assert "API key" not in answer.stderr  # the console read it from the settings


@pytest.mark.processes
def test_a_benchmark_gets_the_key_of_its_pipeline(guarded: Ring, tmp_path: Path) -> None:
    flags = ("--requests", "2", "--concurrency", "1", "--rounds", "1", "--max-tokens", "2")
    done = guarded.cli("bench", *flags, "--json")
    assert '"errors":0' in done.stdout.replace(" ", "")
    refused = guarded.cli("bench", *flags, "--api-key", "wrong", check=False)
    assert refused.returncode == 1 and "401" in refused.stderr
    file = tmp_path / "key"
    file.write_text(KEY)
    guarded.cli("bench", *flags, "--api-key", f"@{file}")


@pytest.mark.processes
def test_a_benchmark_of_the_console_has_the_key_from_a_pipe(guarded: Ring, tmp_path: Path) -> None:
    plan = BenchPlan(requests=2, at_once=1, tokens=(2, 3))
    run = BenchRun(plan, guarded.url, KEY, "it", tmp_path / "results" / "out.jsonl")
    asyncio.run(run.run(lambda: None))
    assert run.error == ""
    assert KEY not in run.command and "/dev/fd" not in run.command
    assert run.live is not None and run.live.done == 2
    assert run.out.stat().st_mode & 0o777 == 0o600

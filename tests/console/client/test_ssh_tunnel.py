"""`attach --ssh`: the console here, the pipeline there, through an ssh that only forwards within
this machine; what the real one carries is the same bytes."""

import asyncio
import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from hearing import listening, until
from ring import Ring, tiny_model
from stage import screen_text, wait

from loraconsole.console.client.pipeline_clock import seconds_ahead
from loraconsole.console.client.remote import NotRunning
from loraconsole.console.client.ssh_tunnel import SshTunnel
from loraconsole.console.mock.server import mock_pipeline
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.messages import AdapterReply, PinAdapter

COMMAND = shlex.join([sys.executable, "-P", "-m", "loraconsole.console"])


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One on the path, that leads to this machine."""
    script = tmp_path / "ssh"
    fake = Path(__file__).parents[2] / "fake_ssh.py"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} {fake} "$@"\n')
    script.chmod(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.fixture
def far(ssh: None) -> Iterator[Config]:
    """A mock pipeline over there."""
    with mock_pipeline(5, boots=False) as config:
        yield config


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    model = tiny_model(tmp_path_factory.mktemp("tiny"))
    options = ("--dummy", "--dtype", "float32", "--model", str(model), "--tp", "2")
    with Ring(tmp_path_factory.mktemp("r"), *options, "--api-key", "sesame") as ring:
        yield ring


@pytest.mark.processes
def test_a_pipeline_behind_ssh_is_seen_obeys_and_is_found_again(far: Config) -> None:
    heard: list[AdapterReply] = []

    async def main(tunnel: SshTunnel) -> None:
        async with listening(tunnel.config, tunnel.source, on_reply=heard.append) as (
            telemetry,
            store,
        ):
            board = await until(store, lambda b: b.version != "" and b.condition.word == "READY")
            assert board.server is not None
            async with httpx.AsyncClient(base_url=board.server.url, trust_env=False) as client:
                body = {"model": "pirate", "messages": [{"role": "user", "content": "refuse"}]}
                answer = await client.post("/v1/chat/completions", json=body)
            assert answer.status_code == 429  # the mock's own refusal, from over there
            telemetry.send_order(
                PinAdapter(order="1", reply_to=telemetry.inbox_name, name="sql", pinned=True)
            )
            await until(store, lambda _: bool(heard))
            assert heard[0].status == 200
            recording = Path(far.run) / "spans" / "20260102-000000"
            recording.mkdir(parents=True)
            (recording / "router.jsonl").write_text('{"ph":"X"}\n')
            telemetry.ask_spans("")
            board = await until(store, lambda b: b.spans is not None and bool(b.spans.files))
            assert board.spans is not None and board.spans.recording == recording.name
            board = await until(store, lambda b: bool(b.requests))
            telemetry.ask_text(board.requests[0].view.request_id, 0)
            await until(store, lambda b: b.opened is not None)
            dropped = tunnel._ssh
            assert dropped is not None
            dropped.send_signal(signal.SIGKILL)  # the line drops
            await until(store, lambda _: tunnel._ssh is not dropped)
            await until(store, lambda b: (b.link_age_s or 9.0) < 0.6)
            taken = store.taken
            await until(store, lambda _: store.taken > taken + 50)

    with SshTunnel("there", far.run, COMMAND) as tunnel:
        near = Path(tunnel.config.run)
        assert near.stat().st_mode & 0o777 == 0o700
        asyncio.run(main(tunnel))
        keeper = tunnel._ssh
    assert keeper is not None and keeper.poll() is not None
    assert not near.exists()
    assert not list(Path(far.run).glob("console-*"))


@pytest.mark.processes
@pytest.mark.skipif(
    torch.cuda.device_count() == 1, reason="each rank takes a GPU where there is one"
)
@pytest.mark.parametrize("key", ["sesame", ""])
@pytest.mark.usefixtures("ssh")
def test_all_ranks_are_seen_and_prompts_bring_the_key(
    guarded: Ring, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real pipeline of two ranks, which lets nobody ask without the key."""
    monkeypatch.setenv("LORACONSOLE_API_KEY", key)

    async def main(tunnel: SshTunnel) -> None:
        app = ConsoleApp(tunnel.config, label="there", clock=tunnel.clock, source=tunnel.source)
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await wait(lambda: len(app.board.workers) == 2 and app.board.server is not None)
            assert {worker.rank for worker in app.board.workers} == {0, 1}
            await pilot.press("8")
            await wait(lambda: "worker-1" in screen_text(app))
            await pilot.press("down", "down", "down", "r")
            await wait(lambda: bool(app.screen.query("Static.body")))
            assert "All 2 ranks restart together" in str(
                app.screen.query_one("Static.body").render()
            )
            await pilot.press("n", "5", *"ab", "enter")
            said = "tok/s  first" if key else "wrong or missing API key"
            await wait(lambda: said in screen_text(app), 30.0)

    with SshTunnel("there", str(guarded.run), COMMAND) as tunnel:
        asyncio.run(main(tunnel))


@pytest.mark.processes
@pytest.mark.usefixtures("ssh")
def test_capital_s_starts_the_stopped_pipeline_over_there(tmp_path: Path) -> None:
    """With the options it ran with, and on another port, which prompts then go to."""
    model = tiny_model(tmp_path)
    options = ("--dummy", "--dtype", "float32", "--model", str(model))

    async def main(ring: Ring, tunnel: SshTunnel) -> None:
        app = ConsoleApp(
            tunnel.config,
            label="there",
            clock=tunnel.clock,
            source=tunnel.source,
            starter=tunnel.start_again,
        )
        async with app.run_test(size=(120, 40), notifications=True) as pilot:
            await wait(lambda: app.board.condition.word == "READY")
            assert not app.can_start
            await asyncio.to_thread(ring.cli, "down", "--now")
            await wait(lambda: app.can_start)
            line = tunnel._ssh
            await pilot.press("S")
            await wait(lambda: app.board.condition.word == "READY", 60.0)
            url = (await asyncio.to_thread(ring.snapshot))["server"]["url"]
            if url != ring.url:  # then ssh forwards the other port
                near = Path(tunnel.config.run) / "supervisor.stats"
                await wait(lambda: tunnel._ssh is not line and near.exists())
            assert tunnel._place.url == url
            await pilot.press("5", *"ab", "enter")
            await wait(lambda: "tok/s  first" in screen_text(app), 30.0)
            assert "ended at once" not in screen_text(app)

    with Ring(tmp_path / "r", *options) as ring:
        with SshTunnel("there", str(ring.run), COMMAND) as tunnel:
            asyncio.run(main(ring, tunnel))
        assert ring.cli("where", "--json").returncode == 0


@pytest.mark.processes
def test_what_goes_wrong_is_said_before_a_screen_is_opened(far: Config, tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match="Could not resolve"), SshTunnel("nowhere"):
        pass
    with pytest.raises(OperatorError, match="did not answer") as raised:
        SshTunnel("there", None, "no-such-command").__enter__()
    assert "--ssh-command" in (raised.value.hint or "")
    with pytest.raises(NotRunning, match="on there"):
        SshTunnel("there", str(tmp_path / "empty"), COMMAND).__enter__()


@pytest.mark.processes
def test_another_protocol_over_there_is_refused_with_what_to_do(
    far: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loraconsole.console.client.ssh_tunnel.PROTOCOL", 99)
    with pytest.raises(OperatorError, match=r"there speaks protocol \d+, this console 99") as said:
        SshTunnel("there", None, COMMAND).__enter__()
    assert "the same version" in said.value.hint


def test_a_clock_that_is_wrong_over_there_is_believed() -> None:
    assert seconds_ahead(1000.3, 1000.0) == seconds_ahead(999.2, 1000.0) == 0.0
    assert seconds_ahead(1090.0, 1000.0) == 90.0 and seconds_ahead(10.0, 1000.0) == -990.0


@pytest.mark.processes
def test_where_says_where_it_is(far: Config) -> None:
    done = subprocess.run(
        [*shlex.split(COMMAND), "where", "--json", "--run", far.run],
        capture_output=True,
        text=True,
        check=True,
    )
    place = json.loads(done.stdout)
    assert place["run"] == far.run and place["is_running"]
    assert place["processes"] == ["worker-0", "detokenizer", "router", "server"]
    assert "api_key" not in done.stdout

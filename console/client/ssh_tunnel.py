"""`SshTunnel`: a pipeline on another machine, reached through ssh from a local run directory.

ssh forwards the unix sockets that the console uses, and the server's port. No port is opened on the
other machine, and nothing listens outside loopback. A broken tunnel is connected again.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shlex
import socket
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import msgspec

from ...pipeline.api_keys import KEY_VARIABLES, read_key, without_keys
from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import PROTOCOL
from ...pipeline.run_directory import make_run_directory
from .pipeline_clock import PipelineClock
from .remote import NotRunning

if TYPE_CHECKING:
    from ..state.store import Store
    from .telemetry import TelemetryClient

ANSWER_SECONDS = 30.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
SSH_FAILED = 255
OPTIONS = (
    "-C",  # 64 kB/s of telemetry at 64 moving rows become 8
    "-oExitOnForwardFailure=yes",
    "-oStreamLocalBindUnlink=yes",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=3",
    "-oLogLevel=ERROR",
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """The location of a pipeline, as `loraconsole where --json` prints it."""

    run: str
    is_running: bool
    model: str
    processes: tuple[str, ...]
    url: str
    """The server's address on that machine; "" while it has none."""
    host: str
    """The machine's name."""
    at: float
    """The time on that machine, unix seconds."""
    protocol: int = 1
    """The protocol of loraconsole on that machine; the first versions do not send it."""


class SshTunnel:
    """`with SshTunnel("gpu-box") as tunnel:`. `config` is that of the local run directory.

    Raises `OperatorError` if ssh cannot connect or finds no loraconsole, `NotRunning` if no
    pipeline runs on that machine."""

    config: Config

    def __init__(self, host: str, run: str | None = None, command: str = "loraconsole") -> None:
        """`host` is an ssh destination; `command` starts loraconsole on that machine."""
        self._host, self._run, self._command = host, run, command
        self._inbox = f"console-{os.getpid()}-{secrets.token_hex(4)}"
        self._closing = threading.Event()
        self._ssh: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._clock = PipelineClock()

    def __enter__(self) -> SshTunnel:
        self._place = place = self._ask()
        if place.protocol != PROTOCOL:
            raise OperatorError(
                f"loraconsole on {self._host} speaks protocol {place.protocol}, this console "
                f"{PROTOCOL}",
                "use the same version of loraconsole on both machines",
            )
        if not place.is_running:
            where = f"{place.run} on {self._host}"
            there = f" --run {shlex.quote(self._run)}" if self._run else ""
            raise NotRunning(
                f"no pipeline runs in {where}", f"start one there: {self._command} up{there}"
            )
        self._directory = tempfile.TemporaryDirectory(prefix="lc-ssh-")
        run = make_run_directory(Path(self._directory.name) / "run")
        self._near = run
        workers = sum(name.startswith("worker-") for name in place.processes)
        # The config on the other machine is not read: the user must know the API key.
        variable = KEY_VARIABLES["api_key"]
        key = read_key(os.environ.get(variable, ""), f"${variable}")
        self.config = Config(run=str(run), model=place.model, tp=workers, api_key=key)
        try:
            self._connect()
        except BaseException:
            self._directory.cleanup()
            raise
        self._keeper = threading.Thread(target=self._keep, daemon=True)
        self._keeper.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        self._disconnect()
        self._keeper.join(2.0)
        self._tidy()
        self._directory.cleanup()

    def clock(self) -> float:
        """The other pipeline's time, used for plots and ages; unix seconds. It is heard by `where`:
        a snapshot may take seconds over a thin line."""
        return self._clock()

    def source(self, config: Config, store: Store, *more: Any, **named: Any) -> TelemetryClient:
        """The telemetry client for the app. Answers arrive in the inbox that ssh forwards; prompts
        use the forwarded port."""
        from .telemetry import TelemetryClient

        if self._port:
            store.local_url = f"http://127.0.0.1:{self._port}"
        named["inbox_name"] = self._inbox
        return TelemetryClient(config, store, *more, **named)

    def start_again(self) -> int:
        """Starts the stopped pipeline with the options it last ran with and waits until it is
        READY; if its server's address is another, connects anew. Returns 0: its supervisor has no
        pid here. Raises `OperatorError` if it does not start."""
        run = shlex.quote(self._place.run)
        done = self._run_there(f"{self._command} up --again --run {run}")
        if done.returncode:
            errors = done.stderr.decode(errors="replace").strip().splitlines()
            raise OperatorError(
                f"{self._host}: {errors[-1].strip() if errors else 'it does not start'}",
                f"ssh {self._host} {self._command} logs --run {run}",
            )
        place = self._ask()
        if place.url != self._place.url:
            self._place = place
            self._disconnect()  # `_keep` connects
        return 0

    # -- ssh

    def _ask(self) -> Place:
        words = ["where", "--json", *(["--run", self._run] if self._run else [])]
        done = self._run_there(f"{self._command} {shlex.join(words)}")
        errors = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode == SSH_FAILED:
            raise OperatorError(f"ssh {self._host}: {errors[-1] if errors else 'it failed'}")
        try:
            # A login shell may print something before the document.
            place = msgspec.json.decode(done.stdout[done.stdout.index(b"{") :], type=Place)
        except (msgspec.MsgspecError, ValueError) as error:
            raise OperatorError(
                f"{self._command} on {self._host} did not answer: "
                f"{errors[-1] if errors else error}",
                "--ssh-command sets the command for loraconsole on that machine, with its path",
            ) from error

        self._clock.hear(place.at)
        return place

    def _run_there(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Runs a command on the other machine. ssh may ask for a password on the terminal."""
        return subprocess.run(
            ["ssh", "-T", "-oLogLevel=ERROR", self._host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def _connect(self) -> None:
        """Starts ssh and waits until the local sockets exist."""
        errors = self._near / "ssh.log"
        with errors.open("wb") as log:
            self._ssh = subprocess.Popen(
                ["ssh", "-N", "-T", *OPTIONS, *self._forwards(), self._host],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the console
                env=without_keys(os.environ),
            )
        deadline = time.monotonic() + ANSWER_SECONDS
        while not (self._near / "supervisor.stats").exists():
            if self._ssh.poll() is not None:
                lines = errors.read_text(errors="replace").strip().splitlines()
                raise OperatorError(f"ssh {self._host}: {lines[-1] if lines else 'it ended'}")
            if time.monotonic() > deadline or self._closing.is_set():
                self._disconnect()
                raise OperatorError(f"ssh {self._host} forwards nothing")
            time.sleep(0.02)

    def _forwards(self) -> list[str]:
        """ssh options: -L local:remote for orders and telemetry, -R remote:local for answers."""
        far, near = self._place.run, self._near
        names = ("supervisor", *self._place.processes)
        ends = [f"{name}.{end}" for end in ("stats", "inbox") for name in names]
        found = [word for end in ends for word in ("-L", f"{near}/{end}:{far}/{end}")]
        found += ["-R", f"{far}/{self._inbox}.inbox:{near}/{self._inbox}.inbox"]
        url = urlsplit(self._place.url)
        if url.hostname and url.port:
            self._port = self._port or _free_port()
            found += ["-L", f"127.0.0.1:{self._port}:{url.hostname}:{url.port}"]
        return found

    def _keep(self) -> None:
        """Reconnects a broken tunnel, with growing pauses, until `_closing` is set."""
        falls = 0
        while not self._closing.wait(0.5):
            assert self._ssh is not None
            if self._ssh.poll() is None:
                falls = 0
                continue
            if self._closing.wait(BACKOFF_SECONDS[min(falls, len(BACKOFF_SECONDS) - 1)]):
                return
            falls += 1
            for end in self._near.glob("*.stats"):
                end.unlink(missing_ok=True)
            self._tidy()  # sshd leaves its socket behind, and could not bind the name again
            with contextlib.suppress(OperatorError):
                self._connect()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            self._run_there(f"rm -f {shlex.quote(f'{self._place.run}/{self._inbox}.inbox')}")

    def _disconnect(self) -> None:
        if self._ssh is not None and self._ssh.poll() is None:
            self._ssh.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ssh.wait(2.0)


def describe_place(config: Config, is_running: bool, url: str, at: float) -> Place:
    """The location of the pipeline of `config`, on this machine, and its time `at`; for
    `loraconsole where`."""
    return Place(
        run=config.run,
        is_running=is_running,
        model=config.model_name,
        processes=config.process_names(),
        url=url,
        host=socket.gethostname(),
        at=at,
        protocol=PROTOCOL,
    )


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

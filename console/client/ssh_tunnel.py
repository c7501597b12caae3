"""`SshTunnel`: a pipeline on another machine, reached through ssh from a run directory here.

ssh forwards the unix sockets that the console talks to, and the server's port. Nothing is opened
there, and nothing listens off loopback. A tunnel that breaks is connected again.
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

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import PROTOCOL
from ...pipeline.run_directory import make_run_directory
from .remote import NotRunning

if TYPE_CHECKING:
    from ..state.store import Store
    from .telemetry import TelemetryClient

ANSWER_SECONDS = 30.0
BACKOFF_SECONDS = (1.0, 2.0, 4.0, 8.0, 15.0)
SSH_FAILED = 255
SAME_CLOCK_SECONDS = 1.0
OPTIONS = (
    "-C",  # 64 kB/s of telemetry at 64 moving rows become 8
    "-oExitOnForwardFailure=yes",
    "-oStreamLocalBindUnlink=yes",
    "-oServerAliveInterval=5",
    "-oServerAliveCountMax=3",
    "-oLogLevel=ERROR",
)


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """Where a pipeline is, as `loraconsole where --json` prints it."""

    run: str
    is_running: bool
    model: str
    processes: tuple[str, ...]
    url: str
    """The server's address on that machine; "" while it has none."""
    host: str
    """The machine's name."""
    at: float
    """The time there, unix seconds."""
    protocol: int = 1
    """Of loraconsole over there; the first versions do not say it."""


class SshTunnel:
    """`with SshTunnel("gpu-box") as tunnel:`. `config` is of the run directory here.

    Raises `OperatorError` if ssh does not get there or finds no loraconsole there, `NotRunning` if
    no pipeline runs there."""

    config: Config

    def __init__(self, host: str, run: str | None = None, command: str = "loraconsole") -> None:
        """`host` is a destination of ssh; `command` starts loraconsole on that machine."""
        self._host, self._run, self._command = host, run, command
        self._inbox = f"console-{os.getpid()}-{secrets.token_hex(4)}"
        self._closing = threading.Event()
        self._ssh: subprocess.Popen[bytes] | None = None
        self._port = 0
        self._ahead_s = 0.0

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
        # The config on the other machine is not read: who may prompt there has the key.
        key = os.environ.get("LORACONSOLE_API_KEY", "")
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
        """The other machine's time, which plots and ages go by; unix seconds."""
        return time.time() + self._ahead_s

    def source(self, config: Config, store: Store, *more: Any, **named: Any) -> TelemetryClient:
        """The telemetry client for the app. Answers come to the inbox that ssh forwards, prompts
        go through the forwarded port."""
        from .telemetry import TelemetryClient

        if self._port:
            store.local_url = f"http://127.0.0.1:{self._port}"
        named["inbox_name"] = self._inbox
        return TelemetryClient(config, store, *more, **named)

    # -- ssh

    def _ask(self) -> Place:
        words = ["where", "--json", *(["--run", self._run] if self._run else [])]
        done = self._say(f"{self._command} {shlex.join(words)}")
        heard_at = time.time()
        said = done.stderr.decode(errors="replace").strip().splitlines()
        if done.returncode == SSH_FAILED:
            raise OperatorError(f"ssh {self._host}: {said[-1] if said else 'it failed'}")
        try:
            # What a login shell prints before it is not ours.
            place = msgspec.json.decode(done.stdout[done.stdout.index(b"{") :], type=Place)
        except (msgspec.MsgspecError, ValueError) as error:
            raise OperatorError(
                f"{self._command} on {self._host} did not answer: {said[-1] if said else error}",
                "--ssh-command says what loraconsole is called over there, with its path",
            ) from error

        self._ahead_s = seconds_ahead(place.at, heard_at)
        return place

    def _say(self, command: str) -> subprocess.CompletedProcess[bytes]:
        """Runs a command on the other machine. ssh itself asks for a password, on the terminal."""
        return subprocess.run(
            ["ssh", "-T", "-oLogLevel=ERROR", self._host, command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
        )

    def _connect(self) -> None:
        """Starts ssh and waits until the near ends are there."""
        complaint = self._near / "ssh.log"
        with complaint.open("wb") as log:
            self._ssh = subprocess.Popen(
                ["ssh", "-N", "-T", *OPTIONS, *self._forwards(), self._host],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the console
            )
        deadline = time.monotonic() + ANSWER_SECONDS
        while not (self._near / "supervisor.stats").exists():
            if self._ssh.poll() is not None:
                said = complaint.read_text(errors="replace").strip().splitlines()
                raise OperatorError(f"ssh {self._host}: {said[-1] if said else 'it ended'}")
            if time.monotonic() > deadline or self._closing.is_set():
                self._disconnect()
                raise OperatorError(f"ssh {self._host} forwards nothing")
            time.sleep(0.02)

    def _forwards(self) -> list[str]:
        """Options of ssh: -L near:far for orders and telemetry, -R far:near for answers."""
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
        """Connects again when the tunnel breaks, with growing pauses, until it is closed."""
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
            self._tidy()  # sshd leaves its end there, and would not take the name again
            with contextlib.suppress(OperatorError):
                self._connect()

    def _tidy(self) -> None:
        with contextlib.suppress(OSError):
            self._say(f"rm -f {shlex.quote(f'{self._place.run}/{self._inbox}.inbox')}")

    def _disconnect(self) -> None:
        if self._ssh is not None and self._ssh.poll() is None:
            self._ssh.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._ssh.wait(2.0)


def describe_place(config: Config, is_running: bool, url: str) -> Place:
    """Where the pipeline of `config` is, seen from this machine; for `loraconsole where`."""
    return Place(
        run=config.run,
        is_running=is_running,
        model=config.model,
        processes=config.process_names(),
        url=url,
        host=socket.gethostname(),
        at=time.time(),
        protocol=PROTOCOL,
    )


def seconds_ahead(said: float, heard_at: float) -> float:
    """Seconds that another clock is ahead of ours: `said` is its time, `heard_at` ours when that
    came. 0 where the difference is under a second, which the way here may take."""
    return 0.0 if abs(said - heard_at) < SAME_CLOCK_SECONDS else said - heard_at


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port

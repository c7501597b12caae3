"""The run directory of a pipeline: its default, its creation, and paths given on the command
line."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path

from .errors import OperatorError
from .private_files import private_umask

LONGEST_SOCKET_NAME = "console-4194304.inbox"
ROUTER_RECORD = "router.json"
"""The router's record of its adapters and settings, from which a restarted router continues. A
pipeline that is started removes the one of the last pipeline."""
REQUEST_JOURNAL = "requests"
"""The directory of the server's journal of accepted requests, from which a restarted server
continues. It too is removed when a pipeline is started, and when it ends."""
MAX_SOCKET_PATH = 107  # bytes in sockaddr_un, less the closing zero


def default_run_directory() -> str:
    """`$LORACONSOLE_RUN`, else `$XDG_RUNTIME_DIR/loraconsole`, else `/tmp/loraconsole-UID`."""
    if run := os.environ.get("LORACONSOLE_RUN"):
        return run
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        return os.path.join(runtime, "loraconsole")
    return f"/tmp/loraconsole-{os.getuid()}"


def spell(words: str, run: str | Path) -> str:
    """`loraconsole WORDS` as a shell command for the pipeline in `run`; --run unless it is the
    default."""
    is_default = absolute_path(str(run)) == absolute_path(default_run_directory())
    return f"loraconsole {words}{'' if is_default else f' --run {shlex.quote(str(run))}'}"


def is_hub_id(model: str) -> bool:
    """Whether it is written as a hub's `org/name` or `org/name@revision`."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*(@[\w./-]+)?", model) is not None


def absolute_path(path: str) -> str:
    """The absolute path; a hub id that is not a path here stays as it is."""
    expanded = os.path.expanduser(path)
    if not os.path.exists(expanded) and is_hub_id(path):
        return path
    return os.path.abspath(expanded)


def make_run_directory(run: str | Path) -> Path:
    """Creates RUN with mode 0700. Raises `OperatorError` if that fails or would be unsafe."""
    path = Path(run)
    socket_path = os.fsencode(path / LONGEST_SOCKET_NAME)
    if len(socket_path) > MAX_SOCKET_PATH:
        raise OperatorError(
            f"run directory {path} is too long: its unix sockets would need {len(socket_path)} "
            f"bytes of {MAX_SOCKET_PATH}",
            "choose a shorter --run",
        )
    try:
        with private_umask():  # also for the directories above it
            path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OperatorError(
            f"cannot make run directory {path}: {error.strerror}", "choose another --run"
        ) from error
    check_owner(path)
    path.chmod(0o700)
    (path / "logs").mkdir(mode=0o700, exist_ok=True)
    return path


def check_owner(run: str | Path) -> None:
    """Raises `OperatorError` if RUN, or the link at its place, belongs to another user, who could
    have put a pipeline of their own there."""
    path = Path(run)
    with contextlib.suppress(FileNotFoundError):
        if {path.lstat().st_uid, path.stat().st_uid} != {os.getuid()}:
            raise OperatorError(
                f"run directory {path} belongs to another user", "choose --run, or be that user"
            )

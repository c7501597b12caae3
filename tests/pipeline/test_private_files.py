"""Who may read the files of a pipeline and of a console that are started under umask 000."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ring import Ring, tiny_model

from loraconsole.console.client.transcripts import Transcripts
from loraconsole.console.settings.ui_state import UiState
from loraconsole.console.state.adapter_colors import AdapterColors
from loraconsole.console.ui.panels.command_line import history_path, remember
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.private_files import users_umask, write_private
from loraconsole.pipeline.run_directory import check_owner, make_run_directory


@pytest.fixture
def open_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


def open_to_others(directory: Path) -> dict[str, str]:
    """The modes of what users other than the owner may read or write, by path."""
    found = {}
    for path in (directory, *directory.rglob("*")):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode) and stat.S_IMODE(mode) & 0o077:
            found[str(path.relative_to(directory))] = stat.filemode(mode)
    return found


@pytest.mark.processes
def test_everything_in_a_run_directory_is_its_owners(tmp_path: Path, open_umask: None) -> None:
    above = tmp_path / "above"
    model = tiny_model(tmp_path)
    options = ("--dummy", "--model", str(model), "--event-log", "--profile")
    with Ring(above / "run", *options) as ring:
        assert ring.http.post("/v1/completions", json={"prompt": [1], "max_tokens": 2}).is_success
        assert ring.http.post("/profiler/stop").is_success
        names = {path.suffix for path in ring.run.rglob("*")}
        assert names >= {".inbox", ".stats", ".log", ".json", ".jsonl"}
        assert open_to_others(above) == {}
        ring.cli("status")  # binds an inbox and leaves
    assert open_to_others(above) == {}


@pytest.mark.processes
def test_a_process_keeps_its_files_private_and_knows_the_users_umask(tmp_path: Path) -> None:
    program = (
        "import os, subprocess, sys; from loraconsole.pipeline.private_files import *\n"
        "keep_files_private(); keep_files_private()\n"
        "open('own', 'w').close()\n"
        "with users_umask(): open('users', 'w').close()\n"
        "open('own again', 'w').close()\n"
        "code = 'from loraconsole.pipeline.private_files import *; keep_files_private();'\n"
        'code += \'w = users_umask(); w.__enter__(); open("users child", "w").close()\'\n'
        "subprocess.run([sys.executable, '-P', '-c', code], check=True)\n"
    )
    command = [sys.executable, "-P", "-c", program]
    environment = {name: value for name, value in os.environ.items() if "UMASK" not in name}
    subprocess.run(command, cwd=tmp_path, check=True, umask=0o022, env=environment)
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    own = {"own": 0o600, "own again": 0o600}
    assert modes == own | {"users": 0o644, "users child": 0o644}


def test_the_consoles_files_are_their_owners(
    tmp_path: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "all" / "state"))
    state = UiState.remembered()
    state.theme = "ember"
    AdapterColors.remembered().give(["sql"])
    remember("drain", [])
    assert history_path().read_text() == "drain\n"
    kept = Transcripts(tmp_path / "all" / "data" / "transcripts.db")
    kept.conversations()
    names = {path.name for path in (tmp_path / "all").rglob("*") if path.is_file()}
    assert len(names) >= 4
    assert open_to_others(tmp_path / "all") == {}
    kept.close()


def test_a_file_of_an_earlier_version_becomes_private(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.write_text("old")
    old.chmod(0o666)
    write_private(old, b"new")
    assert old.read_bytes() == b"new" and old.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


def test_a_write_that_fails_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"
    write_private(file, b"old")

    def fail(*paths: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space"):
        write_private(file, b"new")
    assert file.read_bytes() == b"old" and len(list(tmp_path.iterdir())) == 1


def test_umasks_are_restored(open_umask: None) -> None:
    with pytest.raises(ZeroDivisionError), users_umask():
        raise ZeroDivisionError
    assert os.umask(0) == 0


def test_a_run_directory_of_another_user_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run_directory(tmp_path / "run")
    check_owner(run)
    check_owner(tmp_path / "absent")
    mine = os.getuid()
    monkeypatch.setattr("os.getuid", lambda: mine + 1)
    for use in (check_owner, make_run_directory):
        with pytest.raises(OperatorError, match="belongs to another user"):
            use(run)

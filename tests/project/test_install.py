"""`make install` says what it does: a line for each package, with its size, without a terminal."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def wheel(directory: Path, name: str, needs: str = "") -> None:
    """A package with one module of 3 MB."""
    about = f"{name}-1.0.dist-info"
    requires = f"Requires-Dist: {needs}\n" if needs else ""
    with zipfile.ZipFile(directory / f"{name}-1.0-py3-none-any.whl", "w") as file:
        file.writestr(f"{name}.py", "#" * 3_000_000)
        file.writestr(
            f"{about}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n{requires}"
        )
        file.writestr(
            f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{about}/RECORD", "")


def install(python: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ".ci/install.py", str(python), *more]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.mark.processes
@pytest.mark.slow
def test_each_package_has_a_line_and_a_failure_shows_what_pip_said(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / "bin" / "python"
    wheel(tmp_path, "second_part", needs="first_part")
    wheel(tmp_path, "first_part")
    done = install(python, "--no-index", "--find-links", str(tmp_path), "second_part")
    assert done.returncode == 0, done.stderr
    lines = [line.partition(" s  ")[2] for line in done.stdout.splitlines()]
    shown = [" ".join(line.split()) for line in lines]
    assert shown == [
        "second-part 1.0 3.0 MB",
        "first-part 1.0 3.0 MB",
        "installing 2 packages",
        *(f"[ {at} of 2] {name} 1.0" for at, name in enumerate(("first_part", "second_part"), 1)),
    ]
    subprocess.run([python, "-c", "import first_part, second_part"], check=True)
    again = install(python, "--no-index", "--find-links", str(tmp_path), "second_part")
    assert (again.returncode, again.stdout) == (0, "")
    wrong = install(python, "--no-index", "--find-links", str(tmp_path), "no_such_part")
    assert wrong.returncode == 1
    assert "No matching distribution found for no_such_part" in wrong.stderr

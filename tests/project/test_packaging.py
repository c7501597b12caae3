"""What is in the folders is what is installed, and the files that must travel do."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_folder_with_code_is_a_package_and_every_package_a_folder(project: dict) -> None:
    folders = {
        path.parent.relative_to(ROOT)
        for top in ("console", "pipeline", "kernels", "themes")
        for path in (ROOT / top).rglob("__init__.py")
    }
    named = {"loraconsole"} | {f"loraconsole.{'.'.join(f.parts)}" for f in folders}
    assert set(project["tool"]["setuptools"]["packages"]) == named


def test_every_dependency_is_pinned_in_the_constraints(project: dict) -> None:
    pinned = {
        line.partition("==")[0].lower().replace("_", "-")
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if "==" in line
    }
    wanted = project["project"]["dependencies"] + project["project"]["optional-dependencies"]["dev"]
    for requirement in wanted:
        name = requirement.partition(">")[0].lower().replace("_", "-")
        if name == "triton":
            continue  # a torch for CUDA asks for exactly one version: a pin would exclude it
        assert name in pinned, f"{name} has no known-good version"
        assert "==" not in requirement, "ranges stay open in pyproject.toml"


@pytest.mark.processes
def test_a_wheel_carries_themes_styles_and_adapters(tmp_path: Path) -> None:
    tree = tmp_path / "tree"  # built beside the clone, so that nothing is left in it
    left_out = shutil.ignore_patterns(
        ".git", ".venv", "build", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(ROOT, tree, ignore=left_out)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--wheel-dir", tmp_path, tree], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert all(entry.startswith(("loraconsole/", "loraconsole-")) for entry in names)
    assert "loraconsole/console/ui/console.tcss" in names
    assert sum(entry.endswith(".toml") for entry in names if "/themes/" in entry) >= 5
    assert sum(entry.endswith("/adapter_model.safetensors") for entry in names) >= 4
    assert not any("/tests/" in entry for entry in names)

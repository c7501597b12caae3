"""The JavaScript clients: each file of js/, by node's own test runner."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT, Server

NODE = shutil.which("node")
MODULES = ROOT / ".venv-clients/js/node_modules"
FILES = sorted(Path(__file__).parent.glob("js/*.test.mjs"))


@pytest.mark.skipif(not NODE or not MODULES.exists(), reason="node or its packages are missing")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_file(server: Server, scripted_server: Server, tmp_path: Path, path: Path) -> None:
    assert NODE
    # A module is looked for beside the file that imports it.
    (tmp_path / "node_modules").symlink_to(MODULES)
    for file in Path(__file__).parent.glob("js/*.mjs"):
        shutil.copy(file, tmp_path)
    env = os.environ | {
        "SERVER_URL": server.url,
        "SERVER_BASE": server.base,
        "SCRIPTED_URL": scripted_server.url,
        "SCRIPTED_BASE": scripted_server.base,
        "AI_SDK_LOG_WARNINGS": "false",
    }
    done = subprocess.run(
        [NODE, "--test", path.name], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-12000:]

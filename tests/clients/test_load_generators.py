"""guidellm and aiperf: a short load of each endpoint, without a failed request."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import BASE, PYTHON, ROOT, Server

WITH_TORCH = (
    "import sys; sys.path.append(sys.argv.pop(1)); from guidellm.__main__ import cli; cli()"
)
"""guidellm imports torch to load its data; the program's own, of .venv, is large enough once."""
AIPERF = ROOT / ".venv-clients/aiperf/bin/aiperf"


def run(*words: str | Path, directory: Path) -> str:
    done = subprocess.run(
        words, cwd=directory, capture_output=True, text=True, timeout=280, env=os.environ
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


@pytest.mark.parametrize("endpoint", ["/v1/chat/completions", "/v1/completions", "/v1/responses"])
def test_guidellm(server: Server, model_directory: Path, tmp_path: Path, endpoint: str) -> None:
    code = "import pathlib, torch; print(pathlib.Path(torch.__file__).parents[1])"
    site = run(PYTHON, "-P", "-c", code, directory=tmp_path).strip()
    run(
        *(sys.executable, "-P", "-c", WITH_TORCH, site),
        "run",
        "--backend",
        f"kind=openai_http,target={server.url},model={BASE},request_format={endpoint}",
        "--profile",
        "kind=concurrent,streams=2",
        "--constraint",
        "kind=max_requests,count=6",
        "--tokenizer",
        f"kind=hf_auto,model={model_directory}",
        "--data",
        "kind=synthetic_text,prompt_tokens=32,output_tokens=8",
        "--output",
        f"kind=json,path={tmp_path / 'report.json'}",
        "--disable-console",
        directory=tmp_path,
    )
    report = json.loads((tmp_path / "report.json").read_text())
    (made,) = report["benchmarks"]
    totals = made["metrics"]["request_totals"]
    assert totals["errored"] == 0 and totals["successful"] >= 6


@pytest.mark.skipif(not AIPERF.exists(), reason="aiperf is not installed")
@pytest.mark.parametrize("endpoint", ["chat", "completions", "embeddings"])
def test_aiperf(server: Server, model_directory: Path, tmp_path: Path, endpoint: str) -> None:
    streaming = [] if endpoint == "embeddings" else ["--streaming"]
    run(
        AIPERF,
        "profile",
        *("--model", BASE, "--url", server.url, "--endpoint-type", endpoint, *streaming),
        *("--tokenizer", model_directory, "--request-count", "6", "--concurrency", "2"),
        *("--isl", "32", "--osl", "8", "--ui", "none", "--artifact-dir", tmp_path / "out"),
        directory=tmp_path,
    )
    (report,) = (tmp_path / "out").rglob("profile_export_aiperf.json")
    made = json.loads(report.read_text())
    assert made["request_count"]["avg"] == 6
    assert not made.get("error_summary")

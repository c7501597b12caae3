"""`doctor`: what it says of the device, which it learns from a process that imports torch."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from loraconsole.console.cli import doctor
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import DeviceReport, Gpu
from loraconsole.pipeline.run_directory import make_run_directory

H200 = DeviceReport(
    device="cuda",
    cuda="13.0",
    gpus=(Gpu("NVIDIA H200", "9.0"), Gpu("NVIDIA H200", "9.0")),
    nccl="2.28.9",
    kernels="attention, norms, LoRA: Triton kernels over pages, CUDA graphs",
    is_fastest=True,
)


def findings(run: Path) -> dict[str, tuple[str, str]]:
    return {check.name: (check.verdict, check.finding) for check in doctor.examine(run)}


@pytest.mark.processes
@pytest.mark.skipif(torch.cuda.is_available(), reason="says what a machine without a GPU says")
def test_this_machine_is_described_with_its_kernels_and_why(tmp_path: Path) -> None:
    found = findings(tmp_path / "r")
    assert found["device"] == ("good", "cpu")
    assert found["gpu"][0] == "note"
    assert found["kernels"] == ("note", "attention, norms, LoRA: plain PyTorch (no GPU)")


@pytest.mark.processes
def test_the_settings_of_the_run_count(tmp_path: Path) -> None:
    run = make_run_directory(tmp_path / "r")
    Config(run=str(run), device="cpu").save()
    assert findings(run)["kernels"][1].endswith("(--device cpu)")


def test_every_gpu_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*_: Any, **__: Any) -> Any:
        return subprocess.CompletedProcess((), 0, msgspec.json.encode(H200), b"")

    monkeypatch.setattr(subprocess, "run", answer)
    found = findings(tmp_path / "r")
    assert found["device"] == ("good", "cuda")
    assert found["gpu 1"] == ("good", "NVIDIA H200, compute capability 9.0")
    assert found["nccl"] == ("good", "2.28.9") and found["cuda"] == ("good", "13.0")
    assert found["kernels"][0] == "good"


def test_what_the_installed_libraries_lack_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = msgspec.structs.replace(H200, off=("triton has no AsyncCompileMode",))
    done = subprocess.CompletedProcess((), 0, msgspec.json.encode(report), b"")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: done)
    assert [check for check in doctor.examine(tmp_path / "r") if check.name == "off"] == [
        doctor.Check("off", "note", "triton has no AsyncCompileMode")
    ]
    monkeypatch.delattr("textual.strip.FIFOCache")
    lacks = [check.finding for check in doctor.examine(tmp_path / "r") if check.name == "off"]
    assert lacks[0] == "triton has no AsyncCompileMode"
    assert lacks[1].startswith("strips without caches: textual ")
    assert lacks[1].endswith(" has no textual.strip.FIFOCache") and len(lacks) == 2


def test_a_torch_that_cannot_be_imported_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(command: Any, **_: Any) -> Any:
        words = b"Traceback\nImportError: libcudart.so.13: not found\n"
        raise subprocess.CalledProcessError(1, command, b"", words)

    monkeypatch.setattr(subprocess, "run", fail)
    verdict, finding = findings(tmp_path / "r")["device"]
    assert verdict == "bad" and finding.endswith("ImportError: libcudart.so.13: not found")

"""`loraconsole doctor`: what this machine has and what is missing. Imports no torch to ask."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Literal

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.messages import DeviceReport
from ...pipeline.run_directory import make_run_directory
from ..supervisor.lock import is_running

REPORT_SECONDS = 120.0
"""A first import of torch from a slow disk."""
PACKAGES = ("torch", "triton", "textual", "pyzmq", "msgspec", "tokenizers", "gguf", "safetensors")


class Check(msgspec.Struct, frozen=True):
    """One finding. `bad` keeps the pipeline from running; a `note` is worth knowing."""

    name: str
    verdict: Literal["good", "note", "bad"]
    finding: str


def examine(run: Path) -> list[Check]:
    """Every check, in the order a start would stumble over them."""
    return [
        Check("python", "good", f"{platform.python_version()} at {sys.executable}"),
        *(_package(name) for name in PACKAGES),
        _run_directory(run),
        Check("pipeline", "good" if is_running(run) else "note", _pipeline(run)),
        *_device(run),
        _memory(),
        _terminal(),
    ]


def _package(name: str) -> Check:
    try:
        return Check(name, "good", importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        if name == "triton":
            return Check(name, "note", "not installed; the GPU kernels need it")
        return Check(name, "bad", "not installed; install loraconsole again")


def _run_directory(run: Path) -> Check:
    try:
        make_run_directory(run)
    except OperatorError as error:
        return Check("run directory", "bad", str(error))
    return Check("run directory", "good", str(run))


def _pipeline(run: Path) -> str:
    return f"runs in {run}" if is_running(run) else f"none runs in {run}"


def _device(run: Path) -> list[Check]:
    """What torch says of the machine, in a process of its own: it takes seconds to import."""
    module = "loraconsole.pipeline.model.device_report"
    command = [sys.executable, "-P", "-m", module, "--run", str(run)]
    try:
        told = subprocess.run(command, capture_output=True, timeout=REPORT_SECONDS, check=True)
        report = msgspec.json.decode(told.stdout, type=DeviceReport)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        words = getattr(error, "stderr", b"") or str(error).encode()
        last = words.decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
        return [Check("device", "bad", f"torch cannot be asked: {last[0]}")]
    gpus = [
        Check(f"gpu {number}", "good", f"{gpu.name}, compute capability {gpu.capability}")
        for number, gpu in enumerate(report.gpus)
    ]
    if not gpus:
        gpus = [Check("gpu", "note", f"none found{_unseen()}; the pipeline computes on the CPU")]
    return [
        Check("device", "good", report.device),
        Check("cuda", "good" if report.cuda else "note", report.cuda or "torch is built without"),
        *gpus,
        Check(
            "nccl",
            "good" if report.nccl else "note",
            report.nccl or "not there; --tp on GPUs needs it",
        ),
        Check("kernels", "good" if report.is_fastest else "note", report.kernels),
    ]


def _unseen() -> str:
    """A GPU that torch does not see is worth a word."""
    devices = Path("/proc/driver/nvidia/gpus")
    count = len(list(devices.iterdir())) if devices.is_dir() else 0
    return f" by torch, though the driver knows {count}" if count else ""


def _memory() -> Check:
    free = _available_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    verdict: Literal["good", "note"] = "good" if free > 2 << 30 else "note"
    return Check("memory", verdict, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB available")


def _available_bytes() -> int:
    """Linux's estimate, which counts cached files that it would drop; elsewhere what is free."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _terminal() -> Check:
    if not sys.stdout.isatty():
        return Check("terminal", "note", "stdout is not a terminal; the console needs one")
    size = shutil.get_terminal_size()
    colours = os.environ.get("COLORTERM") or os.environ.get("TERM", "unknown")
    verdict: Literal["good", "note"] = "good" if size.columns >= 80 and size.lines >= 24 else "note"
    return Check("terminal", verdict, f"{size.columns}x{size.lines}, {colours}")

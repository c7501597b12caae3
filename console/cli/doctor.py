"""`loraconsole doctor`: what this machine has and lacks. Does not import torch."""

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

from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import DeviceReport
from ...pipeline.run_directory import make_run_directory
from ..commands.inspect import DoctorCommand
from ..supervisor.lock import is_running
from ..text import units
from .printing import print_json

REPORT_SECONDS = 120.0
"""Timeout of the device report: a first import of torch from a slow disk."""
PACKAGES = ("torch", "triton", "textual", "pyzmq", "msgspec", "tokenizers", "gguf", "safetensors")


class Check(msgspec.Struct, frozen=True):
    """One finding. `bad`: the pipeline cannot run; `note`: worth knowing."""

    name: str
    verdict: Literal["good", "note", "bad"]
    finding: str


def doctor(command: DoctorCommand) -> int:
    """Checks this machine; given a model, checks its files or compares our answers with a
    library's. Exit status 1 if a check fails or an answer differs."""
    if command.model:
        from . import against

        if command.against:
            return against.compare_model(command.model, command)
        for option, is_given in (("--adapter", command.adapter), ("--dtype", command.dtype)):
            if is_given:
                raise UsageError(f"{option} goes with --against transformers")
        return against.print_model_report(command.model, command)
    if command.against or command.adapter:
        raise UsageError("--against and --adapter need a MODEL", "loraconsole doctor MODEL …")
    checks = examine(Path(command.run))
    if command.json:
        print_json(checks)
    else:
        for check in checks:
            mark = {"good": "ok  ", "note": "note", "bad": "FAIL"}[check.verdict]
            print(f"{mark}  {check.name:<14} {units.visible(check.finding)}")
    return 1 if any(check.verdict == "bad" for check in checks) else 0


def examine(run: Path) -> list[Check]:
    """Every check, in the order in which they would make a start fail."""
    return [
        Check("python", "good", f"{platform.python_version()} at {sys.executable}"),
        *(_package(name) for name in PACKAGES),
        _run_directory(run),
        Check("pipeline", "good" if is_running(run) else "note", _pipeline(run)),
        *_device(run),
        _memory(),
        _terminal(),
        *_switched_off(),
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
    """Torch's view of the machine, from a separate process: the import takes seconds."""
    module = "loraconsole.pipeline.model.device_report"
    command = [sys.executable, "-P", "-m", module, "--run", str(run)]
    try:
        done = subprocess.run(command, capture_output=True, timeout=REPORT_SECONDS, check=True)
        report = msgspec.json.decode(done.stdout, type=DeviceReport)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        words = getattr(error, "stderr", b"") or str(error).encode()
        last = words.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        return [Check("device", "bad", f"the device report failed: {last[0]}")]
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
        *(Check("off", "note", reason) for reason in report.off),
    ]


def _switched_off() -> list[Check]:
    """Features that are off with the installed Textual and rich."""
    from ..terminal.reaches import switched_off

    return [Check("off", "note", f"{stage}: {reason}") for stage, reason in switched_off()]


def _unseen() -> str:
    """The number of GPUs that the driver knows and torch does not see, as text; "" if none."""
    devices = Path("/proc/driver/nvidia/gpus")
    count = len(list(devices.iterdir())) if devices.is_dir() else 0
    return f" by torch, though the driver knows {count}" if count else ""


def _memory() -> Check:
    free = _available_bytes()
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    verdict: Literal["good", "note"] = "good" if free > 2 << 30 else "note"
    return Check("memory", verdict, f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB available")


def _available_bytes() -> int:
    """Linux's estimate, which includes reclaimable page cache; free memory on other systems."""
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

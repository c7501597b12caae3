"""`AdapterHost`: the adapters of one worker, from files to the host's memory, to pages and into
weights."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import msgspec
import torch

from ..config import Config
from ..messages import AdapterInfo, CheckAdapter, Comparison
from ..model.compute_queue import ComputeQueue
from ..model.merged import merge, merged_bytes
from ..model.open_checkpoint import open_checkpoint
from ..model.verification import VerificationRun, compare, reference_logits
from .loaded_model import LoadedModel, MakeBar, rank_free_bytes
from .step_launcher import MergedModel


class AdapterHost:
    """`read`, `measure`, `merge` and `compare` may be called from any thread; the others belong to
    the thread that launches steps."""

    def __init__(
        self,
        config: Config,
        directory: Path,
        loaded: LoadedModel,
        queue: ComputeQueue,
        make_bar: MakeBar,
    ) -> None:
        self._config, self._directory, self._loaded = config, directory, loaded
        self._queue, self._make_bar, self._store = queue, make_bar, loaded.store

    def read(self, key: str, path: str) -> AdapterInfo:
        """An adapter's files to the host, checked. Never raises."""
        info = self._store.read(key, path)
        if self._config.no_lora and not info.reason:  # checked, and its name is still answered
            self._store.drop(key)
            info = msgspec.structs.replace(info, num_bytes=0, pages=0)
        return info

    def measure(self, path: str) -> AdapterInfo:
        """What `read` would say, from the headers alone. Never raises."""
        return self._store.measure(path)

    def place(self, key: str, pages: Sequence[int]) -> Future[None]:
        """Starts copying an adapter into pages, behind the steps launched before; those launched
        after do not wait for it."""
        # Memory of its own is given out by the stream that will use it.
        start = self._queue.submit if self._config.no_mem_pool else self._queue.copy
        return start(lambda: self._store.place(key, pages))

    def evict(self, key: str) -> None:
        """Gives up an adapter's pages; no step launched later names it."""
        self._store.evict(key)

    def drop(self, key: str) -> None:
        """Forgets an adapter, on the host too."""
        self._store.drop(key)

    def drop_all(self) -> None:
        """Forgets all adapters."""
        self._store.drop_all()

    def merge(self, key: str) -> MergedModel:
        """A second model with an adapter in its weights, beside all steps. Raises `MemoryError`
        where there is no room for it."""
        loaded, adapter = self._loaded, self._store[key]
        needed = merged_bytes(adapter, loaded.config, loaded.precision.weights)
        if needed > (free := rank_free_bytes(self._config, self._queue)):
            raise MemoryError(
                f"a merged copy takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            )
        model = self._queue.beside(lambda: merge(loaded.model, adapter, loaded.config))
        return MergedModel(key, model, loaded.step_bytes(model))

    def new_verification(self, order: CheckAdapter) -> VerificationRun:
        """The batches of a verification, to be launched among all others."""
        return VerificationRun(order, self._loaded.config.vocab_size)

    def compare(self, run: VerificationRun) -> tuple[tuple[Comparison, ...], bool]:
        """What was generated against the merged weights, and whether all is right. Raises
        `AdapterError` where an adapter's files are not those that were read."""
        directories = {}
        for key in {s.key for s in run.sequences if s.key}:
            known = self._store[key].info
            self._store.check_digest(known)
            directories[key] = known.path
        dummy, device = self._config.dummy, self._queue.device
        checkpoint = open_checkpoint(self._directory, dummy=dummy, device=device)
        num_layers = self._loaded.config.num_layers
        with self._make_bar("verify", num_layers, "layer") as bar, torch.inference_mode():
            references = reference_logits(
                checkpoint, self._loaded.whole, run.sequences, directories, bar.update
            )
        return compare(run, references)

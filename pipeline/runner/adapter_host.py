"""`AdapterHost`: one worker's adapters: read to host memory, placed in pages, merged, verified."""

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
    """Reads, places, merges and verifies adapters. `read`, `measure`, `merge` and `compare` may be
    called from any thread, the other methods only from the thread that launches steps."""

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
        """Reads and checks an adapter's files into host memory. Never raises."""
        info = self._store.read(key, path)
        if self._config.no_lora and not info.reason:  # requests may still name it
            self._store.drop(key)
            return msgspec.structs.replace(info, num_bytes=0, pages=0)
        if not info.reason:
            info = msgspec.structs.replace(info, merged_bytes=self._merged_bytes(key))
        return info

    def held(self) -> tuple[AdapterInfo, ...]:
        """The adapters in host memory, as `read` returned them."""
        return tuple(
            msgspec.structs.replace(info, merged_bytes=self._merged_bytes(info.key))
            for info in self._store.infos()
        )

    def _merged_bytes(self, key: str) -> int:
        """Memory that `merge` allocates for an adapter that was read."""
        loaded = self._loaded
        return merged_bytes(self._store[key], loaded.config, loaded.precision.weights)

    def measure(self, path: str) -> AdapterInfo:
        """The result that `read` would return, from the headers alone. Never raises."""
        return self._store.measure(path)

    def place(self, key: str, pages: Sequence[int]) -> Future[None]:
        """Starts copying an adapter into pages, after the steps launched so far; later steps do
        not wait for it."""
        # Without the pool, its memory must be allocated on the stream that will use it.
        start = self._queue.submit if self._config.no_mem_pool else self._queue.copy
        return start(lambda: self._store.place(key, pages))

    def evict(self, key: str) -> None:
        """Releases an adapter's pages; no later step may name it."""
        self._store.evict(key)

    def drop(self, key: str) -> None:
        """Drops an adapter, including its host copy."""
        self._store.drop(key)

    def merge(self, key: str) -> MergedModel:
        """A second model with an adapter merged into its weights, built while steps run. Raises
        `MemoryError` if it does not fit."""
        loaded, adapter = self._loaded, self._store[key]
        needed = self._merged_bytes(key)
        if needed > (free := rank_free_bytes(self._config, self._queue)):
            raise MemoryError(
                f"a merged copy takes {needed / 2**30:.1f} GiB, {free / 2**30:.1f} GiB are free"
            )
        model = self._queue.beside(lambda: merge(loaded.model, adapter, loaded.config))
        return MergedModel(key, model, loaded.step_bytes(model))

    def new_verification(self, order: CheckAdapter) -> VerificationRun:
        """The batches of a verification, to be launched among all other steps."""
        return VerificationRun(order, self._loaded.config.vocab_size)

    def compare(self, run: VerificationRun) -> tuple[tuple[Comparison, ...], bool]:
        """Compares the generated tokens and logits with merged weights; also returns whether all
        pass. Raises `AdapterError` if an adapter's files changed since they were read."""
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

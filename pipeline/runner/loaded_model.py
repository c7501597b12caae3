"""`LoadedModel`: the weights on their device, with their page pool, adapter store and limits."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..config import Config
from ..errors import OperatorError
from ..model.adapter_store import AdapterStore
from ..model.compute_queue import ComputeQueue
from ..model.fixed_order import FixedOrder
from ..model.kernel_choice import KernelChoice, choose_kernels
from ..model.layers import Rotary
from ..model.llama import Llama, layer_windows
from ..model.loader import ModelLoader, Precision, choose_precision
from ..model.open_checkpoint import open_checkpoint
from ..model.page_pool import PAGE_SIZE, PagePool, choose_num_pages, free_bytes, page_bytes
from ..model.parallel import Ranks, join_ranks
from ..model.pool_memory import PoolKeeper
from ..model.shard import check_divides
from ..model_files.model_config import ModelConfig, read_model_config
from ..runtime.progress import ProgressBar
from .deterministic import (
    choose_order,
    make_fingerprint,
    not_deterministic,
    wants_deterministic,
)
from .step_bytes import StepBytes

MakeBar = Callable[[str, int, str], ProgressBar]
"""(stage, total, unit) -> progress bar of the worker."""


@dataclass(frozen=True)
class LoadedModel:
    """One rank's part of a model, ready to compute."""

    ranks: Ranks
    whole: ModelConfig
    """Config of the model that all ranks share."""
    config: ModelConfig
    """Config of this rank's part."""
    model: Llama
    precision: Precision
    weights_bytes: int
    pool: PagePool
    has_kept_kv: bool
    """Whether the pool holds what the worker before this one computed."""
    store: AdapterStore
    rotary: Rotary
    windows: tuple[int, ...]
    """The distinct attention windows of its layers, ascending."""
    num_bytes: StepBytes
    kernels: KernelChoice
    max_model_len: int
    """Longest sequence in tokens: the model's or the operator's limit, or the pool's."""
    deterministic: bool
    """Whether no answer depends on what else is served."""
    order: FixedOrder | None
    """How a CPU calls torch's products if so; None on a GPU."""
    fingerprint: str
    """Equal for two pipelines only if they give the same answers; see `make_fingerprint`."""

    def step_bytes(self, model: Llama) -> StepBytes:
        """Step bytes of a model of the same shape over the same pool."""
        return StepBytes(model, self.pool, layer_windows(self.config))


def load_model(
    config: Config,
    directory: Path,
    rank: int,
    queue: ComputeQueue,
    make_bar: MakeBar,
    keeper: PoolKeeper | None = None,
) -> LoadedModel:
    """Reads the weights and makes the pool; runs in the queue. With a `keeper` a CPU's pool
    outlives this process. Raises `OperatorError`."""
    device = queue.device
    whole = read_model_config(directory, config.ignore_key)
    check_divides(whole, config.tp)
    ranks = join_ranks(config, rank, device)
    part = ranks.shard.model_config(whole)
    checkpoint = open_checkpoint(directory, dummy=config.dummy, device=device, model_config=whole)
    # All ranks must decide alike, but their free memory may differ: take the smallest.
    # The pool that the worker before has left counts as free: it chose its types without one.
    left = keeper.held_bytes() if keeper else 0
    free = ranks.least(rank_free_bytes(config, queue) + left, device)
    precision = choose_precision(config, part, device, checkpoint.has_int4, free)
    deterministic, order = wants_deterministic(config, device, precision), None
    if deterministic and device.type == "cpu":
        order = choose_order(config, part, has_adapters=not config.no_lora)
        deterministic = order is not None
    with make_bar("weights", part.num_layers + 1, "layer") as bar:
        loader = ModelLoader(
            *(whole, checkpoint, precision, queue, bar.update),
            ranks.ordered() if deterministic else ranks,
            deterministic=deterministic,
        )
        model = loader.load()
    if deterministic and loader.differing:
        if config.deterministic:
            raise not_deterministic(loader.differing)
        deterministic, order = False, None
    rotary = Rotary(part, device)
    longest = choose_max_model_len(config, part)
    if keeper:
        keeper.describe(precision, part, config.tp)
    pool, has_kept_kv = make_pool(config, part, longest, precision, queue, ranks, keeper)
    store = AdapterStore(whole, precision.activations, pool, config, ranks.shard)
    kernels = choose_kernels(config, device.type, store.unit)
    if deterministic and device.type == "cuda" and not kernels.paged:
        raise OperatorError(
            f"--deterministic needs our kernels on a GPU, but: {kernels.why}", "leave one out"
        )
    longest = min(longest, pool.num_pages * PAGE_SIZE)
    return LoadedModel(
        ranks=ranks,
        whole=whole,
        config=part,
        model=model,
        precision=precision,
        weights_bytes=loader.num_bytes,
        pool=pool,
        has_kept_kv=has_kept_kv,
        store=store,
        rotary=rotary,
        windows=tuple(sorted(set(layer_windows(part)))),
        num_bytes=StepBytes(model, pool, layer_windows(part)),
        kernels=kernels,
        max_model_len=longest,
        deterministic=deterministic,
        order=order,
        fingerprint=make_fingerprint(
            *(config, part, loader.digest, precision, kernels, device, queue.threads, longest),
            deterministic=deterministic,
            order=order,
        ),
    )


def make_pool(
    config: Config,
    part: ModelConfig,
    longest: int,
    precision: Precision,
    queue: ComputeQueue,
    ranks: Ranks,
    keeper: PoolKeeper | None,
) -> tuple[PagePool, bool]:
    """A rank's pool, and whether it is that of the worker before: either on all ranks or on none.
    `longest`: tokens of the longest sequence."""
    dtype, device = precision.activations, queue.device
    if device.type != "cpu":
        keeper = None
    each = page_bytes(part, dtype)
    kept = keeper.find() if keeper else None
    if ranks.least(int(kept is not None), device):
        assert kept is not None
        return PagePool(part, kept.num_bytes // each, dtype, device, kept), True
    if kept is not None:
        kept.discard()
    free = ranks.least(rank_free_bytes(config, queue), device)
    num_pages = choose_num_pages(config, part, longest, dtype, device, free)
    memory = keeper.create(num_pages * each) if keeper else None
    return PagePool(part, num_pages, dtype, device, memory), False


def rank_free_bytes(config: Config, queue: ComputeQueue) -> int:
    """Free memory for this rank; ranks on a CPU share the machine's equally."""
    device = queue.device
    return free_bytes(device) // (1 if device.type == "cuda" else config.tp)


def choose_max_model_len(config: Config, model_config: ModelConfig) -> int:
    """`config.max_model_len`, or the model's own limit if it is 0. Raises `OperatorError` if it
    exceeds that limit."""
    longest = model_config.max_model_len
    if config.max_model_len > longest:
        raise OperatorError(
            f"--max-model-len {config.max_model_len} is more than the model's {longest}",
            "lower it",
        )
    return config.max_model_len or longest

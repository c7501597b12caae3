"""Whether answers depend on what else is served: the choice, and the fingerprint that says so."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path

import torch

from ... import __version__
from ..config import Config
from ..errors import OperatorError
from ..model.adapter import SITES, module_shapes
from ..model.fixed_order import FixedOrder, find_order
from ..model.kernel_choice import KernelChoice
from ..model.loader import Precision
from ..model_files.model_config import ModelConfig

BATCHED = "-batched"
"""End of the fingerprint if the order of sums depends on what else is served."""
BY_ROWS = "-auto"
"""End of the fingerprint if the weights' format does, too."""


def wants_deterministic(config: Config, device: torch.device, precision: Precision) -> bool:
    """Whether answers must not depend on what else is served: the setting, or where it is cheap."""
    if config.deterministic is None:
        return device.type == "cpu" and not precision.is_by_rows
    return config.deterministic


def choose_order(config: Config, part: ModelConfig, *, has_adapters: bool) -> FixedOrder | None:
    """How a CPU calls torch's products, so that a row's sums have one order; None if no trial
    agrees. Raises `OperatorError` in that case if the setting demands it. `part`: this rank's."""
    shapes = module_shapes(part)
    inputs = {shapes[members[0]][1] for members in SITES.values()} if has_adapters else set()
    order = find_order(part.head_dim, tuple(sorted(inputs)))
    if order is None and config.deterministic:
        raise not_deterministic("attention or adapters")
    return order


def not_deterministic(product: str) -> OperatorError:
    """The error if `--deterministic` cannot be had."""
    return OperatorError(
        f"--deterministic: torch {torch.__version__} on this processor computes {product} in an "
        "order that depends on the number of rows",
        "leave it out, or choose another --dtype",
    )


def make_fingerprint(
    config: Config,
    part: ModelConfig,
    digest: str,
    precision: Precision,
    kernels: KernelChoice,
    device: torch.device,
    threads: int,
    max_model_len: int,
    *,
    deterministic: bool,
    order: FixedOrder | None,
) -> str:
    """A short hash of all that decides the base model's answers to a request; see `BATCHED` and
    `BY_ROWS` for its end. `digest`: of the weights."""
    decisive = (
        __version__,
        torch.__version__,
        _device_name(device),
        digest,
        part,
        precision,
        kernels.what,
        config.tp,
        threads,
        max_model_len,
        config.bmm,
        config.no_lora,
        config.no_lora_compute,
        deterministic,
        order,
    )
    end = "" if deterministic else BY_ROWS if precision.is_by_rows else BATCHED
    return f"fp_{hashlib.sha256(repr(decisive).encode()).hexdigest()[:12]}{end}"


def _device_name(device: torch.device) -> str:
    """The GPU, or the processor: libraries choose their code by it."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} {torch.version.cuda}"
    names = {"vendor_id", "cpu family", "model", "model name", "flags", "Features"}
    try:
        first = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return platform.processor()
    return "\n".join(line for line in first if line.partition(":")[0].strip() in names)

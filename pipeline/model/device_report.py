"""Prints a `DeviceReport` as JSON: the devices that torch finds here, and the kernels that a worker
would choose. For `loraconsole doctor`, which does not import torch itself.

    python -P -m loraconsole.pipeline.model.device_report --run DIR
"""

from __future__ import annotations

import argparse
import sys
from importlib.util import find_spec
from pathlib import Path

import msgspec
import torch

from ..config import Config
from ..errors import OperatorError
from ..messages import DeviceReport, Gpu
from ..model_files.model_config import read_model_config
from .adapter_store import tile_of
from .cpu_kernels import why_not_int4, why_not_packed
from .kernel_choice import LEAST_TILE, choose_kernels


def make_device_report(config: Config) -> DeviceReport:
    """The report for these settings; without a model yet, for sizes that suit the kernels."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    device = "cuda" if count and config.device != "cpu" else "cpu"
    model = config.run_path / "model"
    tile = tile_of(read_model_config(model, config.ignore_key)) if model.exists() else LEAST_TILE
    choice = choose_kernels(config, device, tile)
    return DeviceReport(
        device=device,
        cuda=torch.version.cuda or "",
        gpus=tuple(_gpu(number) for number in range(count)),
        nccl=_nccl(),
        kernels=f"attention, norms, LoRA: {choice}",
        is_fastest=choice.paged,
        off=_left_out(device),
    )


def _left_out(device: str) -> tuple[str, ...]:
    """Why fast paths are off on this device: features the installed torch or Triton lacks."""
    if device == "cpu":
        return tuple(filter(None, (why_not_packed(), why_not_int4())))
    if find_spec("triton") is None:
        return ()
    from ...kernels import precompile

    return tuple(filter(None, (precompile.why_off(),)))


def _gpu(number: int) -> Gpu:
    major, minor = torch.cuda.get_device_capability(number)
    return Gpu(torch.cuda.get_device_name(number), f"{major}.{minor}")


def _nccl() -> str:
    if not (torch.distributed.is_available() and torch.distributed.is_nccl_available()):
        return ""
    return ".".join(map(str, torch.cuda.nccl.version()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--run", type=Path, required=True, help="run directory whose settings to use, if any"
    )
    run: Path = parser.parse_args().run
    try:
        config = Config.load(run)
    except OperatorError:  # the directory has no settings yet
        config = Config(run=str(run))
    sys.stdout.buffer.write(msgspec.json.encode(make_device_report(config)))


if __name__ == "__main__":
    main()

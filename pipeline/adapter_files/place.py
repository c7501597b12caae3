"""`check_place` and `weight_files`: find an adapter's files at a path given by an operator.

Operators also give files, parents of checkpoints and formats of other programs; the refusal names
each, with what to do. Knows file names and a file's first bytes; nothing of configs and tensors.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..runtime.guarded_file import (
    AdapterError,
    brief,
    names_in,
    open_guarded,
    read_bounded,
    resolve_inside,
)
from .tensor_file import CONFIG

WEIGHTS = "adapter_model.safetensors"
INDEX = "adapter_model.safetensors.index.json"
SHARD = re.compile(r"adapter_model-(\d{5})-of-(\d{5})\.safetensors")
PICKLE = "adapter_model.bin"
MLX_WEIGHTS = "adapters.safetensors"

MOST_INDEX_BYTES = 16 << 20
MOST_SHARDS = 1000
MOST_NAMES = 2000
"""Most entries of a directory that are examined."""
MOST_SHOWN = 4
HEAD_BYTES = 1 << 16

NEEDED = f"an adapter is a directory with {CONFIG} and {WEIGHTS}"
NOT_GGUF = (
    "a GGUF adapter (llama.cpp's), which is not read: give the PEFT directory it was made from"
)
WHOLE_MODEL = (
    "a whole model, not an adapter: serve it with --model, or extract an adapter from it first"
)
OTHER_PROGRAMS = {
    re.compile(r".*\.gguf"): NOT_GGUF,
    re.compile(r"adapters\.npz"): "an adapter of an old mlx-lm, which is not read: train or "
    "convert it with a newer one, which writes adapters.safetensors",
    re.compile(r"adapter_\d+\.(safetensors|pt|bin)"): "torchtune's own adapter, whose names "
    "differ: have its checkpointer write PEFT's (adapter_model.safetensors)",
    re.compile(r"pytorch_lora_weights\.(safetensors|bin)"): "a diffusers LoRA, for an image model",
    re.compile(r"lit_model\.(pth\.)?lora(\.pth)?"): "litgpt's own adapter: merge it (litgpt "
    "merge_lora) and serve that model",
    re.compile(r"pytorch_model_fsdp.*|.*\.distcp|global_step\d+|.*_optim_states\.pt"): "a "
    "trainer's state in shards: save the adapter from it with PEFT's save_pretrained",
}
"""Files of other programs: what they are, by a pattern of their name."""

WHOLE = re.compile(r"(model|pytorch_model)([-.].*)?\.(safetensors|bin)|config\.json")
"""Files of a whole model."""
FOREIGN_KEYS = re.compile(rb'"(lora_(unet|te\d?)_|[^"]*\.(lora_down|lora\.down)\.)')
"""Keys of LoRAs for image models: kohya's and diffusers'."""


def check_place(path: str, roots: Sequence[str] = ()) -> None:
    """Raises `AdapterError` if the path is not a directory with adapter_config.json, naming what is
    there instead."""
    try:
        real = resolve_inside(path, roots) if roots else path
        os.stat(real)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AdapterError(f"{path}: {reason}; {NEEDED}") from error
    if not os.path.isdir(real):
        raise AdapterError(f"{path} {_what_file(Path(path), roots)}")
    if not os.path.lexists(Path(real, CONFIG)):
        raise AdapterError(f"{path} has no {CONFIG}{_what_lies_in(Path(path), Path(real), roots)}")


def weight_files(directory: str, roots: Sequence[str] = ()) -> tuple[Path, ...]:
    """The files of PEFT's weights: one, or every shard. Raises `AdapterError` if they are missing,
    naming what is there instead."""
    real = Path(resolve_inside(directory, roots) if roots else directory)
    names = names_in(real, roots, MOST_NAMES)
    if WEIGHTS in names:
        return (Path(directory, WEIGHTS),)
    if INDEX in names:
        return _shards_of_index(directory, names, roots)
    if found := {name: match for name in names if (match := SHARD.fullmatch(name))}:
        count = int(max(match[2] for match in found.values()))
        wanted = [f"adapter_model-{n:05}-of-{count:05}.safetensors" for n in range(1, count + 1)]
        return _all_there(directory, wanted[: MOST_SHARDS + 1], names)
    if PICKLE in names:
        raise AdapterError(
            f"{directory} holds {PICKLE}, a pickle, which may run code when it is read: save it as "
            f"safetensors, {WEIGHTS}"
        )
    raise AdapterError(f"{directory} has no {WEIGHTS}{_what_lies_in(Path(directory), real, roots)}")


def _shards_of_index(
    directory: str, names: Sequence[str], roots: Sequence[str]
) -> tuple[Path, ...]:
    path = Path(directory, INDEX)
    try:
        text = read_bounded(directory, INDEX, MOST_INDEX_BYTES, roots) or b""
        index = msgspec.json.decode(text, type=dict[str, msgspec.Raw])
        shards = msgspec.json.decode(index["weight_map"], type=dict[str, str]).values()
    except KeyError as error:
        raise AdapterError(f"{path} has no weight_map, which names each tensor's file") from error
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{path}: {error}") from error
    wanted = sorted(set(shards))
    for name in wanted:
        if os.path.basename(name) != name or not name.endswith(".safetensors"):
            raise AdapterError(f"{path}: {brief(name)} is not a safetensors file beside it")
    return _all_there(directory, wanted, names)


def _all_there(directory: str, wanted: Sequence[str], names: Sequence[str]) -> tuple[Path, ...]:
    if not wanted or len(wanted) > MOST_SHARDS:
        raise AdapterError(f"{directory}: an adapter in {len(wanted)} shards is not read")
    if missing := [name for name in wanted if name not in names]:
        raise AdapterError(f"{directory} lacks {_list(missing)} of {len(wanted)} shards")
    return tuple(Path(directory, name) for name in wanted)


# --- naming what is there -----------------------------------------------------------------------


def _what_file(path: Path, roots: Sequence[str]) -> str:
    """What a file is that was given instead of a directory."""
    head = _head(path, str(path), roots)
    if head.startswith(b"GGUF"):
        return f"is {NOT_GGUF}"
    for pattern, words in OTHER_PROGRAMS.items():
        if pattern.fullmatch(path.name):
            return f"is {words}"
    if FOREIGN_KEYS.search(head):
        return "is a LoRA for an image model (kohya's or diffusers'), which is not served here"
    if path.name in (WEIGHTS, CONFIG, PICKLE, INDEX, MLX_WEIGHTS) or SHARD.fullmatch(path.name):
        return f"is a file: give its directory, {path.parent}"
    if WHOLE.fullmatch(path.name):
        return f"is a file of {WHOLE_MODEL}"
    return f"is a file: {NEEDED}"


def _what_lies_in(path: Path, real: Path, roots: Sequence[str]) -> str:
    """The end of a refusal: what a directory holds that lacks an adapter's file, and what to do."""
    names = names_in(real, roots, MOST_NAMES)
    if CONFIG not in names and any(
        name in (WEIGHTS, PICKLE) or SHARD.fullmatch(name) for name in names
    ):
        return (
            ", which has the rank and the scale of its weights: copy it from where the adapter "
            "was trained"
        )
    if inner := _adapters_below(real, roots):
        newest = str(path / inner[-1])
        others = f" (also {_list(inner[:-1])})" if inner[:-1] else ""
        return f"; an adapter lies in {brief(inner[-1])} below it{others}: give {brief(newest)}"
    for name in names:
        for pattern, words in OTHER_PROGRAMS.items():
            if pattern.fullmatch(name):
                return f"; it holds {brief(name)}: {words}"
    if MLX_WEIGHTS in names:
        return f"; it holds {MLX_WEIGHTS}, of mlx-lm: copy that training's {CONFIG} beside it"
    for name in names:
        if name.endswith(".safetensors"):
            head = _head(path / name, str(path), roots)
            if FOREIGN_KEYS.search(head):
                return f"; {brief(name)} is a LoRA for an image model (kohya's or diffusers')"
    if any(WHOLE.fullmatch(name) for name in names):
        return f"; it holds {_list([n for n in names if WHOLE.fullmatch(n)])}: {WHOLE_MODEL}"
    holds = f"it holds {_list(names)}" if names else "it is empty"
    return f"; {holds}; {NEEDED}"


def _adapters_below(real: Path, roots: Sequence[str]) -> list[str]:
    """Directories with an adapter, one or two levels below, the newest checkpoint last."""
    names = names_in(real, roots, MOST_NAMES)
    found = [name for name in names if os.path.isfile(real / name / CONFIG)]
    if not found:
        found = [
            f"{name}/{inner}"
            for name in names[:100]
            if not os.path.islink(real / name) and os.path.isdir(real / name)
            for inner in names_in(real / name, roots, 100)
            if os.path.isfile(real / name / inner / CONFIG)
        ]

    def age(name: str) -> tuple[int, str]:
        number = re.search(r"(\d+)$", name)
        return int(number[1][:18]) if number else -1, name

    return sorted(found, key=age)


def _list(names: Sequence[str]) -> str:
    shown = ", ".join(brief(name) for name in names[:MOST_SHOWN])
    return f"{shown} and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else shown


def _head(path: Path, directory: str, roots: Sequence[str]) -> bytes:
    """A file's first bytes; empty if it cannot be read."""
    try:
        with open_guarded(path, directory, roots) as file:
            return file.read(HEAD_BYTES) or b""
    except (AdapterError, OSError):
        return b""

"""`find_checkpoint`: chooses the files of a directory that hold the model's weights, as
transformers does: model.safetensors, else the index's shards, else any files that are unambiguous.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from ..errors import OperatorError
from ..runtime.text_files import read_json
from .findings import Finding
from .safetensors_header import StoredTensor, read_tensor_table

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
GGUF = "model.gguf"
NOT_WEIGHTS = ("adapter_", "consolidated")
"""Name prefixes of safetensors files that are not a Hugging Face model: adapters and Mistral's own
format."""
OTHER_FORMATS = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.h5", "*.msgpack", "*.onnx")
CONVERT = (
    "load it once with transformers' AutoModelForCausalLM and save_pretrained, which writes "
    "safetensors; such files are pickles, which are not opened here"
)


class CheckpointFiles(msgspec.Struct, frozen=True):
    """The weights of a model directory: a GGUF, or tensors of safetensors files by name."""

    where: Path
    """The file that lists the tensors (`SINGLE`, `INDEX`, `GGUF`), or the directory."""
    tensors: dict[str, StoredTensor]
    """Tensors by their name in the model, which may differ from that in the file."""
    gguf: Path | None
    findings: tuple[Finding, ...] = ()
    """Notes only; errors are raised."""


def find_checkpoint(directory: Path) -> CheckpointFiles:
    """The files, with notes; reads tables of tensors, no weights.

    Raises `OperatorError` if there are none, one is truncated, or the choice is ambiguous.
    """
    whole, index = directory / SINGLE, directory / INDEX
    if whole.is_file():
        found = CheckpointFiles(whole, read_tensor_table(whole), None, _stale(whole, index))
    elif index.is_file():
        found = _of_index(directory, index)
    elif files := _candidates(directory):
        found = _of_files(directory, files)
    elif (directory / GGUF).is_file():
        return CheckpointFiles(directory / GGUF, {}, directory / GGUF)
    else:
        raise _none(directory)
    return msgspec.structs.replace(
        found,
        tensors=_with_prefix(found.tensors),
        findings=(*found.findings, *_beside(directory, found)),
    )


def _with_prefix(tensors: dict[str, StoredTensor]) -> dict[str, StoredTensor]:
    """Adds the prefix `model.` to a model saved without its head, as transformers does."""
    if not any(name.startswith("layers.") for name in tensors):
        return tensors
    return {
        name if name.startswith(("model.", "lm_head.")) else f"model.{name}": tensor
        for name, tensor in tensors.items()
    }


def _stale(whole: Path, index: Path) -> tuple[Finding, ...]:
    if not index.is_file():
        return ()
    try:
        named = set(_weight_map(index).values())
    except OperatorError:
        named = set()
    if named == {SINGLE}:
        return ()
    what = f"is stale: {SINGLE} beside it is read instead"
    return (Finding(INDEX, "note", what, "remove the index", INDEX),)


def _weight_map(index: Path) -> dict[str, str]:
    """Tensor name to file name. Raises `OperatorError` if the index is invalid."""
    try:
        table: Any = read_json(index)
        shards = table["weight_map"]
        if not shards or not all(isinstance(file, str) for file in shards.values()):
            raise ValueError("its weight_map names no files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        what = "it has no weight_map" if isinstance(error, KeyError) else str(error)
        raise OperatorError(f"{index} is not an index: {what}", "fetch the model again") from error
    return dict(shards)


def _of_index(directory: Path, index: Path) -> CheckpointFiles:
    shards = _weight_map(index)
    files = sorted(set(shards.values()))
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise OperatorError(f"{index} names {file}, which is outside its directory")
    if missing := [file for file in files if not (directory / file).is_file()]:
        raise OperatorError(
            f"{directory} lacks {', '.join(missing)}, which {INDEX} names", "fetch it again"
        )
    tensors: dict[str, StoredTensor] = {}
    for file in files:
        for name, tensor in read_tensor_table(directory / file).items():
            if name not in tensors or shards.get(name) == file:
                tensors[name] = tensor
    if lost := sorted(shards.keys() - tensors.keys()):
        raise OperatorError(
            f"{index} names {lost[0]}, which {shards[lost[0]]} does not hold"
            + (f" ({len(lost)} such)" if len(lost) > 1 else ""),
            "index and shards are of different saves: fetch the model again",
        )
    return CheckpointFiles(index, tensors, None)


def _candidates(directory: Path) -> list[Path]:
    return sorted(
        path for path in directory.glob("*.safetensors") if not path.name.startswith(NOT_WEIGHTS)
    )


def _of_files(directory: Path, files: list[Path]) -> CheckpointFiles:
    """The checkpoint of files with other names: one, or several without duplicate tensors."""
    tensors: dict[str, StoredTensor] = {}
    for path in files:
        for name, tensor in read_tensor_table(path).items():
            if name in tensors:
                raise OperatorError(
                    f"{directory}: the choice of weights is ambiguous: "
                    f"{tensors[name].file.name} and {path.name} both hold {name}",
                    f"name the right one {SINGLE}, or write {INDEX}",
                )
            tensors[name] = tensor
    names = ", ".join(path.name for path in files[:3]) + (", ..." if len(files) > 3 else "")
    what = f"and no {INDEX}: the weights are {names}"
    where = files[0] if len(files) == 1 else directory
    return CheckpointFiles(where, tensors, None, (Finding(f"no {SINGLE}", "note", what),))


def _beside(directory: Path, found: CheckpointFiles) -> list[Finding]:
    """Notes on other weights in the directory, which are not read."""
    used = {tensor.file for tensor in found.tensors.values()}
    others = sorted(
        path.name
        for path in (*_candidates(directory), *directory.glob("*.gguf"))
        if path not in used
    )
    notes = []
    if others:
        names = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
        what = f"lies beside {found.where.name} and is not read"
        notes.append(Finding(names, "note", what, "remove it, or give its path, if it is meant"))
    if (directory / "adapter_config.json").exists():
        what = "lies beside the model: the adapter is not applied"
        hint = f"give it as --adapter NAME={directory}"
        notes.append(Finding("adapter_config.json", "note", what, hint))
    return notes


def _none(directory: Path) -> OperatorError:
    what = f"{directory} holds no weights: neither {SINGLE}, {INDEX} nor {GGUF}"
    if (directory / "adapter_config.json").exists():
        return OperatorError(
            f"{what}, but an adapter",
            f"give it as --adapter NAME={directory}, and its base as --model",
        )
    if mistral := sorted(path.name for path in directory.glob("consolidated*.safetensors")):
        return OperatorError(
            f"{what}; {mistral[0]} is Mistral's own format, which is not read",
            "take the model in Hugging Face's format",
        )
    others = sorted(path.name for kind in OTHER_FORMATS for path in directory.glob(kind))
    others = [name for name in others if name != "training_args.bin"]
    if others:
        return OperatorError(f"{what}; {others[0]} is not read", CONVERT)
    if ggufs := sorted(path.name for path in directory.glob("*.gguf")):
        return OperatorError(what, f"give a GGUF by its path: {directory / ggufs[0]}")
    if below := sorted(path.parent.name for path in directory.glob(f"*/{SINGLE}*")):
        return OperatorError(what, f"there are weights in {below[0]}: give that directory")
    return OperatorError(
        what,
        "pickles and GGUF files of a hub repository are not fetched; --dummy makes random weights",
    )

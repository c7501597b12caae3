"""Adapters that must be refused: `BROKEN` has for each a function that makes it in a directory, for
any model, and the text of its refusal.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from driver import save_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

Make = Callable[[Path, Path], None]
"""`make(path, model)` makes the adapter at `path`, which does not exist yet, for `model`."""

TARGETS = ["q_proj", "v_proj", "down_proj"]
LAYER = "base_model.model.model.layers.1."
A, B = (f"{LAYER}self_attn.q_proj.lora_{side}.weight" for side in "AB")


class Broken(NamedTuple):
    """A refused adapter, and the regular expression that its refusal matches."""

    make: Make
    reason: str


def save_small_adapter(path: Path, model: Path, **changes: Any) -> Path:
    """A valid adapter of few modules, for a model with at least two layers."""
    return save_adapter(path, model, **({"r": 4, "target_modules": TARGETS} | changes))


def files_of(path: Path) -> tuple[Path, Path]:
    """The paths of the config and of the weights."""
    return path / "adapter_config.json", path / "adapter_model.safetensors"


# --- changes to a valid adapter -----------------------------------------------------------------


def config_with(**changes: Any) -> Make:
    """Changes adapter_config.json; the weights stay."""

    def make(path: Path, model: Path) -> None:
        config, _ = files_of(save_small_adapter(path, model))
        config.write_text(json.dumps(json.loads(config.read_text()) | changes))

    return make


def config_of(text: bytes) -> Make:
    def make(path: Path, model: Path) -> None:
        files_of(save_small_adapter(path, model))[0].write_bytes(text)

    return make


def tensors_with(changes: dict[str, Callable[[Tensor], Tensor] | None], **config: Any) -> Make:
    """Replaces each tensor by a function of itself (of A for a new one), or removes it if None."""

    def make(path: Path, model: Path) -> None:
        _, weights = files_of(save_small_adapter(path, model, **config))
        tensors = load_file(weights)
        a = tensors[A]
        for key, change in changes.items():
            old = tensors.pop(key, a)
            if change is not None:
                tensors[key] = change(old).contiguous()
        save_file(tensors, weights)

    return make


def extra(key: str) -> Make:
    return tensors_with({key: torch.clone})


def header_with(change: Callable[[dict[str, Any]], None]) -> Make:
    """Changes the header of the weights, not the bytes after it."""

    def make(path: Path, model: Path) -> None:
        _, weights = files_of(save_small_adapter(path, model))
        content = weights.read_bytes()
        length = int.from_bytes(content[:8], "little")
        header = json.loads(content[8 : 8 + length])
        change(header)
        weights.write_bytes(with_header(json.dumps(header).encode()) + content[8 + length :])

    return make


def entry_with(**changes: Any) -> Make:
    return header_with(lambda header: header[A].update(changes))


def offsets_moved(start: int, stop: int) -> Make:
    """Moves the offsets of the file's second tensor."""

    def change(header: dict[str, Any]) -> None:
        entries = [entry for key, entry in header.items() if key != "__metadata__"]
        second = sorted(entry["data_offsets"] for entry in entries)[1]
        entry = next(entry for entry in entries if entry["data_offsets"] == second)
        entry["data_offsets"] = [second[0] + start, second[1] + stop]

    return header_with(change)


def with_header(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


def weights_of(content: Callable[[bytes], bytes]) -> Make:
    """Replaces the weights file's bytes by `content` of the valid ones."""

    def make(path: Path, model: Path) -> None:
        _, weights = files_of(save_small_adapter(path, model))
        weights.write_bytes(content(weights.read_bytes()))

    return make


def twice_in_the_header(content: bytes) -> bytes:
    """Adds a second entry of the same name, which JSON allows; the last one counts."""
    length = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + length].rstrip()
    entry = json.dumps({A: json.loads(header)[B] | {"shape": json.loads(header)[A]["shape"]}})
    return with_header(header[:-1] + b"," + entry.encode()[1:]) + content[8 + length :]


def instead(which: int, put: Callable[[Path], object]) -> Make:
    """Replaces the config (0) or the weights (1) by something else."""

    def make(path: Path, model: Path) -> None:
        file = files_of(save_small_adapter(path, model))[which]
        file.unlink()
        put(file)

    return make


def nothing(path: Path) -> None:
    pass


def pickled(path: Path) -> None:
    torch.save({}, path.with_name("adapter_model.bin"))


def no_directory(path: Path, model: Path) -> None:
    path.write_bytes(b"")


def for_another_model(path: Path, model: Path) -> None:
    """A has twice as many inputs as the model."""
    tensors_with(
        {A: lambda a: torch.cat((a, a), dim=1)}, base_model_name_or_path="somebody/a-larger-model"
    )(path, model)


def without_values(path: Path, model: Path) -> None:
    """All tensors of v_proj are missing."""
    _, weights = files_of(save_small_adapter(path, model))
    save_file({k: v for k, v in load_file(weights).items() if "v_proj" not in k}, weights)


# --- the adapters and their refusals ------------------------------------------------------------

CONFIGS: dict[str, Broken] = {
    "a file for a directory": Broken(
        no_directory,
        r"is a file: an adapter is a directory with adapter_config.json and adapter_model",
    ),
    "no config": Broken(
        instead(0, nothing),
        r"has no adapter_config.json, which has the rank and the scale of its weights: copy it",
    ),
    "config is a directory": Broken(
        instead(0, Path.mkdir), r"adapter_config.json is a directory, not a file"
    ),
    "config is a fifo": Broken(instead(0, os.mkfifo), r"adapter_config.json is a fifo, not a file"),
    "config links to itself": Broken(
        instead(0, lambda path: path.symlink_to(path.name)),
        r"adapter_config.json: Too many levels of symbolic links",
    ),
    "config of two MiB": Broken(
        config_of(b" " * (2 << 20)), r"adapter_config.json has 2097152 bytes, more than 1048576"
    ),
    "config that never ends": Broken(
        instead(0, lambda path: path.symlink_to("/dev/zero")),
        r"adapter_config.json is a device, not a file",
    ),
    "empty config": Broken(config_of(b""), r"adapter_config.json: Input data was truncated"),
    "half a config": Broken(config_of(b'{"r": 4,}'), r"JSON is malformed: .*\(byte 8\)"),
    "config is an array": Broken(config_of(b"[4]"), r"Expected `object`, got `array`"),
    "config is not UTF-8": Broken(config_of(b'{"r": "\xff"}'), r"can't decode byte 0xff"),
    "config as deep as a well": Broken(
        config_of(b'{"r":' + b"[" * 500_000), r"maximum recursion depth exceeded"
    ),
    "alpha is not a number": Broken(
        config_with(lora_alpha=float("nan")), r"holds NaN or Infinity: numbers must be finite"
    ),
    "alpha beyond all floats": Broken(
        config_of(b'{"r": 4, "lora_alpha": 1e999}'), r"Number out of range"
    ),
    "alpha is a word": Broken(config_with(lora_alpha="8"), r"got `str` - at `\$.lora_alpha`"),
    "alpha is a truth": Broken(config_with(lora_alpha=True), r"got `bool` - at `\$.lora_alpha`"),
    "alpha of a pattern is a word": Broken(
        config_with(alpha_pattern={"q_proj": "8"}), r"got `str` - at `\$.alpha_pattern\[...\]`"
    ),
    "no rank": Broken(config_of(b'{"lora_alpha": 8}'), r"missing required field `r`"),
    "rank is a word": Broken(config_with(r="eight"), r"Expected `int`, got `str` - at `\$.r`"),
    "rank is a truth": Broken(config_with(r=True), r"Expected `int`, got `bool` - at `\$.r`"),
    "rank is a half": Broken(config_with(r=4.5), r"Expected `int`, got `float` - at `\$.r`"),
    "rank zero": Broken(config_with(r=0), r"r is 0; ranks are 1 to 512"),
    "rank below zero": Broken(config_with(r=-4), r"r is -4; ranks are 1 to 512"),
    "rank 513": Broken(config_with(r=513), r"r is 513; ranks are 1 to 512"),
    "rank beyond integers": Broken(
        config_of(b'{"r": 1' + b"0" * 5000 + b"}"), r"Integer value out of range"
    ),
    "rank of a pattern zero": Broken(
        config_with(rank_pattern={"q_proj": 0}), r"rank_pattern's 'q_proj' is 0; ranks are 1 to 512"
    ),
    "rank of a pattern 600": Broken(
        config_with(rank_pattern={"k_proj": 600}), r"rank_pattern's 'k_proj' is 600; ranks are"
    ),
    "ranks in a list": Broken(
        config_with(rank_pattern=[4]), r"Expected `object \| null`, got `array` - at `\$.rank_pat"
    ),
    "targets are a number": Broken(config_with(target_modules=7), r"at `\$.target_modules`"),
    "no targets": Broken(config_with(target_modules=None), r"target_modules is missing"),
    "targets of another kind of model": Broken(
        config_with(target_modules=["query_key_value"]), r"target_modules names no module of this"
    ),
    "all targets excluded": Broken(
        config_with(exclude_modules=r".*proj", base_model_name_or_path="some/body"),
        r"names no module of this model, .*_proj, without \.\*proj; it was trained for some/body",
    ),
    "embeddings": Broken(
        config_with(target_modules=["q_proj", "embed_tokens"]),
        r"names model.embed_tokens: adapters of embeddings and lm_head are not supported yet",
    ),
    "lm_head": Broken(
        config_with(target_modules=r".*(q_proj|lm_head)"),
        r"names lm_head: adapters of embeddings and lm_head are not supported yet",
    ),
    "targets are no pattern": Broken(
        config_with(target_modules="*q_proj"),
        r"'\*q_proj' is not a valid pattern: nothing to repeat",
    ),
    "exclusion is no pattern": Broken(
        config_with(exclude_modules="[q"),
        r"'\[q' is not a valid pattern: unterminated character set",
    ),
    "rank for no pattern": Broken(
        config_with(rank_pattern={"(": 4}), r"'\(' is not a valid pattern: missing \)"
    ),
    "alpha for no pattern": Broken(
        config_with(alpha_pattern={"q{9999999999999}": 4}),
        r"is not a valid pattern: the repetition number",
    ),
    "layers for no pattern": Broken(
        config_with(layers_pattern=["layers", "h[4"], layers_to_transform=[0]),
        r"'h\[4' is not a valid pattern: unterminated character set",
    ),
    "a pattern that takes for ever": Broken(
        config_with(target_modules=r"(\w|\.|[a-z])*(\w+\.?)+!"), r"\)\+! takes too long to match"
    ),
    "a long pattern": Broken(
        config_with(target_modules="|".join(["q_proj"] * 200)), r"has 1399 characters, above 1000"
    ),
    "patterns without end": Broken(
        config_with(rank_pattern={f"q{n}": 4 for n in range(5000)}),
        r"rank_pattern has 5000 entries, above 4096",
    ),
    "a layer too far": Broken(
        config_with(layers_to_transform=[0, 99]),
        r"layers_to_transform names layer 99, the model's are 0 to \d+",
    ),
    "a layer before the first": Broken(
        config_with(layers_to_transform=-1), r"layers_to_transform names layer -1, the model's are"
    ),
    "layers are a word": Broken(
        config_with(layers_to_transform="all"), r"got `str` - at `\$.layers_to_transform`"
    ),
    "IA3": Broken(config_with(peft_type="IA3"), r"peft_type IA3 is not supported"),
    "a field of tomorrow": Broken(
        config_with(use_wonder=True), r"use_wonder is an unknown field; remove it if"
    ),
    "two of them": Broken(
        config_with(use_dora=True, modules_to_save=["x"]),
        r"use_dora \(DoRA\), modules_to_save \(whole .*\) is not supported: merge it",
    ),
}
FIELDS: dict[str, Any] = {
    "use_dora": True,
    "lora_bias": True,
    "modules_to_save": ["lm_head"],
    "layer_replication": [[0, 2], [1, 2]],
    "trainable_token_indices": [1, 2],
    "target_parameters": ["mlp.experts.gate_up_proj"],
    "alora_invocation_tokens": [5, 6],
    "use_qalora": True,
    "use_bdlora": {"target_modules_bd_a": ["q_proj"]},
    "arrow_config": {"top_k": 3},
    "kasa_config": {},
    "monteclora_config": {},
    "velora_config": {},
    "megatron_config": {"tensor_model_parallel_size": 2},
    "enable_lora": [True, False],
}
CONFIGS |= {
    field: Broken(config_with(**{field: value}), rf"json: {field} \([^)]+\) is not supported: \w+")
    for field, value in FIELDS.items()
}
CONFIGS |= {
    f"starts as {value}": Broken(
        config_with(init_lora_weights=value), rf"init_lora_weights '{value}' is not supported"
    )
    for value in ("pissa", "pissa_niter_4", "olora", "corda", "loftq", "lora_ga", "of_tomorrow")
}

FILES: dict[str, Broken] = {
    "no weights": Broken(
        instead(1, nothing),
        r"has no adapter_model.safetensors; it holds adapter_config.json; an adapter is",
    ),
    "a pickle": Broken(
        instead(1, pickled),
        r"holds adapter_model.bin, a pickle, which may run code when it is read",
    ),
    "weights are a directory": Broken(
        instead(1, Path.mkdir), r"adapter_model.safetensors is a directory, not a file"
    ),
    "weights are a fifo": Broken(
        instead(1, os.mkfifo), r"adapter_model.safetensors is a fifo, not a file"
    ),
    "weights link to themselves": Broken(
        instead(1, lambda path: path.symlink_to(path.name)),
        r"adapter_model.safetensors: Too many levels of symbolic links",
    ),
    "weights not fetched": Broken(
        weights_of(lambda _: b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n"),
        r"adapter_model.safetensors is a Git LFS pointer",
    ),
    "empty weights": Broken(weights_of(lambda _: b""), r"not a safetensors file: it has 0 bytes"),
    "seven bytes": Broken(weights_of(lambda c: c[:7]), r"not a safetensors file: it has 7 bytes"),
    "a pickle's name changed": Broken(
        weights_of(lambda _: b"PK\3\4\0\0\10\10" + bytes(80)),
        r"its first 8 bytes announce a header of 578712552184433488 bytes, more than 16777216",
    ),
    "a header of eight exabytes": Broken(
        weights_of(lambda c: b"\xff" * 7 + b"\x7f" + c[8:]),
        r"announce a header of 9223372036854775807 bytes",
    ),
    "a header of 17 MiB": Broken(
        weights_of(lambda c: (17 << 20).to_bytes(8, "little") + c[8:]),
        r"announce a header of 17825792 bytes",
    ),
    "cut in the header": Broken(
        weights_of(lambda c: c[:100]), r"is cut short: its header is \d+ bytes, 92 are there"
    ),
    "an empty header": Broken(weights_of(lambda _: bytes(50)), r"its header: Input data was trunc"),
    "a header that is no JSON": Broken(
        weights_of(lambda _: with_header(b"weights!")), r"its header: JSON is malformed"
    ),
    "a header that is an array": Broken(
        weights_of(lambda _: with_header(b"[]")), r"its header: Expected `object`, got `array`"
    ),
    "a header that is not UTF-8": Broken(
        weights_of(lambda _: with_header(b'{"\xfe": {}}')), r"can't decode byte 0xfe"
    ),
    "a header as deep as a well": Broken(
        weights_of(lambda _: with_header(b'{"a":' + b"[" * 500_000)),
        r"its header: maximum recursion depth exceeded",
    ),
    "a header without tensors": Broken(
        weights_of(lambda _: with_header(b"{}")), r"layers.0.self_attn.q_proj.lora_A.weight is miss"
    ),
    "a tensor without dtype": Broken(
        header_with(lambda header: header[A].pop("dtype")),
        r"layers.1.self_attn.q_proj.lora_A.weight: Object missing required field `dtype`",
    ),
    "a shape that is a word": Broken(
        entry_with(shape="4x48"),
        r"q_proj.lora_A.weight: Expected `array`, got `str` - at `\$.shape",
    ),
    "three offsets": Broken(
        entry_with(data_offsets=[0, 1, 2]), r"q_proj.lora_A.weight: Expected `array` of length 2"
    ),
    "offsets shared": Broken(
        offsets_moved(-16, -16), r"lora_[AB].weight overlaps the tensor before"
    ),
    "offsets apart": Broken(
        offsets_moved(16, 16), r"the bytes from \d+ to \d+, before \S+weight, belong to no tensor"
    ),
    "offsets too few": Broken(
        offsets_moved(0, -4), r"lora_[AB].weight \[\d+, \d+\] of F32 needs \d+ bytes, its offsets"
    ),
    "offsets before the file": Broken(
        entry_with(data_offsets=[-64, -32]), r"its offsets are -64 to -32"
    ),
    "offsets beyond the file": Broken(
        entry_with(data_offsets=[1 << 60, (1 << 60) + 8]),
        r"the bytes from \d+ to \d+, before \S+lora_B.weight, belong",
    ),
    "a tensor twice": Broken(
        weights_of(twice_in_the_header), r"its offsets are|to no tensor|overlap"
    ),
    "cut in the middle": Broken(
        weights_of(lambda c: c[: -len(c) // 3]), r"is cut short: its header names \d+ bytes of tens"
    ),
    "cut by a byte": Broken(
        weights_of(lambda c: c[:-1]),
        r"is cut short: its header names \d+ bytes of tensors, \d+ are",
    ),
    "bytes behind": Broken(
        weights_of(lambda c: c + b"more"), r"goes on for 4 bytes after its last tensor"
    ),
}

TENSORS: dict[str, Broken] = {
    "integers": Broken(
        tensors_with({A: lambda a: a.to(torch.int8)}),
        r"q_proj.lora_A.weight is of dtype I8, not one of F16, BF16, F32, F64",
    ),
    "eight bits": Broken(
        tensors_with({B: lambda b: b.to(torch.float8_e4m3fn)}), r"lora_B.weight is of dtype F8_E4M3"
    ),
    "an invented dtype": Broken(entry_with(dtype="Q4_K"), r"lora_A.weight is of dtype Q4_K, not"),
    "an input too few": Broken(
        tensors_with({A: lambda a: a[:, 1:]}),
        r"q_proj.lora_A.weight has shape \[4, \d+\], the model and adapter_config.json need \[4, ",
    ),
    "an output too many": Broken(
        tensors_with({B: lambda b: torch.cat((b, b[:1]))}),
        r"q_proj.lora_B.weight has shape \[\d+, 4\], the model and adapter_config.json need \[",
    ),
    "turned around": Broken(
        tensors_with({A: torch.t}), r"lora_A.weight has shape \[\d+, 4\], .* need \[4, \d+\]"
    ),
    "flat": Broken(tensors_with({A: torch.flatten}), r"lora_A.weight has shape \[\d+\], the model"),
    "a single number": Broken(tensors_with({A: torch.sum}), r"lora_A.weight has shape \[\], the"),
    "no number": Broken(
        tensors_with({A: lambda a: a[:0]}),
        r"A.weight has shape \[0, \d+\], .*; DeepSpeed ZeRO-3 and FSDP leave such tensors: gather",
    ),
    "a shape beyond all memory": Broken(
        entry_with(shape=[1 << 62, 1 << 62]), r"has shape \[4611686018427387904, 46116860184273879"
    ),
    "a shape below zero": Broken(entry_with(shape=[-4, -48]), r"has shape \[-4, -48\]"),
    "a million dimensions": Broken(entry_with(shape=[1] * 1_000_000), r"has shape \[1, 1, 1,.*…"),
    "another rank": Broken(config_with(r=5), r"q_proj.lora_A.weight has shape \[4, .* need \[5, "),
    "a rank for one module": Broken(
        config_with(rank_pattern={"v_proj": 7}), r"v_proj.lora_A.weight has shape \[4, .* need \[7,"
    ),
    "for another model": Broken(
        for_another_model, r"need \[4, \d+\]; it was trained for somebody/a-larger-model"
    ),
    "no A": Broken(
        tensors_with({A: None}),
        r"layers.1.self_attn.q_proj.lora_A.weight is missing; its shape would be \[4, \d+\]",
    ),
    "no B": Broken(
        tensors_with({B: None}),
        r"layers.1.self_attn.q_proj.lora_B.weight is missing; its shape would be \[\d+, 4\]",
    ),
    "no weights of a module": Broken(
        without_values, r"layers.0.self_attn.v_proj.lora_A.weight is missing; its shape"
    ),
    "a module that is not there": Broken(
        config_with(target_modules=[*TARGETS, "up_proj"]),
        r"layers.0.mlp.up_proj.lora_A.weight is missing; its shape",
    ),
    "a module too many": Broken(
        config_with(target_modules=["q_proj", "v_proj"]),
        r"mlp.down_proj is not among its target_modules",
    ),
    "a layer that is not targeted": Broken(
        config_with(layers_to_transform=[0]),
        r"layers.1.\S+: model.layers.1.\S+_proj is not among its target_modules",
    ),
    "a layer too many": Broken(
        extra(LAYER.replace("1", "777") + "self_attn.q_proj.lora_A.weight"),
        r"model.layers.777.self_attn.q_proj cannot be adapted in this model",
    ),
    "an expert": Broken(
        extra(LAYER + "mlp.experts.0.up_proj.lora_A.weight"),
        r"mlp.experts.0.up_proj cannot be adapted in this model",
    ),
    "DoRA without a word": Broken(
        extra(LAYER + "self_attn.q_proj.lora_magnitude_vector"),
        r"q_proj.lora_magnitude_vector is of DoRA, which is not supported \(adapter_config",
    ),
    "a bias without a word": Broken(
        extra(LAYER + "self_attn.q_proj.lora_B.bias"),
        r"q_proj.lora_B.bias is a trained bias, which is not supported; merge it into",
    ),
    "embeddings without a word": Broken(
        extra("base_model.model.model.embed_tokens.lora_embedding_A"),
        r"lora_embedding_A: embeddings and lm_head are not supported yet",
    ),
    "lm_head without a word": Broken(
        extra("base_model.model.lm_head.lora_A.weight"),
        r"lm_head.lora_A.weight: embeddings and lm_head are not supported yet",
    ),
    "whole embeddings": Broken(
        extra("base_model.model.model.embed_tokens.weight"),
        r"embed_tokens.weight: embeddings and lm_head are not supported yet",
    ),
    "a norm": Broken(
        extra(LAYER + "input_layernorm.weight"), r"layernorm.weight is not a key of a LoRA adapter"
    ),
    "a key with an adapter's name": Broken(
        extra(A.replace(".weight", ".default.weight")),
        r"one tensor under two keys, \S+lora_A\S+weight and \S+lora_A\S+weight: remove one",
    ),
    "a key that clears the screen": Broken(
        extra("\x1b[2J\x07"), r"safetensors: \\x1b\[2J\\x07 is not a key of a LoRA adapter"
    ),
    "a key as long as a book": Broken(
        extra("k" * 500_000), r"safetensors: k{120}…k{60} is not a key of a LoRA adapter$"
    ),
    "NaN": Broken(
        tensors_with({A: lambda a: a.index_fill(1, torch.tensor([3]), float("nan"))}),
        r"layers.1.self_attn.q_proj.lora_A.weight holds values that are not finite numbers",
    ),
    "Inf": Broken(
        tensors_with({B: lambda b: b.index_fill(0, torch.tensor([1]), float("-inf"))}),
        r"layers.1.self_attn.q_proj.lora_B.weight holds values that are not finite numbers",
    ),
    "Inf in the last layer's last module alone": Broken(
        tensors_with({LAYER + "mlp.down_proj.lora_B.weight": lambda b: (b / 0).half()}),
        r"layers.1.mlp.down_proj.lora_B.weight holds values that are not finite numbers",
    ),
    "a scale beyond all floats": Broken(
        config_with(lora_alpha=1e300), r"lora_B.weight holds \S+, which its scale 2.5e\+299 makes"
    ),
}

BROKEN: dict[str, Broken] = {**CONFIGS, **FILES, **TENSORS}

"""The tensors of a GGUF: what each is for, and which are refused by name.

Knows names, shapes and types; model/gguf_checkpoint.py reads the data.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from ..errors import OperatorError
from ..model_files.findings import Finding
from .file import GgufFile, GgufTensor

BLOCK_MODULES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Modules of a block, and their names in a Hugging Face layer."""
TOP_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
}
NORMS = {"attn_norm", "ffn_norm", "attn_q_norm", "attn_k_norm", "output_norm"}
HEAD_NORMS = {"attn_q_norm", "attn_k_norm"}
QKV = {"attn_q", "attn_k", "attn_v"}
MLP = {"ffn_gate", "ffn_up", "ffn_down"}
SCALES = {"scale", "input_scale"}
"""`scale` multiplies a weight's products (NVFP4). `input_scale` is for kernels that quantise
activations: llama.cpp reads it, but its results do not depend on it."""
ROPE_FACTORS = "rope_freqs.weight"
"""The tensor of factors that divide each rotary frequency (Llama 3)."""

BLOCK = re.compile(r"blk\.(?P<block>\d+)\.(?P<module>\w+)\.(?P<kind>\w+)")
REASONS = {
    r"_exps|_shexp|gate_inp|exp_probs|ffn_(gate|up|down)\.\d": "mixtures of experts are not "
    "supported",
    r"attn_qkv|ffn_gate_up": "modules that share one tensor are not supported",
    r"rope_factors_(long|short)": "rope scaling 'longrope' is not supported",
    r"ssm_|time_mix|shortconv": "recurrent layers are not supported",
    r"nextn": "layers that predict further tokens are not computed",
    r"\.lora_[ab]$": "it is an adapter, not a model",
    r"^(v|mm|a|resampler)\.": "it is a projector of images or sound, not a model",
    r"^cls": "it is a classifier",
}
LOST_TYPES = {
    **{4: "Q4_2", 5: "Q4_3", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8"},
    **{36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8", 38: "IQ4_NL_8_8"},
}
"""Types that llama.cpp removed."""


def hugging_face_name(name: str) -> str:
    """The tensor's name in a Hugging Face checkpoint; unchanged if it has none there."""
    if found := BLOCK.fullmatch(name):
        module = BLOCK_MODULES.get(found["module"], found["module"])
        return f"model.layers.{found['block']}.{module}.{found['kind']}"
    module, _, kind = name.rpartition(".")
    return f"{TOP_MODULES[module]}.{kind}" if module in TOP_MODULES else name


def check_gguf_tensors(file: GgufFile) -> None:
    """Raises `OperatorError` naming a tensor that is unused, of an unreadable type, truncated, or
    missing from some blocks. Needs no metadata."""
    _check_names(file)
    _check_blocks(file)
    _check_data(file)


def check_complete(file: GgufFile) -> None:
    """Raises `OperatorError` naming a tensor that the architecture needs and the file lacks, or a
    block beyond `block_count`."""
    blocks = {index for index, _ in _blocks(file)}
    file.require(f"{file.architecture}.block_count")
    count = file.integer(f"{file.architecture}.block_count", 0)
    if beyond := sorted(index for index in blocks if index >= count):
        raise file.refusal(f"it has blk.{beyond[0]}, but block_count is {count}")
    missing = [f"{name}.weight" for name in ("token_embd", "output_norm")]
    for module in sorted(BLOCK_MODULES.keys() - HEAD_NORMS):
        missing += [f"blk.{index}.{module}.weight" for index in range(count)]
    for modules, kind in _required(file):
        missing += [f"blk.{i}.{m}.{kind}" for i in range(count) for m in sorted(modules)]
    if missing := [name for name in missing if name not in file.tensors]:
        raise file.refusal(f"{missing[0]} is missing", "fetch the model again")


def _required(file: GgufFile) -> list[tuple[set[str], str]]:
    """(modules, kind) that the family requires beside the weights of every family."""
    biased = biased_modules(file)
    required = []
    if file.architecture == "qwen3":
        required.append((HEAD_NORMS, "weight"))
    if file.architecture == "qwen2":
        required.append((QKV, "bias"))
    elif biased & (QKV | {"attn_output"}):
        required.append((QKV | {"attn_output"}, "bias"))
    if biased & MLP:
        required.append((MLP, "bias"))
    return required


def biased_modules(file: GgufFile) -> set[str]:
    """The modules of a block that have a bias."""
    return {module for _, (module, kind) in _blocks(file) if kind == "bias"}


def tensor_findings(file: GgufFile) -> list[Finding]:
    """A finding for each kind of tensor over all blocks: how many of each type."""
    groups: dict[str, Counter[str]] = {}
    for name, tensor in file.tensors.items():
        group = re.sub(r"^blk\.\d+\.", "blk.*.", name)
        groups.setdefault(group, Counter())[type_name(tensor.kind)] += 1
    findings = []
    for group, types in groups.items():
        kinds = ", ".join(f"{count} of {kind}" for kind, count in types.items())
        reason = _refusal(group.replace("*", "0"), file.architecture)
        verdict, text = ("bad", f"{kinds}: {reason}") if reason else ("good", kinds)
        findings.append(Finding(group, verdict, text, source=file.path.name))  # type: ignore[arg-type]
    return findings


def type_name(kind: int) -> str:
    """The name of a tensor's type, or its number if it has no name."""
    from gguf.constants import GGMLQuantizationType

    try:
        return GGMLQuantizationType(kind).name
    except ValueError:
        return LOST_TYPES.get(kind, f"type {kind}")


def _check_names(file: GgufFile) -> None:
    for name in file.tensors:
        if reason := _refusal(name, file.architecture):
            raise file.refusal(f"it has a tensor {name}: {reason}", "use another model")
    if "output.weight" not in file.tensors:
        for kind in sorted(SCALES):
            if f"output.{kind}" in file.tensors:
                raise file.refusal(f"it has output.{kind} but no output.weight")


def _refusal(name: str, architecture: str) -> str:
    """Why a tensor is refused; empty if it is used."""
    if name == ROPE_FACTORS:
        return ""
    block = BLOCK.fullmatch(name)
    module, _, kind = (block["module"], "", block["kind"]) if block else name.rpartition(".")
    known = BLOCK_MODULES if block else TOP_MODULES
    if module in known and module not in (HEAD_NORMS if architecture == "llama" else ()):
        if kind == "weight":
            return ""
        if kind in SCALES and module not in NORMS and module != "token_embd":
            return ""
        if kind == "bias" and block and module not in NORMS and module in _biasable(architecture):
            return ""
    for pattern, reason in REASONS.items():
        if re.search(pattern, name):
            return reason
    return f"it is not part of a {architecture or 'known'} model"


def _biasable(architecture: str) -> set[str]:
    """Modules that may have a bias in this family."""
    return {
        "llama": QKV | MLP | {"attn_output"},
        "qwen2": QKV,
        "qwen3": QKV | {"attn_output"},
    }.get(architecture, set())


def _check_blocks(file: GgufFile) -> None:
    """Checks that all blocks hold the same tensors, except scales, which are omitted if 1."""
    held: dict[int, set[tuple[str, str]]] = {}
    for index, tensor in _blocks(file):
        held.setdefault(index, set()).add(tensor)
    every = set().union(*held.values())
    for index, tensors in held.items():
        for module, kind in sorted(every - tensors):
            raise file.refusal(
                f"blk.{index}.{module}.{kind} is missing, which other blocks have",
                "fetch the model again",
            )


def _blocks(file: GgufFile) -> Iterable[tuple[int, tuple[str, str]]]:
    """(block, (module, kind)) of each tensor of a block, without scales."""
    for name in file.tensors:
        found = BLOCK.fullmatch(name)
        if found and found["kind"] not in SCALES:
            yield int(found["block"]), (found["module"], found["kind"])


def _check_data(file: GgufFile) -> None:
    """Checks that each tensor is of a readable type and complete in the file."""
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

    for kind in {tensor.kind for tensor in file.tensors.values()}:
        if not _is_readable(kind):
            name = next(name for name, tensor in file.tensors.items() if tensor.kind == kind)
            raise file.refusal(
                f"{name} is of type {type_name(kind).removeprefix('type ')}, which cannot be read",
                "use a file of another quantisation",
            )
    for name, tensor in file.tensors.items():
        block, num_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.kind)]
        if not tensor.shape or tensor.shape[-1] % block:
            raise file.refusal(
                f"{name} has shape {list(tensor.shape)}, whose rows are not whole blocks of {block}"
            )
        if tensor.offset + num_values(tensor) // block * num_bytes > len(file.parts[tensor.part]):
            raise OperatorError(f"{file.path}: {name} is cut off", "fetch it again")


def num_values(tensor: GgufTensor) -> int:
    """How many numbers a tensor has; unbounded, since a file may claim any shape."""
    count = 1
    for size in tensor.shape:
        count *= size
    return count


def _is_readable(kind: int) -> bool:
    import numpy as np
    from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        known = GGMLQuantizationType(kind)
        num_bytes = GGML_QUANT_SIZES[known][1]
        if known in (GGMLQuantizationType.F32, GGMLQuantizationType.F16):
            return True
        dequantize(np.zeros((1, num_bytes), np.uint8), known)
    except (ValueError, KeyError, NotImplementedError):
        return False
    return True

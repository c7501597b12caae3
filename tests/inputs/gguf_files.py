"""GGUF files by llama.cpp's converter, by the gguf package and by ggml's quantiser.

LLAMA_CPP names a folder with llama.cpp's convert_hf_to_gguf.py; without it these are not made.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

from making import Reference, byte_level, made, save, sentencepiece_model, tiny

GGUF = "gguf"


def convert(model: Path, out: Path, kind: str, pre: str = "", *more: str) -> None:
    """convert_hf_to_gguf.py. `pre` is the pre-tokenizer that our small tokenizer has: the script
    knows published tokenizers by a hash, and says to add others by hand."""
    folder = os.environ["LLAMA_CPP"]
    if folder not in sys.path:
        sys.path[:0] = [folder, f"{folder}/gguf-py"]
    if pre:
        from conversion import base

        base.TextModel.get_vocab_base_pre = lambda self, tokenizer: pre  # type: ignore[method-assign]
    given, sys.argv = (
        sys.argv,
        ["convert", str(model), "--outfile", str(out), "--outtype", kind, *more],
    )
    try:
        runpy.run_path(f"{folder}/convert_hf_to_gguf.py", run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise RuntimeError(f"the converter exited {end.code}") from end
    finally:
        sys.argv = given


TYPES = {
    "Q4_0": 2,
    "Q5_0": 6,
    "Q8_0": 8,
    "Q2_K": 10,
    "Q3_K": 11,
    "Q4_K": 12,
    "Q5_K": 13,
    "Q6_K": 14,
    "IQ4_NL": 20,
}


def quantise(source: Path, out: Path, kind: str) -> None:
    """The matrices by ggml's own `ggml_quantize_chunk`, the rest as it is, by gguf's writer.
    GGML_BASE names libggml-base.so."""
    import ctypes

    import numpy as np
    from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter

    library = ctypes.CDLL(os.environ["GGML_BASE"])
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    reader = GGUFReader(source)
    writer = GGUFWriter(out, "llama")
    for key, field in reader.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            kinds = field.types
            inner = kinds[-1] if kinds[0] == GGUFValueType.ARRAY else None
            writer.add_key_value(key, field.contents(), kinds[0], inner)
    for tensor in reader.tensors:
        data = np.ascontiguousarray(tensor.data, dtype=np.float32)
        if data.ndim != 2 or data.shape[1] % 256:
            writer.add_tensor(tensor.name, data)
            continue
        room = np.empty(data.nbytes, dtype=np.uint8)
        size = library.ggml_quantize_chunk(
            ctypes.c_int(TYPES[kind]),
            data.ctypes.data_as(ctypes.c_void_p),
            room.ctypes.data_as(ctypes.c_void_p),
            ctypes.c_int64(0),
            ctypes.c_int64(data.shape[0]),
            ctypes.c_int64(data.shape[1]),
            None,
        )
        packed = room[:size].reshape(data.shape[0], -1)
        writer.add_tensor(tensor.name, packed, raw_dtype=GGMLQuantizationType(TYPES[kind]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def folder_of(out: Path, family: str, kind: str, **fields: Any) -> Path:
    tokenizer = byte_level(kind)
    where = out.with_name(out.name + "-hf")
    model = tiny(family, len(tokenizer), **fields)
    save(
        where,
        {"bf16": model.bfloat16, "f16": model.half}.get(out.name.split("-")[1], model.float)(),
        tokenizer,
    )
    return where


LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
WIDE = {"hidden_size": 256, "intermediate_size": 512, "head_dim": 64}
FILES: dict[str, tuple[str, str, str, str, dict[str, Any]]] = {
    "gguf-f32-llama": ("llama", "smollm", "smollm", "f32", {}),
    "gguf-f16-llama3-rope": (
        "llama",
        "llama3",
        "llama-bpe",
        "f16",
        {"rope_parameters": LLAMA3_ROPE},
    ),
    "gguf-q8_0-qwen2-tied": ("qwen2", "qwen", "qwen2", "q8_0", {"tie_word_embeddings": True}),
    "gguf-bf16-qwen3": ("qwen3", "qwen", "qwen2", "bf16", {"head_dim": 32}),
    "gguf-f32-qwen3-yarn": ("qwen3", "qwen", "qwen2", "f32", {"rope_parameters": YARN}),
    "gguf-f32-mistral-window": ("mistral", "smollm", "smollm", "f32", {"sliding_window": 8}),
    "gguf-f32-llama-head-dim": ("llama", "smollm", "smollm", "f32", {"head_dim": 24}),
    "gguf-f32-llama-linear": (
        "llama",
        "smollm",
        "smollm",
        "f32",
        {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 10000.0}},
    ),
    "gguf-tq2_0-llama": ("llama", "smollm", "smollm", "tq2_0", WIDE),
}
for name, (family, kind, pre, outtype, fields) in FILES.items():

    def make(
        out: Path,
        family: str = family,
        kind: str = kind,
        pre: str = pre,
        outtype: str = outtype,
        fields: dict[str, Any] = fields,
    ) -> Reference:
        where = folder_of(out, family, kind, **fields)
        out.mkdir()
        convert(where, out / "model.gguf", outtype, pre)
        if "sliding_window" in fields:  # llama.cpp's converter does not write Mistral's window
            config = json.loads((where / "config.json").read_text())
            (where / "config.json").write_text(json.dumps(config | {"sliding_window": None}))
        if outtype != "q8_0" and outtype != "tq2_0":
            return Reference(model=where, tokenizer=where)
        return Reference(model=out, tokenizer=where, gguf_file="model.gguf")

    made(name, GGUF, file="model.gguf", refused="TQ2_0" if "tq2" in name else None)(make)

for kind in ("Q4_0", "Q5_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_NL"):

    def quantised(out: Path, kind: str = kind) -> Reference:
        where = folder_of(out, "llama", "smollm", **WIDE)
        out.mkdir()
        convert(where, out / "whole.gguf", "f32", "smollm")
        quantise(out / "whole.gguf", out / "model.gguf", kind)
        (out / "whole.gguf").unlink()
        return Reference(model=out, tokenizer=where, gguf_file="model.gguf")

    made(f"gguf-{kind.lower()}-ggml", GGUF, file="model.gguf")(quantised)


@made("gguf-split", GGUF, file="model-00001-of-00003.gguf")
def _(out: Path) -> Reference:
    """The converter's own split into parts."""
    where = folder_of(out, "llama", "smollm")
    out.mkdir()
    convert(where, out / "model.gguf", "f32", "smollm", "--split-max-tensors", "12")
    return Reference(model=where, tokenizer=where)


@made("gguf-sentencepiece", GGUF, "sentencepiece", file="model.gguf")
def _(out: Path) -> Reference:
    """Llama 2's kind of vocabulary, scores and byte tokens in the file."""
    where = out.with_name(out.name + "-hf")
    sentencepiece_model(where)
    names = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
    tokens = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (where / "tokenizer_config.json").write_text(json.dumps(names | tokens))
    tiny("llama", 420, bos_token_id=1, pad_token_id=None).save_pretrained(where)
    out.mkdir()
    convert(where, out / "model.gguf", "f32")
    return Reference(where, where, sentencepiece=where / "tokenizer.model")


@made("gguf-lora", GGUF, file="model.gguf", refused="(?i)adapter|lora")
def _(out: Path) -> None:
    """An adapter by convert_lora_to_gguf.py, given as the model."""
    from adapters import lora, trained

    where = folder_of(out, "llama", "smollm")
    adapter = out.with_name(out.name + "-peft")
    trained(where, lora()).save_pretrained(adapter)
    out.mkdir()
    folder = os.environ["LLAMA_CPP"]
    sys.path[:0] = [folder, f"{folder}/gguf-py"]
    given = sys.argv
    sys.argv = ["convert", str(adapter), "--base", str(where), "--outfile", str(out / "model.gguf")]
    try:
        runpy.run_path(f"{folder}/convert_lora_to_gguf.py", run_name="__main__")
    finally:
        sys.argv = given


@made("gguf-family-olmo2", GGUF, file="model.gguf", refused=r"\bolmo2\b")
def _(out: Path) -> None:
    where = folder_of(out, "olmo2", "qwen")
    out.mkdir()
    convert(where, out / "model.gguf", "f32", "olmo")


for family in ("phi3", "gemma2"):

    def foreign(out: Path, family: str = family) -> None:
        where = out.with_name(out.name + "-hf")
        sentencepiece_model(where)
        names = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True}
        (where / "tokenizer_config.json").write_text(json.dumps(names))
        tiny(family, 420, bos_token_id=1, pad_token_id=None).save_pretrained(where)
        out.mkdir()
        convert(where, out / "model.gguf", "f32")

    made(f"gguf-family-{family}", GGUF, file="model.gguf", refused=rf"\b{family}\b")(foreign)

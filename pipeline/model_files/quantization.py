"""Detects quantised weights from a model directory's JSON files; they are not read here. Knows no
tensor; `checkpoint_tensors` finds codes that no file mentions.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..runtime.text_files import read_json
from .config_keys import CONFIG
from .findings import Finding

KEYS = ("quantization_config", "quantization", "compression_config")
"""Keys of config.json: of transformers, of mlx, and of early versions of compressed-tensors."""
FILES = (
    "hf_quant_config.json",
    "quantize_config.json",
    "quant_config.json",
    "quanto_qmap.json",
    "quantization_map.json",
)
"""Files that modelopt, AutoGPTQ, AutoAWQ and optimum-quanto write beside the weights."""
HINT = (
    "take a revision that is not quantised, or dequantise it with the library that wrote it; "
    "if the stored weights are plain: --ignore-key {}"
)
DETAILS = ("format", "fmt", "load_in_8bit", "load_in_4bit", "bits", "quant_algo", "mode", "version")


def quantization_findings(directory: Path, raw: Mapping[str, Any]) -> list[Finding]:
    """A bad finding if a key says that the weights are quantised."""
    found = []
    for key in KEYS:
        if raw.get(key):
            what = f"means quantised by {describe_method(key, raw[key])}, which is not read yet"
            found.append(Finding(key, "bad", what, HINT.format(key), CONFIG))
            break  # mlx writes the same table twice
    return found


def quantization_name(directory: Path, raw: Mapping[str, Any]) -> str:
    """The quantisation method named by config.json or a file beside it; "" if none."""
    for key in KEYS:
        if raw.get(key):
            return describe_method(key, raw[key])
    for file in FILES:
        try:
            table = read_json(directory / file)
        except (OSError, ValueError):
            continue
        return f"{describe_method(file, table)} ({file})"
    return ""


def describe_method(key: str, table: Any) -> str:
    """The method with its details, as in `bitsandbytes (load_in_8bit)`."""
    if not isinstance(table, dict):
        return repr(table)
    inner = table.get("quantization")
    if isinstance(inner, dict):  # modelopt's own file
        table = table | inner
    producer = table.get("producer")
    method = table.get("quant_method") or (
        producer.get("name") if isinstance(producer, dict) else None
    )
    if not method:
        writers = {
            "quantization": "mlx",
            "quantize_config.json": "gptq",
            "quant_config.json": "awq",
            "quanto_qmap.json": "quanto",
            "quantization_map.json": "quanto",
        }
        bnb = any(name.startswith(("load_in", "bnb_", "_load_in")) for name in table)
        method = "bitsandbytes" if bnb else writers.get(key, "a method without a name")
    details = []
    for name in DETAILS:
        if value := table.get(name):
            details.append(name if value is True else f"{name} {value}")
    return f"{method} ({', '.join(details)})" if details else str(method)

"""Converts the rope scaling of a GGUF to Hugging Face's `rope_scaling`.

Follows llama.cpp. Keys that llama.cpp ignores are honoured if the model that the file was converted
from had them (`yarn_beta_fast`), otherwise refused.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from .file import GgufFile
from .tensors import ROPE_FACTORS

LLAMA3_CONTEXT = 8192
"""Llama 3's original context: the length over which its rotary factors count turns."""


def rope_scaling(file: GgufFile, head_dim: int) -> dict[str, Any] | None:
    """Hugging Face's `rope_scaling`, from the keys or, for Llama 3, from the tensor of factors.

    As in llama.cpp: without a type the factor is linear, and `scale_linear` is its old name (2023).
    """
    kind = str(file.of_model("rope.scaling.type", "linear"))
    if kind not in ("none", "linear", "yarn"):
        raise file.refusal(f"rope scaling {kind!r} is not supported", "none, linear and yarn are")
    factor = file.number("rope.scaling.factor", 0) or file.number("rope.scale_linear", 0) or 1
    if kind == "none":
        factor = 1
    if ROPE_FACTORS in file.tensors:
        if factor != 1:
            raise file.refusal(
                f"it has both {ROPE_FACTORS} and a rope factor of {factor:g}; only one is supported"
            )
        return _llama3_scaling(file, head_dim)
    if kind == "yarn":
        return _yarn(file, factor)
    for name, nothing in (("attn_factor", 1), ("yarn_attn_factor", 1)):
        _require_nothing(file, f"rope.scaling.{name}", (0, nothing), f"rope scaling {kind}")
    _require_nothing(file, "rope.scaling.yarn_ext_factor", (0, -1), f"rope scaling {kind}")
    return {"rope_type": "linear", "factor": factor} if factor != 1 else None


def _yarn(file: GgufFile, factor: float) -> dict[str, Any]:
    """YaRN's table. Cosine and sine are multiplied by 1 + ln(factor) / 10, or by `yarn_attn_factor`
    if given, and also by `attn_factor`."""
    _require_nothing(file, "rope.scaling.yarn_ext_factor", (-1, 1), "yarn")
    scaling: dict[str, Any] = {
        "rope_type": "yarn",
        "factor": factor,
        "original_max_position_embeddings": int(
            file.number("rope.scaling.original_context_length", 0) or file.number("context_length")
        ),
    }
    for name in ("beta_fast", "beta_slow"):
        if value := file.number(f"rope.scaling.yarn_{name}", 0):
            scaling[name] = value
    own = file.number("rope.scaling.yarn_attn_factor", 1) or 1
    times = file.number("rope.scaling.attn_factor", 1) or 1
    if own != 1 or times != 1:
        usual = 1 + 0.1 * math.log(factor) if factor > 1 else 1.0
        scaling["attention_factor"] = (own if own != 1 else usual) * times
    return scaling


def _require_nothing(file: GgufFile, name: str, nothing: Iterable[float], beside: str) -> None:
    """Raises `OperatorError` unless the key has one of the `nothing` values, which change nothing;
    others are not computed together with `beside`."""
    nothing = tuple(nothing)
    value = file.number(name, nothing[-1])
    if value not in nothing:
        raise file.refusal(f"{file.architecture}.{name} is {value:g}: not computed with {beside}")


def _llama3_scaling(file: GgufFile, head_dim: int) -> dict[str, Any]:
    """The llama3 scaling that gives the file's factors; the file has no parameters, only factors.

    Between the largest factor and 1, 1 / factor is linear in the frequency; the ends of that line
    are the low and the high factor. The result is recomputed and compared, so that factors of
    another kind are refused, not run wrongly.
    """
    factors = _rope_factors(file)
    if len(factors) != head_dim // 2 or not all(f > 0.999 for f in factors):  # rounded
        raise file.refusal(f"{ROPE_FACTORS} does not have {head_dim // 2} factors of at least 1")
    theta, factor = file.number("rope.freq_base", 10000.0), max(factors)
    turns = [
        LLAMA3_CONTEXT / (2 * math.pi * theta ** (2 * index / head_dim))
        for index in range(head_dim // 2)
    ]
    for low, high in ((1.0, 4.0), _fit(turns, factors, factor)):
        if high <= low:
            continue
        smooth = [min(max((turn - low) / (high - low), 0.0), 1.0) for turn in turns]
        expected = [1 / ((1 - s) / factor + s) for s in smooth]
        if all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(expected, factors, strict=True)):
            return {
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low,
                "high_freq_factor": high,
                "original_max_position_embeddings": LLAMA3_CONTEXT,
            }
    raise file.refusal(f"the rope factors in {ROPE_FACTORS} are not of Llama 3's kind")


def _fit(turns: list[float], factors: list[float], factor: float) -> tuple[float, float]:
    """(low, high): the turns at which the line through the intermediate factors reaches 0 and 1.
    With fewer than two of them, any line will do that leaves the others at its ends."""
    points = [
        (turn, (1 / f - 1 / factor) / (1 - 1 / factor))
        for turn, f in zip(turns, factors, strict=True)
        if 1.0001 < f < factor * 0.9999
    ]
    pairs = [*zip(turns, factors, strict=True)]
    low = max((turn for turn, f in pairs if f >= factor * 0.9999), default=turns[-1] / 2)
    high = min((turn for turn, f in pairs if f <= 1.0001), default=turns[0] * 2)
    if not points:
        return low, high
    (x0, y0), (x1, y1) = points[0], points[-1]
    if len(points) > 1:
        width = (x1 - x0) / (y1 - y0) if y1 != y0 else 0.0
    else:
        width = min((x0 - low) / y0, (high - x0) / (1 - y0))
    return x0 - y0 * width, x0 + (1 - y0) * width


def _rope_factors(file: GgufFile) -> list[float]:
    import numpy as np
    from gguf.constants import GGMLQuantizationType

    tensor = file.tensors[ROPE_FACTORS]
    if tensor.kind != GGMLQuantizationType.F32 or len(tensor.shape) != 1:
        raise file.refusal(f"{ROPE_FACTORS} is not a one-dimensional F32 tensor")
    data = file.parts[tensor.part]
    return [float(f) for f in np.frombuffer(data, "<f4", tensor.shape[0], tensor.offset)]

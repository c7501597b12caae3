"""`ModelConfig`: a model's config.json, read once, with one name for each value.

Every process may read it (it holds no tensor). `fetch` fills the model's directory `RUN/model`:
config.json, tokenizer.json, tokenizer_config.json and *.safetensors or model.gguf.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import msgspec

from ..errors import OperatorError
from ..runtime.text_files import read_json
from ..text.stop_tokens import stop_token_ids
from .config_keys import CONFIG, NULLABLE, check_keys, without
from .families import DEFAULTS, FAMILIES, Family
from .findings import Finding, require_good
from .json_fields import JsonFields, brief_json
from .quantization import quantization_findings
from .rope import RopeScaling, read_rope

LAYER_KINDS = {
    "full_attention": False,
    "attention": False,
    "sliding_attention": True,
}
"""Values in `layer_types`, to whether the layer uses the window."""
MOST_LAYERS = 4096
"""Most layers accepted: the checks keep a name for each tensor."""


class ModelConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The shapes and constants of a decoder, and its limits."""

    family: Family
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    """The length from which dynamic scaling stretches."""
    max_model_len: int
    """Longest sequence in tokens, including the extension by rope scaling."""
    rms_norm_eps: float
    rope_theta: float
    rope_scaling: RopeScaling = RopeScaling()
    tie_word_embeddings: bool = False
    """The embedding is also the head, unless the checkpoint has its own head."""
    attention_bias: bool = False
    """q, k and v have a bias (Qwen2; Llama and Qwen3 with attention_bias)."""
    output_bias: bool = False
    """The attention's output projection has a bias (Llama and Qwen3 with attention_bias)."""
    mlp_bias: bool = False
    qk_norm: bool = False
    """An RMSNorm over each head of q and k (Qwen3)."""
    sliding_window: int = 0
    """0: full attention. Otherwise a token sees itself and the `sliding_window - 1` before."""
    windowed_layers: tuple[bool, ...] = ()
    """Which layers use the window; empty: all, if there is a window."""
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()


def read_model_config(directory: str | Path, ignored: Collection[str] = ()) -> ModelConfig:
    """Reads config.json (and generation_config.json's stop tokens), without the keys in `ignored`.

    Raises `OperatorError` naming the file and each key that makes the model unsupported.
    """
    model_config, findings = inspect_config(Path(directory), ignored)
    require_good(findings, Path(directory))
    assert model_config is not None, "no config, but no bad finding either"
    return model_config


def inspect_config(
    directory: Path, ignored: Collection[str] = ()
) -> tuple[ModelConfig | None, list[Finding]]:
    """The model's config, or None if a finding is bad; and all findings."""
    findings: list[Finding] = []
    raw = _read_json(directory, findings)
    if raw is None:
        return None, findings
    raw = without(raw, ignored)
    findings += quantization_findings(directory, raw)
    if (family := _family(raw, findings)) is None:
        return None, findings
    findings += check_keys(family, raw)
    fields = JsonFields(raw, DEFAULTS[family], findings, CONFIG)
    _check_architecture(family, raw, fields)
    model_config = _model_config(
        family, raw, fields, findings, _stop_tokens(directory, raw, findings)
    )
    return (None if any(f.verdict == "bad" for f in findings) else model_config), findings


def _read_json(directory: Path, findings: list[Finding]) -> dict[str, Any] | None:
    what, hint = "", ""
    try:
        raw = read_json(directory / CONFIG)
        if isinstance(raw, dict):
            return raw
        what = "is not an object"
    except OSError as error:
        what, hint = f"{error.strerror}", _whereabouts(directory)
    except ValueError as error:
        what = f"is not JSON: {error}"
    findings.append(Finding(CONFIG, "bad", what, hint, CONFIG))
    return None


def _whereabouts(directory: Path) -> str:
    """A hint at what a directory without config.json may be instead."""
    if (directory / "adapter_config.json").exists():
        return f"this is an adapter: give it as --adapter NAME={directory}, and its base as --model"
    if below := sorted(path.parent.name for path in directory.glob("*/config.json")):
        return f"there are models below: {', '.join(below[:3])}"
    if (directory / "params.json").exists():
        return "this is a checkpoint in its maker's own format: convert it with transformers"
    if ggufs := sorted(path.name for path in directory.glob("*.gguf")):
        return f"give a GGUF by its path: {directory / ggufs[0]}"
    return "a model directory holds a config.json"


def _family(raw: Mapping[str, Any], findings: list[Finding]) -> Family | None:
    kind = raw.get("model_type")
    family = FAMILIES.get(str(kind))
    if family is None:
        what = f"{kind!r} is not supported" if "model_type" in raw else "is missing"
        hint = f"supported are {', '.join(sorted(FAMILIES))}"
        findings.append(Finding("model_type", "bad", what, hint, CONFIG))
    return family


def _check_architecture(family: Family, raw: Mapping[str, Any], fields: JsonFields) -> None:
    """Checks keys that name a class. transformers chooses the family by model_type only; classes
    that are not language models of these families are refused."""
    names = raw.get("architectures") or []
    if not isinstance(names, list):
        fields.refuse("architectures", f"is {brief_json(names)}, not a list")
        return
    kinds = {kind for known in FAMILIES for kind in (f"{known}forcausallm", f"{known}model")}
    for name in names:
        if str(name).lower() not in kinds:
            fields.refuse(
                "architectures",
                f"{name!r} is not supported",
                "a model of these families that predicts the next token is",
            )
        elif not str(name).lower().startswith(family):
            fields.note(
                "architectures", f"{name!r} differs from model_type {family!r}, which is used"
            )
    if raw.get("auto_map"):
        fields.note("auto_map", "names custom code, which is not run: model_type decides")
    if raw.get("transformers_weights") not in (None, "model.safetensors"):
        fields.refuse("transformers_weights", "names other files, which are not read")


def _model_config(
    family: Family,
    raw: Mapping[str, Any],
    fields: JsonFields,
    findings: list[Finding],
    eos_token_ids: tuple[int, ...],
) -> ModelConfig:
    for key in DEFAULTS[family].keys() - NULLABLE - {"bos_token_id"}:
        if key in raw and raw[key] is None:
            fields.refuse(key, "is null", "give a value, or remove it for the family's default")
    if (activation := fields.get("hidden_act")) not in ("silu", "swish", None):
        fields.refuse("hidden_act", f"{activation!r} is not supported", "silu is")
    heads, hidden = fields.integer("num_attention_heads"), fields.integer("hidden_size")
    kv_heads = heads
    if fields.get("num_key_value_heads") is not None:
        kv_heads = fields.integer("num_key_value_heads")
    if heads % kv_heads and not fields.has_refused("num_attention_heads"):
        fields.refuse("num_key_value_heads", f"{kv_heads} does not divide {heads} heads")
    head_dim = hidden // heads
    if fields.get("head_dim") is not None:
        head_dim = fields.integer("head_dim")
    if head_dim % 2 or not head_dim:
        fields.refuse("head_dim", f"{head_dim} is odd: numbers are rotated in pairs")
    layers, positions = (
        fields.integer("num_hidden_layers", most=MOST_LAYERS),
        fields.integer("max_position_embeddings"),
    )
    theta, scaling = read_rope(raw, positions, head_dim, findings)
    longest = scaling.reach(positions)
    window, windowed = _window(family, raw, fields, layers, longest)
    attention_bias = family in ("llama", "qwen3") and fields.flag("attention_bias")
    return ModelConfig(
        family=family,
        vocab_size=fields.integer("vocab_size"),
        hidden_size=hidden,
        intermediate_size=fields.integer("intermediate_size"),
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        max_position_embeddings=positions,
        max_model_len=longest,
        rms_norm_eps=fields.number("rms_norm_eps", positive=False),
        rope_theta=theta,
        rope_scaling=scaling,
        tie_word_embeddings=fields.flag("tie_word_embeddings"),
        attention_bias=family == "qwen2" or attention_bias,
        output_bias=attention_bias,
        mlp_bias=family == "llama" and fields.flag("mlp_bias"),
        qk_norm=family == "qwen3",
        sliding_window=window,
        windowed_layers=windowed,
        bos_token_id=fields.get("bos_token_id"),
        eos_token_ids=eos_token_ids,
    )


def _window(
    family: Family, raw: Mapping[str, Any], fields: JsonFields, layers: int, longest: int
) -> tuple[int, tuple[bool, ...]]:
    """The sliding window in tokens (0: none) and the layers it applies to. A window as long as the
    longest sequence counts as none."""
    kinds = _layer_kinds(raw, fields, layers)
    has_window = fields.get("sliding_window") is not None
    if family in ("qwen2", "qwen3"):
        has_window = fields.flag("use_sliding_window") and has_window
    window = fields.integer("sliding_window") if has_window else 0
    if window >= longest:
        return 0, ()
    if family == "llama":
        if window:
            fields.refuse("sliding_window", f"is {window}: llama has no window", "mistral has one")
        if any(kinds):
            fields.refuse("layer_types", "names sliding_attention: llama has no window")
        return 0, ()
    if family == "mistral" and window and not kinds and raw.get("use_sliding_window") is False:
        fields.refuse(
            "use_sliding_window",
            f"is false, but sliding_window is {window}: mistral always uses a window that is set",
            "set sliding_window to null, or remove use_sliding_window",
        )
    if any(kinds) and not window:
        fields.refuse("layer_types", "names sliding_attention, but there is no window")
    if not window:
        return 0, ()
    if kinds:
        return (window, kinds) if any(kinds) else (0, ())
    if family == "mistral":
        return window, ()
    first = fields.integer("max_window_layers", least=0)
    windowed = tuple(layer >= first for layer in range(layers))
    return (window, windowed) if any(windowed) else (0, ())


def _layer_kinds(raw: Mapping[str, Any], fields: JsonFields, layers: int) -> tuple[bool, ...]:
    """Which layers have a window by `layer_types`; empty if it is absent or refused."""
    given = raw.get("layer_types")
    if given is None:
        return ()
    if not isinstance(given, list) or len(given) != layers:
        count = len(given) if isinstance(given, list) else brief_json(given)
        fields.refuse("layer_types", f"has {count} entries for {layers} layers")
        return ()
    if unknown := sorted({str(kind) for kind in given} - LAYER_KINDS.keys()):
        fields.refuse(
            "layer_types",
            f"names {', '.join(unknown)}, which is not computed",
            f"supported are {', '.join(LAYER_KINDS)}",
        )
        return ()
    return tuple(LAYER_KINDS[kind] for kind in given)


def _stop_tokens(
    directory: Path, raw: Mapping[str, Any], findings: list[Finding]
) -> tuple[int, ...]:
    try:
        return stop_token_ids(directory, raw)
    except OperatorError as error:
        findings.append(Finding("stop tokens", "bad", error.what, error.hint))
    except (TypeError, ValueError, AttributeError, OSError) as error:
        what = f"are not readable: {error}"
        findings.append(Finding("stop tokens", "bad", what, source="generation_config.json"))
    return ()

"""`RopeScaling`: how rotary frequencies are stretched, read as transformers does.

Newer files have `rope_parameters`, older ones separate `rope_theta` and `rope_scaling`; if both
exist, `rope_scaling` replaces `rope_parameters` whole. Knows no tensor: model/layers.py computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import msgspec

from .config_keys import CONFIG, IGNORE
from .families import NEUTRAL
from .findings import Finding
from .json_fields import JsonFields, brief_json

RopeType = Literal["default", "linear", "dynamic", "llama3", "yarn", "longrope"]
REQUIRED: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
    "longrope": ("short_factor", "long_factor"),
}
OPTIONAL: dict[RopeType, tuple[str, ...]] = {
    "default": (),
    "linear": (),
    "dynamic": (),
    "llama3": ("original_max_position_embeddings",),
    "yarn": (
        *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow"),
        *("mscale", "mscale_all_dim", "truncate"),
    ),
    "longrope": ("original_max_position_embeddings", "attention_factor", "factor"),
}
"""Keys of the table by `rope_type`. Keys of another type are ignored, with a note."""
COMMON = frozenset({"rope_theta", "rope_type", "type", "partial_rotary_factor", "finetuned"})
KNOWN = COMMON.union(*REQUIRED.values(), *OPTIONAL.values())
DEFAULT_THETA = 10000.0
"""The default of the classes of all families."""


class RopeScaling(msgspec.Struct, frozen=True, kw_only=True):
    """Fields as in Hugging Face's `rope_parameters`."""

    rope_type: RopeType = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0
    attention_factor: float | None = None
    """Multiplier of cosine and sine; None: derived from `factor`, and from both mscales if set."""
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float = 0.0
    mscale_all_dim: float = 0.0
    truncate: bool = True
    """Whether yarn's ramp begins and ends at whole indices."""
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    """Divisors of the frequencies: `short_factor` for sequences up to the original length,
    `long_factor` for longer ones."""

    def reach(self, max_positions: int) -> int:
        """The longest sequence in tokens for this `max_position_embeddings` of config.json.

        As in vLLM: linear and dynamic multiply it by the factor; yarn multiplies its original
        length (result at least `max_positions`); llama3 and longrope already give the stretched
        length.
        """
        if self.rope_type in ("linear", "dynamic"):
            return int(max_positions * self.factor)
        if self.rope_type == "yarn":
            return max(max_positions, int(self.original_max_position_embeddings * self.factor))
        return max_positions


def read_rope(
    raw: Mapping[str, Any], max_positions: int, head_dim: int, findings: list[Finding]
) -> tuple[float, RopeScaling]:
    """(rope_theta, scaling) of a config.json; wrong or ignored keys are added to `findings`."""
    name, table = _table(raw, findings)
    theta_default = raw.get("rope_theta", DEFAULT_THETA)
    defaults = {"rope_theta": theta_default, "original_max_position_embeddings": max_positions}
    if raw.get("original_max_position_embeddings") is not None:  # overrides the table's
        table["original_max_position_embeddings"] = raw["original_max_position_embeddings"]
    prefix = f"{name}." if name and "rope_theta" in table else ""
    theta = JsonFields(table, defaults, findings, CONFIG, prefix).number("rope_theta")
    fields = JsonFields(table, defaults, findings, CONFIG, f"{name}.")
    rope_type = _rope_type(table, fields)
    if rope_type is None:
        return theta, RopeScaling()
    _check_keys(name, table, rope_type, fields, findings)
    if missing := [key for key in REQUIRED[rope_type] if key not in table]:
        for key in missing:
            fields.refuse(key, f"is missing, which {rope_type} needs")
        return theta, RopeScaling()
    return theta, _scaling(rope_type, table, fields, max_positions, head_dim)


def _table(raw: Mapping[str, Any], findings: list[Finding]) -> tuple[str, dict[str, Any]]:
    """(the key that is used, a copy of its table)."""
    given = {key: raw[key] for key in ("rope_scaling", "rope_parameters") if raw.get(key)}
    for key, value in given.items():
        if not isinstance(value, dict):
            what = f"is {brief_json(value)}, not an object"
            findings.append(Finding(key, "bad", what, source=CONFIG))
            return key, {}
    if len(given) == 2 and given["rope_scaling"] != given["rope_parameters"]:
        what = "is set beside rope_parameters, which it replaces whole, as in transformers"
        findings.append(
            Finding("rope_scaling", "note", what, "remove the one that is not meant", CONFIG)
        )
    name = next(iter(given), "rope_parameters")
    return name, dict(given.get(name, {}))


def _rope_type(table: Mapping[str, Any], fields: JsonFields) -> RopeType | None:
    kinds = {table[key] for key in ("rope_type", "type") if isinstance(table.get(key), str)}
    for key in ("rope_type", "type"):
        if key in table and not isinstance(table[key], str):
            fields.refuse(key, f"is {brief_json(table[key])}, not a name")
            return None
    if len(kinds) > 1:
        fields.refuse("rope_type", f"{table['rope_type']!r} contradicts type {table['type']!r}")
        return None
    kind = next(iter(kinds), "default")
    for known in get_args(RopeType):
        if kind == known:
            return known  # type: ignore[no-any-return]
    fields.refuse(
        "rope_type" if "rope_type" in table else "type",
        f"{kind!r} is not supported",
        f"supported are {', '.join(get_args(RopeType))}",
    )
    return None


def _check_keys(
    name: str,
    table: Mapping[str, Any],
    rope_type: RopeType,
    fields: JsonFields,
    findings: list[Finding],
) -> None:
    """Refuses unknown keys and scaling keys without a rope_type; notes keys of another type."""
    own = COMMON.union(REQUIRED[rope_type], OPTIONAL[rope_type])
    for key, value in table.items():
        if key in own or value in NEUTRAL:
            continue
        if isinstance(value, dict):
            fields.refuse(key, "is a table of its own: rotation that differs by layer is not read")
        elif key not in KNOWN:
            hint = IGNORE.format(f"{name}.{key}")
            fields.refuse(key, f"{brief_json(value)}: an unknown key", hint)
        elif rope_type != "default":
            fields.note(key, f"has no effect with rope_type {rope_type}, as in transformers")
        elif key not in ("factor", "original_max_position_embeddings") or (
            key == "factor" and value != 1
        ):
            fields.refuse(
                key, "is set with rope_type default", "name the rope_type, or remove the key"
            )
    if table.get("partial_rotary_factor", 1) not in (None, 1):
        fields.refuse("partial_rotary_factor", "is not 1: rotation of a part of a head")


def _scaling(
    rope_type: RopeType,
    table: Mapping[str, Any],
    fields: JsonFields,
    max_positions: int,
    head_dim: int,
) -> RopeScaling:
    if rope_type == "default":
        return RopeScaling(original_max_position_embeddings=max_positions)
    original = max_positions
    if "original_max_position_embeddings" in OPTIONAL[rope_type]:
        original = fields.integer("original_max_position_embeddings")
    factor = max_positions / original
    if table.get("factor") is not None or rope_type not in ("yarn", "longrope"):
        factor = fields.number("factor")
    common: dict[str, Any] = {
        "rope_type": rope_type,
        "factor": factor,
        "original_max_position_embeddings": original,
    }
    if rope_type == "llama3":
        low, high = fields.number("low_freq_factor"), fields.number("high_freq_factor")
        if high <= low:
            fields.refuse("high_freq_factor", f"{high:g} is not above low_freq_factor {low:g}")
        common |= {"low_freq_factor": low, "high_freq_factor": high}
    if table.get("attention_factor") is not None and rope_type in ("yarn", "longrope"):
        common["attention_factor"] = fields.number("attention_factor", positive=False)
    if rope_type == "yarn":
        for key in ("beta_fast", "beta_slow", "mscale", "mscale_all_dim"):
            if table.get(key):  # null and 0 mean the default
                common[key] = fields.number(key, positive=False)
        common["truncate"] = bool(table.get("truncate", True))
    if rope_type == "longrope":
        for key in ("short_factor", "long_factor"):
            common[key] = factors = fields.numbers(key)
            if factors and len(factors) != head_dim // 2:
                fields.refuse(key, f"has {len(factors)} numbers, not {head_dim // 2}")
    return RopeScaling(**common)

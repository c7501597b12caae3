"""`PeftConfig`: the fields of adapter_config.json that affect the arithmetic, read as PEFT does.

Fields that would change the result but are not computed here are refused by name, so that no
adapter is served wrongly. Knows names of modules; no shape and no tensor.
"""

from __future__ import annotations

import codecs
import json
import math
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec

from ..runtime.guarded_file import AdapterError, brief
from .peft_refusals import MERGE, check_fields

MOST_RANK = 512
MOST_PATTERNS = 4096
"""Names or patterns in a field; the largest models have a thousand modules."""
LONGEST_PATTERN = 1000
MOST_PATTERN_S = 1.0
"""CPU seconds to match all patterns with all modules; legitimate ones take a hundredth of it."""

EMBEDDINGS = ("model.embed_tokens", "lm_head")

PLAIN = re.compile(r"\^?(?:[\w-]|\\?\.)*\$?")
"""A pattern that always matches fast."""

TRIAL = """
import json, re, signal, sys
expressions, names, seconds = json.load(sys.stdin)
patterns = [re.compile(expression) for expression in expressions]
signal.setitimer(signal.ITIMER_PROF, seconds)
for pattern in patterns:
    for name in names:
        pattern.fullmatch(name)
"""


class PeftConfig(msgspec.Struct, frozen=True):
    """The fields of adapter_config.json that affect the arithmetic."""

    r: int
    target_modules: str | list[str] | None = None
    exclude_modules: str | list[str] | None = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: str | list[str] | None = None
    peft_type: str = "LORA"
    lora_alpha: float = 8
    use_rslora: bool | None = False
    rank_pattern: dict[str, int] | None = None
    alpha_pattern: dict[str, float] | None = None
    bias: str = "none"
    init_lora_weights: bool | str | None = True
    base_model_name_or_path: str | None = None

    def targets(self, module: str) -> bool:
        """Whether the adapter changes `module`, as PEFT decides it."""
        targets = self.target_modules
        if self.exclude_modules and _names(self.exclude_modules, module):
            return False
        if not targets:
            return False
        if isinstance(targets, str):
            if targets.lower() == "all-linear":
                return module not in EMBEDDINGS
            return _names(targets, module)
        if module in targets or not _names(targets, module):
            return module in targets  # a full name matches regardless of the layer
        layers = self.layers()
        return not layers or self._layer(module) in layers

    def layers(self) -> list[int]:
        """The layers that the adapter is restricted to; empty: all."""
        layers = self.layers_to_transform
        return [layers] if isinstance(layers, int) else layers or []

    def _layer(self, module: str) -> int | None:
        """The number of the layer that a module is in, by `layers_pattern`."""
        patterns = self.layers_pattern
        for pattern in [patterns] if isinstance(patterns, str) and patterns else patterns or [""]:
            if match := _layer_pattern(pattern).match(module):
                return int(match["layer"])
        return None

    def rank(self, module: str) -> int:
        return int(_by_pattern(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """The factor of B A."""
        rank = self.rank(module)
        alpha = float(_by_pattern(self.alpha_pattern, module, self.lora_alpha))
        return alpha / math.sqrt(rank) if self.use_rslora else alpha / rank

    def patterns(self) -> Iterator[tuple[str, str]]:
        """Each pattern in the config, and the regular expression made from it."""
        for names in (self.target_modules, self.exclude_modules):
            if isinstance(names, str):
                yield names, names
        for pattern in (*(self.rank_pattern or ()), *(self.alpha_pattern or ())):
            yield pattern, _module_expression(pattern)
        layers = self.layers_pattern or ()
        for pattern in [layers] if isinstance(layers, str) else layers:
            yield pattern, _layer_expression(pattern)


def _names(targets: str | list[str], module: str) -> bool:
    if isinstance(targets, str):
        return _compiled(targets).fullmatch(module) is not None
    return any(module == target or module.endswith(f".{target}") for target in targets)


def _by_pattern(pattern: dict[str, int] | dict[str, float] | None, module: str, rest: float) -> Any:
    for key, value in (pattern or {}).items():
        if _compiled(_module_expression(key)).match(module):
            return value
    return rest


def _module_expression(pattern: str) -> str:
    return rf"(.*\.)?({pattern})$"


def _layer_expression(pattern: str) -> str:
    if not pattern:
        return r".*?\.[^.]*\.(?P<layer>\d+)\."
    return rf"(?:^|.*?\.){pattern}\.(?P<layer>\d+)\."


def _layer_pattern(pattern: str) -> re.Pattern[str]:
    return _compiled(_layer_expression(pattern))


@lru_cache(maxsize=2 * MOST_PATTERNS)  # re's own cache is smaller than some rank_patterns
def _compiled(expression: str) -> re.Pattern[str]:
    return re.compile(expression)


def decode_config(text: bytes, path: Path) -> dict[str, Any]:
    """adapter_config.json's object. Accepts a byte order mark and UTF-16, which editors and shells
    on Windows write. Raises `AdapterError`."""
    try:
        if text.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            text = text.decode("utf-16").encode()
        return msgspec.json.decode(text.removeprefix(codecs.BOM_UTF8), type=dict[str, Any])
    except (ValueError, RecursionError) as error:  # msgspec's and Unicode's are ValueErrors
        if b"NaN" in text or b"Infinity" in text:
            raise AdapterError(f"{path} holds NaN or Infinity: numbers must be finite") from error
        raise AdapterError(f"{path}: {error}") from error


def parse_config(raw: dict[str, Any], path: Path) -> PeftConfig:
    """PEFT's adapter_config.json, its fields checked. Raises `AdapterError`."""
    check_fields(raw, PeftConfig.__struct_fields__, path)
    try:
        config = msgspec.convert(raw, PeftConfig)
    except ValueError as error:
        raise AdapterError(f"{path}: {error}") from error
    check_ranks({"r": config.r}, path)
    ranks = {f"rank_pattern's {brief(p)!r}": r for p, r in (config.rank_pattern or {}).items()}
    check_ranks(ranks, path)
    if not config.target_modules:
        raise AdapterError(f"{path}: target_modules is missing: it must name the adapted modules")
    return config


def check_modules(
    config: PeftConfig, path: Path, modules: Sequence[str], head: str, num_layers: int
) -> None:
    """Checks the config's names and patterns against a model with these modules, named below the
    prefix `head`. Raises `AdapterError`."""
    embeddings = {*EMBEDDINGS, f"{head}embed_tokens"}
    _check_patterns(config, path, (*modules, *embeddings))
    for layer in config.layers():
        if not 0 <= layer < num_layers:
            raise AdapterError(
                f"{path}: layers_to_transform names layer {layer}, the model's are 0 to "
                f"{num_layers - 1}"
            )
    for module in sorted(embeddings, reverse=True):
        if config.targets(module):
            raise AdapterError(
                f"{path}: target_modules names {module}: adapters of embeddings and lm_head are "
                f"not supported yet; {MERGE}"
            )


def check_ranks(given: dict[str, int], path: Path) -> None:
    """Checks ranks, given by the key that names them. Raises `AdapterError`."""
    for name, rank in given.items():
        if not 1 <= rank <= MOST_RANK:
            shown = rank if abs(rank) < 1e9 else "out of range"
            raise AdapterError(f"{path}: {name} is {shown}; ranks are 1 to {MOST_RANK}")


def _check_patterns(config: PeftConfig, path: Path, names: tuple[str, ...]) -> None:
    """Checks that each pattern compiles and matches fast: some take years for a name of 40
    letters."""
    for field in ("target_modules", "exclude_modules", "rank_pattern", "alpha_pattern"):
        given = getattr(config, field)
        if given and not isinstance(given, str) and len(given) > MOST_PATTERNS:
            raise AdapterError(f"{path}: {field} has {len(given)} entries, above {MOST_PATTERNS}")
    slow = []
    for pattern, expression in config.patterns():
        if len(pattern) > LONGEST_PATTERN:
            raise AdapterError(
                f"{path}: the pattern {brief(pattern)!r} has {len(pattern)} characters, above "
                f"{LONGEST_PATTERN}"
            )
        try:
            _compiled(expression)
        except (re.error, OverflowError, RecursionError) as error:
            raise AdapterError(
                f"{path}: {brief(pattern)!r} is not a valid pattern: {error}"
            ) from error
        if not PLAIN.fullmatch(pattern):
            slow.append(expression)
    if slow:
        _try_patterns(slow, names, path)


def _try_patterns(expressions: list[str], names: tuple[str, ...], path: Path) -> None:
    """Tries the matches in a separate process, the only way to stop a running match: here it would
    block the interpreter, and so every request."""
    try:
        trial = subprocess.run(
            [sys.executable, "-I", "-S", "-c", TRIAL],
            input=json.dumps((expressions, names, MOST_PATTERN_S)).encode(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=60,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise AdapterError(f"{path}: its patterns could not be tried: {error}") from error
    if trial.returncode == -signal.SIGPROF:
        raise AdapterError(f"{path}: {brief(', '.join(expressions))} takes too long to match")
    if trial.returncode:
        raise AdapterError(f"{path}: its patterns could not be tried: {trial.returncode}")

"""`inspect_directory`: all findings on a model directory, from config.json and tables of tensors.

The refusals of a start and the lines of a report both come from here, so they agree. No weights are
loaded; only a head and the embedding are read, to compare them if config.json ties them.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..errors import OperatorError
from ..runtime.text_files import read_json
from .checkpoint_files import find_checkpoint
from .checkpoint_tensors import checkpoint_findings
from .config_keys import CONFIG
from .findings import Finding
from .model_config import ModelConfig, inspect_config
from .quantization import quantization_name


def inspect_directory(
    directory: Path, weights: bool = True, ignored: Collection[str] = ()
) -> list[Finding]:
    """Findings on the config and, unless `weights` is false (random weights), on the files and
    tensors."""
    model_config, findings = inspect_config(directory, ignored)
    if model_config is not None:
        what = (
            f"is a {model_config.family} of {model_config.num_layers} layers, "
            f"{model_config.max_model_len} tokens long"
        )
        findings.append(Finding("the model", "good", what))
    if weights and (directory / CONFIG).exists():
        findings += _inspect_weights(directory, model_config)
    return findings


def _inspect_weights(directory: Path, model_config: ModelConfig | None) -> list[Finding]:
    try:
        files = find_checkpoint(directory)
    except OperatorError as error:
        what = error.what.removeprefix(str(directory)).lstrip("/:").strip()
        return [Finding("the weights", "bad", f"cannot be read: {what}", error.hint)]
    findings = [*files.findings]
    if files.gguf is not None:
        findings.append(Finding(files.where.name, "good", "holds the weights"))
    elif model_config is not None:
        by = quantization_name(directory, read_json(directory / CONFIG))
        findings += checkpoint_findings(model_config, files.tensors, files.where, by)
    return findings

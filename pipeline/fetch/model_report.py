"""`report_model`: the checks of a model before a start, without computing: keys that are read,
harmless or refused; files and tensors of the weights; the tokenizer and other files.

By hand: `python -m loraconsole.pipeline.fetch.model_report --model X [--json]`; exit 1 if a start
would be refused. Nothing is downloaded: a hub id is looked up in the hub's cache.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

from ..config import DEFAULT_MODEL
from ..errors import OperatorError
from ..gguf.header import gguf_findings
from ..model_files.config_keys import CONFIG
from ..model_files.findings import Finding, Verdict
from ..model_files.generation_config import FILE, read_generation_config
from ..model_files.inspection import inspect_directory
from ..model_files.model_config import inspect_config
from ..run_directory import is_hub_id
from ..text.tokenizer import Tokenizer
from ..text.vocabulary_files import NO_TOKENIZER, SAVE, has_tokenizer
from .embedded_model import embedded_directory
from .fetch import model_of_gguf
from .model_cache import FetchReport

ORDER: tuple[Verdict, ...] = ("bad", "note", "good")


class ModelReport(msgspec.Struct, frozen=True):
    """All findings, the bad ones first."""

    model: str
    directory: str
    """The model's directory; empty if there is none."""
    findings: tuple[Finding, ...]

    @property
    def is_served(self) -> bool:
        """Whether a start would accept it."""
        return all(finding.verdict != "bad" for finding in self.findings)

    def lines(self) -> list[str]:
        """The report for a terminal: a line per finding, its hint below."""
        shown = []
        for finding in self.findings:
            where = f"{finding.source}: " if finding.source else ""
            shown.append(f"{finding.verdict:4}  {where}{finding.text}")
            if finding.hint:
                shown.append(f"      {finding.hint}")
        return shown


def report_model(model: str, ignored: Collection[str] = ()) -> ModelReport:
    """The report on a directory, a GGUF file, a cached hub id, or the default model. The keys
    `ignored` of its config.json are skipped."""
    try:
        directory = _locate(model)
    except OperatorError as error:
        path = Path(os.path.expanduser(model))
        found = gguf_findings(path) if path.is_file() else []
        if all(finding.verdict != "bad" for finding in found):
            found.append(Finding("the model", "bad", error.what, error.hint))
        return ModelReport(model, "", _bad_first(found))
    findings = inspect_directory(directory, ignored=ignored)
    if all(finding.name != CONFIG for finding in findings):  # else it is not a model directory
        found, tokenizer = _inspect_tokenizer(directory, ignored)
        findings += [
            *found,
            *_inspect_stop_tokens(directory, ignored, tokenizer),
            *_inspect_generation(directory),
            *_inspect_gguf(directory),
        ]
    return ModelReport(model, str(directory), _bad_first(findings))


def _bad_first(findings: list[Finding]) -> tuple[Finding, ...]:
    return tuple(sorted(findings, key=lambda finding: ORDER.index(finding.verdict)))


def _locate(model: str) -> Path:
    """The model directory. Raises `OperatorError` if it is not on this machine."""
    path = Path(os.path.expanduser(model))
    if model == DEFAULT_MODEL:
        if (directory := embedded_directory()).exists():
            return directory
        raise OperatorError(f"{model} is not cached yet", "loraconsole up fetches it")
    if path.is_dir():
        return path.absolute()
    if path.is_file():
        return model_of_gguf(path, FetchReport())
    if not is_hub_id(model):
        raise OperatorError(
            f"there is no model {model}",
            "give a directory, a .gguf file, or a hub id as in org/name@revision",
        )
    from huggingface_hub import snapshot_download  # costs 0.6 s

    name, _, revision = model.partition("@")
    try:
        return Path(snapshot_download(name, revision=revision or None, local_files_only=True))
    except Exception as error:  # the hub's exceptions have no common base
        raise OperatorError(
            f"{model} is not a path here, and not in the hub's cache",
            f"check the path, or download it from the hub: hf download {name}",
        ) from error


# --- findings on a directory's files other than weights -----------------------------------------


def _inspect_tokenizer(
    directory: Path, ignored: Collection[str]
) -> tuple[list[Finding], Tokenizer | None]:
    if not has_tokenizer(directory):
        return [Finding("the tokenizer", "bad", f"is missing: there is {NO_TOKENIZER}", SAVE)], None
    try:
        tokenizer = Tokenizer(directory)
    except OperatorError as error:
        return [Finding("the tokenizer", "bad", error.what, error.hint)], None
    count = tokenizer.vocab_size
    found = [Finding("the tokenizer", "good", f"has {count} tokens")]
    model_config, _ = inspect_config(directory, ignored)
    if model_config is not None and count > model_config.vocab_size:
        what = f"has {count} tokens, the embedding {model_config.vocab_size} rows"
        hint = "prompts with a token beyond the embedding are refused"
        found = [Finding("the tokenizer", "note", what, hint)]
    found += [Finding("the tokenizer:", "note", warning) for warning in tokenizer.warnings]
    if tokenizer.chat_template is None:
        what = "cannot be used: chats are refused, completions work"
        found.append(Finding("the chat template", "note", what))
    elif not tokenizer.chat_template.fault:
        found.append(Finding("the chat template", "good", "compiles"))
    return found, tokenizer


def _inspect_stop_tokens(
    directory: Path, ignored: Collection[str], tokenizer: Tokenizer | None
) -> list[Finding]:
    model_config, _ = inspect_config(directory, ignored)
    if model_config is None:
        return []
    if not model_config.eos_token_ids:
        what = "are not given: answers end only at max_tokens"
        return [Finding("stop tokens", "note", what, "name eos_token_id in generation_config.json")]
    ids = [
        f"{token_id} {tokenizer.token_text(token_id)!r}"
        if tokenizer and token_id < tokenizer.vocab_size
        else str(token_id)
        for token_id in model_config.eos_token_ids
    ]
    return [Finding("stop tokens", "good", f"are {', '.join(ids)}")]


def _inspect_generation(directory: Path) -> list[Finding]:
    try:
        defaults = read_generation_config(directory)
    except OperatorError as error:
        return [Finding(FILE, "bad", error.what, error.hint, FILE)]
    found = []
    if defaults.named:
        values = ", ".join(f"{name} {value}" for name, value in defaults.named.items())
        found.append(Finding("sampling defaults:", "good", values, source=FILE))
    if defaults.not_honoured:
        what = ", ".join(defaults.not_honoured)
        found.append(Finding("not honoured:", "note", what, source=FILE))
    return found


def _inspect_gguf(directory: Path) -> list[Finding]:
    path = directory / "model.gguf"
    return gguf_findings(path.resolve()) if path.exists() else []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--ignore-key", action="append", default=[], metavar="KEY")
    parser.add_argument("--json", action="store_true", help="the report as JSON")
    given = parser.parse_args()
    report = report_model(given.model, given.ignore_key)
    if given.json:
        sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    else:
        print(f"{report.model}: {report.directory}", *report.lines(), sep="\n")
    sys.exit(0 if report.is_served else 1)


if __name__ == "__main__":
    main()

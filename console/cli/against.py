"""`doctor MODEL` and `--against transformers`: a model's files, and our answers compared with those
of the transformers library. Does not import torch: the libraries and our engine run in separate
processes.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_args

import msgspec

from ...pipeline.config import DEFAULT_MODEL, Config
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import AdapterTable, WorkerStats
from ...pipeline.model_files.findings import Finding
from ...pipeline.reference.reference import (
    AnswerDifference,
    Answers,
    DtypeName,
    Prompt,
    PromptAnswer,
    ReferenceComparison,
    ReferenceQuestion,
    SideBySide,
)
from ...pipeline.run_directory import absolute_path, is_hub_id, spell
from ...pipeline.runtime.wording import counted
from ..client.ask import first_report, server_url
from ..client.http_client import Http, HttpError
from ..client.remote import Remote
from ..commands.adapters import VerifyCommand
from ..commands.inspect import DoctorCommand
from ..text import units
from .printing import print_json

REPORT_SECONDS = 120.0
HALF_CHARACTER = re.compile(r"bytes:(\\x[0-9a-f]{2})+")
MARKS = {"good": "ok  ", "note": "note", "bad": "FAIL"}


class ReportedModel(msgspec.Struct, frozen=True):
    """The report that `pipeline/fetch/model_report.py` prints as JSON."""

    model: str
    findings: tuple[Finding, ...]
    directory: str = ""

    @property
    def num_bad(self) -> int:
        return sum(found.verdict == "bad" for found in self.findings)


class ComparisonDocument(msgspec.Struct, frozen=True, kw_only=True):
    """`--against` prints this: our answers beside those of the library `by`."""

    is_right: bool
    model: str
    by: str
    dtype: DtypeName
    rows: tuple[AnswerDifference, ...]
    notes: tuple[str, ...]


# --- before a start -----------------------------------------------------------------------------


def print_model_report(model: str, command: DoctorCommand) -> int:
    """Prints what `pipeline/fetch/model_report.py` finds in a model. Exit status 1 if a finding
    keeps the model from being served."""
    words = [sys.executable, "-P", "-m", "loraconsole.pipeline.fetch.model_report", "--json"]
    words += ["--model", model, *(f"--ignore-key={key}" for key in command.ignore_key)]
    try:
        done = subprocess.run(words, capture_output=True, timeout=REPORT_SECONDS)
        report = msgspec.json.decode(done.stdout, type=ReportedModel)
    except subprocess.TimeoutExpired as error:
        raise OperatorError(f"{model} was not read in {REPORT_SECONDS:.0f} s") from error
    except msgspec.DecodeError as error:
        last = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no output"]
        raise OperatorError(f"{model} cannot be examined: {last[0]}") from error
    if command.json:
        print_json(report)
    else:
        _print_report(report)
    return 1 if report.num_bad else 0


def _print_report(report: ReportedModel) -> None:
    """Prints a row for each finding, and the verdict. On a terminal long rows are wrapped;
    otherwise each is one line, for grep."""
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    names = [_name(found) for found in report.findings]
    width = min(columns // 2, max(map(len, names), default=0))
    room = max(20, columns - width - 8)
    indent = " " * (width + 8)
    for name, found in zip(names, report.findings, strict=True):
        lines = units.wrap(found.finding, room) + (units.wrap(found.hint, room) * bool(found.hint))
        print(f"{MARKS[found.verdict]}  {name:<{width}}  {lines[0]}")
        for line in lines[1:]:
            print(f"{indent}{line}")
    verdict = f"refused: {counted(report.num_bad, 'reason')}" if report.num_bad else "served"
    print(f"{units.clean(report.model)} would be {verdict}")


def _name(found: Finding) -> str:
    """The name of a finding, after that of its file if they differ."""
    is_said = not found.source or found.source == found.name
    return units.clean(found.name if is_said else f"{found.source}: {found.name}")


def compare_model(model: str, command: DoctorCommand) -> int:
    """`doctor MODEL --against transformers`: compares our engine with the library. Exit status 1 if
    anything differs."""
    tokens = _tokens(command)
    _require_libraries(bool(command.adapter))
    adapters = tuple(_named_adapter(entry) for entry in command.adapter)
    from ...pipeline.fetch.fetch import resolve

    model = absolute_path(model) if model != DEFAULT_MODEL else model
    ignored = tuple(command.ignore_key)
    directory = resolve(Config(model=model, ignore_key=ignored))
    question = ReferenceQuestion(
        model=_original(model, directory), adapters=adapters, tokens=tokens
    )
    with SideBySide(_say(command.json)) as beside:
        found = beside.compare_engine(question, directory, command.dtype or "float32", ignored)
    return print_comparison(msgspec.structs.replace(found, model=model), command.json)


def _named_adapter(entry: str) -> tuple[str, str]:
    name, equals, path = entry.partition("=")
    if not (name and equals and path):
        raise UsageError(f"--adapter {entry!r} is not NAME=PATH")
    path = absolute_path(path)
    if is_hub_id(path):
        from ...pipeline.fetch.adapter import WANTED
        from ...pipeline.fetch.fetch import snapshot_of_hub
        from ...pipeline.fetch.model_cache import FetchReport

        path = str(snapshot_of_hub(path, WANTED, FetchReport()))
    return name, path


def _original(model: str, directory: Path) -> str:
    """The path or hub id that the library reads: the original model, not our conversion of it."""
    return str(directory) if model == DEFAULT_MODEL else model


def _tokens(command: DoctorCommand | VerifyCommand) -> int:
    if not 1 <= command.tokens <= 512:
        raise UsageError(f"--tokens {command.tokens} is not from 1 to 512")
    return command.tokens


def _require_libraries(has_adapters: bool) -> None:
    """Raises `OperatorError` if a library to compare with is not installed: before minutes of work,
    and without importing it."""
    lacking = [
        (name, f"'{name}>={version}'")
        for name, version in (("transformers", "5"), ("peft", "0.18"))
        if (name != "peft" or has_adapters) and importlib.util.find_spec(name) is None
    ]
    if lacking:
        names, wanted = (" ".join(words) for words in zip(*lacking, strict=True))
        raise OperatorError(
            f"not installed beside {sys.executable}: {names}",
            f"{sys.executable} -m pip install {wanted}",
        )


def _say(as_json: bool) -> Callable[[str], None]:
    def say(words: str) -> None:
        if not as_json:
            print(f"{words} …", file=sys.stderr)

    return say


# --- against a running pipeline -----------------------------------------------------------------


def verify_against(config: Config, command: VerifyCommand) -> int:
    """`adapters verify NAME --against transformers`: compares the pipeline's answers over HTTP,
    base and adapter, with the library's from the same files. Exit status 1 if anything differs."""
    if config.dummy:
        raise OperatorError("the pipeline serves random weights (--dummy), which are in no file")
    tokens = _tokens(command)
    _require_libraries(True)
    url, table, workers = asyncio.run(_look(config))
    view = next((view for view in table.adapters if view.name == command.name), None)
    if view is None:
        hint = f"see: {spell('adapters list', config.run)}"
        raise OperatorError(f"there is no adapter {command.name}", hint)
    if not Path(view.path).is_dir():
        raise OperatorError(
            f"{view.path} of adapter {view.name} is not a directory on this machine"
        )
    precision = _precision(workers)
    http = Http(url, config.api_key)

    def serve(prompts: tuple[Prompt, ...]) -> Answers:
        say("the pipeline computes")
        models = [(config.model_name, None), (view.name, view.name)]
        return asyncio.run(_ask_all(http, models, prompts, tokens, precision))

    say = _say(command.json)
    question = ReferenceQuestion(
        model=_original(config.model, (config.run_path / "model").resolve()),
        adapters=((view.name, view.path),),
        tokens=tokens,
    )
    with SideBySide(say) as beside:
        found = beside.compare_served(question, serve)
    return print_comparison(msgspec.structs.replace(found, model=config.model), command.json)


async def _look(config: Config) -> tuple[str, AdapterTable, tuple[WorkerStats, ...]]:
    async with Remote(config) as remote:
        return (
            await server_url(remote),
            await first_report(remote, lambda s: s.adapters, "router", "its adapters"),
            await first_report(remote, lambda s: s.workers or None, "worker-0", "its dtype"),
        )


def _precision(workers: Sequence[WorkerStats]) -> DtypeName:
    """The dtype whose error bounds apply; the coarser one if a worker uses several, e.g. 4-bit
    weights for few rows."""
    dtype = workers[0].dtype
    for name in get_args(DtypeName):
        if dtype == name:
            return name  # type: ignore[no-any-return]  # one of the literals
    return "bfloat16" if "bfloat16" in dtype else "int4"


async def _ask_all(
    http: Http,
    models: Sequence[tuple[str, str | None]],
    prompts: Sequence[Prompt],
    tokens: int,
    precision: DtypeName,
) -> Answers:
    """Sends all prompts to all models at once, so that base and adapter share steps."""
    asked = [
        _ask(http, model, adapter, prompt, tokens)
        for model, adapter in models
        for prompt in prompts
    ]
    return Answers(precision, tuple(await asyncio.gather(*asked)))


async def _ask(
    http: Http, model: str, adapter: str | None, prompt: Prompt, tokens: int
) -> PromptAnswer:
    """One greedy answer of `tokens` tokens; stop tokens are ignored."""
    body: dict[str, Any] = {
        "model": model,
        "temperature": 0,
        "repetition_penalty": 1.0,  # whatever generation_config.json says
        "max_tokens": tokens,
        "ignore_eos": True,
    }
    if prompt.turns:
        path = "/v1/chat/completions"
        messages = [{"role": turn.role, "content": turn.content} for turn in prompt.turns]
        body |= {"messages": messages, "logprobs": True}
    else:
        path, body = "/v1/completions", body | {"prompt": prompt.text, "logprobs": 0}
    try:
        async with http.post(path, body) as response:
            status, content = response.status, json.loads(await response.read())
    except (HttpError, ValueError) as error:
        raise OperatorError(f"the server does not answer: {error}") from error
    if status != 200:
        reason = content.get("error", {}).get("message", f"status {status}")
        return PromptAnswer(prompt=prompt.name, adapter=adapter, refusal=reason)
    choice = content["choices"][0]
    if prompt.turns:
        entries = choice["logprobs"]["content"]
        pieces = [entry["token"] for entry in entries]
        logprobs = [entry["logprob"] for entry in entries]
    else:
        pieces = choice["logprobs"]["tokens"]
        logprobs = choice["logprobs"]["token_logprobs"]
    return PromptAnswer(
        prompt=prompt.name,
        adapter=adapter,
        prompt_tokens=content["usage"]["prompt_tokens"],
        pieces=tuple(map(_plain, pieces)),
        logprobs=tuple(logprobs),
    )


def _plain(piece: str) -> str:
    """A token as the library decodes it; completions may write a partial character as bytes."""
    if HALF_CHARACTER.fullmatch(piece) is None:
        return piece
    return bytes.fromhex(piece.removeprefix("bytes:").replace("\\x", "")).decode(errors="replace")


# --- printing -----------------------------------------------------------------------------------


def print_comparison(found: ReferenceComparison, as_json: bool) -> int:
    """Prints a row for each prompt of each model, and the verdict. Exit status 1 if an answer
    differs."""
    code = 0 if found.is_right else 1
    if as_json:
        print_json(
            ComparisonDocument(
                is_right=found.is_right,
                model=found.model,
                by=found.by,
                dtype=found.dtype,
                rows=found.rows,
                notes=found.notes,
            )
        )
        return code
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.stdout_console import StdoutConsole

    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("", "model", "prompt", "ids", "tokens equal", "largest |Δ|", "mean", "range")
    for place, head in enumerate(heads):
        table.add_column(head, justify="left" if place < 3 else "right", no_wrap=True)
    for row in found.rows:
        if row.is_refused:
            continue
        cells = (row.adapter or "base", row.prompt)
        mark = "ok" if row.is_right else "DIFFERS"
        table.add_row(mark, *(Text(units.clean(cell)) for cell in cells), *_numbers(row))
    if table.rows:
        StdoutConsole().print(table)
    for model, prompts, reason in _reasons(found.rows):
        print(f"{units.clean(model)}{prompts}: {units.clean(reason)}")
    for note in found.notes:
        print(f"note: {units.clean(note)}")
    unit = next((row.unit for row in found.rows if row.tokens), "logits")
    how = f"{found.dtype} beside float32; Δ of {unit}"
    print(f"{units.clean(found.model)}: {_verdict(found.rows)} {found.by} ({how})")
    return code


def _reasons(rows: Sequence[AnswerDifference]) -> list[tuple[str, str, str]]:
    """(model, `, prompt`, reason) of each row with a reason; a refusal of all prompts of a model is
    listed once, with "" for the prompt."""
    found: list[tuple[str, str, str]] = []
    for row in rows:
        same = {other.reason for other in rows if other.adapter == row.adapter}
        prompt = "" if len(same) == 1 and row.is_refused else f", {row.prompt}"
        entry = (row.adapter or "base", prompt, row.reason)
        if row.reason and entry not in found:
            found.append(entry)
    return found


def _verdict(rows: Sequence[AnswerDifference]) -> str:
    refused = sum(row.is_refused for row in rows)
    wrong = sum(not row.is_right for row in rows) - refused
    if not refused:
        return f"{wrong} of {len(rows)} answers DIFFER from" if wrong else "answers as"
    words = f"{refused} of {len(rows)} answers REFUSED"
    others = f"{wrong} DIFFER from" if wrong else "the others as"
    return f"{words}, {others}" if refused < len(rows) else f"{words}, beside"


def _numbers(row: AnswerDifference) -> tuple[str, ...]:
    if not row.tokens:
        return (str(row.prompt_tokens or ""), "", "", "", "")
    return (
        str(row.prompt_tokens),
        f"{row.equal_tokens}/{row.tokens}",
        f"{row.largest:.2g}",
        f"{row.mean:.2g}",
        f"{row.range:.3g}",
    )

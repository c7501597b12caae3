"""`loraconsole profile` and `loraconsole spans`: recordings of time spans, and their totals.

Reads the files that `pipeline/runtime/spans.py` writes: a directory a recording, a file a process.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path

import msgspec

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import SpansReply
from ...pipeline.run_directory import spell
from ...pipeline.runtime.wording import counted
from ..client.remote import Remote
from ..commands.inspect import SpansCommand
from ..commands.pipeline import ProfileCommand
from ..text import units
from .documents import ProfileDocument
from .printing import print_json, say

# --- start, stop --------------------------------------------------------------------------------


def profile(config: Config, command: ProfileCommand) -> int:
    """Starts or stops recording spans in every process. Raises `OperatorError` if one does not
    answer."""

    async def order() -> dict[str, SpansReply]:
        async with Remote(config) as remote:
            return await remote.order_spans(command.order(remote.name))

    replies = asyncio.run(order())
    if silent := [name for name in config.process_names() if name not in replies]:
        hint = f"is it still loading? see:  {spell('status', config.run)}"
        raise OperatorError(f"no answer from {', '.join(silent)}", hint)
    if errors := [f"{reply.name} {reply.error}" for reply in replies.values() if reply.error]:
        raise OperatorError("; ".join(errors), f"see: {spell('logs', config.run)}")
    directories = {str(Path(reply.path).parent) for reply in replies.values() if reply.path}
    count = sum(reply.spans for reply in replies.values())
    where = ", ".join(sorted(directories))
    if command.verb == "start":
        text = f"recording to {where}"
    else:
        text = "no spans recorded"
        if where:
            text = f"{counted(count, 'span')} in {where}; see: {spell('spans', config.run)}"
    say(
        ProfileDocument(
            tuple(sorted(directories)),
            count,
            tuple(replies[name] for name in config.process_names()),
        ),
        text,
        command.json,
    )
    return 0


# --- totals -------------------------------------------------------------------------------------


class SpanLine(msgspec.Struct):
    """A line of a file of spans: a span (ph X) or a lane's name (ph M). Microseconds."""

    ph: str
    name: str
    cat: str = ""
    dur: float = 0.0


class SpanTotal(msgspec.Struct, frozen=True):
    """All spans of one name in one process, milliseconds."""

    process: str
    name: str
    count: int
    total_ms: float
    mean_ms: float
    p50_ms: float
    p99_ms: float


def spans(config: Config, command: SpansCommand) -> int:
    """Prints totals by name, the largest first; `--trace` also merges the files into one."""
    path, trace = command.path, command.trace
    files = find_files(Path(path) if path else latest_recording(config.run_path))
    found = sorted(totals(files), key=lambda total: -total.total_ms)
    if trace:
        write_trace(files, Path(trace))
    if command.json:
        print_json(found)
    else:
        _print_totals(found)
    return 0


def latest_recording(run: Path) -> Path:
    """The directory of the last recording. Raises `OperatorError` if there is none."""
    found = sorted(path for path in (run / "spans").glob("*") if path.is_dir())
    if not found:
        raise OperatorError(
            f"no spans recorded in {run}", "loraconsole profile start, or up --profile"
        )
    return found[-1]


def find_files(path: Path) -> list[Path]:
    """The span files at a path: the file itself, or those in the directory. Raises `OperatorError`
    if there are none."""
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path] if path.is_file() else []
    if not files:
        raise OperatorError(f"there are no spans in {path}", "see: loraconsole profile --help")
    return files


def totals(files: list[Path]) -> Iterator[SpanTotal]:
    """Totals per span name and process; varying parts of a name are replaced by {}. Raises
    `OperatorError` at a line that is not a span."""
    decoder = msgspec.json.Decoder(SpanLine)
    for file in files:
        taken: dict[str, list[float]] = {}
        for number, line in enumerate(_lines(file), start=1):
            try:
                event = decoder.decode(line)
            except msgspec.DecodeError as error:
                raise OperatorError(f"line {number} of {file} is not a span: {error}") from error
            if event.ph == "X":
                taken.setdefault(event.cat or event.name, []).append(event.dur / 1e3)
        for name, ms in taken.items():
            ms.sort()
            total = math.fsum(ms)
            yield SpanTotal(
                file.stem,
                name,
                len(ms),
                round(total, 3),
                round(total / len(ms), 4),
                round(ms[(len(ms) - 1) // 2], 4),
                round(ms[math.ceil(len(ms) * 0.99) - 1], 4),
            )


def _lines(file: Path) -> Iterator[bytes]:
    """The complete lines of a file: the last may not be written yet."""
    with file.open("rb") as lines:
        yield from (line for line in lines if line.endswith(b"\n"))


def write_trace(files: list[Path], to: Path) -> None:
    """Writes the spans of all processes, which share a clock, as one document for chrome://tracing
    or Perfetto."""
    try:
        with to.open("wb") as out:
            out.write(b'{"traceEvents":[\n')
            separator = b""
            for file in files:
                for line in _lines(file):
                    out.write(separator + line.rstrip())
                    separator = b",\n"
            out.write(b"\n]}\n")
    except OSError as error:
        raise OperatorError(
            f"cannot write {to}: {error.strerror}", "choose another file"
        ) from error


def _print_totals(found: list[SpanTotal]) -> None:
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.stdout_console import StdoutConsole

    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in ("process", "span", "count", "total ms", "mean ms", "p50 ms", "p99 ms"):
        right = head not in ("process", "span")
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    for row in found:
        table.add_row(
            row.process,
            Text(units.visible(row.name)),
            str(row.count),
            f"{row.total_ms:.1f}",
            *(f"{value:.3f}" for value in (row.mean_ms, row.p50_ms, row.p99_ms)),
        )
    StdoutConsole(width=120).print(table)

"""`status`, `alerts`, `where`, `logs`: read-only commands about a pipeline."""

from __future__ import annotations

import contextlib
import shutil
import sys
import time
from typing import TYPE_CHECKING

import msgspec

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError
from ...pipeline.messages import LogLine, ProcessState, ProcessView, Snapshot
from ...pipeline.run_directory import spell
from ...pipeline.runtime.clock import unix_time
from ...pipeline.runtime.health import find_fault
from ...pipeline.runtime.json_document import to_document
from ...pipeline.runtime.text_output import json_text
from ..client.ask import take_snapshot
from ..client.failed_adapters import describe_failure, failed_in
from ..client.remote import NotRunning
from ..commands.inspect import AlertsCommand, LogsCommand, StatusCommand, WhereCommand
from ..supervisor.lock import is_running
from ..supervisor.log_tail import LogTail
from ..text import units
from ..text.near_words import did_you_mean, with_choices
from .documents import AlertDocument
from .printing import print_json

if TYPE_CHECKING:
    from ..state.alerts import AlertFinding
    from ..state.board import Condition


def status(config: Config, command: StatusCommand) -> int:
    """Prints the processes and their state. Exit status 1 if the pipeline is not READY, or if
    `/health` would say that it takes no request."""
    snapshot = take_snapshot(config)
    if command.json:  # without the page map, which may have 60 000 entries
        print_json(msgspec.structs.replace(snapshot, pool=None))
    else:
        _print_status(config, snapshot)
    return 0 if is_well(config, snapshot) else 1


def is_well(config: Config, snapshot: Snapshot) -> bool:
    """Whether the pipeline is READY, and takes requests as `/health` judges it."""
    beats = {beat.name: beat for beat in snapshot.beats}
    fault = find_fault(config.process_names(), snapshot.processes, beats, snapshot.at)
    return snapshot.processes.state is ProcessState.READY and not fault


def alerts(config: Config, command: AlertsCommand) -> int:
    """Prints the alerts that a console would show. Exit status 1 if there is an alert."""
    from ...pipeline.runtime.latest_telemetry import STEPS_KEPT

    found, condition = find_alerts(config, take_snapshot(config, STEPS_KEPT))
    if command.json:
        print_json([AlertDocument(a.level, a.text, a.rule, a.subject) for a in found])
    else:
        for alert in found:
            print(f"{alert.level:<4}  {alert.rule:<17}  {units.visible(alert.text)}")
        if not found:
            more = f"; the pipeline is {condition.word} {condition.detail}".rstrip()
            print(f"no alerts{'' if condition.word == 'READY' else units.visible(more)}")
    return 1 if found else 0


def find_alerts(config: Config, snapshot: Snapshot) -> tuple[tuple[AlertFinding, ...], Condition]:
    """The alerts of a snapshot, which has the first tokens of the last minute and the last steps;
    and the pipeline's state as the console's header has it."""
    from ..settings.settings import read_settings
    from ..state.alerts import findings
    from ..state.store import Store

    now, store = snapshot.at, Store(config.run)
    store.disk_free_bytes = shutil.disk_usage(config.run).free
    store.fold_snapshot(snapshot, now)
    board = store.board(now)
    return findings(board, read_settings().settings.alerts), board.condition


def _print_status(config: Config, snapshot: Snapshot) -> None:
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.stdout_console import StdoutConsole
    from ..state.store import Store

    beats = {beat.name: beat for beat in snapshot.beats}
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("process", "state", "pid", "restarts", "cpu s", "MiB", ""):
        right = name in ("pid", "restarts", "cpu s", "MiB")
        table.add_column(name, justify="right" if right else "left")
    for process in snapshot.processes.processes:
        beat = beats.get(process.name)
        alive = beat is not None and process.pid == beat.pid
        table.add_row(
            process.name,
            process.state.value,
            str(process.pid or ""),
            str(process.restarts),
            f"{beat.cpu_seconds:.1f}" if beat and alive else "",
            f"{beat.rss_bytes / 2**20:.0f}" if beat and alive else "",
            Text(units.visible(_reason(process))),
        )
    console = StdoutConsole()
    url = snapshot.server.url if snapshot.server else "no address yet"
    now = snapshot.at
    store = Store(config.run)
    store.fold_snapshot(snapshot, now)
    condition = store.board(now).condition
    why = f" ({condition.detail})" if condition.detail else ""
    line = units.visible(f"{config.model_name} · {condition.word}{why} · {url}")
    console.print(line, soft_wrap=True, markup=False)
    if router := snapshot.router:
        used = router.pages_kv + router.pages_adapters
        console.print(
            f"{router.running} running, {router.waiting} waiting; "
            f"{used} of {router.pages_total} pages used; run directory {config.run}"
        )
    console.print(table)
    for view in failed_in(snapshot.adapters):
        print(describe_failure(view))


def _reason(process: ProcessView) -> str:
    """The reason of its state, and before it why the process fell if that is not mended."""
    if not process.is_recovering or process.fall_reason in ("", process.reason):
        return process.reason
    return f"died ({process.fall_reason}); {process.reason}".rstrip("; ")


def where(config: Config, command: WhereCommand) -> int:
    """Prints the pipeline's paths and how to reach it; it need not be running."""
    from ..client.ssh_tunnel import describe_place

    is_there = is_running(config.run_path)
    url, at = "", unix_time()
    if is_there:
        with contextlib.suppress(OperatorError):
            snapshot = take_snapshot(config)
            url, at = snapshot.server.url if snapshot.server else "", snapshot.at
    place = describe_place(config, is_there, url, at)
    if command.json:
        print_json(place)
        return 0
    rows = {
        "run directory": place.run,
        "pipeline": "runs" if place.is_running else "does not run",
        "model": place.model,
        "address": place.url or "none now",
        "logs": f"{place.run}/logs",
        "history": f"{place.run}/history",
        "from elsewhere": spell(f"attach --ssh {place.host}", place.run),
    }
    for name, value in rows.items():
        print(f"{name:<15} {units.visible(value)}")
    return 0


def logs(config: Config, command: LogsCommand) -> int:
    """Prints lines of the log files; the pipeline need not be running."""
    process = command.process
    directory = config.run_path / "logs"
    if not directory.is_dir():
        hint = f"start one with: {spell('up', config.run)}"
        raise NotRunning(f"no pipeline has been started in {config.run}", hint)
    book = LogTail(directory)

    def chosen(found: list[LogLine]) -> list[LogLine]:
        return [line for line in found if process in (None, line.source)]

    known = sorted(path.stem for path in directory.glob("*.log"))
    if process is not None and process not in known:
        hint = with_choices(did_you_mean(process, known), known)
        raise OperatorError(f"no log of {process!r}", hint)
    book.read_new()
    last = chosen(list(book.lines))[-command.lines :]
    if command.json and not command.follow:
        print_json(last)
        return 0
    write = _json_line if command.json else _log_line
    for line in last:
        write(line)
    while command.follow:
        time.sleep(0.2)
        for line in chosen(book.read_new()):
            write(line)
        sys.stdout.flush()
    return 0


def _log_line(line: LogLine) -> None:
    at = time.strftime("%H:%M:%S", time.localtime(line.at))
    text = units.visible(line.text.removeprefix(f"{line.source}: "))
    print(f"{at}.{int(line.at % 1 * 1000):03d} {line.level:<7} {line.source:<11} {text}")


def _json_line(line: LogLine) -> None:
    print(json_text(msgspec.json.encode(to_document(line))))

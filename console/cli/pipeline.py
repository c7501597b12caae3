"""What each command does. Every verb returns an exit status; figures go to stdout, talk to stderr.

Tables by rich, bars by tqdm; with `as_json` one JSON document instead.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from ...pipeline.config import Config
from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.messages import (
    Drain,
    LogLine,
    ProcessState,
    ProcessTable,
    Progress,
    Resume,
    Snapshot,
    StopPipeline,
    Telemetry,
)
from ...pipeline.run_directory import default_run_directory, spell
from ...pipeline.runtime.text_output import json_text
from ...pipeline.runtime.wording import counted
from ..client.failed_adapters import AdaptersFailed, documents, failed_at_start, failed_in, line_of
from ..client.remote import NotRunning, Remote, none_runs
from ..supervisor import launcher
from ..supervisor.lock import is_running
from ..supervisor.log_tail import Logbook
from ..text import units
from ..ui import session

if TYPE_CHECKING:
    from ..client.answer import Answer
    from ..client.chat import ChatParams

DRAIN_SECONDS = 30.0
STOP_SECONDS = 60.0
BEAT_SECONDS, SILENT_SECONDS = 2.0, 20.0
"""A supervisor beats every second; one that has not for so long is looked for, or given up."""
ABORT_SECONDS = 10.0


# --- console ------------------------------------------------------------------------------------


def console(config: Config, given: argparse.Namespace, *, start: bool) -> int:
    """Opens the screen; starts the pipeline before it where `start` and none runs. `given` has
    the screen's flags."""
    session.need_terminal("without one: loraconsole up, status, prompt, logs")
    session.check_screen_flags(given)
    running = is_running(config.run_path)
    if not start and not running:
        raise none_runs(config.run)
    from ..terminal import splash

    with splash.raised("loraconsole"):
        if running:
            config = Config.load(config.run)  # what runs, not what this command line says
        else:
            launcher.start(config)
        choice = session.show(config, given)
    if choice == "stop" and is_running(config.run_path):
        return down(config, now=True, as_json=False)
    if is_running(config.run_path):
        print(
            f"The pipeline still runs in {config.run}. {spell('attach', config.run)}: back to it; "
            f"{spell('down', config.run)}: stop it."
        )
    return 0


# --- up, down -----------------------------------------------------------------------------------


def up(config: Config, foreground: bool, as_json: bool) -> int:
    """Starts the pipeline and waits until it is READY, with a bar for each stage.

    Raises `OperatorError`, with nothing left running, where a process gives up or an adapter it was
    given cannot be loaded; the latter unless `config.ignore_failed_adapters`."""
    launcher.start(config)
    try:
        return asyncio.run(_wait_until_ready(config, foreground, as_json))
    except (KeyboardInterrupt, SystemExit):  # a signal
        if not foreground and is_running(config.run_path):
            print(
                f"loraconsole: the pipeline in {config.run} goes on starting. "
                f"{spell('status', config.run)}: how far it is; {spell('down', config.run)}: "
                "stop it.",
                file=sys.stderr,
            )
        raise


async def _wait_until_ready(config: Config, foreground: bool, as_json: bool) -> int:
    async with Remote(config) as remote:
        bars = Bars()
        try:
            await _until_ready(remote, bars)
            failed = await failed_at_start(remote)
            if failed and not config.ignore_failed_adapters:
                raise AdaptersFailed(failed, len(config.adapter), config.run)
        except (_Failed, AdaptersFailed):
            # What cannot start is taken down again, so that the next `up` finds the place free.
            remote.tell(StopPipeline(0.0))
            await _gone(config)
            raise
        finally:
            bars.close()
        url = await server_url(remote)
        for view in failed:
            print(f"loraconsole: {line_of(view)}", file=sys.stderr)
        if as_json:
            document = {"state": "ready", "url": url, "run": config.run}
            print_json(document | {"failed_adapters": documents(failed)})
        else:
            ready = f"READY: {config.model} at {url} (run directory {config.run})"
            print(units.visible(ready))
        if foreground:
            await _stay(remote)
    return 0


async def _until_ready(remote: Remote, bars: Bars) -> None:
    watch, heard = remote.watch(), time.monotonic()
    while True:
        try:
            messages = await asyncio.wait_for(watch.receive(), BEAT_SECONDS)
        except TimeoutError:
            _raise_if_gone(remote.config, time.monotonic() - heard)
            continue
        heard = time.monotonic()
        for message in messages:
            bars.show(message)
            if isinstance(message, ProcessTable):
                if message.state is ProcessState.READY:
                    return
                _raise_if_failed(message, remote.config.run)


def _raise_if_gone(config: Config, silent_s: float) -> None:
    log = f"see {config.run}/logs/supervisor.log"
    if not is_running(config.run_path):
        raise NotRunning("the pipeline was stopped before it was ready", log)
    if silent_s > SILENT_SECONDS:
        raise OperatorError(f"the supervisor has not been heard for {silent_s:.0f} s", log)


class _Failed(OperatorError):
    """A process of the ring has been given up."""


async def server_url(remote: Remote) -> str:
    """The server's address, which its first statistics after READY carry."""
    for _ in range(20):
        snapshot = await remote.snapshot()
        if snapshot.server and snapshot.server.url:
            return snapshot.server.url
        await asyncio.sleep(0.1)
    hint = f"see: {spell('logs server', remote.config.run)}"
    raise OperatorError("the server does not say its address", hint)


def _raise_if_failed(table: ProcessTable, run: str) -> None:
    for process in table.processes:
        if process.state is ProcessState.FAILED:
            hint = f"see: {spell(f'logs {process.name}', run)}"
            raise _Failed(f"{process.name} failed: {process.reason}", hint)


async def _stay(remote: Remote) -> None:
    """Until the pipeline ends or Ctrl-C, which ends it."""
    try:
        while is_running(remote.config.run_path):
            await asyncio.sleep(0.5)
    except asyncio.CancelledError:
        remote.tell(StopPipeline(DRAIN_SECONDS))
        await _gone(remote.config)


class Bars:
    """A bar for each stage of the `Progress` messages; without a terminal, a line when it is done.

    A bar shows what its last message says, so one that is done stays as it was then."""

    def __init__(self) -> None:
        self._bars: dict[tuple[str, str], Any] = {}
        self._terminal = sys.stderr.isatty()

    def show(self, message: Telemetry) -> None:
        if not isinstance(message, Progress):
            return
        if not self._terminal:
            if message.done:
                word = "failed after" if message.failed else "done in"
                print(
                    f"{message.source}: {message.stage} {word} {message.elapsed_s:.1f} s",
                    file=sys.stderr,
                )
            return
        key = (message.source, message.stage)
        if key not in self._bars:
            from .progress import StageBar

            self._bars[key] = StageBar(message)
        self._bars[key].show(message)

    def close(self) -> None:
        for bar in self._bars.values():
            bar.close()


def down(config: Config, now: bool, as_json: bool) -> int:
    """Stops the pipeline; running requests may finish unless `now`. Returns when it is gone."""

    async def stop() -> None:
        async with Remote(config) as remote:
            remote.tell(StopPipeline(0.0 if now else DRAIN_SECONDS))
            await _gone(config)

    asyncio.run(stop())
    say({"state": "stopped"}, "stopped", as_json)
    return 0


async def _gone(config: Config) -> None:
    """Until the supervisor has ended. Raises `OperatorError` where it does not."""
    deadline = time.monotonic() + STOP_SECONDS
    while is_running(config.run_path):
        if time.monotonic() > deadline:
            raise OperatorError(
                f"the pipeline in {config.run} did not stop within {STOP_SECONDS:.0f} s",
                f"try: {spell('down --now', config.run)}",
            )
        await asyncio.sleep(0.05)


def drain(config: Config, resume: bool, as_json: bool) -> int:
    """New requests are refused from now on, or with `resume` no longer; returns when it is so."""
    wanted = ProcessState.READY if resume else ProcessState.DRAINING

    async def carry() -> None:
        async with Remote(config) as remote:
            remote.tell_router(Resume() if resume else Drain())
            async with asyncio.timeout(ABORT_SECONDS):
                while True:
                    table = (await remote.snapshot()).processes
                    if any(row.name == "router" and row.state is wanted for row in table.processes):
                        return
                    await asyncio.sleep(0.1)

    try:
        asyncio.run(carry())
    except TimeoutError:
        word = f"the router is not {wanted.value}"
        hint = f"does it answer? see: {spell('status', config.run)}"
        raise OperatorError(word, hint) from None
    told = "new requests are admitted"
    if not resume:
        told = f"new requests are refused until: {spell('drain --resume', config.run)}"
    say({"router": wanted.value, "status": "ok"}, told, as_json)
    return 0


def abort(config: Config, name: str, as_json: bool) -> int:
    """Ends the request whose id is `name` or ends so; returns when it is gone."""

    async def carry() -> str:
        async with Remote(config) as remote:
            batch = (await remote.snapshot()).batch
            ids = [row.request_id for row in batch.requests] if batch else []
            request_id = find_request(name, ids)
            remote.abort(request_id)
            async with asyncio.timeout(ABORT_SECONDS):
                while request_id in ids:
                    await asyncio.sleep(0.1)
                    batch = (await remote.snapshot()).batch
                    ids = [row.request_id for row in batch.requests] if batch else []
            return request_id

    try:
        request_id = asyncio.run(carry())
    except TimeoutError:
        hint = f"does the router answer? see: {spell('status', config.run)}"
        raise OperatorError(f"{name} still runs", hint) from None
    say({"request": request_id, "status": "ok"}, f"{request_id} has ended", as_json)
    return 0


def find_request(name: str, ids: list[str]) -> str:
    """The one that is called so, or ends so: screens show no more. Raises `OperatorError`."""
    found = [name] if name in ids else [id for id in ids if id.endswith(name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise OperatorError(f"{len(found)} requests end with {name!r}", "give more of the id")
    live = counted(len(ids), "request", "are")
    raise OperatorError(f"no live request {name!r}", f"{live} live; Batch lists them")


# --- looking ------------------------------------------------------------------------------------


def take_snapshot(config: Config, steps: int = 0) -> Snapshot:
    async def ask() -> Snapshot:
        async with Remote(config) as remote:
            return await remote.snapshot(steps=steps)

    return asyncio.run(ask())


def status(config: Config, as_json: bool) -> int:
    """What runs, and how it is. Exit status 1 where it is not READY."""
    snapshot = take_snapshot(config)
    if as_json:  # a map of 60 000 pages is for a picture
        print_json(msgspec.structs.replace(snapshot, pool=None))
    else:
        _print_status(config, snapshot)
    return 0 if snapshot.processes.state is ProcessState.READY else 1


def alerts(config: Config, as_json: bool) -> int:
    """What the rules of the console find in what the supervisor knows, which is as much as a
    console does: first tokens of the last minute, the last steps. Exit status 1 where that is
    anything."""
    from ..settings.settings import read_settings
    from ..state.alerts import SYNC_STEPS, findings
    from ..state.store import Store

    snapshot, now = take_snapshot(config, SYNC_STEPS), time.time()
    store = Store(config.run)
    store.disk_free_bytes = shutil.disk_usage(config.run).free
    store.take_snapshot(snapshot, now)
    found = findings(store.board(now), read_settings().settings.alerts)
    if as_json:
        names = ("level", "text", "rule", "subject")
        print_json([{name: getattr(alert, name) for name in names} for alert in found])
    else:
        for alert in found:
            print(f"{alert.level:<4}  {alert.rule:<17}  {units.visible(alert.text)}")
        if not found:
            print("nothing is wrong")
    return 1 if found else 0


def _print_status(config: Config, snapshot: Snapshot) -> None:
    from rich.table import Table
    from rich.text import Text

    from ...pipeline.runtime.printer import Printer
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
            Text(units.visible(process.reason)),
        )
    printer = Printer()
    url = snapshot.server.url if snapshot.server else "no address yet"
    now = time.time()
    store = Store(config.run)
    store.take_snapshot(snapshot, now)
    condition = store.board(now).condition
    why = f" ({condition.detail})" if condition.detail else ""
    line = units.visible(f"{config.model} · {condition.word}{why} · {url}")
    printer.print(line, soft_wrap=True, markup=False)
    if router := snapshot.router:
        used = router.pages_kv + router.pages_adapters
        printer.print(
            f"{router.running} running, {router.waiting} waiting; "
            f"{used} of {router.pages_total} pages used; run directory {config.run}"
        )
    printer.print(table)
    for view in failed_in(snapshot.adapters):
        print(line_of(view))


def where(config: Config, as_json: bool) -> int:
    """Where the pipeline is and how it is reached; works where none runs too."""
    from ..client.ssh_tunnel import find

    is_there = is_running(config.run_path)
    url = ""
    if is_there:
        with contextlib.suppress(OperatorError):
            snapshot = take_snapshot(config)
            url = snapshot.server.url if snapshot.server else ""
    place = find(config, is_there, url)
    if as_json:
        print_json(msgspec.structs.asdict(place))
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


def logs(config: Config, process: str | None, follow: bool, lines: int, as_json: bool) -> int:
    """Straight from the files, so it works on a run that is dead too."""
    directory = config.run_path / "logs"
    if not directory.is_dir():
        hint = f"start one with: {spell('up', config.run)}"
        raise NotRunning(f"no pipeline has run in {config.run}", hint)
    book = Logbook(directory)

    def chosen(found: list[LogLine]) -> list[LogLine]:
        return [line for line in found if process in (None, line.source)]

    known = sorted(path.stem for path in directory.glob("*.log"))
    if process is not None and process not in known:
        raise OperatorError(f"no log of {process!r}", f"there are {', '.join(known)}")
    book.read_new()
    last = chosen(list(book.lines))[-lines:]
    if as_json and not follow:
        print_json([msgspec.structs.asdict(line) for line in last])
        return 0
    write = _json_line if as_json else _log_line
    for line in last:
        write(line)
    while follow:
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
    print(json_text(msgspec.json.encode(msgspec.structs.asdict(line))))


# --- prompt -------------------------------------------------------------------------------------


def prompt(config: Config, given: argparse.Namespace) -> int:
    """Asks each adapter named (or the base) the same, all in one mixed batch."""
    from ..client.answer import Answer
    from ..client.chat import ChatParams

    text = _read_input() if given.text == "-" else given.text
    messages = [{"role": "system", "content": given.system}] if given.system else []
    messages.append({"role": "user", "content": text})
    params = ChatParams(max_tokens=given.max_tokens, temperature=given.temperature, seed=given.seed)
    answers = [Answer(name, name) for name in given.adapter]
    if given.base or not answers:
        answers.insert(0, Answer(config.model, f"{config.model} (base)"))
    asyncio.run(_ask_all(config, answers, messages, params, quiet=given.json))
    if given.json:
        print_json([_document(answer, config.model) for answer in answers])
    failed = [answer for answer in answers if answer.error]
    for answer in failed:
        print(f"loraconsole: {units.visible(f'{answer.label}: {answer.error}')}", file=sys.stderr)
    if failed and (hint := _what_admits_again(config)):
        print(f"  {hint}", file=sys.stderr)
    return 1 if failed else 0


def _read_input() -> str:
    """Standard input. Raises `OperatorError` where it is no text: a character that was replaced
    would be another prompt."""
    try:
        return sys.stdin.read()
    except UnicodeDecodeError as error:
        what = f"standard input is not text in {sys.stdin.encoding}: byte {error.start} is "
        byte = error.object[error.start]
        raise OperatorError(f"{what}0x{byte:02x}", "PYTHONIOENCODING names another") from None


def _what_admits_again(config: Config) -> str:
    """The command that undoes what an operator did to the pipeline; "" where that is nothing."""
    try:
        table = take_snapshot(config).processes
    except OperatorError:
        return ""
    return _undone_by(table, config.run)


def _undone_by(table: ProcessTable, run: str) -> str:
    for row in table.processes:
        if row.held:
            return f"{row.name} is started by: {spell(f'start {row.name}', run)}"
        if row.name == "router" and row.state is ProcessState.DRAINING:
            return f"requests are admitted again by: {spell('drain --resume', run)}"
    return ""


async def _ask_all(
    config: Config,
    answers: list[Answer],
    messages: list[dict[str, str]],
    params: ChatParams,
    quiet: bool,
) -> None:
    from ..client.http_client import Http

    async with Remote(config) as remote:
        http = Http(await server_url(remote), config.api_key)
    with _drawing(answers, quiet) as draw:
        await asyncio.gather(*(a.stream(http, messages, params, draw) for a in answers))
        draw()


@contextlib.contextmanager
def _drawing(answers: list[Answer], quiet: bool) -> Iterator[Callable[[], None]]:
    """One answer flows as it comes; several stand side by side; without a terminal they are
    printed one after the other when all are there."""
    if quiet:
        yield lambda: None
    elif len(answers) == 1:
        shown = 0

        def flow() -> None:
            nonlocal shown
            sys.stdout.write(_printable(answers[0].text[shown:]))
            sys.stdout.flush()
            shown = len(answers[0].text)

        yield flow
        if answers[0].text:
            print()
        if sys.stdout.isatty() and not answers[0].error:
            print(_figures(answers[0]), file=sys.stderr)
    elif sys.stdout.isatty():
        from rich.live import Live

        with Live(_columns(answers), refresh_per_second=8) as live:
            yield lambda: live.update(_columns(answers))
    else:
        yield lambda: None
        for answer in answers:
            if not answer.error:
                print(f"--- {units.visible(answer.label)}: {_figures(answer)}")
                print(f"{_printable(answer.text)}\n")


def _columns(answers: list[Answer]) -> Any:
    from rich.panel import Panel
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(expand=True)
    for _ in answers:
        grid.add_column(ratio=1)
    grid.add_row(
        *(
            Panel(
                Text(_printable(a.error or a.text)),
                title=Text(units.visible(a.label)),
                subtitle=_figures(a),
            )
            for a in answers
        )
    )
    return grid


def _printable(text: str) -> str:
    """What a model says must not command the terminal."""
    return "\n".join(units.clean(line) for line in text.split("\n"))


def _figures(answer: Answer) -> str:
    if answer.is_streaming or answer.ttft_s is None:
        return ""
    first = f"first after {answer.ttft_s * 1e3:.0f} ms"
    return f"{counted(answer.count, 'token')}, {answer.tokens_s:.1f} tok/s, {first}"


def _document(answer: Answer, base: str) -> dict[str, Any]:
    return {
        "adapter": None if answer.model == base else answer.model,
        "model": answer.model,
        "text": answer.text,
        "finish_reason": answer.finish_reason or None,
        "output_tokens": answer.count,
        "ttft_ms": None if answer.ttft_s is None else round(answer.ttft_s * 1e3, 1),
        "error": answer.error or None,
    }


# --- bench --------------------------------------------------------------------------------------


def bench(flags: list[str]) -> int:
    """Becomes `pipeline.bench`, which drives any server; without --url it is given the running
    pipeline's, of `--run`. With --offline `pipeline.offline`, the engine alone; with --ablate
    `pipeline.ablate`, which starts pipelines of its own. `bench compare` is here."""

    async def url(run: str) -> tuple[str, str]:
        if not is_running(Path(run)):
            raise none_runs(run)
        config = Config.load(run)
        async with Remote(config) as remote:
            table = (await remote.snapshot()).processes
            if hint := _undone_by(table, run):
                raise OperatorError(f"the pipeline in {run} admits nothing now", hint)
            return await server_url(remote), config.api_key

    if flags[:1] == ["compare"]:
        from . import bench_compare

        return bench_compare.main(flags[1:])
    module = "bench"
    if "--offline" in flags:
        module = "engine"
        flags = [flag for flag in flags if flag != "--offline"]
    elif "--ablate" in flags:
        module = "ablation"
        flags = [flag for flag in flags if flag != "--ablate"]
    elif not any(flag.partition("=")[0] in ("--url", "-h", "--help") for flag in flags):
        own = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        own.add_argument("--run", default=default_run_directory())
        given, flags = own.parse_known_args(flags)
        address, key = asyncio.run(url(given.run))
        flags = [*flags, "--url", address]
        if key:
            os.environ["LORACONSOLE_BENCH_API_KEY"] = key  # not an argument, which all may read
    # In our place, so that Ctrl-C reaches nobody but it.
    sys.stdout.flush()
    command = [sys.executable, "-P", "-m", f"loraconsole.pipeline.bench.{module}", *flags]
    os.execv(sys.executable, command)


# --- doctor -------------------------------------------------------------------------------------


def doctor(given: argparse.Namespace) -> int:
    """What this machine has and what is missing; of a model, what is found in its files, or what
    differs from a library's answers. Exit status 1 where something does, or is needed."""
    if given.model:
        from . import against

        if given.against:
            return against.compare_model(given)
        for option, is_given in (("--adapter", given.adapter), ("--dtype", given.dtype)):
            if is_given:
                raise UsageError(f"{option} goes with --against transformers")
        return against.report_model(given)
    if given.against or given.adapter:
        raise UsageError("--against and --adapter need a MODEL", "loraconsole doctor MODEL …")
    from . import doctor

    checks = doctor.examine(Path(given.run))
    if given.json:
        print_json([msgspec.structs.asdict(check) for check in checks])
    else:
        for check in checks:
            mark = {"good": "ok  ", "note": "note", "bad": "FAIL"}[check.verdict]
            print(f"{mark}  {check.name:<14} {units.visible(check.finding)}")
    return 1 if any(check.verdict == "bad" for check in checks) else 0


# --- printing -----------------------------------------------------------------------------------


def print_json(document: Any) -> None:
    sys.stdout.write(json_text(msgspec.json.format(msgspec.json.encode(document))) + os.linesep)


def say(document: dict[str, Any], text: str, as_json: bool) -> None:
    if as_json:
        print_json(document)
    else:
        print(units.visible(text))

"""What the console costs, and what a terminal may do to it: bounds are generous, what was measured
is printed (`pytest -rP`). Exact figures are for `measure_console.py`."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pseudo_terminal import PseudoTerminal, percentiles
from stage import KEYS, staged
from waiting import wait_for

from loraconsole.console.ui.widgets.pane import Pane
from loraconsole.pipeline.messages import Moment

pytestmark = pytest.mark.processes

PYTHON = [sys.executable, "-P", "-m"]
ROWS = ("--scenario", "busy", "--rows", "64", "--logs", "200")


class Pipeline:
    """A mock one, seen from outside: what its own history says of it."""

    def __init__(self, run: str, process: subprocess.Popen[bytes]) -> None:
        self.run, self._process = run, process

    @property
    def steps_a_second(self) -> list[int]:
        """Of each second so far."""
        with suppress(FileNotFoundError):
            lines = Path(self.run, "history", "moments.jsonl").read_bytes().splitlines()
            return [msgspec.json.decode(line, type=Moment).steps for line in lines]
        return []

    @property
    def consoles(self) -> list[str]:
        return [path.name for path in Path(self.run).glob("console-*")]

    def rss_mib(self) -> float:
        with open(f"/proc/{self._process.pid}/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.fixture(scope="module")
def pipeline() -> Iterator[Pipeline]:
    """64 requests that all move ten times a second, 200 log lines a second."""
    with tempfile.TemporaryDirectory(prefix="lc-") as run:
        command = [*PYTHON, "loraconsole.console.mock.server", "--run", run, *ROWS]
        with subprocess.Popen(command) as process:
            try:
                pipeline = Pipeline(run, process)
                wait_for(lambda: pipeline.steps_a_second, every=0.01)
                yield pipeline
            finally:
                process.kill()


@contextmanager
def console(pipeline: Pipeline, *options: str, **link: Any) -> Iterator[PseudoTerminal]:
    command = [*PYTHON, "loraconsole.console", "attach", "--run", pipeline.run, *options]
    terminal = PseudoTerminal(command, **link)
    try:
        terminal.wait_for("q Quit", 30.0)
        yield terminal
    finally:
        terminal.close()


def leave(terminal: PseudoTerminal) -> float:
    """Seconds until it has ended, well."""
    terminal.send("q")
    terminal.wait_for("Leave it running")
    began = time.monotonic()
    terminal.send("l")
    assert terminal.exit_code(15.0) == 0
    return time.monotonic() - began


def test_a_busy_screen_stays_within_its_budget(pipeline: Pipeline) -> None:
    with console(pipeline, "--fps", "10") as terminal:
        terminal.send("2")
        terminal.pump(2.0)
        begin, cpu = time.monotonic(), terminal.cpu_seconds()
        terminal.pump(3.0)
        end, used = time.monotonic(), terminal.cpu_seconds() - cpu
        sent = terminal.bytes_between(begin, end)
        frames = sent.count(b"\x1b[?2026h")
        overdraw = len(sent) / terminal.least_between(begin, end, 10.0)
        ms, bytes_s = 1e3 * used / frames, len(sent) / (end - begin)
        print(f"{ms:.1f} ms a frame, {bytes_s / 1e3:.1f} kB/s, overdraw {overdraw:.2f}, ", end="")
        print(f"{frames / (end - begin):.1f} frames/s, {terminal.rss_mib():.0f} MiB")
        assert ms < 40.0 and bytes_s < 60_000 and overdraw < 2.0
        assert frames > 10 and terminal.rss_mib() < 90.0


def test_a_thin_link_keeps_the_keys_quick(pipeline: Pipeline) -> None:
    """20 kB/s, answers 40 ms late: unpaced, a key would wait for seconds of stale frames."""
    with console(pipeline, "--fps", "10", drain=20_000.0, answer_delay_s=0.04) as terminal:
        times = []
        for number in range(6):
            terminal.pump(0.5)
            took = terminal.echo_ms(*(("2", "live batch"), ("1", "throughput"))[number % 2])
            times.append(9999.0 if took is None else took)
        p50, p95 = percentiles(times)
        took = leave(terminal)
        print(f"another screen whole after {p50:.0f} ms (p95 {p95:.0f}); gone after {took:.2f} s")
        assert p50 < 1000.0 and took < 3.0


@pytest.mark.parametrize(("screen", "shows"), [("1", "throughput"), ("2", "live"), ("7", "WARN")])
def test_an_answer_typed_with_its_question_is_heard(
    pipeline: Pipeline, screen: str, shows: str
) -> None:
    """`ql` in one write: the dialog is not up yet when the `l` comes, and Logs has an `l` of its
    own."""
    with console(pipeline) as terminal:
        terminal.send(screen)
        terminal.wait_for(shows)
        terminal.send("ql")
        assert terminal.exit_code(5.0) == 0


@pytest.mark.parametrize(
    ("typed", "shows"),
    [
        ("2:goto adapters\r", "LoRA pages"),
        ("7/pirate\r", "/pirate"),
        ("7spirate\r", "search pirate"),
        ("4l/srv/pirate", "name /srv/pirate"),
        ("4lparrot\t/srv/pirate", "path /srv/pirate"),
        ("4lparrot\r/srv/pirate", "path /srv/pirate"),
        ("4w/srv/pirate", "path /srv/pirate"),
        ("6o/srv/results.jsonl", "/srv/results.jsonl"),
        ("6n\t825", "requests 825"),
        ("5\x12the sea", "the sea"),
        ("\x10stop the pipe", "stop the pipe"),
    ],
)
def test_what_is_typed_with_the_key_that_opens_a_line_or_a_form_goes_into_it(
    pipeline: Pipeline, typed: str, shows: str
) -> None:
    """In one write, as a slow line delivers it, from the key of the screen on."""
    with console(pipeline) as terminal:
        terminal.send(typed)
        for _ in range(50):
            terminal.pump(0.2)
            if shows in " ".join(terminal.text.split()):
                return
        raise AssertionError(terminal.text)


def test_a_dialog_sends_itself_and_not_the_screen_behind_it(pipeline: Pipeline) -> None:
    with console(pipeline) as terminal:
        terminal.send("2p")  # paused: nothing else is sent
        terminal.wait_for("PAUSED")
        terminal.pump(0.5)
        asked_at = time.monotonic()
        terminal.send("q")
        terminal.wait_for("Leave it running")
        terminal.pump(0.3)
        answered_at = time.monotonic()
        dialog = len(terminal.bytes_between(asked_at, answered_at))
        terminal.send("l")
        assert terminal.exit_code(15.0) == 0
        goodbye = len(terminal.bytes_between(answered_at, time.monotonic()))
        print(f"the dialog {dialog} bytes, from the answer to the end {goodbye}")
        assert dialog < 2500 and goodbye < 1000


def test_a_slow_link_is_said_to_be_slow(pipeline: Pipeline) -> None:
    with console(pipeline, answer_delay_s=0.4) as terminal:
        terminal.wait_for("slow 0.", 10.0)


def test_every_screen_and_a_prompt_take_little_memory(pipeline: Pipeline) -> None:
    with console(pipeline, environment={"LORACONSOLE_TRANSCRIPTS": ""}) as terminal:
        terminal.pump(1.0)
        before = terminal.rss_mib()
        for keys in (*"23467891", ":", "\x1b", "?", "\x1b", "5", *"Who?", "\r"):
            terminal.send(keys)
            terminal.pump(0.4)
        terminal.pump(3.0)  # the answer is there
        grown = terminal.rss_mib() - before
        print(f"{before:.0f} MiB at first, {grown:.1f} more with every screen and a prompt")
        assert grown < 19.0


def test_two_hundred_resizes_leave_a_whole_screen(pipeline: Pipeline) -> None:
    with console(pipeline) as terminal:
        before = terminal.rss_mib()
        for number in range(200):
            terminal.resize(80 + number % 41, 24 + number % 17)
            terminal.read(0.01)
        terminal.resize(100, 30)
        began = time.monotonic()
        terminal.chunks.clear()
        lines = [""]
        while "q Quit" not in lines[-1] and time.monotonic() - began < 15.0:
            terminal.send("\x0c")  # ctrl+l: everything once more
            terminal.pump(0.5)
            lines = terminal.text.splitlines()
        print(f"whole {time.monotonic() - began:.1f} s after the last resize")
        assert lines[1].strip().startswith("1 Overview") and "q Quit" in lines[-1], terminal.text
        assert all(row.rstrip().endswith(("╮", "╯", "│")) for row in lines[2:-1])
        grown = terminal.rss_mib() - before
        print(f"200 resizes: {grown:.1f} MiB more")
        assert grown < 25.0
        leave(terminal)


def test_a_console_that_is_stopped_costs_the_pipeline_nothing(pipeline: Pipeline) -> None:
    """SIGSTOP, as a laptop that sleeps; the terminal reads nothing meanwhile either."""
    with console(pipeline) as terminal:
        terminal.pump(1.0)
        seen, rss, own = len(pipeline.steps_a_second), pipeline.rss_mib(), terminal.rss_mib()
        os.kill(terminal.pid, signal.SIGSTOP)
        wait_for(lambda: len(pipeline.steps_a_second) >= seen + 4)
        during = pipeline.steps_a_second[seen:]
        grown = pipeline.rss_mib() - rss
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.pump(2.5)
        print(f"steps a second meanwhile: {during}; the pipeline took {grown:.1f} MiB more")
        assert all(24 <= steps <= 36 for steps in during[1:])
        assert grown < 16.0 and terminal.rss_mib() - own < 30.0
        mark = time.monotonic()
        terminal.pump(1.0)
        assert terminal.bytes_between(mark, time.monotonic()), "the picture stands still"
        leave(terminal)
    assert pipeline.consoles == []


def test_a_terminal_that_stops_reading_holds_nobody_up(pipeline: Pipeline) -> None:
    with console(pipeline, "--fps", "10") as terminal:
        terminal.send("7")
        terminal.pump(1.0)
        seen = len(pipeline.steps_a_second)
        wait_for(lambda: len(pipeline.steps_a_second) >= seen + 3)
        during = pipeline.steps_a_second[seen:]
        assert all(24 <= steps <= 36 for steps in during[1:]), during
        took = terminal.echo_ms("1", "throughput")
        assert took is not None and took < 3000.0
        print(f"a key is obeyed {took:.0f} ms after the terminal reads again")
        leave(terminal)


def test_the_title_says_how_it_is_and_is_given_back(pipeline: Pipeline) -> None:
    with console(pipeline) as terminal:
        terminal.pump(3.0)
        leave(terminal)
        written = terminal.bytes_between(0.0, float("inf"))
    titles = re.findall(rb"\x1b\]2;([^\x07]*)\x07", written)
    assert titles and not [
        t for t in titles if not re.fullmatch(rb"(\(\d+\) )?loraconsole: \w+", t)
    ]
    kept, given_back = written.index(b"\x1b[22;2t"), written.index(b"\x1b[23;2t")
    assert kept < written.index(b"\x1b]2;") < given_back


@pytest.mark.parametrize("how", ["hang up", "terminate", "kill"])
def test_a_console_that_ends_any_way_leaves_no_trace(pipeline: Pipeline, how: str) -> None:
    with console(pipeline) as terminal:
        terminal.pump(1.5)
        assert len(pipeline.consoles) == 1
        match how:
            case "hang up":
                terminal.hang_up()
                deadline = time.monotonic() + 5.0
                while terminal.is_alive and time.monotonic() < deadline:
                    time.sleep(0.02)
                assert not terminal.is_alive
            case "terminate":
                os.kill(terminal.pid, signal.SIGTERM)
                assert terminal.exit_code() == 0
                said = terminal.bytes_between(0.0, float("inf"))
                assert said.rindex(b"\x1b[?1049l") > said.rindex(b"\x1b[?1049h")
            case "kill":
                os.kill(terminal.pid, signal.SIGKILL)
                assert terminal.exit_code() == -signal.SIGKILL
    if how == "kill":  # what it could not take away, the next one does
        with console(pipeline) as terminal:
            terminal.pump(1.5)
            assert len(pipeline.consoles) == 1
            leave(terminal)
    assert pipeline.consoles == []


@pytest.mark.parametrize(
    ("environment", "forbidden", "wanted"),
    [
        ({"NO_COLOR": "1"}, rb"\x1b\[[0-9;]*(?:38|48|3[0-7]|4[0-7])[;m]", rb"\x1b\[[0-9;]*m"),
        ({"COLORTERM": "", "TERM": "xterm-16color"}, rb"[34]8;[25];", rb"\x1b\[[0-9;]*3[0-7]"),
        ({"COLORTERM": "", "TERM": "xterm-256color"}, rb"[34]8;2;", rb"38;5;"),
    ],
    ids=["none", "16", "256"],
)
def test_colours_are_those_that_the_terminal_has(
    pipeline: Pipeline, environment: dict[str, str], forbidden: bytes, wanted: bytes
) -> None:
    command = [*PYTHON, "loraconsole.console", "attach", "--run", pipeline.run]
    terminal = PseudoTerminal(command, (80, 24), environment)
    try:
        terminal.wait_for("q Quit")
        terminal.pump(1.0)
        written = terminal.bytes_between(0.0, float("inf"))
        assert not re.search(forbidden, written), re.search(forbidden, written)
        assert re.search(wanted, written)
        leave(terminal)
    finally:
        terminal.close()


def test_what_is_hidden_is_never_drawn() -> None:
    """Neither composed nor rendered: counted over frames of a busy pipeline, panel by panel."""

    async def main() -> None:
        async with staged("busy") as (app, pilot):
            for name in KEYS:  # by action: the prompt's editor takes digits for text
                await app.run_action(f"show('{name}')")
            assert len(app._panels) == len(KEYS)
            renders: dict[Pane, int] = {}
            for pane in app.query(Pane):
                original = pane.render_lines

                def counted(crop, pane=pane, original=original):  # type: ignore[no-untyped-def]
                    renders[pane] = renders.get(pane, 0) + 1
                    return original(crop)

                pane.render_lines = counted  # type: ignore[method-assign]
            for name in KEYS:
                await app.run_action(f"show('{name}')")
                await pilot.pause()
                hidden = [
                    p for n, panel in app._panels.items() if n != name for p in panel.query(Pane)
                ]
                before = {pane: (pane.frames, renders.get(pane, 0)) for pane in hidden}
                for _ in range(5):
                    app.advance(0.4)
                    app.show()
                    await pilot.pause()
                after = {pane: (pane.frames, renders.get(pane, 0)) for pane in hidden}
                assert after == before, name
                assert any(renders.get(pane) for pane in app._panels[name].query(Pane))

    asyncio.run(main())

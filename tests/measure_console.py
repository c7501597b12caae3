"""Measures the console's cost, in turns with other programs on the same machine.

    python tests/measure_console.py --rounds 3 --against btop htop
    python tests/measure_console.py busy ssh
    python tests/measure_console.py shift --rounds 1 --minutes 60 --speed 4

Each program runs on a pty of 120x40 that answers queries as a terminal does; rounds are
interleaved, medians are printed. CPU is the kernel's time of all threads of the program, in percent
of one core. The pipeline is the mock one, in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pseudo_terminal import PseudoTerminal, percentiles

PYTHON = [sys.executable, "-P", "-m"]
CONSOLE = ["loraconsole.console", "attach", "--run"]
HELLO = """
from textual.app import App
from textual.widgets import Footer, Header, Static
class Hello(App):
    BINDINGS = [("q", "quit", "Quit")]
    def compose(self):
        yield Header(); yield Static("Hello"); yield Footer()
Hello().run()
"""
Figures = dict[str, float]


@contextmanager
def mock(*options: str, python: Sequence[str] = PYTHON) -> Iterator[str]:
    """A mock pipeline's run directory."""
    with tempfile.TemporaryDirectory(prefix="lc-") as directory:
        command = [*python, "loraconsole.console.mock.server", "--run", directory, *options]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            try:
                while not Path(directory, "config.json").exists():
                    time.sleep(0.01)
                time.sleep(1.0)
                yield directory
            finally:
                process.kill()


def console(run: str, *options: str) -> list[str]:
    return [*PYTHON, *CONSOLE, run, *options]


def window(terminal: PseudoTerminal, warmup: float, seconds: float, fps: float = 0.0) -> Figures:
    """CPU, bytes and memory over `seconds`, after `warmup` seconds."""
    terminal.pump(warmup)
    begin, cpu = time.monotonic(), terminal.cpu_seconds()
    terminal.pump(seconds)
    end, used = time.monotonic(), terminal.cpu_seconds() - cpu
    sent = terminal.bytes_between(begin, end)
    frames = sent.count(b"\x1b[?2026h")
    found = {
        "cpu_percent": 100 * used / (end - begin),
        "bytes_s": len(sent) / (end - begin),
        "compressed_s": terminal.compressed_between(begin, end) / (end - begin),
        "frames_s": frames / (end - begin),
        "ms_a_frame": 1e3 * used / frames if frames else 0.0,
        "rss_mib": terminal.rss_mib(),
    }
    if fps:
        least = terminal.least_between(begin, end, fps)
        found["overdraw"] = len(sent) / least if least else 0.0
    return found


def leave(terminal: PseudoTerminal, keys: str) -> Figures:
    began = time.monotonic()
    for key in keys:
        terminal.send(key)
        terminal.pump(0.15 if len(keys) > 1 else 0.0)
    pause = 0.15 * (len(keys) - 1) if len(keys) > 1 else 0.0
    terminal.exit_code()
    return {"quit_ms": (time.monotonic() - began - pause) * 1e3}


def idle(given: argparse.Namespace) -> dict[str, Figures]:
    found = {}
    with mock("--scenario", "empty", "--logs", "0") as run:
        programs = {"loraconsole": (console(run), "LoRA tax|no request|live", "ql")}
        programs["Textual hello"] = ([sys.executable, "-c", HELLO], "Hello", "q")
        for name in given.against:
            if shutil.which(name):
                programs[name] = ([name], "", "q")
        for name, (command, marker, keys) in programs.items():
            terminal = PseudoTerminal(command)
            try:
                first = {}
                if name == "loraconsole":
                    first = {"first_frame_ms": terminal.wait_for("q Quit") * 1e3}
                elif marker:
                    first = {"first_frame_ms": terminal.wait_for(marker) * 1e3}
                else:
                    while not terminal.chunks:
                        terminal.read(0.05)
                    first = {"first_frame_ms": (terminal.chunks[0][0] - terminal.started_at) * 1e3}
                found[f"{name}, idle"] = first | window(terminal, 6.0, 20.0) | leave(terminal, keys)
            finally:
                terminal.close()
    return found


def busy(given: argparse.Namespace) -> dict[str, Figures]:
    """64 requests whose rows all change, 200 log lines a second, plots."""
    found = {}
    with mock("--scenario", "busy", "--rows", "64", "--logs", "200") as run:
        for fps in (5, 10):
            for panel, key in (("Overview", "1"), ("Batch", "2"), ("Latency", "3"), ("Logs", "7")):
                terminal = PseudoTerminal(console(run, "--fps", str(fps)))
                try:
                    terminal.wait_for("q Quit")
                    terminal.send(key)
                    found[f"{panel}, busy, {fps} Hz"] = window(terminal, 3.0, 10.0, fps)
                finally:
                    terminal.close()
    return found


def ssh(given: argparse.Namespace) -> dict[str, Figures]:
    """5 Hz, a tenth of the rows changing."""
    found = {}
    with mock("--scenario", "busy", "--rows", "64", "--moving", "0.1", "--rate", "5") as run:
        for panel, key in (("Overview", "1"), ("Batch", "2")):
            terminal = PseudoTerminal(
                console(run), environment={"SSH_CONNECTION": "10.0.0.2 1 2 3"}
            )
            try:
                terminal.wait_for("q Quit")
                terminal.send(key)
                found[f"{panel}, ssh profile"] = window(terminal, 3.0, 10.0, 5.0)
            finally:
                terminal.close()
    return found


def echoes(terminal: PseudoTerminal, count: int, rest: float = 0.27) -> Figures:
    """Latencies of a key that changes a word (P: PAUSED) and of one that opens another screen;
    `rest` is the time for the link to transmit that screen before the next key."""
    words, screens, missed = [], [], 0
    for number in range(count):
        terminal.pump(rest)
        took = terminal.echo_ms("P", "PAUSED")
        terminal.send("P")
        terminal.pump(0.31)
        name, text = (("1", "throughput"), ("2", "live batch"))[number % 2]
        other = terminal.echo_ms(name, text)
        missed += (took is None) + (other is None)
        words.append(5000.0 if took is None else took)
        screens.append(5000.0 if other is None else other)
    (key_p50, key_p95), (screen_p50, screen_p95) = percentiles(words), percentiles(screens)
    return {
        **{"key_p50_ms": key_p50, "key_p95_ms": key_p95, "keys_missed": float(missed)},
        **{"screen_p50_ms": screen_p50, "screen_p95_ms": screen_p95},
    }


def keys(given: argparse.Namespace) -> dict[str, Figures]:
    """Latency of a key's echo while 5 000 metric messages a second arrive."""
    with mock("--scenario", "busy", "--rows", "64", "--logs", "200", "--steps", "5000") as run:
        terminal = PseudoTerminal(console(run, "--fps", "10"))
        try:
            terminal.wait_for("q Quit")
            terminal.send("2")
            found = window(terminal, 4.0, 8.0) | echoes(terminal, 30)
        finally:
            terminal.close()
    return {"5 000 messages/s, 10 Hz": found}


def thin(given: argparse.Namespace) -> dict[str, Figures]:
    """A link of 20 kB/s with replies after 40 ms."""
    with mock("--scenario", "busy", "--rows", "64", "--logs", "200") as run:
        terminal = PseudoTerminal(console(run, "--fps", "10"), drain=20_000.0, answer_delay_s=0.04)
        try:
            terminal.wait_for("q Quit")
            terminal.send("2")
            found = window(terminal, 4.0, 8.0)
            found |= echoes(terminal, 12, rest=1.5)
            found |= leave(terminal, "ql")
        finally:
            terminal.close()
    return {"link of 20 kB/s": found}


def stream(given: argparse.Namespace) -> dict[str, Figures]:
    """A streaming answer of 100 tokens a second, compared with the same panel at rest."""
    options = ("--scenario", "empty", "--logs", "0", "--tokens-per-second", "100")
    with mock(*options) as run:
        terminal = PseudoTerminal(console(run))
        try:
            terminal.wait_for("q Quit")
            terminal.send("5")
            rest = window(terminal, 3.0, 5.0)
            terminal.send("tell at length\r")
            found = window(terminal, 2.0, 8.0)
            found["cpu_above_rest"] = found["cpu_percent"] - rest["cpu_percent"]
        finally:
            terminal.close()
    return {"streaming answer, 100 tokens/s": found}


def pick(given: argparse.Namespace) -> dict[str, Figures]:
    """Prompt's picker of 1 000 models: CPU of opening it and of a letter, which draws every row of
    the list; milliseconds from a letter to its echo."""
    letters = "tenant-042"
    with mock("--scenario", "busy", "--adapters", "1000", "--logs", "0") as run:
        terminal = PseudoTerminal(console(run))
        try:
            terminal.wait_for("q Quit")
            terminal.send("5")
            terminal.pump(3.0)
            rest = window(terminal, 0.5, 5.0)["cpu_percent"] / 100
            took, echoed = {"open": 0.0, "letter": 0.0}, []
            for _ in range(5):
                before, at = terminal.cpu_seconds(), time.monotonic()
                terminal.send("\x07")
                terminal.pump(1.0)
                took["open"] += terminal.cpu_seconds() - before - rest * (time.monotonic() - at)
                before, at = terminal.cpu_seconds(), time.monotonic()
                for letter in letters:
                    echoed.append(terminal.echo_ms(letter, re.escape(letter)) or 5000.0)
                    terminal.pump(0.1)
                took["letter"] += terminal.cpu_seconds() - before - rest * (time.monotonic() - at)
                terminal.send("\x1b")
                terminal.pump(1.0)
        finally:
            terminal.close()
    p50, p95 = percentiles(echoed)
    found = {"open_cpu_ms": 1e3 * took["open"] / 5, "key_p50_ms": p50, "key_p95_ms": p95}
    found["letter_cpu_ms"] = 1e3 * took["letter"] / len(echoed)
    return {"picker of 1 000 models": found}


def hour(given: argparse.Namespace) -> dict[str, Figures]:
    """An hour of a mock shift, recorded without a clock and played sixty times as fast."""
    from loraconsole.console.mock.demo_scenario import DemoScenario
    from loraconsole.pipeline.runtime.recording import Recorder

    with tempfile.TemporaryDirectory() as directory:
        path, start = Path(directory, "hour"), 1_790_000_000.0
        scenario = DemoScenario(7, start=start, boots=False)
        recorder = Recorder(path, directory, start, 1 << 40)
        for tenth in range(36_000):
            for _, message in scenario.advance(start + tenth / 10):
                recorder.take(start + tenth / 10, message)
            if not tenth:
                recorder.take(start, scenario.snapshot())
        recorder.close()
        size = path.stat().st_size
        command = [*PYTHON, "loraconsole.console", "play", str(path), "--speed", "60"]
        terminal = PseudoTerminal(command)
        try:
            terminal.wait_for("q Quit")
            early = window(terminal, 5.0, 1.0)["rss_mib"]
            for key in "2347812341":  # every panel is made
                terminal.send(key)
                terminal.pump(6.5)
            found = {
                "rss_early_mib": early,
                "rss_mib": terminal.rss_mib(),
                "file_mib": size / 2**20,
            }
        finally:
            terminal.close()
    return {"an hour's updates in a minute": found}


TOUR = (
    ("1",),
    *(("H",), ("H",)),
    ("2", "j", "j", "\r", "\x1b"),
    ("3",),
    ("4", "p", "j", "\r", "\x1b"),
    ("5", *"Tell me about the sea", "\r"),
    ("\x1b", "6"),
    ("7",),
    ("/", *"adapter"),
    ("\x1b", "8", "j", "j", "j", "r", "y"),
    *(("?",), ("\x1b", "\x10", *"theme"), ("\x1b", ":", *"adapters"), ("\x1b", "D"), ("\x1b", "9")),
    *((",",), ("q",), ("\x1b", "z"), ("\x1b", "2")),
)
"""The keys of a busy operator: every screen, dialogs, a prompt and its answer, a filter, a pin and
a restart with their toasts."""
STAY_S = 4.0
HURRIED = """
import runpy, sys, time
clock, (speed, began, module) = time.time, sys.argv[1:4]
speed, began, sys.argv[1:4] = float(speed), float(began), []
time.time = lambda: began + (clock() - began) * speed
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""
"""Runs a module on a clock that is `speed` times too fast."""


def shift(given: argparse.Namespace) -> dict[str, Figures]:
    """`--minutes` of a busy shift, every screen in turns. With `--speed 4` four times as much is
    received, drawn and typed per second, so that an hour takes a quarter of one (the console polls
    twenty times a second: there are no more frames than that). Prints each tour."""
    speed, tours = given.speed, []
    python = [sys.executable, "-P", "-c", HURRIED, str(speed), str(time.time())]
    options = ("--rows", "64", "--logs", "200", "--tokens-per-second", str(40 * speed))
    with mock("--scenario", "busy", *options, python=python) as run:
        terminal = PseudoTerminal(
            [*python, *CONSOLE, run, "--fps", str(given.fps * speed)],
            environment={"XDG_DATA_HOME": run},
        )
        try:
            terminal.wait_for("q Quit")
            began = time.monotonic()
            while (minutes := (time.monotonic() - began) * speed / 60) < given.minutes:
                found = tour(terminal, speed)
                tours.append({"minutes": minutes, **found})
                line = "  ".join(f"{name} {value:.1f}" for name, value in tours[-1].items())
                print(line, file=sys.stderr, flush=True)
        finally:
            terminal.close()
    half = tours[len(tours) // 2 :]
    hours = (half[-1]["minutes"] - half[0]["minutes"]) / 60
    found = {
        "rss_mib": tours[-1]["rss_mib"],
        "rss_half_mib": half[0]["rss_mib"],
        "mib_an_hour": (half[-1]["rss_mib"] - half[0]["rss_mib"]) / hours if hours else 0.0,
        "cpu_percent": statistics.median(row["cpu_percent"] for row in half),
        "cpu_early": statistics.median(row["cpu_percent"] for row in tours[: len(tours) // 2]),
        "frames": sum(row["frames"] for row in tours),
        "tours": len(tours),
    }
    return {f"{given.minutes:g} minutes of a busy shift": found}


def tour(terminal: PseudoTerminal, speed: float) -> Figures:
    """Every screen once: about a minute and a half."""
    begin, cpu, frames = time.monotonic(), terminal.cpu_seconds(), 0
    for keys in TOUR:
        for key in keys:
            terminal.send(key)
            terminal.pump(0.3 if key == "\x1b" else 0.05)  # otherwise it reads as alt+next key
        terminal.pump(STAY_S / speed)
        frames += terminal.bytes_between(begin, time.monotonic()).count(b"\x1b[?2026h")
        terminal.chunks.clear()
    used = terminal.cpu_seconds() - cpu
    return {
        "rss_mib": terminal.rss_mib(),
        "cpu_percent": 100 * used / (time.monotonic() - begin),
        "frames": float(frames),
    }


SUITES = {
    suite.__name__: suite for suite in (idle, busy, ssh, keys, thin, stream, pick, hour, shift)
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument(
        "suites", nargs="*", choices=[*SUITES, []], help="all but shift, if none is named"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--against", nargs="*", default=["btop", "htop"])
    parser.add_argument("--json", action="store_true")
    long = parser.add_argument_group("options of shift, which is run once")
    long.add_argument("--minutes", type=float, default=60.0)
    long.add_argument("--speed", type=float, default=4.0, help="1 is real time")
    long.add_argument("--fps", type=float, default=5.0)
    given = parser.parse_args()
    gathered: dict[str, list[Figures]] = {}
    for number in range(given.rounds):
        for name in given.suites or [name for name in SUITES if name != "shift"]:
            if name in ("hour", "shift") and number:
                continue
            for label, figures in SUITES[name](given).items():
                gathered.setdefault(label, []).append(figures)
                print(f"round {number + 1}: {label}", file=sys.stderr)
    medians = {
        label: {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        for label, rows in gathered.items()
    }
    if given.json:
        print(json.dumps(medians, indent=2))
        return
    for label, figures in medians.items():
        print(label)
        for name, value in figures.items():
            spread = [row[name] for row in gathered[label]]
            print(f"  {name:15} {value:10.2f}   [{min(spread):.2f} .. {max(spread):.2f}]")
    print(f"load of this machine: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()

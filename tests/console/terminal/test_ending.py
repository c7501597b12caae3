"""The terminal is as it was before: after signals, ctrl+z, an error, and where it goes itself. Each
time on a real pseudo-terminal."""

import os
import re
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pyte
import pytest
from pseudo_terminal import UNKNOWN, PseudoTerminal

pytestmark = pytest.mark.processes

PROGRAM = (sys.executable, "-P", "-m", "loraconsole.console")
MODES = (b"1049", b"1000", b"1003", b"1006", b"1004", b"2004")
"""The other screen, the mouse, focus reports, bracketed paste."""
OURS = MODES[:-1]
"""Those that no shell turns on by itself."""
SIZE = (100, 30)
Start = Callable[..., PseudoTerminal]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a program on a terminal of its own."""
    started: list[PseudoTerminal] = []

    def begin(*command: str) -> PseudoTerminal:
        home = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path), "PS1": "ready> "}
        started.append(PseudoTerminal(command, SIZE, home))
        return started[-1]

    yield begin
    for terminal in started:
        terminal.close()


def written(terminal: PseudoTerminal) -> bytes:
    return b"".join(data for _, data in terminal.chunks)


def until(terminal: PseudoTerminal, holds: Callable[[bytes], bool], seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not holds(written(terminal)):
        assert time.monotonic() < end, terminal.text
        terminal.read(0.05)


def is_on(raw: bytes, mode: bytes) -> bool:
    return re.findall(rb"\x1b\[\?" + mode + rb"([hl])", raw)[-1:] == [b"h"]


def is_given_back(terminal: PseudoTerminal) -> bool:
    raw = written(terminal)
    lines = termios.tcgetattr(terminal.fd)[3]
    return (
        not any(is_on(raw, mode) for mode in MODES)
        and raw.rfind(b"\x1b[?25h") >= raw.rfind(b"\x1b[?25l")
        and bool(lines & termios.ICANON and lines & termios.ECHO and lines & termios.ISIG)
    )


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_signal_gives_the_terminal_back(start: Start, number: signal.Signals) -> None:
    terminal = start(*PROGRAM, "--mock")
    terminal.wait_for("q Quit")
    assert all(is_on(written(terminal), mode) for mode in MODES)
    os.kill(terminal.pid, number)
    assert terminal.exit_code() == 0
    assert is_given_back(terminal)
    assert b"Traceback" not in written(terminal)


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("mode", [b"1049", b"2004"], ids=["behind the splash", "at first"])
def test_before_the_first_frame_too(start: Start, number: signal.Signals, mode: bytes) -> None:
    terminal = start(*PROGRAM, "--mock")
    until(terminal, lambda raw: is_on(raw, mode))
    os.kill(terminal.pid, number)
    assert terminal.exit_code() in (0, 128 + number)
    assert is_given_back(terminal)
    assert b"Traceback" not in written(terminal)


@pytest.mark.parametrize("is_told", [True, False], ids=["SIGHUP comes", "SIGHUP is ignored"])
@pytest.mark.parametrize("is_up", [True, False], ids=["up", "starting"])
def test_it_ends_with_its_terminal(start: Start, is_told: bool, is_up: bool) -> None:
    how = () if is_told else ("--ignore-signal=HUP",)
    terminal = start("env", *how, *PROGRAM, "--mock")
    if is_up:
        terminal.wait_for("q Quit")
    else:
        until(terminal, lambda raw: is_on(raw, b"1049"))
    terminal.hang_up()
    end = time.monotonic() + 30
    while terminal.is_alive:
        assert time.monotonic() < end, "it does not end"
        time.sleep(0.02)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) in (0, 129)


def test_it_ends_though_it_is_told_to_continue_meanwhile(start: Start) -> None:
    """A terminal that is closed sends SIGHUP and then SIGCONT; Textual took that for `fg`."""
    terminal = start(*PROGRAM, "--mock")
    until(terminal, lambda raw: is_on(raw, b"1049"))
    terminal.pump(0.3)
    os.kill(terminal.pid, signal.SIGTERM)
    end = time.monotonic() + 30
    while terminal.is_alive:
        os.kill(terminal.pid, signal.SIGCONT)
        terminal.read(0.01)
        assert time.monotonic() < end, "it does not end"
    assert is_given_back(terminal)


BROKEN = """
import sys
from loraconsole.console.{folder} import {module}
def fail(*_, **__): raise ValueError("broken on purpose")
{module}.{name} = fail
sys.argv = ["loraconsole", "--mock"]
from loraconsole.console.__main__ import main
main()
"""


@pytest.mark.parametrize(
    ("folder", "module", "name"),
    [
        ("ui", "app", "ConsoleApp.__init__"),
        ("ui", "app", "ConsoleApp.compose"),
        ("client", "telemetry", "TelemetryClient.run"),
    ],
)
def test_an_error_of_the_console_is_read_on_the_terminal_as_it_was(
    start: Start, folder: str, module: str, name: str
) -> None:
    script = BROKEN.format(folder=folder, module=module, name=name)
    terminal = start(sys.executable, "-P", "-c", script)
    assert terminal.exit_code(20) == 1
    assert is_given_back(terminal)
    assert written(terminal).rindex(b"broken on purpose") > written(terminal).rindex(b"\x1b[?1049l")


# --- ctrl+z -------------------------------------------------------------------------------------


def begin_shell(start: Start) -> PseudoTerminal:
    """It would export a size that was exported to it, and that would hold for ever."""
    shell = start("env", "-u", "COLUMNS", "-u", "LINES", "bash", "--norc", "--noprofile", "-i")
    shell.wait_for("ready>")
    return shell


@pytest.fixture
def shell(start: Start) -> PseudoTerminal:
    """A shell with job control, and the console in front of it."""
    shell = begin_shell(start)
    shell.send(" ".join(PROGRAM) + " --mock\n")
    shell.wait_for("q Quit")
    return shell


def test_ctrl_z_gives_the_terminal_to_the_shell_and_fg_brings_the_screen_back(
    shell: PseudoTerminal,
) -> None:
    before = len(written(shell))
    shell.send("\x1a")
    until(shell, lambda raw: b"Stopped" in raw[before:] and raw.endswith(b"ready> "))
    assert not any(is_on(written(shell), mode) for mode in OURS)
    assert written(shell).rfind(b"\x1b[?25h") > written(shell).rfind(b"\x1b[?25l")
    shell.send("stty -a | grep -c ' icanon'; echo q2 asleep\n")
    until(shell, lambda raw: b"q2 asleep\r\n" in raw[before:])
    shell.resize(80, 24)
    awake = len(written(shell))
    shell.send("fg\n")
    until(shell, lambda raw: is_whole(raw[awake:], 80, 24))
    assert all(is_on(written(shell), mode) for mode in MODES)
    shell.send("q")
    until(shell, lambda raw: raw.endswith(b"ready> "))
    assert not any(is_on(written(shell), mode) for mode in OURS)


def is_whole(raw: bytes, columns: int, lines: int) -> bool:
    """Whether these bytes alone draw a screen of the console of that size, from its first line to
    its last."""
    screen = pyte.Screen(columns, lines)
    pyte.ByteStream(screen).feed(UNKNOWN.sub(b"", raw))
    rows = screen.display
    return (
        rows[0].startswith(" loraconsole")
        and rows[2].startswith("╭─ ring")
        and rows[2].endswith("─╮")
        and "q Quit" in rows[-1]
    )


def plain(raw: bytes) -> bytes:
    return re.sub(rb"\x1b\[[0-?]*[ -/]*[@-~]", b"", raw)


def test_keys_typed_right_behind_ctrl_z_are_not_obeyed_later(shell: PseudoTerminal) -> None:
    before = len(written(shell))
    shell.send("\x1aq")  # a mock asks nothing: q would end it
    until(shell, lambda raw: b"Stopped" in raw[before:] and raw.endswith(b"ready> "))
    awake = len(written(shell))
    shell.send("fg\n")
    until(shell, lambda raw: is_whole(raw[awake:], *SIZE))
    shell.pump(0.3)
    assert is_on(written(shell), b"1049")


def test_without_a_shell_it_says_that_nothing_would_bring_it_back(start: Start) -> None:
    terminal = start(*PROGRAM, "--mock")  # first of its session, as in a container
    terminal.wait_for("q Quit")
    terminal.send("\x1a")
    terminal.wait_for("not started from a shell")
    with open(f"/proc/{terminal.pid}/stat") as stat:
        assert stat.read().rpartition(")")[2].split()[0] != "T"
    assert is_on(written(terminal), b"1049")


def test_a_job_with_others_before_it_sleeps_whole(start: Start, tmp_path: Path) -> None:
    """`make`, or a script: the shell waits until they sleep as well."""
    script = tmp_path / "script"
    script.write_text(f"{' '.join(PROGRAM)} --mock\necho done\n")
    shell = begin_shell(start)
    shell.send(f"sh {script}\n")
    shell.wait_for("q Quit")
    before = len(written(shell))
    shell.send("\x1a")
    until(shell, lambda raw: b"Stopped" in raw[before:] and raw.endswith(b"ready> "))
    assert not any(is_on(written(shell), mode) for mode in OURS)
    awake = len(written(shell))
    shell.send("fg\n")
    until(shell, lambda raw: is_whole(raw[awake:], *SIZE))
    shell.send("q")
    until(shell, lambda raw: b"done\r\n" in raw[awake:])


def test_a_verb_with_a_hidden_cursor_shows_it_again(start: Start) -> None:
    code = (
        "from loraconsole.console.terminal.ending import exit_on_signals; exit_on_signals()\n"
        "import time; from rich.live import Live\n"
        "with Live('answers'): time.sleep(20)"
    )
    terminal = start(sys.executable, "-P", "-c", code)
    until(terminal, lambda raw: raw.count(b"answers") > 2)
    os.kill(terminal.pid, signal.SIGTERM)
    assert terminal.exit_code() == 143
    assert is_given_back(terminal)


def test_a_signal_that_is_ignored_stays_so() -> None:
    code = (
        "from loraconsole.console.terminal.ending import exit_on_signals; exit_on_signals()\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGHUP); print('goes on')"
    )
    command = ["env", "--ignore-signal=HUP", sys.executable, "-P", "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "goes on\n"


def test_letters_of_another_encoding_are_typed_and_none_ends_the_console(tmp_path: Path) -> None:
    environment = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    for encoding, typed, shown in (("latin-1", b"\xe9", "é"), ("utf-8", b"\xff", "\ufffd")):
        more = {"PYTHONIOENCODING": encoding}
        with closing(PseudoTerminal((*PROGRAM, "--mock"), SIZE, environment | more)) as terminal:
            terminal.wait_for("q Quit")
            terminal.send(":S")
            terminal.pump(0.3)
            os.write(terminal.fd, typed)
            until(terminal, lambda raw, e=encoding, s=shown: s.encode(e) in plain(raw))  # type: ignore[misc]
            os.kill(terminal.pid, signal.SIGTERM)
            assert terminal.exit_code() == 0


def test_no_screen_is_drawn_on_a_terminal_that_only_takes_lines(start: Start) -> None:
    terminal = start("env", "TERM=dumb", *PROGRAM, "--mock")
    assert terminal.exit_code() == 1
    assert b"TERM is dumb" in written(terminal) and b"\x1b" not in written(terminal)

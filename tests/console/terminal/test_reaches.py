"""The console on another Textual and rich: what they lack is left out and named, the rest works.

Another version is made of the installed one: private names in its sources are replaced while it is
imported, in all of its modules alike, so that it works as before and is called otherwise.
"""

import subprocess
import sys

import pytest
from pseudo_terminal import PseudoTerminal

from loraconsole.console.terminal.reaches import STAGES, switched_off

OTHERWISE_NAMED = r"""
import importlib.machinery, re, sys
renames = [pair.split("=") for pair in sys.argv.pop(1).split(",")]
machinery = importlib.machinery
class Renaming(machinery.SourceFileLoader):
    def get_code(self, name):
        source = self.get_data(self.path).decode()
        other = source
        for old, new in renames:
            other = re.sub(rf"\b{old}\b", new, other)
        return super().get_code(name) if other == source else compile(other, self.path, "exec")
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] not in ("textual", "rich"):
            return None
        spec = machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, machinery.SourceFileLoader):
            spec.loader = Renaming(spec.loader.name, spec.loader.path)
        return spec
sys.meta_path.insert(0, Finder)
from loraconsole.console.__main__ import main
main()
"""
DIFF, PACED = "sending only changed cells", "waiting for the terminal's replies"
SLEEPS, SUSPENDS = "input thread that sleeps", "suspending the whole job"


def test_of_the_installed_versions_nothing_is_missed() -> None:
    assert switched_off() == []


STARTED = """
import asyncio, sys
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.pipeline.config import Config
async def main():
    ConsoleApp(Config(run="/run/loraconsole"))
asyncio.run(main())
print("importlib.metadata" in sys.modules)
"""


@pytest.mark.processes
def test_while_nothing_is_missed_no_version_is_looked_up() -> None:
    """What reads versions takes 2 MiB."""
    run = [sys.executable, "-P", "-c", STARTED]
    assert subprocess.run(run, capture_output=True, text=True, check=True).stdout == "False\n"


@pytest.mark.processes
@pytest.mark.parametrize(
    ("renames", "off"),
    [
        ("_display=_send", {DIFF, PACED}),
        ("_batch_count=_batches", {DIFF}),
        ("ChopsUpdate=Chops", {DIFF}),
        ("chop_ends=chop_stops", {DIFF}),
        ("_color_system=_colors", {DIFF}),
        ("_set_attributes=_bits", {DIFF}),
        ("FIFOCache=FirstCache", {"strips without caches"}),
        ("cached_cell_len=cell_len_of,get_inner_outer=two_styles", {"memory trim"}),
        (r"self\._queue=self._writes", {"counting the writer's queue"}),
        ("selectors.SelectSelector=selectors.DefaultSelector", {SLEEPS}),
        ("exit_event=end_event", {SLEEPS}),
        ("_must_signal_resume=_resumes", {SUSPENDS}),
        ("_key_thread=_keys", {SUSPENDS}),
        ("_bindings=_own_bindings", {"keys of a dialog that is not up yet"}),
        ("run_input_thread=read_keys", {"terminal driver", SLEEPS}),
        ("_driver=_own_driver", {DIFF, PACED, "title, OSC 9 and byte count"}),
    ],
)
def test_what_another_version_lacks_is_left_out_and_named(renames: str, off: set[str]) -> None:
    command = [sys.executable, "-P", "-c", OTHERWISE_NAMED, renames, "--mock", "7"]
    terminal = PseudoTerminal(command, (140, 50))
    try:
        terminal.wait_for("q Quit", 60.0)
        terminal.send("2")
        terminal.wait_for("live batch", 20.0)
        terminal.send("D")
        terminal.wait_for("missed ", 20.0)
        terminal.pump(0.5)
        text = terminal.text
        assert {stage for stage, _ in STAGES if f"{stage}: " in text} == off, text
        terminal.send("\x1b")
        terminal.pump(0.6)
        terminal.send("q")
        assert terminal.exit_code(20.0) == 0
    finally:
        terminal.close()


@pytest.mark.processes
def test_a_dialog_whose_keys_cannot_be_bound_hears_them_once_it_is_up() -> None:
    renames = "_bindings=_own_bindings"
    command = [sys.executable, "-P", "-c", OTHERWISE_NAMED, renames, "--mock", "7"]
    terminal = PseudoTerminal(command, (120, 40))
    try:
        terminal.wait_for("q Quit", 60.0)
        terminal.send("8")
        terminal.wait_for("detokenizer", 20.0)
        terminal.pump(0.5)
        terminal.send("jjr")  # of a worker: the supervisor is not restarted from here
        terminal.wait_for("esc cancels", 20.0)
        terminal.pump(0.5)
        terminal.send("y")
        for _ in range(50):
            terminal.pump(0.2)
            if "esc cancels" not in terminal.text:
                break
        else:
            raise AssertionError(terminal.text)
    finally:
        terminal.close()


FAILING = """
from loraconsole.console.terminal.screen_diff import ScreenDiff
frame, frames = ScreenDiff.frame, []
def fail(self, *update):
    frames.append(1)
    if len(frames) > 5:
        raise ValueError("a record of another kind")
    return frame(self, *update)
ScreenDiff.frame = fail
from loraconsole.console.__main__ import main
main()
"""


@pytest.mark.processes
def test_a_diff_that_fails_on_the_way_leaves_the_screen_to_textual() -> None:
    terminal = PseudoTerminal([sys.executable, "-P", "-c", FAILING, "--mock", "7"], (140, 50))
    try:
        terminal.wait_for("q Quit", 60.0)
        terminal.send("2")
        terminal.wait_for("live batch", 20.0)
        terminal.send("D")
        terminal.wait_for(f"{DIFF}: ValueError: a record of another kind", 20.0)
        terminal.wait_for("whole lines (Textual's default)", 20.0)
        terminal.send("\x1b")
        terminal.pump(0.6)
        terminal.send("q")
        assert terminal.exit_code(20.0) == 0
    finally:
        terminal.close()

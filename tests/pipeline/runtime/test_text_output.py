"""Output that is not UTF-8: every verb writes what that can take, and ends as it does in UTF-8."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from driver import save_adapter
from pseudo_terminal import PseudoTerminal
from ring import Ring, tiny_model
from waiting import wait_for

from loraconsole.console.settings.settings import choose
from loraconsole.pipeline.runtime.ascii_drawing import ASCII_DRAWING

pytestmark = pytest.mark.processes

NAME = "名前"
VERBS: dict[str, int] = {
    "status": 0,
    "alerts": 1,
    "where": 0,
    "adapters list": 0,
    f"adapters pin {NAME}": 0,
    f"adapters load {NAME} /nowhere": 1,
    "adapters verify nobody…": 1,
    f"adapters plan /nowhere/{NAME}": 1,
    "logs": 0,
    f"logs {NAME}": 1,
    "scheduler": 0,
    "spans": 1,
    "doctor": 0,
    "settings": 0,
    "settings --example": 0,
    "settings --keys": 0,
    "transcripts": 0,
    "prompt --adapter 名前 --base --max-tokens 3 é": 0,
    "prompt --adapter нет x": 1,
    "abort …": 1,
    "signal router ─": 2,
    "replay nowhere─.jsonl": 1,
    "play nowhere─.rec": 1,
    "bench --requests 1 --concurrency 1 --rounds 1 --max-tokens 2": 0,
    "record /nowhere/─.rec --seconds 0.1": 1,
    "up": 1,
    "─": 2,
    "--help": 0,
    "adapters --help": 0,
    "bench --help": 0,
}
"""What is said, and the exit status."""
JSON = ("status", "alerts", "adapters list", "logs", "settings", "doctor", "scheduler", "where")


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """A pipeline with an adapter of a name that no 8-bit encoding has, and one that failed."""
    root = tmp_path_factory.mktemp("tiny")
    model = tiny_model(root)
    adapters = ["--adapter", f"{NAME}={save_adapter(root / 'a', model, 0, r=4)}"]
    options = ("--dummy", "--dtype", "float32", "--model", str(model), *adapters)
    failed = ("--ignore-failed-adapters", "--adapter", f"ö={root / 'fehlt─'}")
    with Ring(tmp_path_factory.mktemp("r"), *options, *failed) as ring:
        yield ring


def run(
    ring: Ring, home: Path, words: list[str], encoding: str
) -> subprocess.CompletedProcess[bytes]:
    how = {"PYTHONIOENCODING": encoding}
    if encoding == "C":  # an ASCII locale, without Python's own way around it
        how = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
        words = [os.fsencode(word).decode("ascii", "surrogateescape") for word in words]
    return subprocess.run(
        [sys.executable, "-P", "-m", "loraconsole.console", *words],
        env=os.environ | {"LORACONSOLE_RUN": str(ring.run), "XDG_DATA_HOME": str(home)} | how,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        cwd=home,
        timeout=60,
    )


@pytest.mark.parametrize("words", VERBS)
def test_a_verb_writes_what_its_output_can_take(ring: Ring, tmp_path: Path, words: str) -> None:
    for encoding in ("ascii", "cp1252"):
        done = run(ring, tmp_path, words.split(), encoding)
        done.stdout.decode(encoding)
        said = done.stderr.decode(encoding)
        assert "Traceback" not in said and "UnicodeEncodeError" not in said, said
        assert done.returncode == VERBS[words], said


@pytest.mark.parametrize("verb", JSON)
def test_json_is_ascii_there_and_says_the_same(ring: Ring, tmp_path: Path, verb: str) -> None:
    done = run(ring, tmp_path, [*verb.split(), "--json"], "latin-1")
    assert done.stdout.isascii()
    document = json.loads(done.stdout)
    if verb == "adapters list":
        assert {row["name"] for row in document["adapters"]} == {NAME, "ö"}


def test_names_stay_apart_and_drawing_becomes_ascii(ring: Ring, tmp_path: Path) -> None:
    said = run(ring, tmp_path, ["adapters", "list"], "ascii").stdout.decode("ascii")
    assert r"\u540d\u524d" in said and r"\xf6: " in said and "fehlt-" in said
    assert "ö" in run(ring, tmp_path, ["adapters", "list"], "cp1252").stdout.decode("cp1252")
    status = run(ring, tmp_path, ["status"], "ascii").stdout.decode("ascii")
    assert " . READY . http://" in status


def test_an_ascii_locale_and_names_that_are_no_text(ring: Ring, tmp_path: Path) -> None:
    assert run(ring, tmp_path, ["status"], "C").returncode == 0
    wrong = os.fsdecode(b"/nowhere/\xff")
    for words in (["adapters", "plan", wrong], ["adapters", "load", "x", wrong]):
        done = run(ring, tmp_path, words, "utf-8")
        assert done.returncode == 1
        assert b"is not text" in done.stderr and rb"\udcff" in done.stderr
        assert b"Traceback" not in done.stderr


def test_a_prompt_that_is_no_text_is_refused(ring: Ring, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "loraconsole.console", "prompt", "-"],
        env=os.environ | {"LORACONSOLE_RUN": str(ring.run), "PYTHONIOENCODING": "utf-8"},
        input=b"caf\xe9",
        capture_output=True,
    )
    assert done.returncode == 1
    assert b"standard input is not text in utf-8: byte 3 is 0xe9" in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_the_console_draws_in_ascii_by_itself(tmp_path: Path, encoding: str) -> None:
    environment = {"HOME": str(tmp_path), "PYTHONIOENCODING": encoding}
    command = (sys.executable, "-P", "-m", "loraconsole.console", "--mock")
    terminal = PseudoTerminal(command, (80, 24), environment)
    try:
        terminal.wait_for("q Quit")
        terminal.send("3")
        terminal.pump(1.5)
        rows = terminal.text.splitlines()
        assert rows[2].startswith("+- ") and rows[2].endswith("-+")
        drawn = set("".join(data.decode(encoding) for _, data in terminal.chunks))
        assert not drawn & set(ASCII_DRAWING)
        assert "\\u" not in terminal.text
    finally:
        terminal.close()


def test_what_the_settings_say_wins_over_the_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "__stderr__", io.TextIOWrapper(io.BytesIO(), encoding="latin-1"))
    chosen = choose(path=tmp_path / "console.toml")
    assert chosen.settings.ascii
    assert chosen.origins["ascii"] == "the terminal's encoding, latin-1"
    (tmp_path / "console.toml").write_text("ascii = false\n")
    assert not choose(path=tmp_path / "console.toml").settings.ascii


# --- what would command a terminal --------------------------------------------------------------

HOSTILE = "a\x1b[31mb\x9b32mc\x1b]0;d\x07e\u202ef\x08"
SHOWN = r"b\x9b32mc\x1b]0;d\x07e\u202ef\x08"
"""The text from its second letter on: the colour before it is what rich writes too."""
WRITES = f"""
import sys
from loraconsole.pipeline.runtime.text_output import write_any_text
write_any_text()
print({HOSTILE!r})
print({HOSTILE!r}, file=sys.stderr)
print("名前\\tone\\r\\x1b[A\\x1b[2K\\x1b[1mtwo\\x1b[0m \\x1b[?25l\\x1b[?25h")
from tqdm import tqdm
bar = tqdm(total=2, desc="bar")
bar.update(2)
bar.close()
"""


def test_a_terminal_gets_no_commands_but_our_own() -> None:
    terminal = PseudoTerminal([sys.executable, "-P", "-c", WRITES])
    try:
        terminal.wait_for("100%")
    finally:
        terminal.close()
    written = b"".join(chunk for _, chunk in terminal.chunks).decode()
    assert written.count(f"a\x1b[31m{SHOWN}") == 2
    assert "名前    one\r\x1b[A\x1b[2K\x1b[1mtwo\x1b[0m \x1b[?25l\x1b[?25h" in written
    assert "bar: 100%" in written
    assert not {"\x07", "\x08", "\x9b", "\u202e"} & set(written) and "\x1b]" not in written


def test_a_pipe_gets_the_bytes_as_they_are() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", WRITES], capture_output=True, check=True)
    assert done.stdout.decode().startswith(f"{HOSTILE}\n名前\tone")


def test_log_lines_are_harmless_in_the_file(tmp_path: Path) -> None:
    program = f"""
import logging, warnings
from loraconsole.pipeline.runtime.process import set_up_log
set_up_log()
logging.getLogger("router").info("adapter %s\\nINFO forged", {HOSTILE!r})
warnings.warn("old\\x1b]0;t\\x07")
try:
    raise ValueError({HOSTILE!r})
except ValueError:
    logging.exception("died")
"""
    done = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, check=True)
    lines = done.stderr.decode().split("\n")
    assert rf"INFO router: adapter a\x1b[31m{SHOWN}\x0aINFO forged" in lines[0]
    assert "UserWarning: old\\x1b]0;t\\x07" in lines[1] and lines[2] == ""
    assert rf"ValueError: a\x1b[31m{SHOWN}" in lines
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(done.stderr.decode())


def test_logs_of_other_programs_are_shown_harmless(ring: Ring, tmp_path: Path) -> None:
    """A library writes to the log of its process as it likes."""
    with (ring.run / "logs" / "router.log").open("a") as log:
        log.write(f"line of a library {HOSTILE}\n")

    def shown_logs() -> str:
        return run(ring, tmp_path, ["logs", "router"], "utf-8").stdout.decode()

    wait_for(lambda: "line of a library" in shown_logs())
    shown = shown_logs()
    assert rf"line of a library a\x1b[31m{SHOWN}" in shown
    assert not {"\x1b", "\x07", "\x9b", "\u202e"} & set(shown)

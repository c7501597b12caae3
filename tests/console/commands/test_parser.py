"""Every command is a record, and the parser and the dispatcher know all of them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from loraconsole.console.cli import dispatch
from loraconsole.console.commands.adapters import ListAdaptersCommand, LoadCommand, PlanCommand
from loraconsole.console.commands.base import Command, PipelineCommand
from loraconsole.console.commands.consoles import AttachCommand, ConsoleCommand, PlayCommand
from loraconsole.console.commands.inspect import DoctorCommand, LogsCommand
from loraconsole.console.commands.parser import parse
from loraconsole.console.commands.pipeline import BenchCommand, SchedulerCommand, UpCommand
from loraconsole.console.commands.processes import SignalCommand
from loraconsole.console.commands.table import COMMANDS, CommandGroup
from loraconsole.console.commands.transcripts import ListTranscriptsCommand
from loraconsole.pipeline.errors import UsageError
from loraconsole.pipeline.messages import ClientWeight


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adapters", ListAdaptersCommand(run="/r")),
        ("adapters list --json", ListAdaptersCommand(run="/r", json=True)),
        ("adapters --json --run /x list", ListAdaptersCommand(run="/x", json=True)),
        ("adapters load sql ./a --pin", LoadCommand(run="/r", name="sql", path="./a", pin=True)),
        ("adapters plan a b", PlanCommand(run="/r", paths=("a", "b"))),
        ("transcripts", ListTranscriptsCommand()),
        ("logs -f -n 5", LogsCommand(run="/r", follow=True, lines=5)),
        ("signal router sigterm", SignalCommand(run="/r", process="router", signal="TERM")),
        ("doctor m --adapter a=b --adapter c=d --tokens 4", None),
        ("bench compare a --json", BenchCommand(flags=("compare", "a", "--json"))),
        ("attach --run /x", AttachCommand(run="/x")),
        ("--mock", ConsoleCommand(mock=7)),
        ("--mock 3 --read-only", ConsoleCommand(mock=3, read_only=True)),
    ],
)
def test_a_line_becomes_a_record(
    text: str, wanted: Command | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LORACONSOLE_RUN", "/r")
    if wanted is None:
        adapters = ("a=b", "c=d")
        wanted = DoctorCommand(run="/r", model="m", adapter=adapters, tokens=4)
    assert parse(text.split()) == wanted


def test_run_options_are_kept_as_given_until_they_are_wanted() -> None:
    command = parse(["up", "--port", "0", "--scheduler", "lifo", "--json"])
    assert isinstance(command, UpCommand) and command.as_json
    assert command.run_options.values == {"port": 0, "scheduler": "lifo"}
    assert command.run_options.config().port == 0
    wrong = parse(["up", "--port", "99999"])
    assert isinstance(wrong, UpCommand)
    with pytest.raises(UsageError, match="--port"):
        wrong.run_options.config()


def test_screen_options_are_a_record_of_their_own() -> None:
    command = parse(["play", "tape", "--fps", "3", "--ascii"])
    assert isinstance(command, PlayCommand)
    assert (command.screen.fps, command.screen.ascii, command.screen.theme) == (3.0, True, None)


def test_the_scheduler_is_set_by_what_is_given_alone() -> None:
    assert not SchedulerCommand().changes
    command = SchedulerCommand(fair_weight=("sql=2",), max_wait_tokens=3)
    order = command.order("console-1")
    assert command.changes and order.policy is None
    assert order.weights == (ClientWeight("sql", 2.0),) and order.max_wait_tokens == 3


@pytest.mark.parametrize(
    ("text", "what", "hint"),
    [
        ("statsu", "no command statsu", "did you mean status? loraconsole --help lists"),
        ("unload sql", "no command unload", "did you mean adapters unload?"),
        ("xyzzy", "no command xyzzy", "loraconsole --help lists the commands"),
        ("adapters laod x /y", "no verb laod", "did you mean load? there are list, load"),
        ("logs --folow", "logs has no option --folow", "did you mean --follow? there are --json"),
        ("up --modle=x", "up has no option --modle", "did you mean --model? loraconsole up --help"),
        ("--modle x", "no option --modle", "did you mean --model? loraconsole --help"),
        (
            "adapters load a b --pinn",
            "adapters load has no option --pinn",
            "did you mean --pin? there are --json, --run, --pin",
        ),
        ("up --scheduler fcfss", "--scheduler cannot be fcfss", "did you mean fcfs? there are"),
        ("signal router TREM", "no signal TREM", "did you mean TERM?"),
        ("down now", "down takes no argument now", "usage: loraconsole down [--now]"),
        (
            "adapters load x",
            "the following arguments are required: PATH",
            "usage: loraconsole adapters load NAME PATH [--pin]",
        ),
    ],
)
def test_a_wrong_line_is_refused_with_what_was_probably_meant(
    text: str, what: str, hint: str
) -> None:
    with pytest.raises(UsageError) as refused:
        parse(text.split())
    assert refused.value.what == what
    assert refused.value.hint.startswith(hint)


def _cases() -> set[str]:
    """Names of the classes that the dispatcher matches."""
    tree = ast.parse(Path(dispatch.__file__).read_text(encoding="utf-8"))
    kinds = [node.cls for node in ast.walk(tree) if isinstance(node, ast.MatchClass)]
    return {kind.attr if isinstance(kind, ast.Attribute) else ast.unparse(kind) for kind in kinds}


def test_every_command_has_its_case_and_says_what_it_does() -> None:
    cases = _cases() - {PipelineCommand.__name__}
    for known in COMMANDS:
        for command in known.verbs if isinstance(known, CommandGroup) else (known,):
            assert command.NAME and command.HELP
            assert cases & {kind.__name__ for kind in command.__mro__}, command

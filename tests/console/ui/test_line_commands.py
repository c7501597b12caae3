"""The `:` line: every action and every verb by its name, completed, with errors in place."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from key_cases import CASES, Case, Scene, asked_before, data, kept_turns, orders, panel, title
from stage import StagedApp, screen_text, staged, wait
from textual.pilot import Pilot
from textual.screen import ModalScreen
from textual.widgets import Input, TextArea

from loraconsole.console.client.ask import find_request
from loraconsole.console.client.telemetry import ABORTED
from loraconsole.console.commands.argument import arguments_of, usage_of
from loraconsole.console.commands.table import COMMANDS, CommandGroup
from loraconsole.console.mock.server import mock_pipeline
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.bindings import catalogue
from loraconsole.console.ui.jump import JumpScreen
from loraconsole.console.ui.line_commands import (
    GROUPS,
    WITH_A_SCREEN,
    OutputDialog,
    all_commands,
)
from loraconsole.console.ui.palette_entries import Entry, all_entries
from loraconsole.console.ui.panels.command_line import CandidatePane, CommandLine, read_history
from loraconsole.console.ui.screens import PAGES, PANELS
from loraconsole.console.ui.widgets.command_syntax import candidates
from loraconsole.console.ui.widgets.dialogs import ChoiceDialog, ScrollPane
from loraconsole.console.ui.widgets.filter import FilterPane
from loraconsole.console.ui.widgets.styles import MainScreen
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError
from loraconsole.pipeline.messages import (
    Abort,
    LoadAdapter,
    PinAdapter,
    PlanAdapters,
    SetScheduler,
    SignalProcess,
    StartProcess,
    UnloadAdapter,
)

Act = Callable[[StagedApp, Pilot[str]], Coroutine[Any, Any, None]]

VERBS = {known.NAME for known in COMMANDS}
(_ADAPTERS,) = (known for known in COMMANDS if known.NAME == "adapters")
assert isinstance(_ADAPTERS, CommandGroup)
ADAPTER_VERBS = {verb.NAME for verb in _ADAPTERS.verbs}
ONLY_HERE = {
    # What is about a screen has no meaning without one.
    *(
        "command",
        "pause",
        "next-theme",
        "theme",
        "help",
        "quit",
        "quit-anywhere",
        "redraw",
        "suspend",
    ),
    *("jump", "palette", "goto", "filter", "screenshot", "next-match", "previous-match"),
    "unfilter",
    *("acknowledge", "acknowledge-all", "evidence", "trace", "open", "sort", "reverse"),
    *("cost", "diagnostics", "hour", "zoom", "unzoom", "histogram", "faster", "slower"),
    *("send", "newline", "leave", "recall", "retry", "new-conversation"),
}
"""Actions without a verb of the command line, and why that is right."""
MOVES = (
    "row-",
    "page-",
    "log-",
    "text-",
    "event-",
    "pool-",
    "first",
    "last",
    "plot-",
    "show-",
    "bench-",
)
"""How the ids of those begin that only move about."""
SAME_THING = {"kill": "restart", "load": "adapters", "unload": "adapters", "reload": "adapters"}


def on_stage(act: Act, **options: Any) -> None:
    async def main() -> None:
        async with staged(**options) as (app, pilot):
            await act(app, pilot)

    asyncio.run(main())


async def say(pilot: Pilot[str], text: str) -> None:
    """Sends a command. A key takes a test 30 ms: only `test_tab_completes…` types every one."""
    await pilot.press("colon")
    pilot.app.query_one(CommandLine).input.value = text
    await pilot.press("enter")
    await pilot.pause()


# --- both lists ---------------------------------------------------------------------------------


def test_every_verb_of_the_command_line_is_a_command_of_the_console() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        commands = all_commands(app)
        for known in COMMANDS:
            if known not in WITH_A_SCREEN:
                usage = commands[known.NAME].usage
                if isinstance(known, CommandGroup):
                    assert usage == "[VERB …]"
                else:
                    assert usage_of(arguments_of(known)) in (usage, usage[1:-1])

    on_stage(act)


def test_every_action_of_adapters_requests_and_processes_is_a_verb() -> None:
    """Whoever can do it with a key can do it from a script, by the same name."""
    verbs = VERBS | ADAPTER_VERBS
    for key in catalogue():
        if key.node.__name__ in ("AdapterTablePane", "BatchTable", "ProcessTablePane"):
            is_a_move = key.id.startswith("row-")
            assert is_a_move or SAME_THING.get(key.id, key.id) in verbs, f"{key.id} has no verb"


@pytest.mark.parametrize("panel", ["Overview", "Batch", "Adapters", "Logs", "Processes"])
def test_every_action_of_a_screen_is_a_command(panel: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        commands = all_commands(app)
        for active in app.screen.active_bindings.values():
            binding = active.binding
            if not binding.system:
                assert binding.id in commands, f"{binding.action} has no name"
                assert commands[binding.id].help
        for name in set(commands) - VERBS - ONLY_HERE:
            adapter = name in ADAPTER_VERBS
            known = adapter or name in SAME_THING or name.startswith(MOVES)
            known = known or name in ("next-pane", "previous-pane")
            assert known, f"{name} is neither a verb nor said to be of the screen alone"

    on_stage(act, panel=panel)


# --- saying it ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_goto_theme_and_actions_by_name() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for name, _ in (PANELS | PAGES).values():
            await say(pilot, f"goto {name.lower()}")
            assert name == app.active_panel.NAME
            assert not app.query(CommandLine)
            await pilot.press("escape")
        for name in ("adapters", "prompt", "logs", "alerts", "settings"):
            await say(pilot, name)
            assert name.capitalize() == app.active_panel.NAME
            await pilot.press("escape")
        await say(pilot, "logs router")
        assert "/^router " in screen_text(app)
        await say(pilot, "theme paper")
        assert app.theme == "paper"
        await say(pilot, "pause")
        assert app.is_paused
        await say(pilot, "pau")  # the only one that begins so
        assert not app.is_paused
        await say(pilot, "quit")
        assert isinstance(app.screen, ChoiceDialog)
        await pilot.press("escape")
        assert read_history()[-3:] == ["pause", "pau", "quit"]

    on_stage(act)


def test_orders_about_adapters_are_read_as_in_a_shell() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for text in (
            "scheduler vtc_fair --fair-weight sql=2",
            *("load tax /large/tax --pin", "adapters unload pirate", "pin sql", "unpin sql"),
            "plan /a '/b c'",
        ):
            await say(pilot, text)
            if "unload" in text:
                await pilot.press("y")
        scheduler, load, unload, pin, unpin, plan = app.ordered
        assert isinstance(scheduler, SetScheduler) and scheduler.policy == "vtc_fair"
        assert scheduler.weights is not None and scheduler.weights[0].name == "sql"
        assert isinstance(load, LoadAdapter) and isinstance(unload, UnloadAdapter)
        assert (load.name, load.path, load.pinned) == ("tax", "/large/tax", True)
        assert unload.name == "pirate"
        assert isinstance(pin, PinAdapter) and isinstance(unpin, PinAdapter)
        assert (pin.pinned, unpin.pinned) == (True, False)
        assert isinstance(plan, PlanAdapters) and plan.paths == ("/a", "/b c")

    on_stage(act, panel="Adapters")


@pytest.mark.slow
def test_a_name_alone_is_the_keys_own_action_with_words_it_is_the_verb() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await say(pilot, "abort")
        assert isinstance(app.screen, ChoiceDialog)  # the row under the cursor, after a yes
        await pilot.press("escape")
        request = app.board.requests[3].view.request_id
        await say(pilot, f"abort {request[-10:]}")
        assert app.told == []  # a name is no yes either
        await pilot.press("y")
        assert app.told == [Abort(request, ABORTED)]
        app.told.clear()
        await say(pilot, "restart worker-9")
        assert "no process 'worker-9'" in screen_text(app)
        await pilot.press("escape")
        await say(pilot, "signal router sigstop")
        await say(pilot, "start worker-0")
        for ends in ("restart router --hard", "stop worker-0", "signal router KILL"):
            await say(pilot, ends)
            assert len(app.told) == 2
            await pilot.press("n")
        assert app.told == [SignalProcess("router", "STOP"), StartProcess("worker-0")]
        await say(pilot, "stop fetch")
        assert "fetch exits by itself" in screen_text(app)

    on_stage(act, panel="Batch")


def test_what_is_wrong_is_said_in_place_and_stays_to_be_mended() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        for text, what, hint in (
            ("frobnicate", "no command 'frobnicate'", "tab lists the commands"),
            ("pa", "no command 'pa'", "did you mean pause, page-up or palette?"),
            ("unlaod sql", "no command 'unlaod'", "did you mean unload?"),
            ("unload pirat", "no adapter 'pirat'", "did you mean pirate?"),
            ("restart worker", "no process 'worker'", "did you mean worker-0?"),
            ("logs --folow", "logs has no option --folow", "did you mean --follow?"),
            ("theme papr", "no theme 'papr'", "did you mean paper?"),
            (
                "goto overvew",
                "no screen 'overvew'",
                "did you mean overview?",
            ),
            ("load tax", "the following arguments are required: PATH", "NAME PATH [--pin]"),
            ("load 'tax", "no closing quotation", "close the quotes"),
            ("filter (", "missing ), unterminated subpattern", "!regex to exclude"),
            ("pause now", "pause takes no arguments", "freeze the screen"),
        ):
            await say(pilot, text)
            assert what in screen_text(app) and hint in screen_text(app), text
            line = app.query_one(CommandLine)
            assert line.input.value == text and line.input.has_focus
            await pilot.press("escape")
            assert not app.query(CommandLine)
        assert app.focused is not None and app.focused.has_class("-x") is False
        assert read_history() == []

    on_stage(act, panel="Batch", size=(120, 30))


def test_tab_completes_and_up_recalls(tmp_path: Path) -> None:
    (tmp_path / "tax").mkdir()
    (tmp_path / "taxi.txt").touch()

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("colon", *"unl", "tab", *"pi", "tab")
        line = app.query_one(CommandLine)
        assert line.input.value == "unload pirate "
        await pilot.press("enter", "y")
        assert [order.name for order in app.ordered if isinstance(order, UnloadAdapter)] == [
            "pirate"
        ]
        await pilot.press("colon", *"goto ", "tab", "tab", "shift+tab")
        line = app.query_one(CommandLine)
        assert line.input.value == "goto overview"
        await pilot.press("tab", "enter")
        await pilot.pause()
        assert app.active_panel.NAME == "Batch"
        await pilot.press("colon", "up", "up")
        assert app.query_one(CommandLine).input.value == "unload pirate "[:-1]
        await pilot.press("escape")
        commands = all_commands(app)
        (only,) = candidates(f"load tax {tmp_path}/ta", commands, app.board)
        assert only.word == f"{tmp_path}/tax/"
        assert candidates("load tax /x --", commands, app.board)[0][0] == "--json"
        for typed, words in (
            ("restart w", ["worker-0"]),
            ("prompt --adapter ha", ["haiku"]),
            ("transcripts export --format m", ["markdown"]),
            (f"transcripts export --out {tmp_path}/tax", ["tax/", "taxi.txt"]),
            (f"record {tmp_path}/taxi", ["taxi.txt"]),
            (f"plan {tmp_path}/ta {tmp_path}/t", ["tax/"]),  # adapters are directories
            (f"spans --trace x {tmp_path}/taxi", ["taxi.txt"]),
        ):
            found = [each.word for each in candidates(typed, commands, app.board)]
            assert [word.removeprefix(f"{tmp_path}/") for word in found] == words, typed

    on_stage(act, panel="Adapters")


@pytest.mark.parametrize(("size", "rows"), [((80, 24), 8), ((120, 40), 13), ((120, 15), 6)])
def test_tab_lists_the_commands_in_groups_and_says_how_many_there_are(
    size: tuple[int, int], rows: int
) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await pilot.press("colon", "tab")
        await pilot.pause()
        pane = app.query_one(CandidatePane)
        assert pane.size.height == rows
        number = len(pane.found)
        assert f"1-{rows} of {number}" in screen_text(app) and number > 60
        groups = [each.group for each in pane.found]
        assert groups == sorted(groups, key=list(GROUPS.values()).index)
        assert set(groups) == set(GROUPS.values())
        assert groups[0] == "here" and pane.found[0].word in ("filter", "sort", "load")
        screen = screen_text(app).splitlines()
        assert sum("  here  " in row for row in screen) == 1  # at the first of the group alone
        assert app.query_one(CommandLine).input.value == ""  # it only lists them
        await pilot.press("shift+tab")
        assert app.query_one(CommandLine).input.value == pane.found[-1].word
        await pilot.pause()
        assert f"{number - rows + 1}-{number} of {number}" in screen_text(app)

    on_stage(act, panel="Adapters", size=size)


@pytest.mark.processes
def test_a_verb_without_a_screen_of_its_own_shows_what_it_prints() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await say(pilot, "settings --example")
        assert isinstance(app.screen, OutputDialog)
        await ended(app, pilot)
        assert "bell" in screen_text(app)
        await pilot.press("escape")
        await say(pilot, "status")  # there is no pipeline in this run directory
        await ended(app, pilot)
        assert "exit status 3" in screen_text(app)
        assert "no pipeline runs in /run/loraconsole" in screen_text(app)

    on_stage(act)


async def ended(app: StagedApp, pilot: Pilot[str]) -> None:
    dialog = app.screen
    assert isinstance(dialog, OutputDialog)
    async with asyncio.timeout(20):
        while not dialog.is_carried_out:
            await pilot.pause(0.05)
    await pilot.pause()


def test_a_request_is_found_by_how_its_id_ends() -> None:
    ids = ["cmpl-abc1", "cmpl-xyz1", "cmpl-q"]
    assert find_request("q", ids) == "cmpl-q" and find_request("cmpl-abc1", ids) == "cmpl-abc1"
    with pytest.raises(OperatorError, match="2 requests end with '1'"):
        find_request("1", ids)
    with pytest.raises(OperatorError, match="no live request 'nobody'"):
        find_request("nobody", ids)


# --- each has its effect ------------------------------------------------------------------------


TYPED_INTO = (ModalScreen, Input, TextArea, ScrollPane)
"""Where these have the keys, `:` is a letter like others, or closes."""
BY_NAME = {
    binding.node.__name__: binding.id
    for binding in catalogue()
    if not issubclass(binding.node, TYPED_INTO) and binding.id != "command"  # the line itself
}
"""One binding of each pane. What a name runs is the binding's own action on the pane that had the
keys, so another of the same pane would go the same way."""


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return tmp_path


async def order(scene: Scene, text: str) -> None:
    """Says it on the line, which opens where keys are typed into something as well."""
    await scene.app.action_command(text)
    await scene.press("enter")


@pytest.mark.slow
@pytest.mark.parametrize("id", BY_NAME.values(), ids=BY_NAME)
@pytest.mark.usefixtures("alone")
def test_a_binding_does_by_its_name_what_its_key_does(id: str) -> None:
    async def main() -> None:
        case = CASES[id]
        async with case.staged() as scene:
            await order(scene, id)
            await case.holds(scene)

    asyncio.run(main())


def _ordered(*given: str, asks: str = "", **more: Any) -> Case:
    return Case(see=orders, was=[], becomes=list(given), asks=asks, **more)


def _shows(name: str, start: str = "Overview") -> Case:
    return Case(see=panel, was=start, becomes=name, on=start)


def pictures(s: Scene) -> int:
    return len(list((data() / "pictures").glob("*.svg")))


SAID: dict[str, Case] = {
    "goto alerts": _shows("Alerts"),
    "theme paper": Case(see=lambda s: s.app.theme, was="dark", becomes="paper"),
    "filter pirate": Case(on="Batch", see=lambda s: s.table.filter.text, was="", becomes="pirate"),
    "screenshot": Case(see=pictures, was=0, becomes=1),
    "adapters": _shows("Adapters"),
    "alerts": _shows("Alerts"),
    "logs": _shows("Logs"),
    "prompt": _shows("Prompt"),
    "bench": _shows("Bench"),
    "settings": _shows("Settings"),
    "logs router": _shows("Logs"),
    "load tax /a": _ordered("LoadAdapter tax"),
    "unload pirate": _ordered("UnloadAdapter pirate", asks="Unload pirate?"),
    "adapters unload pirate": _ordered("UnloadAdapter pirate", asks="Unload pirate?"),
    "reload sql": _ordered("ReloadAdapter sql"),
    "pin sql": _ordered("PinAdapter sql"),
    "unpin sql": _ordered("PinAdapter sql"),
    "merge json": _ordered("MergeAdapter json", asks="Merge json?"),
    "unmerge": _ordered("MergeAdapter"),
    "verify sql": _ordered("VerifyAdapter sql"),
    "plan /a": _ordered("PlanAdapters"),
    "scheduler lifo": _ordered("SetScheduler"),
    "restart router": _ordered("RestartProcess router", asks="Restart router?"),
    "stop worker-0": _ordered("StopProcess worker-0", asks="Stop worker-0?"),
    "start worker-0": _ordered("StartProcess worker-0"),
    "signal router KILL": _ordered("SignalProcess router", asks="Send KILL to router?"),
    "drain": _ordered("Drain", asks="Drain the pipeline?"),
    "drain --resume": _ordered("Resume"),
    "down": _ordered("StopPipeline 10", asks="Stop the pipeline?"),
    "down --now": _ordered("StopPipeline 0", asks="Stop the pipeline?"),
    "abort d23f128b2f33": Case(
        see=lambda s: len(s.told) == 1 and s.told[0].endswith("d23f128b2f33"),
        asks="Abort this request?",
    ),
    "transcripts delete --all": Case(
        arrange=asked_before,
        asks="Delete transcripts?",
        see=lambda s: len(kept_turns("p")),
        was=3,
        becomes=0,
        marks=[pytest.mark.processes],
    ),
}
"""What is said on any screen, and what comes of it. What destroys something asks first."""
PRINTED = {
    "where": "pipeline        runs",
    "status": "READY",
    "doctor": "textual",
    "settings --path": "console.toml",
    "scheduler": "policy fcfs",
    "adapters list": "pirate",
    "transcripts": "no transcripts yet",
    "prompt --adapter pirate Ahoy": "Arrr, matey!",
    "bench --requests 1 --concurrency 1 --rounds 1 --max-tokens 4": "chat 1 at once",
    "record shift.rec --seconds 0.3": "--seconds reached",
    "replay nothing.jsonl": "cannot read nothing.jsonl",
    "spans": "no spans recorded",
    "profile start": "no answer from worker-0",  # the mock records none
    "web --port 0": "http://127.0.0.1",
}
"""Verbs without a screen of their own, and what they print of a pipeline that is a mock."""


@pytest.mark.slow
@pytest.mark.parametrize("text", [pytest.param(text, marks=SAID[text].marks) for text in SAID])
@pytest.mark.usefixtures("alone")
def test_a_command_has_its_effect(text: str) -> None:
    async def main() -> None:
        case = SAID[text]
        async with case.staged() as scene:
            await order(scene, text)
            await case.holds(scene)

    asyncio.run(main())


@pytest.mark.processes
def test_what_a_command_prints_is_shown(alone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(alone)

    async def main(config: Config) -> None:
        app = ConsoleApp(config)
        async with app.run_test(size=(120, 40)) as pilot:
            await wait(lambda: bool(app.board.adapters))
            for text, wanted in PRINTED.items():
                await order(Scene(app, pilot), text)
                dialog = app.screen
                assert isinstance(dialog, OutputDialog), text
                await wait(lambda d=dialog, w=wanted: w in " ".join(d._printed))  # type: ignore[misc]
                await pilot.press("escape")

    with mock_pipeline(5, boots=False) as config:
        asyncio.run(main(config))


def test_every_command_has_an_effect_that_is_tested() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        names = set(all_commands(app, bindings=()))
        tested = {text.split()[0] for text in (*SAID, *PRINTED)}
        assert names == tested, "say above what these do"

    on_stage(act)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "loss"),
    [
        ("unload pirate", "requests finish first"),
        ("abort d23f128b2f33", "ends now"),
        ("merge json", "takes 202 MiB on each device, outside the pool"),
        ("merge json", "The copy with sql is freed."),
        ("restart router", "END with an error"),
        ("stop worker-0", "stand still"),
        ("signal router KILL", "END with an error"),
        ("drain", "refused (503)"),
        ("down", "END with an error"),
        ("down --now", "24 live requests END with an error"),
        ("transcripts delete --all", "1 conversation with 3 turns"),
    ],
)
@pytest.mark.usefixtures("alone")
def test_what_a_command_destroys_is_said_before(text: str, loss: str) -> None:
    async def main() -> None:
        async with SAID[text].staged() as scene:
            await order(scene, text)
            assert loss in str(scene.app.screen.query_one("Static.body").render())
            await scene.press("n")
            assert scene.orders == []

    asyncio.run(main())


PALETTE: dict[str, Case] = {
    "Go to Batch": _shows("Batch"),
    "Theme paper": SAID["theme paper"],
    "Restart router": SAID["restart router"],
    "Stop worker-0": SAID["stop worker-0"],
    "Signal worker-0": CASES["signal"],
    "Policy lifo": SAID["scheduler lifo"],
    "Stop the pipeline": SAID["down"],
    "Save a picture": SAID["screenshot"],
    "Open pirate": Case(see=title, was="MainScreen", becomes="pirate"),
    "Logs of router": Case(see=panel, was="Overview", becomes="Logs"),
    "Setting fps": Case(see=panel, was="Overview", becomes="Settings"),
    ": adapters": Case(see=lambda s: bool(s.app.query(CommandLine))),
    "Unload pirate": SAID["unload pirate"],
    **{f"{verb} pirate": _ordered(f"{verb}Adapter pirate") for verb in ("Reload", "Verify")},
    "Unpin pirate": _ordered("PinAdapter pirate"),
    "Merge pirate": _ordered("MergeAdapter pirate", asks="Merge pirate?"),
}


@pytest.mark.slow
@pytest.mark.parametrize("title", PALETTE)
@pytest.mark.usefixtures("alone")
def test_an_entry_of_the_palette_has_its_effect(title: str) -> None:
    async def main() -> None:
        case = PALETTE[title]
        async with case.staged() as scene:
            (entry,) = [e for e in _entries(scene) if e.title == title]
            done = entry.run()
            if isinstance(done, Awaitable):
                await done
            await scene.pilot.pause()
            await case.holds(scene)

    asyncio.run(main())


def _entries(scene: Scene) -> list[Entry]:
    return all_entries(scene.app)


@pytest.mark.slow
@pytest.mark.usefixtures("alone")
def test_every_entry_of_the_palette_is_a_binding_or_of_a_kind_that_is_tested() -> None:
    kinds = (*(title.partition(" ")[0] for title in PALETTE), "Pin", "Unmerge", "Abort")

    async def main() -> None:
        for on in ("Overview", "Batch", "Adapters", "Logs", "Processes", "Bench"):
            async with Case(see=panel, was=on, on=on).staged() as scene:
                bindings = [active.binding for active in scene.app.screen.active_bindings.values()]
                names = {binding.description for binding in bindings if binding.id in CASES}
                for entry in _entries(scene):
                    assert entry.title in names or entry.title.startswith(kinds), entry.title

    asyncio.run(main())


@pytest.mark.usefixtures("alone")
def test_the_palette_begins_with_where_to_go_and_ends_with_the_cursors_keys() -> None:
    async def main() -> None:
        for on in ("Batch", "Adapters", "Prompt"):
            async with Case(see=panel, was=on, on=on).staged() as scene:
                titles = [entry.title for entry in _entries(scene)]
                assert titles[0] == "Go to Overview" and titles[-1] == "Palette"
                order = {
                    "Batch": ("Abort", "Restart worker-0", "Pause", "Page down"),
                    "Adapters": ("Load", "Policy lifo", "Theme light", "Up"),
                    "Prompt": ("Send", "Stop the pipeline", "Help", "Cut"),
                }[on]
                places = [titles.index(title) for title in order if title in titles]
                assert places == sorted(places) and len(places) >= 3

    asyncio.run(main())


@pytest.mark.usefixtures("alone")
def test_each_policy_and_each_flag_has_a_line_of_its_own() -> None:
    async def main() -> None:
        async with Case(see=panel, was="Batch", on="Batch").staged() as scene:
            commands = all_commands(scene.app)
            for typed in ("scheduler ", "adapters ", "logs --"):
                found = candidates(typed, commands, scene.app.board)
                assert len({each.help for each in found}) == len(found) > 2, typed

    asyncio.run(main())


# --- filter and jump ----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("panel", "text"),
    [
        *(("Batch", "pirate"), ("Adapters", "pirate|sql"), ("Processes", "router|server")),
        *(("Logs", "worker"), ("Alerts", "x"), ("Settings", "alerts")),
    ],
)
def test_every_list_can_be_filtered_turned_around_and_marked(panel: str, text: str) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        await say(pilot, f"goto {panel.lower()}")
        await pilot.press("slash", *text.replace("|", ""), "escape")
        pane = app.active_panel.query(FilterPane).first()
        app.filter_panel(text)
        await pilot.pause()
        shown = screen_text(app)
        assert f"/{text}" in shown
        app.filter_panel(f"!{text}")
        await pilot.pause()
        assert f"/!{text}" in screen_text(app)
        pane.set_filter(text, marks=True)
        await pilot.pause()
        assert "marked" in screen_text(app)
        app.screen.set_focus(pane)
        await pilot.press("n", "N")  # whatever there is to go to
        await pilot.press("slash", "(")
        await pilot.pause()
        assert "unterminated" in screen_text(app)

    on_stage(act, size=(120, 30))


def test_n_goes_from_match_to_match_among_the_others() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        from loraconsole.console.ui.panels.batch import BatchTable

        await pilot.press("slash", *"pirate", "tab", "enter")
        table = app.query_one(BatchTable)
        assert len(table._rows) == len(app.board.requests)
        wanted = [r.view.request_id for r in app.board.requests if r.view.adapter == "pirate"]
        await pilot.press("home")
        where = []
        for key in ("n", "n", "N", "N"):
            await pilot.press(key)
            assert table.selected is not None
            where.append(table.selected.view.request_id)
        assert where == [wanted[0], wanted[1], wanted[0], wanted[-1]]

    on_stage(act, panel="Batch")


def test_ctrl_o_and_a_letter_move_the_focus() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        from loraconsole.console.ui.panels.events import EventPane
        from loraconsole.console.ui.panels.pool import PoolPane

        await pilot.press("ctrl+o", "f")
        await pilot.pause()
        assert isinstance(app.focused, EventPane) and isinstance(app.screen, MainScreen)
        await pilot.press("ctrl+o")
        await pilot.pause()
        assert isinstance(app.screen, JumpScreen)
        assert " a " in screen_text(app) and " s " in screen_text(app)
        await pilot.press("s")
        await pilot.pause()
        assert isinstance(app.focused, PoolPane)
        await pilot.press("ctrl+o", "escape")
        await pilot.pause()
        assert isinstance(app.focused, PoolPane) and isinstance(app.screen, MainScreen)

    on_stage(act)

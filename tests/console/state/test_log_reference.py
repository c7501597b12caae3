"""From an alert or an event to its line in the log, in the books and on the screen."""

import asyncio
from typing import Any

import msgspec
from stage import START, StagedApp, on_stage, screen_text, staged, wait
from textual.pilot import Pilot

from loraconsole.console.state.log_reference import LogReference, find_line
from loraconsole.console.ui.panels.events import EventPane
from loraconsole.console.ui.panels.logs import LogPane
from loraconsole.pipeline.messages import (
    Event,
    LogLine,
    LogLines,
    ProcessState,
    ProcessTable,
    ProcessView,
)


def logs(*said: str) -> list[LogLine]:
    """A line a second: `source LEVEL what it said`."""
    lines = []
    for number, text in enumerate(said):
        source, level, words = text.split(" ", 2)
        lines.append(LogLine(number, 100.0 + number, source, level, words))
    return lines


STARTED = "supervisor INFO supervisor: started worker-0, pid 7"
DIED = "supervisor ERROR supervisor: worker-0 died (exit status 1); restarting in 1 s"
CRASH = (
    "worker-0 ERROR process: died",
    "worker-0 ERROR Traceback (most recent call last):",
    "worker-0 ERROR RuntimeError: no memory",
)


def found(log_reference: LogReference, lines: list[LogLine]) -> str:
    line = find_line(log_reference, lines)
    return line.text if line else ""


def test_a_crash_leads_to_the_last_line_of_its_traceback() -> None:
    lines = logs(STARTED, *CRASH, "router INFO meanwhile", DIED)
    assert found(LogReference("worker-0", 105.0), lines) == "RuntimeError: no memory"
    assert found(LogReference("worker-0", 102.0), lines) == ""  # it had not died by then
    back = [*lines, *logs(STARTED, "worker-0 INFO ready", "worker-0 ERROR of this life")]
    back = [msgspec.structs.replace(line, number=n, at=100.0 + n) for n, line in enumerate(back)]
    assert found(LogReference("worker-0", 109.0), back) == "RuntimeError: no memory"


def test_one_that_was_killed_leads_to_what_the_supervisor_said() -> None:
    lines = logs(STARTED, "worker-0 INFO ready", DIED, STARTED, "worker-0 INFO ready")
    assert "worker-0 died" in found(LogReference("worker-0", 104.0), lines)
    early = logs(STARTED, "worker-0 ERROR long ago", *["router INFO on"] * 20, DIED)
    assert "worker-0 died" in found(LogReference("worker-0", 122.0), early)
    asked = logs(
        STARTED, DIED, STARTED, "supervisor INFO supervisor: restarting worker-0 on request"
    )
    assert "on request" in found(LogReference("worker-0", 104.0), [*asked, *logs(STARTED)])


def test_a_rank_that_came_along_has_no_line_of_its_own() -> None:
    lines = logs(STARTED, DIED, STARTED, "router INFO x", STARTED)
    assert found(LogReference("worker-0", 104.0), lines) == ""


def test_an_event_leads_to_the_nearest_line_with_its_words() -> None:
    lines = logs(*["router INFO router: again"] * 9, "server INFO router: again")
    line = find_line(LogReference("router", 104.3, "again"), lines)
    assert line is not None and line.number == 4
    assert find_line(LogReference("router", 200.0, "again"), lines) is None


# --- on the screen ------------------------------------------------------------------------------


def crash(app: StagedApp) -> None:
    """worker-0 ends with a traceback, and many lines follow."""
    first = app.board.logs[-1].number + 1
    words = [f"worker-0 ERROR {text}" for text in ("process: died", "ValueError: [b]odd")]
    said = [*words, DIED, *["router INFO meanwhile"] * 60]
    lines = [
        msgspec.structs.replace(line, number=first + line.number, at=app.now + line.number / 1e3)
        for line in logs(*said)
    ]
    app.store.fold_message(LogLines(tuple(lines)), app.now)
    assert app.board.table is not None
    view = ProcessView("worker-0", ProcessState.BACKOFF, 0, 1, app.now, "exit status 1", 1)
    rest = [row for row in app.board.table.processes if row.name != "worker-0"]
    table = ProcessTable(app.now, ProcessState.STARTING, (*rest, view))
    app.store.fold_message(table, app.now)
    app.watch_alerts(app.store.board(app.now))
    app.show()


def marked(app: StagedApp) -> tuple[int, str]:
    """Which row of the log is marked, and what it says."""
    pane = app.active_panel.query_one(LogPane)
    rows = [
        (y, "".join(text for text, _ in spans))
        for y, (spans, ground) in enumerate(pane._drawn)
        if ground == "cursor"
    ]
    assert len(rows) == 1
    return rows[0]


def test_enter_on_an_alert_marks_its_line_at_half_height_and_stands_still() -> None:
    async def act() -> None:
        async with staged(panel="Logs") as (app, pilot):
            pane = app.active_panel.query_one(LogPane)
            await pilot.press("slash", *"router", "enter", "l", "l")  # both would hide it
            crash(app)
            await pilot.press("9")
            await pilot.pause()
            assert "shows its line in Logs" in screen_text(app)
            await pilot.press("enter")
            await pilot.pause()
            assert app.active_panel.NAME == "Logs"
            row, text = marked(app)
            assert "ValueError: [b]odd" in text
            assert abs(row - pane.size.height // 2) <= 2
            assert "following" not in screen_text(app) and not pane.filter
            app.advance(2.0)
            app.show()
            await pilot.pause()
            assert marked(app) == (row, text)
            await pilot.press("y")  # what acts on a line acts on this one
            assert "ValueError" in app.clipboard
            await pilot.press("w")
            assert "ValueError" in marked(app)[1]
            await pilot.press("f")
            assert "following" in screen_text(app)

    asyncio.run(act())


def test_enter_on_an_event_marks_its_line() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        number = app.board.logs[-1].number + 1
        line = LogLine(number, app.now, "router", "INFO", "router: a thing of note")
        app.store.fold_message(LogLines((line,)), app.now)
        app.store.fold_message(Event(app.now, "info", "router", "a thing of note"), app.now)
        app.show()
        app.active_panel.query_one(EventPane).focus()
        await pilot.press("enter")
        await pilot.pause()
        assert app.active_panel.NAME == "Logs"
        assert "a thing of note" in marked(app)[1]
        assert "following" not in screen_text(app)

    on_stage(act)


def test_what_has_no_line_leads_where_it_did(home: Any) -> None:
    async def act() -> None:
        async with staged() as (app, pilot):
            crash(app)
            app.store._logs.replace(())
            app.show()
            await pilot.press("9", "enter")
            await wait(lambda: app.active_panel.NAME == "Logs")
            pane = app.active_panel.query_one(LogPane)
            await wait(lambda: pane.filter.text == "worker-0")
            assert app.now > START

    asyncio.run(act())

"""Rules find what is wrong on a board, the book remembers, the page explains and leads there."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from stage import START, StagedApp, screen_text, staged

from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.settings.settings import settings_path
from loraconsole.console.state.alert_book import CALM_S, AlertBook, AlertState
from loraconsole.console.state.alerts import RECENT_S, RULES, AlertLimits, findings
from loraconsole.console.state.board import Board, ProcessRow
from loraconsole.console.state.store import Store
from loraconsole.console.text import units
from loraconsole.console.ui.notifications import SETTLE_SECONDS
from loraconsole.console.ui.panels.alerts import AlertTable, RulePane
from loraconsole.console.ui.screens import PAGES, PANELS
from loraconsole.pipeline.messages import AdapterState, Heartbeat, ProcessState


def busy() -> Board:
    store, scenario = Store("/run/here"), Scenario("busy", start=START)
    now = START
    for _ in range(100):
        now += 0.2
        for _, message in scenario.advance(now):
            store.fold_message(message, now)
    return store.board(now)


BUSY = busy()


def changed(**fields: Any) -> Board:
    return msgspec.structs.replace(BUSY, **fields)


def process(name: str, **fields: Any) -> tuple[ProcessRow, ...]:
    return tuple(
        msgspec.structs.replace(row, **fields) if row.name == name else row
        for row in BUSY.processes
    )


def router(**fields: Any) -> Board:
    assert BUSY.router is not None
    return changed(router=msgspec.structs.replace(BUSY.router, **fields))


def failed_adapter() -> Board:
    row = BUSY.adapters[1]
    view = msgspec.structs.replace(row.view, state=AdapterState.FAILED, reason="no rank")
    return changed(adapters=(BUSY.adapters[0], msgspec.structs.replace(row, view=view)))


def on_a_gpu(board: Board) -> Board:
    workers = tuple(msgspec.structs.replace(worker, device="cuda:0") for worker in board.workers)
    return msgspec.structs.replace(board, workers=workers)


QUIET = AlertLimits(
    no_step_seconds=0, sync_wait_p99_ms=0, ttft_p99_ms=0, queue=0, pool_fraction=0, disk_gib=0
)
WRONG: dict[str, tuple[Callable[[], Board], AlertLimits, str]] = {
    "process down": (
        lambda: changed(
            processes=process("worker-0", state=ProcessState.FAILED, reason="no memory")
        ),
        QUIET,
        "worker-0 failed: no memory",
    ),
    "process stopped": (
        lambda: changed(processes=process("router", state=ProcessState.STOPPED, held=True)),
        QUIET,
        "router stopped by an operator: requests are refused",
    ),
    "process silent": (
        lambda: changed(processes=process("router", age_s=4.0)),
        QUIET,
        "router silent for 4 s",
    ),
    "process restarted": (
        lambda: changed(
            processes=process("worker-0", falls=2, fell_at=BUSY.now - 60, exit_code=-9)
        ),
        QUIET,
        "worker-0 died 1 m 00 s ago (killed by SIGKILL), restarted; 2 deaths",
    ),
    "loop lag high": (
        lambda: changed(processes=process("server", loop_lag_ms=800.0)),
        QUIET,
        "server loop lag is 800 ms",
    ),
    "frames refused": (
        lambda: changed(
            processes=process(
                "router",
                hops=tuple(
                    msgspec.structs.replace(h, refused=2) for h in BUSY.processes[2].hops[:1]
                ),
            )
        ),
        QUIET,
        "router refused 2 frames",
    ),
    "version mismatch": (
        lambda: changed(processes=process("router", protocol=99)),
        QUIET,
        "router speaks protocol 99",
    ),
    "no step": (
        lambda: changed(now=BUSY.now + 30),
        msgspec.structs.replace(QUIET, no_step_seconds=10),
        "no step for 30.0 s while",
    ),
    "sync wait high": (
        lambda: on_a_gpu(BUSY),
        msgspec.structs.replace(QUIET, sync_wait_p99_ms=0.01),
        "sync wait p99 is",
    ),
    "TTFT high": (
        lambda: BUSY,
        msgspec.structs.replace(QUIET, ttft_p99_ms=1),
        "TTFT p99 is",
    ),
    "long queue": (
        lambda: router(waiting=70),
        msgspec.structs.replace(QUIET, queue=64),
        "70 requests waiting",
    ),
    "adapter failed": (failed_adapter, QUIET, "failed: no rank"),
    "pool full": (
        lambda: router(pages_kv=4000, pages_adapters=96, pages_total=4096),
        msgspec.structs.replace(QUIET, pool_fraction=0.95),
        "page pool 100 % in use",
    ),
    "disk low": (
        lambda: changed(disk_free_bytes=10**8),
        msgspec.structs.replace(QUIET, disk_gib=1),
        "free on the disk of /run/here",
    ),
}


# --- rules --------------------------------------------------------------------------------------


def test_nothing_is_wrong_while_all_is_well() -> None:
    assert findings(BUSY, AlertLimits()) == ()


def test_every_rule_is_tried_here() -> None:
    assert set(WRONG) == {rule.name for rule in RULES}


@pytest.mark.parametrize("name", WRONG)
def test_a_rule_finds_what_it_is_for_and_leads_to_a_screen(name: str) -> None:
    board, limits, text = WRONG[name]
    found = [finding for finding in findings(board(), limits) if finding.rule == name]
    assert text in found[0].text
    assert found[0].screen in {screen for screen, _ in (PANELS | PAGES).values()}


@pytest.mark.parametrize("name", [rule.name for rule in RULES if rule.limit])
def test_a_limit_of_nought_turns_its_rule_off(name: str) -> None:
    board, _, _ = WRONG[name]
    assert [f for f in findings(board(), QUIET) if f.rule == name] == []


def test_no_step_is_no_alert_while_nothing_runs_or_the_worker_is_gone() -> None:
    limits = AlertLimits()
    later = msgspec.structs.replace(router(running=0), now=BUSY.now + 30)
    assert "no step" not in {f.rule for f in findings(later, limits)}
    views = [msgspec.structs.replace(r.view, admitted_at=BUSY.now + 29) for r in BUSY.requests]
    rows = [msgspec.structs.replace(r, view=v) for r, v in zip(BUSY.requests, views, strict=True)]
    begun = changed(now=BUSY.now + 30, requests=tuple(rows))  # after half a minute without any
    assert "no step" not in {f.rule for f in findings(begun, limits)}
    gone = changed(now=BUSY.now + 30, processes=process("worker-0", state=ProcessState.BACKOFF))
    assert "no step" not in {f.rule for f in findings(gone, limits)}


def test_a_restart_that_was_ordered_is_no_alert_nor_is_a_new_state() -> None:
    """A router that waited for a worker is ready anew, and was not restarted."""
    for row in ({"restarts": 3}, {"falls": 1, "fell_at": BUSY.now - 4000}):
        board = changed(processes=process("router", since=BUSY.now - 14, **row))
        assert "process restarted" not in {f.rule for f in findings(board, AlertLimits())}


def test_every_rule_says_what_it_means_and_what_to_do() -> None:
    for rule in RULES:
        assert rule.meaning.endswith((".", ":")) and rule.remedy.endswith(".")
        assert not rule.limit or hasattr(AlertLimits(), rule.limit)


# --- the book -----------------------------------------------------------------------------------


def full(now: float, waiting: int = 100) -> Board:
    return msgspec.structs.replace(router(waiting=waiting), now=now)


def empty_book() -> AlertBook:
    """One that does not mind that the last step is older than the boards."""
    return AlertBook(AlertLimits(no_step_seconds=0))


def test_an_alert_fires_once_is_acknowledged_cleared_and_fires_again() -> None:
    book, now = empty_book(), BUSY.now
    (fresh,) = book.update(full(now))
    assert fresh.state is AlertState.FIRING and fresh.rule.name == "long queue"
    assert book.update(full(now + 5, waiting=120)) == []
    (alert,) = book.alerts
    assert (alert.first_seen, alert.last_seen, alert.times) == (now, now + 5, 1)
    assert alert.finding.text == "120 requests waiting"
    book.acknowledge(alert.finding.key)
    assert book.firing == () and book.alerts[0].state is AlertState.ACKNOWLEDGED
    assert book.update(full(now + 6)) == []  # it stays acknowledged while it goes on
    assert book.alerts[0].state is AlertState.ACKNOWLEDGED
    book.update(full(now + 7, waiting=0))
    assert book.alerts[0].state is AlertState.CLEARED
    assert book.alerts[0].last_seen == now + 6
    book.acknowledge(alert.finding.key)
    assert book.alerts[0].state is AlertState.CLEARED
    assert book.update(full(now + 8)) == []  # it had not really gone
    assert book.alerts[0].state is AlertState.FIRING and book.alerts[0].times == 1
    book.update(full(now + 9, waiting=0))
    (again,) = book.update(full(now + 100))
    assert again.times == 2 and again.first_seen == now
    assert book.firing == book.alerts


def test_an_alert_that_is_over_says_no_age_that_has_stopped() -> None:
    book, now = empty_book(), BUSY.now
    fell = {"is_recovering": True, "state": ProcessState.STARTING, "falls": 1}
    fell |= {"fell_at": now - 7, "fall_reason": "killed by SIGKILL", "since": now - 6}
    book.update(changed(processes=process("worker-0", **fell)))
    assert "died 7 s ago" in book.alerts[0].finding.text
    back = {"falls": 1, "fell_at": now - 7, "fall_reason": "killed by SIGKILL"}
    book.update(
        msgspec.structs.replace(changed(processes=process("worker-0", **back)), now=now + 1)
    )
    book.update(msgspec.structs.replace(BUSY, now=now + 400))
    texts = {alert.finding.rule: alert.finding.text for alert in book.alerts}
    assert {alert.state for alert in book.alerts} == {AlertState.CLEARED}
    assert texts["process down"] == "worker-0 was down for 7 s (killed by SIGKILL)"
    assert texts["process restarted"] == "worker-0 died (killed by SIGKILL), restarted"


def test_a_loop_that_is_late_while_its_process_starts_is_no_alert() -> None:
    for age_s, fires in ((1.0, False), (60.0, True)):
        row = process("server", loop_lag_ms=800.0, since=BUSY.now - age_s)
        assert ("loop lag high" in names_of(changed(processes=row))) is fires


def test_what_fires_stands_before_what_is_over_and_old_ones_are_forgotten() -> None:
    book, now = empty_book(), BUSY.now
    book.update(full(now))
    book.update(msgspec.structs.replace(failed_adapter(), now=now + 1))
    assert [alert.finding.rule for alert in book.alerts] == ["adapter failed", "long queue"]
    book.update(msgspec.structs.replace(BUSY, now=now + 2))
    book.update(msgspec.structs.replace(router(running=0), now=now + 5 * 3600))
    assert book.alerts == ()


def test_rules_run_once_a_board_and_again_where_a_limit_changes() -> None:
    book, board = AlertBook(), router(waiting=100)
    found = book.findings(board)
    assert [finding.rule for finding in found] == ["long queue"]
    assert book.findings(board) is found
    book.limits = AlertLimits(queue=1000)
    assert book.findings(board) == ()


# --- on the screen ------------------------------------------------------------------------------


def settle(app: StagedApp) -> None:
    """The console has heard of the pipeline for a while: what fires from now on is new."""
    app.watch_alerts(app.store.board(app.now))
    app.advance(SETTLE_SECONDS + 1)


def fire(app: StagedApp) -> None:
    """Two requests are too many, and the disk is nearly full."""
    app.alert_book.limits = AlertLimits(queue=0.5, disk_gib=1, ttft_p99_ms=0)
    app.store.disk_free_bytes = 10**8
    board = app.store.board(app.now)
    assert board.router is not None and board.router.waiting >= 1
    app.watch_alerts(board)
    app.show()


def test_an_alert_is_a_notice_once_and_a_badge_while_it_fires() -> None:
    async def act() -> None:
        async with staged() as (app, pilot):
            settle(app)
            app.clear_notifications()
            fire(app)
            fire(app)
            await pilot.pause()
            (notice,) = app.notices
            assert notice.severity == "error" and notice.message.endswith("(and 1 more)")
            assert "▲2" in screen_text(app).splitlines()[1]
            await pilot.press("9", "A")
            app.show()
            await pilot.pause()
            assert "▲" not in screen_text(app).splitlines()[1]
            assert "△ acknowledged" in screen_text(app)

    asyncio.run(act())


def test_an_alert_that_is_older_than_the_console_is_only_counted() -> None:
    async def act() -> None:
        async with staged() as (app, pilot):
            app.clear_notifications()
            fire(app)
            await pilot.pause()
            assert app.notices == []
            assert "▲2" in screen_text(app).splitlines()[1]

    asyncio.run(act())


def test_the_notice_of_an_alert_goes_when_the_alert_does_or_its_page_is_opened() -> None:
    async def act() -> None:
        async with staged() as (app, pilot):
            settle(app)
            app.clear_notifications()
            fire(app)
            assert len(app.notices) == 1
            app.alert_book.limits = AlertLimits(queue=0, disk_gib=0, ttft_p99_ms=0)
            app.watch_alerts(app.store.board(app.now))
            assert app.notices == []
            app.advance(CALM_S + 1)  # later it is a new occurrence
            fire(app)
            assert len(app.notices) == 1
            await pilot.press("9")
            await pilot.pause()
            assert app.notices == []

    asyncio.run(act())


@pytest.mark.parametrize("size", [(80, 24), (120, 40), (200, 60)], ids=str)
def test_without_an_alert_the_page_says_whole_what_is_watched(size: tuple[int, int]) -> None:
    async def main() -> None:
        async with staged("empty", size=size, panel="Alerts") as (app, pilot):
            app.show()
            await pilot.pause()
            assert "no alerts since" in (text := screen_text(app))
            lines = app.active_panel.query_one(RulePane)._drawn
            assert not any("…" in words for line in lines for words, _ in line.spans)
            assert [rule.name for rule in RULES if rule.name not in text] == []

    asyncio.run(main())


@pytest.mark.parametrize("name", [rule.name for rule in RULES])
def test_all_that_a_rule_says_has_room_at_the_smallest_size(name: str) -> None:
    rule = next(rule for rule in RULES if rule.name == name)
    board, limits, _ = WRONG[name]
    finding = next(f for f in findings(board(), limits) if f.rule == name)
    lines = [
        units.wrap(words, 64) for words in (finding.text, rule.meaning, rule.remedy, "at", "to")
    ]
    assert sum(map(len, lines)) <= 8


def test_the_page_explains_the_selected_alert_and_enter_shows_the_evidence() -> None:
    async def act() -> None:
        async with staged() as (app, pilot):
            fire(app)
            await pilot.press("9")
            await pilot.pause()
            text = " ".join(screen_text(app).split())
            assert "disk low" in text and "Delete old run directories" in text
            assert "disk_gib = 1 in [alerts]" in text
            await pilot.press("down", "enter")
            await pilot.pause()
            assert app.active_panel.NAME == "Batch"
            app.clear_notifications()
            app.show()
            await pilot.pause()
            assert "/waiting" in screen_text(app)
            assert all(row.phase == "waiting" for row in _shown(app))

    def _shown(app: StagedApp) -> list[Any]:
        from loraconsole.console.ui.panels.batch import BatchTable

        return [row.view for row in app.query_one(BatchTable)._rows]

    asyncio.run(act())


def test_the_cursor_is_on_what_began_while_the_page_was_not_in_view() -> None:
    """But stays where it is for alerts that were read already, and while the page is in view."""

    async def act() -> None:
        async with staged() as (app, pilot):

            def at() -> str:
                row = app.query_one(AlertTable).selected
                assert row is not None
                return row.finding.rule

            async def show(limits: AlertLimits, disk: int | None) -> None:
                app.alert_book.limits, app.store.disk_free_bytes = limits, disk
                app.watch_alerts(app.store.board(app.now))
                app.show()
                await pilot.pause()

            queue = AlertLimits(queue=0.5, disk_gib=1, ttft_p99_ms=0)
            await show(queue, None)
            await pilot.press("9")
            await pilot.pause()
            assert at() == "long queue"
            await show(queue, 10**8)
            assert at() == "long queue"  # the page is in view: no row moves under the fingers
            await pilot.press("1", "9")
            await pilot.pause()
            assert at() == "long queue"
            await show(queue, None)
            await pilot.press("1")
            app.now += 100.0
            await show(queue, 10**8)
            await pilot.press("9")
            await show(queue, 10**8)  # and so it is read
            assert at() == "disk low"  # it fires anew
            await pilot.press("down")
            read = at()
            await pilot.press("1", "9")
            assert at() == read != "disk low"

    asyncio.run(act())


@pytest.mark.parametrize(("bell", "sent"), [("off", []), ("bell", ["\a"]), ("osc9", ["\x1b]9;"])])
def test_the_terminal_rings_as_the_settings_say(bell: str, sent: list[str], home: None) -> None:
    settings_path().parent.mkdir(parents=True)
    settings_path().write_text(f'bell = "{bell}"\n')

    async def act() -> list[str]:
        async with staged() as (app, _):
            written: list[str] = []
            driver = app._driver
            assert driver is not None
            app.bell = lambda: written.append("\a")  # type: ignore[method-assign]
            driver.write = written.append  # type: ignore[method-assign]
            settle(app)
            fire(app)
            return written

    written = asyncio.run(act())
    assert len(written) == len(sent)
    assert all(text.startswith(start) for text, start in zip(written, sent, strict=True))


# --- what is old is no news ---------------------------------------------------------------------

SLOW = AlertLimits(sync_wait_p99_ms=0.01, ttft_p99_ms=1, queue=0.5, no_step_seconds=0)
"""Limits that the busy scenario is above."""


def names_of(board: Board) -> set[str]:
    return {finding.rule for finding in findings(board, SLOW)}


def test_a_wait_of_steps_that_are_a_minute_old_is_no_alert() -> None:
    board = on_a_gpu(BUSY)
    last = max(step.at for step in board.steps)
    at_the_edge = msgspec.structs.replace(board, now=last + RECENT_S - 1)
    assert "sync wait high" in names_of(at_the_edge)
    assert "sync wait high" not in names_of(msgspec.structs.replace(board, now=last + RECENT_S))


def test_a_step_of_a_cpu_is_not_called_a_wait() -> None:
    assert "sync wait high" in names_of(on_a_gpu(BUSY))
    assert "sync wait high" not in names_of(BUSY)


def stopped_store() -> tuple[Store, float]:
    """A store that has heard a busy pipeline stop, and the time a while later."""
    store, scenario = Store("/run/here"), Scenario("busy", start=START)
    now = START
    for tick in range(150):
        now = START + tick * 0.2
        if tick == 100:
            scenario.stop()
        for name, message in scenario.advance(now):
            if tick < 130 or name == "router":  # the others have ended
                store.fold_message(message, now)
    return store, now


def test_a_stopped_pipeline_has_no_alerts() -> None:
    store, now = stopped_store()
    board = store.board(now)
    assert board.condition.word == "STOPPED"
    assert findings(board, SLOW) == ()
    book = AlertBook(SLOW)
    assert book.update(on_a_gpu(BUSY))
    book.update(board)
    assert book.firing == ()


def test_a_console_that_saw_the_pipeline_before_judges_the_new_one_as_a_fresh_one_does() -> None:
    store, now = stopped_store()
    again = Scenario("empty", start=now)
    again._incarnations = {name: 7_000 + n for n, name in enumerate(again._incarnations)}
    fresh = Store("/run/here")
    for tick in range(1, 20):
        now += 0.2
        for _, message in again.advance(now):
            if isinstance(message, Heartbeat) and message.name == "supervisor":
                message = msgspec.structs.replace(message, incarnation=5_555)
            store.fold_message(message, now)
            fresh.fold_message(message, now)
        assert tick < 10 or names_of(store.board(now)) == names_of(fresh.board(now)) == set()
    assert store.board(now).condition.word == "READY"
    assert store.board(now).steps == ()

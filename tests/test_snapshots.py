"""Pictures of every screen. A change of looks is seen in a diff, and by eye, before it is kept.

After a change that is meant: `pytest tests/test_snapshots.py --snapshot-update`, then look.
"""

from typing import Any

import pytest
from stage import KEYS, StagedApp
from textual.pilot import Pilot

from loraconsole.console.alerts import Limits

SMALL, HOME, LARGE = (80, 24), (120, 40), (200, 60)


async def _settle(app: StagedApp, pilot: Pilot[str]) -> None:
    await pilot.pause()
    app.show()
    await pilot.pause()


def picture(snap_compare: Any, app: StagedApp, size: tuple[int, int], *keys: str) -> None:
    """Compares the screen after some keys with the picture that is kept."""

    async def before(pilot: Pilot[str]) -> None:
        app.clear_notifications()
        for key in keys:
            await pilot.press(key)
            await _settle(app, pilot)

    assert snap_compare(app, terminal_size=size, run_before=before)


@pytest.mark.parametrize("size", [SMALL, HOME], ids=["80x24", "120x40"])
@pytest.mark.parametrize("panel", KEYS)
def test_busy(snap_compare: Any, panel: str, size: tuple[int, int]) -> None:
    picture(snap_compare, StagedApp("busy", 40.0), size, KEYS[panel])


@pytest.mark.parametrize("size", [SMALL, HOME], ids=["80x24", "120x40"])
@pytest.mark.parametrize("scenario", ["empty", "loading", "failed", None])
@pytest.mark.parametrize("panel", ["Overview", "Processes"])
def test_states(snap_compare: Any, panel: str, scenario: Any, size: tuple[int, int]) -> None:
    picture(snap_compare, StagedApp(scenario, 4.0), size, KEYS[panel])


@pytest.mark.parametrize("scenario", ["empty", "loading", "failed"])
@pytest.mark.parametrize("panel", ["Batch", "Latency", "Adapters", "Prompt", "Logs"])
def test_panels_without_work(snap_compare: Any, panel: str, scenario: Any) -> None:
    picture(snap_compare, StagedApp(scenario, 4.0), SMALL, KEYS[panel])


@pytest.mark.parametrize(
    "theme",
    [
        *("light", "high-contrast", "colour-blind", "monochrome", "terminal"),
        *("ember", "paper", "high-contrast-light", "colour-blind-light"),
    ],
)
def test_themes(snap_compare: Any, theme: str) -> None:
    picture(snap_compare, StagedApp("busy", 10.0, theme), SMALL, KEYS["Batch"])


@pytest.mark.parametrize(
    "keys",
    [
        *(("q",), ("question_mark",), ("2", "enter"), ("2", "x"), ("2", "slash", "s", "q", "l")),
        *(("4", "down", "enter"), ("4", "down", "u"), ("4", "down", "v")),
        ("4", "l", *"tax", "enter", *"/large/tax", "ctrl+n"),
        ("4", "w", *"/missing", "enter"),
    ],
    ids=[
        *("quit", "help", "request", "abort", "filter"),
        *("adapter", "unload", "verdict", "load", "plan"),
    ],
)
def test_dialogs(snap_compare: Any, keys: tuple[str, ...]) -> None:
    picture(snap_compare, StagedApp("busy", 10.0), SMALL, *keys)


@pytest.mark.parametrize("size", [SMALL, HOME, LARGE], ids=["80x24", "120x40", "200x60"])
def test_the_pool_under_the_cursor(snap_compare: Any, size: tuple[int, int]) -> None:
    picture(snap_compare, StagedApp("busy", 40.0), size, "1", "tab", "n", "n", "n", "n", "n")


@pytest.mark.parametrize("size", [SMALL, HOME], ids=["80x24", "120x40"])
@pytest.mark.parametrize("key", ["9", "comma"], ids=["alerts", "settings"])
def test_pages(
    snap_compare: Any, key: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/you/.config")  # its path is on the screen
    app = StagedApp("busy", 40.0)
    app.ledger.limits = Limits(queue=0.5, ttft_p99_ms=50.0)
    app.ledger.disk_free_bytes = 10**8
    app.alert_book.update(app.ledger.board(app.now - 400.0))
    app.alert_book.update(app.ledger.board(app.now))
    picture(snap_compare, app, size, key)


@pytest.mark.parametrize(
    "keys",
    [("2", "colon", *"unl", "tab"), ("2", "colon", *"go", "enter"), ("1", "ctrl+o")],
    ids=["complete", "error", "jump"],
)
def test_ways_to_command(snap_compare: Any, keys: tuple[str, ...]) -> None:
    picture(snap_compare, StagedApp("busy", 10.0), SMALL, *keys)


@pytest.mark.parametrize("panel", ["Overview", "Latency"])
def test_ascii(snap_compare: Any, panel: str) -> None:
    app = StagedApp("busy", 40.0)
    app.is_ascii = True
    picture(snap_compare, app, HOME, KEYS[panel])

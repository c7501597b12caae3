"""Pictures of every screen. A change of looks is seen in a diff, and by eye, before it is kept.

After a change that is meant: `pytest tests/test_snapshots.py --snapshot-update`, then look.
"""

from typing import Any

import pytest
from stage import KEYS, StagedApp
from textual.pilot import Pilot

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
    "theme", ["light", "high-contrast", "colour-blind", "monochrome", "terminal"]
)
def test_themes(snap_compare: Any, theme: str) -> None:
    picture(snap_compare, StagedApp("busy", 10.0, theme), SMALL, KEYS["Batch"])


@pytest.mark.parametrize(
    "keys",
    [
        *(("q",), ("question_mark",), ("2", "enter"), ("2", "x"), ("2", "slash", "s", "q", "l")),
        *(("4", "down", "enter"), ("4", "down", "u"), ("4", "down", "v")),
        ("4", "l", *"tax", "enter", *"/large/tax", "ctrl+n"),
        ("4", "n", *"/missing", "enter"),
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

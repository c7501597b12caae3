"""Pictures of every screen. A change of looks is seen in a diff, and by eye, before it is kept.

After a change that is meant: `pytest tests/console/ui/test_snapshots.py --snapshot-update`;
then look.
"""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pytest_textual_snapshot import SVGImageExtension
from stage import KEYS, START, StagedApp
from syrupy import SnapshotAssertion
from textual.pilot import Pilot

from loraconsole.console.state.alerts import AlertLimits
from loraconsole.pipeline.bench.results import ResultRow, RunConfig
from loraconsole.pipeline.bench.stats import Timeline, summarise

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


def _keep_results(directory: Path) -> None:
    """Three runs of one load, the second a slow one."""
    directory.mkdir(parents=True)
    for number, slow in enumerate((1.0, 1.3, 0.9)):
        lines = [
            Timeline(
                ("base", "pirate", "sql")[i % 3],
                i / 10,
                [i / 10 + (5 + k) * slow / 50 for k in range(64)],
                input_len=20,
                tokens=64,
            )
            for i in range(24)
        ]
        config = RunConfig(
            server="SmolLM2-135M-Instruct",
            workload="chat",
            parameters={"num_models": 3, "max_tokens": 64, "requests": 24},
            concurrency=8,
            slo_seconds=6.0,
            round=0,
        )
        row = ResultRow(config, summarise(lines, 4.0 * slow, concurrency=8))
        path = directory / f"{number}.jsonl"
        path.write_bytes(msgspec.json.encode(row))
        os.utime(path, (START + 4000 * number, START + 4000 * number))


@pytest.mark.parametrize("scenario", ["empty", "loading", "busy", "failed", "none"])
def test_every_screen_at_every_size(
    snapshot: SnapshotAssertion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """One console visits all screens in all sizes: starting it anew for each took minutes."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    pictures = snapshot.use_extension(SVGImageExtension)
    odd: list[Path] = []

    async def visit() -> None:
        seconds = 40.0 if scenario == "busy" else 4.0
        app = StagedApp(None if scenario == "none" else scenario, seconds)  # type: ignore[arg-type]
        if scenario == "busy":
            _keep_results(Path(os.environ["XDG_DATA_HOME"]) / "loraconsole" / "bench")
        async with app.run_test(size=SMALL) as pilot:
            for width, height in (SMALL, HOME, LARGE):
                await pilot.resize_terminal(width, height)
                for panel, key in KEYS.items():
                    await pilot.press("escape", key)
                    await _settle(app, pilot)
                    picture = app.export_screenshot(simplify=True)
                    name = f"{panel}-{width}x{height}"
                    is_same = pictures(name=name) == picture
                    if not is_same:
                        odd.append(tmp_path / f"{name}.svg")
                        odd[-1].write_text(picture)

    asyncio.run(visit())
    assert not odd, "these are not as they were: " + ", ".join(map(str, odd))


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
        *(("8", "down", "down", "x"), ("8", "down", "down", "K")),
        ("6", "n", *["down"] * 7),
    ],
    ids=[
        *("quit", "help", "request", "abort", "filter"),
        *("adapter", "unload", "verdict", "load", "plan", "stop", "signal", "bench"),
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
    app.alert_book.limits = AlertLimits(queue=0.5, ttft_p99_ms=50.0)
    app.store.disk_free_bytes = 10**8
    app.alert_book.update(app.store.board(app.now - 400.0))
    app.alert_book.update(app.store.board(app.now))
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

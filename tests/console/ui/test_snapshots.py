"""Pictures of every screen. A change of looks is seen in a diff, and by eye, before it is kept.

Most are text; at 80x24 with the style of every cell. One of each screen is an SVG image, and so
are the themes that differ most. After a change that is meant, look at the diff and the images of
`pytest tests/console/ui/test_snapshots.py --snapshot-update`.
"""

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from pictures import SvgPicture, TextPicture, screen_rows, svg_picture, text_picture
from stage import KEYS, START, StagedApp
from syrupy import SnapshotAssertion
from textual.pilot import Pilot
from textual.strip import Strip

from loraconsole.console.state.alerts import AlertLimits
from loraconsole.pipeline.bench.results import ResultRow, RunConfig
from loraconsole.pipeline.bench.stats import Timeline, summarise

SMALL, HOME, LARGE = (80, 24), (120, 40), (200, 60)
SIZES = {f"{width}x{height}": (width, height) for width, height in (SMALL, HOME, LARGE)}

Screens = dict[str, Sequence[Strip]]


class Album:
    """The pictures that are kept for a test; `show` is where one that differs is put to be seen."""

    def __init__(self, snapshot: SnapshotAssertion, show: Path) -> None:
        self._texts = snapshot.use_extension(TextPicture)
        self._images = snapshot.use_extension(SvgPicture)
        self._show = show

    def check_text(self, screens: Screens, name: str = "", *, styled: bool) -> None:
        assert text_picture(screens, styled) == self._texts(name=name or None)

    def check_images(self, images: dict[str, str]) -> None:
        """All are compared before the test fails, so that one look shows every change."""
        odd = [name for name, image in images.items() if self._images(name=name or None) != image]
        for name in odd:
            (self._show / f"{name or 'picture'}.svg").write_text(images[name])
        assert not odd, f"these differ, see {self._show}: {odd}"


@pytest.fixture
def album(snapshot: SnapshotAssertion, tmp_path: Path) -> Album:
    return Album(snapshot, tmp_path)


async def _settle(app: StagedApp, pilot: Pilot[str]) -> None:
    await pilot.pause()
    app.show()
    await pilot.pause()


def picture(
    album: Album, app: StagedApp, size: tuple[int, int], *keys: str, is_image: bool = False
) -> None:
    """Compares the screen after some keys with the picture that is kept."""

    async def main() -> None:
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            app.clear_notifications()
            for key in keys:
                await pilot.press(key)
                await _settle(app, pilot)
            if is_image:
                album.check_images({"": svg_picture(app)})
            else:
                album.check_text({"screen": screen_rows(app)}, styled=True)

    asyncio.run(main())


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


@pytest.mark.parametrize("scenario", ["empty", "loading", "busy", "failed", "recovering", "none"])
def test_every_screen_at_every_size(
    album: Album, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scenario: str
) -> None:
    """One console visits all screens in all sizes: a start for each took minutes."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))  # shown as ~
    texts: dict[str, Screens] = {name: {} for name in SIZES}
    images: dict[str, str] = {}

    async def visit() -> None:
        seconds = 40.0 if scenario in ("busy", "recovering") else 4.0
        app = StagedApp(None if scenario == "none" else scenario, seconds)  # type: ignore[arg-type]
        if scenario == "busy":
            _keep_results(Path(os.environ["XDG_DATA_HOME"]) / "loraconsole" / "bench")
        async with app.run_test(size=SMALL) as pilot:
            for name, size in SIZES.items():
                await pilot.resize_terminal(*size)
                for panel, key in KEYS.items():
                    await pilot.press("escape", key)
                    await _settle(app, pilot)
                    texts[name][panel] = screen_rows(app)
                    if scenario == "busy" and size == HOME:
                        images[f"{panel}-{name}"] = svg_picture(app)

    asyncio.run(visit())
    for name, screens in texts.items():
        album.check_text(screens, name, styled=SIZES[name] == SMALL)
    album.check_images(images)


@pytest.mark.parametrize(
    "theme",
    [
        *("light", "high-contrast", "colour-blind", "monochrome", "terminal"),
        *("ember", "paper", "high-contrast-light", "colour-blind-light"),
    ],
)
def test_themes(album: Album, theme: str) -> None:
    is_image = theme in ("light", "monochrome", "terminal")
    app = StagedApp("busy", 10.0, theme)
    picture(album, app, SMALL, KEYS["Batch"], is_image=is_image)


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
def test_dialogs(album: Album, keys: tuple[str, ...]) -> None:
    picture(album, StagedApp("busy", 10.0), SMALL, *keys)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_the_pool_under_the_cursor(album: Album, size: tuple[int, int]) -> None:
    picture(album, StagedApp("busy", 40.0), size, "1", "tab", "tab", "n", "n", "n", "n", "n")


@pytest.mark.parametrize("size", [SMALL, HOME], ids=["80x24", "120x40"])
@pytest.mark.parametrize("key", ["9", "comma"], ids=["alerts", "settings"])
def test_pages(
    album: Album, key: str, size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/home/you/.config")  # its path is on the screen
    app = StagedApp("busy", 40.0)
    app.alert_book.limits = AlertLimits(queue=0.5, ttft_p99_ms=50.0)
    app.store.disk_free_bytes = 10**8
    app.alert_book.update(app.store.board(app.now - 400.0))
    app.alert_book.update(app.store.board(app.now))
    picture(album, app, size, key)


@pytest.mark.parametrize(
    "keys",
    [("2", "colon", *"unl", "tab"), ("2", "colon", *"go", "enter"), ("1", "ctrl+o")],
    ids=["complete", "error", "jump"],
)
def test_ways_to_command(album: Album, keys: tuple[str, ...]) -> None:
    picture(album, StagedApp("busy", 10.0), SMALL, *keys)


@pytest.mark.parametrize("panel", ["Overview", "Latency"])
def test_ascii(album: Album, panel: str) -> None:
    app = StagedApp("busy", 40.0)
    app.is_ascii = True
    picture(album, app, HOME, KEYS[panel])

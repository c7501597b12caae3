"""What the screen says of its own cost, of its link, and of silence."""

import asyncio
import gc
from pathlib import Path

import pytest
from stage import StagedApp, screen_text, staged
from textual._styles_cache import StylesCache
from textual.widgets import Input
from textual.widgets._toast import ToastHolder

from loraconsole.console.commands.consoles import AttachCommand, ConsoleCommand, PlayCommand
from loraconsole.console.commands.parser import parse
from loraconsole.console.settings.settings import choose
from loraconsole.console.terminal.draw_cost import DrawMeter
from loraconsole.console.terminal.frame_pacer import FPS, THIN_FPS, FramePacer


def test_the_meter_reckons_over_the_last_seconds() -> None:
    now, cpu = 100.0, 5.0
    meter = DrawMeter(clock=lambda: now, cpu=lambda: cpu)
    assert meter.cost.frames_s == 0.0
    for _ in range(40):
        now += 0.2
        cpu += 0.01
        meter.add_bytes(1000)
        meter.add_frame(0.003)
    cost = meter.cost
    assert cost.frames_s == pytest.approx(5.0, rel=0.05)
    assert cost.bytes_s == pytest.approx(5000.0, rel=0.05)
    assert cost.cpu_fraction == pytest.approx(0.05, rel=0.05)
    assert cost.frame_ms == pytest.approx(10.0, rel=0.05)
    assert cost.lag_ms == pytest.approx(3.0)
    meter.add_frame(0.4)
    assert meter.cost.lag_ms == pytest.approx(400.0)
    for _ in range(30):  # it rests
        now += 1.0
        _ = meter.cost
    assert meter.cost.frames_s == 0.0 and meter.cost.lag_ms == 0.0
    meter.add_withheld()
    now += 1.0
    assert meter.cost.withheld_s > 0


def test_a_link_gets_the_frames_that_suit_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file's, but no more than suit ssh; what is asked for on the command line wins."""
    file = tmp_path / "console.toml"
    file.write_text("fps = 12\n")
    monkeypatch.delenv("SSH_CONNECTION", raising=False)
    assert choose(path=tmp_path / "none.toml").settings.fps == FPS
    assert choose(path=file).settings.fps == 12.0
    monkeypatch.setenv("SSH_CONNECTION", "10.0.0.2 1 10.0.0.3 22")
    chosen = choose(path=file)
    assert chosen.settings.fps == THIN_FPS <= 5.0 and chosen.settings.low_bandwidth
    assert chosen.origins["low_bandwidth"] == "SSH_CONNECTION"
    assert choose(fps=20.0, path=file).settings.fps == 20.0
    chosen = choose(low_bandwidth=False, path=file)
    assert chosen.settings.fps == 12.0 and not chosen.settings.low_bandwidth
    assert chosen.origins["low_bandwidth"] == "--no-low-bandwidth"
    file.write_text("fps = 12\nlow_bandwidth = false\n")  # who has chosen has chosen
    assert choose(path=file).settings.fps == 12.0
    monkeypatch.delenv("SSH_CONNECTION")
    chosen = choose(low_bandwidth=True, path=file)
    assert (chosen.settings.fps, chosen.origins["fps"]) == (THIN_FPS, "low_bandwidth")


@pytest.mark.parametrize("command", [["attach"], ["play", "file"], []], ids=["attach", "play", ""])
def test_the_command_line_says_yes_no_or_nothing_of_a_thin_line(command: list[str]) -> None:
    for more, wanted in (
        ([], None),
        (["--low-bandwidth"], True),
        (["--no-low-bandwidth"], False),
    ):
        record = parse([*command, *more])
        assert isinstance(record, AttachCommand | ConsoleCommand | PlayCommand)
        assert record.screen.low_bandwidth is wanted


def test_on_a_thin_line_the_rate_stands_in_the_status_line_and_plots_stand_still(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second fills one cell a row, and clears the next: all others are as they were."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "loraconsole" / "console.toml"
    file.parent.mkdir()
    file.write_text("low_bandwidth = true\n")

    def plot(app: StagedApp) -> list[str]:
        region = app.query_one("#load").region
        rows = screen_text(app).splitlines()[region.y + 1 : region.bottom - 1]
        return [row[region.x + 8 : region.right - 2] for row in rows]

    async def main() -> None:
        async with staged("busy") as (app, pilot):
            app._look_around()
            app.show()
            await pilot.pause()
            assert " 0.0 kB/s  ● live" in screen_text(app).splitlines()[0]
            app.meter.add_bytes(9_000)
            widths = []
            for _ in range(12):
                before = plot(app)
                app.advance(1.0)
                app.show()
                await pilot.pause()
                changed = {
                    x
                    for old, new in zip(before, plot(app), strict=True)
                    for x, (was, cell) in enumerate(zip(old, new, strict=True))
                    if was != cell
                }
                widths.append(len(changed))
            # Where the axis changes, the whole plot does; else half a cell of the last second too.
            assert sorted(widths)[8] <= 3 and max(widths) >= 1, widths
            app._look_around()
            app.show()
            await pilot.pause()
            assert " 0.0 kB/s" not in screen_text(app).splitlines()[0]

    asyncio.run(main())


def test_a_silent_terminal_gets_four_frames_a_second_not_every_second_tick() -> None:
    pace = FramePacer(fps=5.0)
    assert pace.period_s == 0.25
    pace.answered(0.0)
    assert pace.period_s == 0.2


def test_the_cost_stands_in_a_line_when_asked() -> None:
    async def main() -> None:
        for size in ((80, 24), (120, 40)):
            async with staged("busy", size) as (app, pilot):
                assert "frames/s" not in screen_text(app)
                await pilot.press("C")
                app.show()
                await pilot.pause()
                lines = screen_text(app).splitlines()
                assert "frames/s" in lines[-2] and "Quit" in lines[-1]
                assert len(lines[-2]) <= size[0]
                await pilot.press("C")
                await pilot.pause()
                assert "frames/s" not in screen_text(app)

    asyncio.run(main())


def test_diagnostics_tell_all_that_is_known() -> None:
    async def main() -> None:
        async with staged("busy") as (app, pilot):
            app.store.fold_message(app.board.steps[-1], app.now)
            await pilot.press("D")
            app.show()
            await pilot.pause()
            text = screen_text(app)
            for words in ("drawing", "terminal", "telemetry", "router inbox", "missed"):
                assert words in text, words
            await pilot.press("escape")

    asyncio.run(main())


def test_the_last_hour_is_a_key_away() -> None:
    async def main() -> None:
        async with staged("busy", seconds=120.0) as (app, pilot):
            await pilot.press("H")
            await pilot.pause()
            assert "throughput last hour" in screen_text(app)
            assert app.board.decode.bucket_s == 30.0
            await pilot.press("H")
            await pilot.pause()
            assert "last hour" not in screen_text(app)

    asyncio.run(main())


def test_messages_that_are_lost_are_counted() -> None:
    async def main() -> None:
        async with staged("busy") as (app, _):
            assert app.store.missed_steps == app.store.missed_lines == 0
            assert app.scenario is not None
            app.scenario.advance(app.now + 3.0)  # the console was too slow for these
            app.now += 3.0
            app.advance(1.0)
            assert app.store.missed_steps > 60 and app.store.missed_lines > 15

    asyncio.run(main())


def test_silence_is_counted_on_screen_every_second() -> None:
    async def main() -> None:
        async with staged("busy") as (app, pilot):
            app.now += 3.2  # beats stop
            app._drawn = app.store.moves
            app._drawn_at -= 1.0
            assert app._has_moved
            app.show()
            await pilot.pause()
            assert "stale 3.2 s" in screen_text(app).splitlines()[0]

    asyncio.run(main())


@pytest.mark.slow
def test_notices_leave_nothing() -> None:
    """Textual's toasts are widgets, and it keeps the lines of every one and the place of most."""

    def alive() -> int:
        gc.collect()
        return sum(isinstance(thing, StylesCache) for thing in gc.get_objects())

    async def main() -> None:
        async with staged("empty") as (app, pilot):
            before = alive()
            for number in range(12):
                app.notify(f"adapter {number} on device", timeout=0.05)
                await asyncio.sleep(0.06)
            app.notify("one more")
            await pilot.pause()
            assert [notice.message for notice in app.notices] == ["one more"]
            assert not app.screen.query(ToastHolder)
            assert alive() <= before

    asyncio.run(main())


@pytest.mark.slow
def test_a_line_that_is_closed_leaves_nothing() -> None:
    """Textual alone keeps every input that was ever opened on a screen."""

    async def main() -> None:
        async with staged("busy", panel="Batch") as (_, pilot):
            for key in ("slash", "a", "escape", "colon", "a", "escape") * 4:
                await pilot.press(key)
                await pilot.pause()
            gc.collect()
            gone = [
                thing
                for thing in gc.get_objects()
                if isinstance(thing, Input) and not thing.is_attached
            ]
            assert len(gone) <= 3  # the last ones, until the panel is laid out anew

    asyncio.run(main())

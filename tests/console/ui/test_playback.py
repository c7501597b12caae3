"""A recording on the screen: never live, its position in the header, moved by keys, no orders."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from stage import played, record_shift, screen_text, wait
from textual.pilot import Pilot

from loraconsole.console.commands.read_only import CHANGES
from loraconsole.console.state.playback import (
    PlaybackView,
    clock_text,
    parse_clock,
    playback_text,
)
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.line_commands import all_commands
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.errors import OperatorError

Act = Callable[[ConsoleApp, Pilot[str], list[float]], Awaitable[None]]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two minutes of a busy pipeline."""
    return record_shift(tmp_path_factory.mktemp("recording") / "shift.rec", 120)


def play(path: Path, act: Act, size: tuple[int, int] = (120, 40)) -> None:
    """Plays it by a clock that only `act` moves: its last argument holds the seconds."""
    seconds = [0.0]

    async def main() -> None:
        async with played(path, lambda: seconds[0], size) as (app, pilot):
            await act(app, pilot, seconds)

    asyncio.run(main())


def header(app: ConsoleApp) -> str:
    return screen_text(app).splitlines()[0]


async def header_has(app: ConsoleApp, *parts: str) -> None:
    await wait(lambda: all(part in header(app) for part in parts))


@pytest.mark.slow
def test_keys_move_it_and_the_header_says_where_it_stands(path: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str], seconds: list[float]) -> None:
        await header_has(app, " RECORDING ", "▶ 0:00 of 1:59", "READY")
        seconds[0] = 7.0
        await header_has(app, "▶ 0:07 of 1:59")
        for key, shown in (
            ("right_square_bracket", "0:17"),
            ("right_curly_bracket", "1:17"),
            ("left_square_bracket", "1:07"),
            ("left_curly_bracket", "0:07"),
            ("left_curly_bracket", "0:00"),
        ):
            await pilot.press(key)
            await header_has(app, f"▶ {shown} of 1:59")
        await pilot.press("greater_than_sign", "greater_than_sign")
        await header_has(app, "0:00 of 1:59 x4")
        seconds[0] += 5.0
        await header_has(app, "▶ 0:20 of 1:59 x4")
        await pilot.press("P")
        await header_has(app, "‖ 0:20 of 1:59")
        assert "Resume" in screen_text(app).splitlines()[-1]
        seconds[0] += 50.0
        await pilot.press("ctrl+end")
        await header_has(app, "■ end 1:59 of 1:59")
        assert "live" not in header(app) and "READ-ONLY" not in header(app)
        assert app.store.board(app.clock()).events[-1].text == "the recording ends here"
        await pilot.press("ctrl+home", "less_than_sign", "P")
        await header_has(app, "▶ 0:00 of 1:59 x2")

    play(path, act)


def test_at_80_columns_the_position_is_whole(path: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str], seconds: list[float]) -> None:
        await header_has(app, "▶ 0:00/1:59", "RECORDING")

    play(path, act, (80, 24))


def test_orders_are_not_offered_and_the_refusal_names_the_recording(path: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str], seconds: list[float]) -> None:
        refused = {name for name, found in all_commands(app).items() if found.is_refused}
        assert {"load", "unload", "abort", "restart", "drain", "down"} <= refused
        offered = set()
        for key in "2345678":
            await pilot.press("escape", key)
            await pilot.pause()
            offered |= {
                active.binding.id
                for active in app.screen.active_bindings.values()
                if active.enabled and not app.refuses(active.binding.id)
            }
        assert not offered & {key for keys in CHANGES.values() for key in keys}
        assert "plan" not in offered  # nothing behind a recording answers
        await pilot.press("escape", "8", "j", "j", "r")
        await wait(lambda: "A recording is read-only" in screen_text(app))
        assert "--read-only" not in screen_text(app)

    play(path, act)


def test_the_command_line_moves_it_to_a_time(path: Path) -> None:
    async def act(app: ConsoleApp, pilot: Pilot[str], seconds: list[float]) -> None:
        for text, shown in (("1:30", "1:30"), ("-0:20", "1:10"), ("+5", "1:15"), ("9:00", "1:59")):
            all_commands(app)["seek"].run([text])
            await header_has(app, f" {shown} of 1:59")
        with pytest.raises(OperatorError, match="'soon' is not a time"):
            app.seek_to("soon")

    play(path, act)


def test_a_pipeline_has_no_keys_of_a_recording() -> None:
    async def main() -> None:
        app = ConsoleApp(Config(run="/run/loraconsole"))
        async with app.run_test(size=(120, 40)) as pilot:
            await pilot.pause()
            known = {active.binding.id for active in app.screen.active_bindings.values()}
            assert "seek-back" not in known and "pause" in known
            assert "seek" not in all_commands(app)
            with pytest.raises(OperatorError, match="not a recording"):
                app.seek_to("1:00")

    asyncio.run(main())


def test_times_are_written_and_read_as_a_player_does() -> None:
    assert [clock_text(s) for s in (0, 59.9, 60, 3599, 3661, -1)] == [
        "0:00",
        "0:59",
        "1:00",
        "59:59",
        "1:01:01",
        "0:00",
    ]
    assert [parse_clock(text) for text in ("90", "3:07", "1:03:07")] == [90.0, 187.0, 3787.0]
    for text in ("", "x", "1:2:3:4", "-1", "1.5"):
        with pytest.raises(ValueError, match="is not a time"):
            parse_clock(text)
    assert playback_text(PlaybackView(5.0, 60.0, is_whole=False)) == "▶ 0:05 of 1:00…"
    assert playback_text(PlaybackView(5.0, 60.0, is_seeking=True)) == "» seeking 0:05 of 1:00"
    assert playback_text(PlaybackView(5.0, 60.0, speed=0.5), is_short=True) == "▶ 0:05/1:00 x0.5"

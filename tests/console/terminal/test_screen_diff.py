"""The output stage: the terminal shows what Textual meant, with fewer bytes; and the pacing."""

import asyncio
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte
import pytest
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual._compositor import ChopsUpdate, LayoutUpdate
from textual.geometry import Region
from textual.pilot import Pilot
from textual.strip import Strip

from loraconsole.console.client.answer import Answer
from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.terminal.frame_pacer import LOST_SECONDS, FramePacer
from loraconsole.console.terminal.screen_diff import ScreenDiff
from loraconsole.console.terminal.terminal_app import RAW_OUTPUT
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.panels.answer import AnswerPane
from loraconsole.pipeline.config import Config

WIDTH, HEIGHT = 40, 6
STYLES = [
    Style.parse(words)
    for words in (
        "red",
        "bold green on blue",
        "reverse",
        "italic #aabbcc",
        "none",
        "dim on #102030",
    )
]
TEXTS = ["plain text", "━━━╸──", "⣿⣀⠁", "日本語", "é e\u0301", "👩\u200d🚀 fly", "x", "   "]
CONSOLE = Console(force_terminal=True, color_system="truecolor", width=WIDTH)


class Terminal:
    """A terminal that reads what the console writes."""

    def __init__(self, width: int = WIDTH, height: int = HEIGHT) -> None:
        self.screen = pyte.Screen(width, height)
        self._stream = pyte.Stream(self.screen)

    def write(self, sequence: str) -> None:
        # pyte prints what it does not know; hyperlinks are of no matter here.
        self._stream.feed(re.sub(r"\x1b\]8;[^\x1b]*\x1b\\", "", sequence))

    @property
    def cells(self) -> list[list[tuple[Any, ...]]]:
        buffer = self.screen.buffer
        return [
            [tuple(buffer[y][x])[:8] for x in range(self.screen.columns)]
            for y in range(self.screen.lines)
        ]


def random_strip(chance: random.Random, width: int, texts: list[str]) -> Strip:
    segments = []
    for _ in range(chance.randrange(1, 5)):
        segments.append(Segment(chance.choice(texts), chance.choice(STYLES)))
    return Strip(segments).adjust_cell_length(width, chance.choice(STYLES))


def chops_of(lines: dict[int, dict[int, Strip | None]], ends: list[int]) -> ChopsUpdate:
    chops = [lines.get(y, dict.fromkeys([0, *ends[:-1]])) for y in range(HEIGHT)]
    return ChopsUpdate(chops, [(y, 0, WIDTH) for y in sorted(lines)], [ends] * HEIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("texts", [TEXTS[:3], TEXTS[:4]], ids=["narrow", "wide"])
def test_a_thousand_updates_show_what_whole_repaints_show(seed: int, texts: list[str]) -> None:
    """The memory's frames on one terminal, the same lines written whole on another."""
    chance = random.Random(seed)
    memory, lean, whole = ScreenDiff(), Terminal(), Terminal()
    middle = 20
    for _ in range(50):
        if chance.random() < 0.1:
            strips = [[random_strip(chance, WIDTH, texts)] for _ in range(HEIGHT)]
            update: ChopsUpdate | LayoutUpdate = LayoutUpdate(strips, Region(0, 0, WIDTH, HEIGHT))
        else:
            lines: dict[int, dict[int, Strip | None]] = {}
            for y in chance.sample(range(HEIGHT), chance.randrange(1, HEIGHT)):
                right = random_strip(chance, WIDTH - middle, texts)
                left = random_strip(chance, middle, texts) if chance.random() < 0.7 else None
                lines[y] = {0: left, middle: right}
            update = chops_of(lines, [middle, WIDTH])
        lean.write(memory.frame(update, CONSOLE, WIDTH))
        whole.write(update.render_segments(CONSOLE))
        known = [line.cells for line in memory._lines]
        for y, (left_cells, right_cells) in enumerate(zip(lean.cells, whole.cells, strict=True)):
            for x, (ours, theirs) in enumerate(zip(left_cells, right_cells, strict=True)):
                if y < len(known) and known[y][x] is not None:
                    assert ours == theirs, (y, x)


def test_an_unchanged_frame_is_no_byte() -> None:
    memory = ScreenDiff()
    strip = Strip([Segment("hello", STYLES[0])], 5)
    update = LayoutUpdate([[strip]], Region(0, 0, 5, 1))
    assert memory.frame(update, CONSOLE, 5) != ""
    again = LayoutUpdate([[Strip([Segment("hello", STYLES[0])], 5)]], Region(0, 0, 5, 1))
    assert memory.frame(again, CONSOLE, 5) == ""
    memory.forget()
    assert memory.frame(again, CONSOLE, 5) != ""


def test_one_changed_figure_costs_a_few_bytes() -> None:
    memory = ScreenDiff()

    def frame(text: str) -> str:
        return memory.frame(
            LayoutUpdate([[Strip([Segment(text, STYLES[3])], len(text))]], Region(0, 0, 40, 1)),
            CONSOLE,
            40,
        )

    first, second = (
        frame("request 17   128.4 tok/s   running"),
        frame("request 17   128.9 tok/s   running"),
    )
    assert len(second) < len(first)
    assert "9" in second and "request" not in second and "running" not in second


def test_lines_that_move_name_a_colour_once_and_a_whole_screen_is_in_reading_order() -> None:
    def strips(number: int) -> list[Strip]:
        stamp, text = f"12:00:0{number} ", f"admitted {number}"
        return [
            Strip([Segment(stamp, STYLES[3]), Segment(text, STYLES[5])], 20) for _ in range(HEIGHT)
        ]

    memory, lean = ScreenDiff(), Terminal()
    whole = LayoutUpdate([[strip] for strip in strips(1)], Region(0, 0, 20, HEIGHT))
    first = memory.frame(whole, CONSOLE, WIDTH)
    assert "12:00:01 admitted 1" in re.sub(r"\x1b\[[0-9;]*m", "", first)
    moved = chops_of({y: {0: strip} for y, strip in enumerate(strips(2))}, [WIDTH])
    second = memory.frame(moved, CONSOLE, WIDTH)
    assert second.count("38;2;170;187;204") == 1 and first.count("38;2;170;187;204") == HEIGHT
    lean.write(first + second)
    assert lean.screen.display[HEIGHT - 1].rstrip() == "12:00:02 admitted 2"


def test_a_terminal_without_colours_gets_none() -> None:
    plain = Console(force_terminal=True, color_system=None)
    update = LayoutUpdate([[Strip([Segment("x", STYLES[1])], 1)]], Region(0, 0, 1, 1))
    assert "38" not in ScreenDiff().frame(update, plain, 1)


def test_the_switch_turns_it_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ConsoleApp(Config(run=str(tmp_path))).is_diffed
    monkeypatch.setenv(RAW_OUTPUT, "1")
    assert not ConsoleApp(Config(run=str(tmp_path))).is_diffed


@pytest.mark.slow
def test_the_whole_console_looks_the_same_through_the_stage(tmp_path: Path) -> None:
    """Live panels, a theme change, dialogs, toasts: the diffed terminal against a full repaint."""
    asyncio.run(_drive(tmp_path))


async def _drive(tmp_path: Path) -> None:
    scenario = Scenario("busy", rows=20)
    now = scenario._start
    app = ConsoleApp(Config(run=str(tmp_path)), clock=lambda: now)
    memory, terminal = ScreenDiff(), Terminal(120, 40)
    plain: Callable[..., None] = app._display

    def display(screen: Any, renderable: Any) -> None:
        if isinstance(renderable, ChopsUpdate | LayoutUpdate):
            terminal.write(memory.frame(renderable, app.console, 120))
        plain(screen, renderable)

    app._display = display  # type: ignore[method-assign]

    async def check(pilot: Pilot[str]) -> None:
        await pilot.pause()
        full = Terminal(120, 40)
        update = app.screen._compositor.render_full_update()
        full.write(update.render_segments(app.console))
        different = [
            (x, y, ours, theirs)
            for y, (mine, other) in enumerate(zip(terminal.cells, full.cells, strict=True))
            for x, (ours, theirs) in enumerate(zip(mine, other, strict=True))
            if ours != theirs
        ]
        assert not different, different[:5]

    async with app.run_test(size=(120, 40), notifications=True) as pilot:
        for keys in (
            *(
                "2",
                "down",
                "3",
                "question_mark",
                "escape",
                "t",
                "4",
                "t",
                "7",
                "8",
                "enter",
                "escape",
            ),
            *("q", "escape", "1", "ctrl+p", "escape", "5", "a", "b", "escape", "2", "slash", "s"),
        ):
            await pilot.press(keys)
            now += 0.4
            for _, message in scenario.advance(now):
                app.store.fold_message(message, now)
            app.paint(app.store.board(now))
            await check(pilot)
        app.notify("worker-0 is back", title="supervisor")
        await check(pilot)
        # Each in a box of its own, each drawn alone: its neighbour is not asked for its lines.
        await pilot.press("escape", "5")
        boxes = [AnswerPane(Answer(name, name)) for name in ("left", "right")]
        space = app.query_one("#answers")
        space.styles.grid_size_columns = 2
        await space.remove_children()
        await space.mount(*boxes)
        await check(pilot)
        for box in boxes:
            box.answer.add("Hello")
            box.paint()
            await check(pilot)


# --- pacing -------------------------------------------------------------------------------------


def test_one_frame_is_in_flight_on_a_terminal_that_answers() -> None:
    pace = FramePacer(fps=10)
    pace.answered(0.0)  # Textual's own question at the start
    assert pace.may_paint(1.0, 0)
    pace.painted(1.0)
    pace.asked(1.0)
    assert not pace.may_paint(1.4, 0)
    pace.answered(1.5)
    assert pace.may_paint(1.5, 0)
    assert pace.round_trip_s == pytest.approx(0.5)


def test_a_lost_answer_does_not_stop_the_picture_for_ever() -> None:
    pace = FramePacer(fps=10)
    pace.answered(0.0)
    pace.asked(1.0)
    assert not pace.may_paint(1.0 + LOST_SECONDS - 0.1, 0)
    assert pace.may_paint(1.0 + LOST_SECONDS + 0.1, 0)


def test_a_silent_terminal_gets_fewer_frames_and_none_while_it_is_behind() -> None:
    pace = FramePacer(fps=10)
    pace.painted(1.0)
    assert not pace.may_paint(1.1, 0)
    assert pace.may_paint(1.26, 0)
    assert not pace.may_paint(1.26, 9)

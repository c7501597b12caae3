"""Theme files: all that are shipped can be read by people, and broken ones say what is wrong."""

import asyncio
import itertools
import math
from pathlib import Path

import pytest
from rich.cells import cell_len
from rich.color import Color as RichColor
from rich.style import Style
from stage import StagedApp, screen_text, wait
from textual.color import Color
from textual.theme import Theme

from loraconsole.console.paths import user_themes
from loraconsole.console.settings.theme_files import Colors, ThemeFile, ThemeShelf
from loraconsole.console.settings.toml_document import Problem
from loraconsole.console.text.ascii import plain
from loraconsole.console.ui.app import ConsoleApp
from loraconsole.console.ui.widgets.styles import GROUNDS, STYLE_NAMES
from loraconsole.pipeline.config import Config

SHIPPED = [
    *("dark", "colour-blind", "colour-blind-light", "ember", "high-contrast"),
    *("high-contrast-light", "light", "monochrome", "paper", "terminal"),
]
SHIPPED_SORTED = sorted(SHIPPED)
SHAPES = {
    *("faint", "border", "border-focus", "rest", "peak", "prefill", "pool-kv", "pool-adapters"),
    *(f"heat-{level}" for level in range(1, 6)),
    *(ink for ink in STYLE_NAMES if ink.startswith("part-")),
}
"""Inks of lines and areas; the rest is text."""
THREE = '[colors]\nforeground = "#eeeeee"\nbackground = "#101010"\nprimary = "#60a0ff"\n'


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user_themes().mkdir(parents=True)
    return user_themes()


def read() -> tuple[dict[str, Theme], list[Problem]]:
    shelf = ThemeShelf()
    assert shelf.refresh()
    return shelf.themes, shelf.problems


def test_the_shipped_themes_are_all_there_and_whole() -> None:
    themes, problems = read()
    assert sorted(themes) == SHIPPED_SORTED and next(iter(themes)) == "dark"
    assert problems == []


def contrast(style: Style) -> float:
    """WCAG contrast of a text with its ground."""

    def luminance(color: RichColor | None) -> float:
        assert color is not None and color.triplet is not None
        channels = [part / 255 for part in color.triplet]
        red, green, blue = (
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
            for part in channels
        )
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    one, other = luminance(style.color), luminance(style.bgcolor)
    return (max(one, other) + 0.05) / (min(one, other) + 0.05)


def inks_of(theme: str, run: Path) -> dict[tuple[str, str], Style]:
    async def resolve() -> dict[tuple[str, str], Style]:
        app = ConsoleApp(Config(run=str(run)), theme=theme)
        async with app.run_test():
            grounds = ("", *GROUNDS)
            return {(i, g): app.text_styles.style(i, g) for i in STYLE_NAMES for g in grounds}

    return asyncio.run(resolve())


@pytest.mark.parametrize("theme", [name for name in SHIPPED if name != "terminal"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(theme: str, tmp_path: Path) -> None:
    least = 7.0 if theme.startswith("high-contrast") else 4.5
    for (ink, ground), style in inks_of(theme, tmp_path).items():
        if ink not in SHAPES:
            assert contrast(style) >= least, (ink, ground, round(contrast(style), 2))


SCENES = (
    *(("1",), ("2", "slash"), ("escape", "3"), ("5",), ("escape", "4", "l"), ("escape", "q")),
    ("escape", "colon", "l"),
)
"""Keys that lead from screen to screen and dialog to dialog."""


@pytest.mark.slow
@pytest.mark.parametrize("theme", [name for name in SHIPPED if name != "terminal"])
def test_every_letter_on_every_screen_can_be_read(theme: str) -> None:
    """Whatever drew it, the console or a widget of Textual's."""

    def faint(app: StagedApp) -> list[tuple[str, float]]:
        found = []
        for strip in app.screen._compositor.render_strips():
            for text, style, _ in strip:
                is_text = any(map(str.isalnum, text))
                if is_text and style and contrast(style) < 4.5:
                    found.append((text, round(contrast(style), 2)))
        return found

    async def look() -> None:
        app = StagedApp("busy", 10.0, theme)
        async with app.run_test(size=(120, 40)) as pilot:
            for keys in SCENES:
                await pilot.press(*keys)
                app.show()
                await pilot.pause()
                assert faint(app) == [], keys

    asyncio.run(look())


@pytest.mark.parametrize("theme", [name for name in SHIPPED if name != "terminal"])
def test_plots_stand_out_from_their_ground(theme: str, tmp_path: Path) -> None:
    for (ink, ground), style in inks_of(theme, tmp_path).items():
        if ink.startswith(("heat", "part", "pool", "prefill")) and not ground:
            assert contrast(style) >= 3.0, (ink, round(contrast(style), 2))


@pytest.mark.parametrize("theme", [n for n in SHIPPED if n not in ("monochrome", "terminal")])
def test_eight_adapters_have_eight_colours(theme: str, tmp_path: Path) -> None:
    inks = inks_of(theme, tmp_path)
    colours = {str(inks[f"adapter-{n}", ""].color) for n in range(1, 9)}
    assert len(colours) == 8


def test_the_terminals_own_palette_is_sent_as_numbers(tmp_path: Path) -> None:
    for style in inks_of("terminal", tmp_path).values():
        for color in (style.color, style.bgcolor):
            assert color is None or color.is_system_defined or color.is_default


def test_without_colour_nothing_is_coloured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")

    async def resolve() -> tuple[str, list[Style]]:
        app = ConsoleApp(Config(run=str(tmp_path)))
        async with app.run_test():
            return app.theme, [
                app.text_styles.style(ink, ground)
                for ink in STYLE_NAMES
                for ground in ("", "cursor")
            ]

    theme, styles = asyncio.run(resolve())
    assert theme == "monochrome"
    assert all(style.color is None or style.color.is_default for style in styles)
    assert any(style.reverse for style in styles)  # the cursor is still to be seen


def test_a_users_file_is_read_and_may_be_small(config_home: Path) -> None:
    (config_home / "mine.toml").write_text('name = "mine"\n' + THREE)
    themes, problems = read()
    assert "mine" in themes and problems == []
    assert Color.parse(themes["mine"].variables["ink-dim"]) != Color.parse("#eeeeee")


@pytest.mark.parametrize(
    ("text", "line", "why"),
    [
        ("name = ", 1, "Invalid value"),
        ('name = "x"\n', None, "missing required field `colors`"),
        ('name = "x"\n' + THREE.replace("#60a0ff", "blueish"), 5, "'blueish' is not a colour"),
        ('name = "x"\nfont = "big"\n' + THREE, 2, "unknown field `font`"),
        ('name = "x"\n' + THREE + "border = 3\n", 6, "unknown field `border`"),
        ('name = "x"\n' + THREE + "success = 3\n", 6, "colors.success: expected `str | null`"),
        ('name = "x"\n' + THREE + '[inks]\nheat = ["#111111"]\n', 7, "heat: needs 5 colours, 1"),
        ('name = "x"\n' + THREE + '[inks]\nparts = ["#1", "no"]\n', 7, "needs 5 colours, 2"),
        ('name = "x"\nansi = true\n' + THREE, None, "ansi-background"),
        ('name = "x"\n' + THREE + '[variables]\nborder = "wide"\n', 7, "'wide' is not a colour"),
    ],
)
def test_a_broken_file_says_what_is_wrong_and_in_which_line(
    config_home: Path, text: str, line: int | None, why: str
) -> None:
    (config_home / "bad.toml").write_text(text)
    themes, (problem,) = read()
    assert sorted(themes) == SHIPPED_SORTED
    assert problem.path.endswith("bad.toml") and why in problem.what
    assert problem.line == line


def test_a_text_that_is_hard_to_read_is_a_warning_and_the_theme_is_used(config_home: Path) -> None:
    text = 'name = "grey"\n' + THREE + 'warning = "#404040"\nsuccess = "#90c090"\n'
    (config_home / "grey.toml").write_text(text)
    themes, (problem,) = read()
    assert "grey" in themes
    assert problem.line == 6 and "warning is hard to read on" in problem.what
    assert "text needs 4.5" in problem.what


def test_a_file_that_is_written_to_is_read_again_and_a_wrong_one_keeps_what_it_was(
    config_home: Path,
) -> None:
    shelf = ThemeShelf()
    shelf.refresh()
    assert not shelf.refresh()  # nothing was written to
    mine = config_home / "mine.toml"
    mine.write_text('name = "mine"\n' + THREE)
    assert shelf.refresh() and shelf.themes["mine"].primary == "#60a0ff"
    mine.write_text('name = "mine"\n' + THREE.replace("#60a0ff", "#ffa0ff"))
    assert shelf.refresh() and shelf.themes["mine"].primary == "#ffa0ff"
    mine.write_text('name = "mine"\n' + THREE.replace("#60a0ff", "oops"))
    assert shelf.refresh() and shelf.themes["mine"].primary == "#ffa0ff"
    assert len(shelf.problems) == 1
    mine.unlink()
    assert shelf.refresh() and "mine" not in shelf.themes and shelf.problems == []


def test_the_screen_changes_with_its_theme_file(config_home: Path, tmp_path: Path) -> None:
    mine = config_home / "mine.toml"
    mine.write_text('name = "mine"\n' + THREE)

    async def colours() -> tuple[str, str]:
        app = ConsoleApp(Config(run=str(tmp_path)), theme="mine")
        async with app.run_test() as pilot:
            before = str(app.text_styles.style("brand").color)
            mine.write_text('name = "mine"\n' + THREE.replace("#60a0ff", "#ff0000"))
            app._look_around()
            await pilot.pause()
            return before, str(app.text_styles.style("brand").color)

    before, after = asyncio.run(colours())
    assert "#60a0ff" in before and "#60a0ff" not in after


MACHADO = {
    "protan": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deutan": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
    "tritan": ((1.256, -0.077, -0.179), (-0.078, 0.931, 0.148), (0.005, 0.691, 0.304)),
}
"""Machado, Oliveira and Fernandes 2009: what is left of linear RGB without one kind of cones."""


def lab(color: Color, cones: str) -> tuple[float, float, float]:
    """CIE L*a*b* of what a person without these cones sees."""
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in color.normalized]
    seen = [sum(k * c for k, c in zip(row, linear, strict=True)) for row in MACHADO[cones]]
    r, g, b = (min(1.0, max(0.0, part)) for part in seen)
    x = (0.4125 * r + 0.3576 * g + 0.1804 * b) / 0.9505
    y = 0.2127 * r + 0.7152 * g + 0.0722 * b
    z = (0.0193 * r + 0.1192 * g + 0.9503 * b) / 1.0888
    fx, fy, fz = (t ** (1 / 3) if t > 0.008856 else 7.787 * t + 16 / 116 for t in (x, y, z))
    return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)


@pytest.mark.parametrize("cones", MACHADO)
@pytest.mark.parametrize("theme", ["colour-blind", "colour-blind-light"])
def test_states_and_adapters_differ_for_every_kind_of_colour_vision(theme: str, cones: str) -> None:
    found = read()[0][theme]
    states = [str(found.success), str(found.warning), str(found.error)]
    adapters = [found.variables[f"ink-adapter-{n}"] for n in range(1, 9)]
    for colours, least in ((states, 20.0), (adapters, 15.0)):
        seen = [lab(Color.parse(colour), cones) for colour in colours]
        assert min(math.dist(a, b) for a, b in itertools.combinations(seen, 2)) > least


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["dark", "terminal"])
@pytest.mark.parametrize("keys", [("q",), ("question_mark",), ("ctrl+p",), ("ctrl+o",)])
def test_what_is_behind_a_dialog_stays_to_be_seen(theme: str, keys: tuple[str, ...]) -> None:
    """As it was, so that it need not be sent."""

    async def look() -> None:
        app = StagedApp("busy", 10.0, theme)
        async with app.run_test(size=(100, 30)) as pilot:
            await pilot.press("2")
            await pilot.pause()
            (before, *_) = app.screen._compositor.render_strips()
            await pilot.press(*keys)
            await pilot.pause()
            assert app.screen.is_modal
            (behind, *_) = app.screen._compositor.render_strips()
            assert behind == before and "tok/s" in behind.text

    asyncio.run(look())


# --- in plain ASCII -----------------------------------------------------------------------------


def test_in_ascii_a_drawing_keeps_its_cells_and_letters_stay() -> None:
    drawn = "╭─ ● é 日本 ⣿⠁⡀⠛ 🚀 … ▇▇░ ─╮"
    assert plain(drawn) == "+- * é 日本 #'.\" ?? ~ ##. -+"
    assert cell_len(plain(drawn)) == cell_len(drawn)
    of_textual = "🔎 • ▪ ⭑ ‣ \N{HYPHEN BULLET} ▊▔▎▌"
    assert plain(of_textual) == ">  * - * > - #-||"
    assert cell_len(plain(of_textual)) == cell_len(of_textual)


@pytest.mark.slow
def test_with_ascii_nothing_else_is_on_the_screen(config_home: Path) -> None:
    """Every screen and every dialog, Textual's own boxes, bars and marks among what they show."""
    (config_home.parent / "console.toml").write_text("ascii = true\n")
    more = {
        "Overview": ("question_mark", "D", "ctrl+p", "ctrl+o", "q", "C"),
        "Batch": ("enter", "x", "slash d", "colon u n"),
        "Adapters": ("l", "l tab tab space", "w", "u", "v", "enter"),
        "Prompt": ("h i enter", "ctrl+r"),
        "Bench": ("n", "o"),
        "Logs": ("enter", "s r"),
        "Processes": ("r", "s"),
    }

    async def tour(size: tuple[int, int]) -> dict[str, str]:
        app = StagedApp("busy", 10.0)
        found = {}
        async with app.run_test(size=size, notifications=True) as pilot:

            async def see(name: str) -> None:
                app.show()
                await pilot.pause()
                found[name] = screen_text(app)

            app.notify("worker-0 is back", title="supervisor")
            for name in app.screen_names:
                await app.run_action(f"show('{name}')")
                await see(name)
                for keys in more.get(name, ()):
                    await pilot.press(*keys.split())
                    await see(f"{name} {keys}")
                    while app.screen.is_modal:
                        await pilot.press("escape")
                    await pilot.press("escape")
        return found

    for size in ((80, 24), (120, 40)):
        found = asyncio.run(tour(size))
        for name, screen in found.items():
            assert screen.isascii(), (name, {c for c in screen if not c.isascii()})
    assert "enter Open" in found["Batch"] and "[X]" in found["Adapters l tab tab space"]
    assert len(set(found.values())) > 24  # each of them is another


def test_a_broken_file_names_itself_in_a_toast(config_home: Path, tmp_path: Path) -> None:
    (config_home / "bad.toml").write_text("name = 1")

    async def toasts() -> list[str]:
        app = ConsoleApp(Config(run=str(tmp_path)))
        async with app.run_test():
            await wait(lambda: len(app.notices) > 0)
            return [notification.message for notification in app.notices]

    messages = asyncio.run(toasts())
    assert any("bad.toml" in message for message in messages)


def test_what_a_theme_leaves_out_follows_from_its_three_colours() -> None:
    colors = Colors(foreground="#ffffff", background="#000000", primary="#8888ff")
    theme = ThemeFile(name="x", colors=colors, dark=False).theme()
    assert theme.name == "x" and not theme.dark
    assert {f"ink-heat-{n}" for n in range(1, 6)} <= set(theme.variables)
    assert {f"ink-adapter-{n}" for n in range(1, 9)} <= set(theme.variables)

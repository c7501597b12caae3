"""Theme files: all that are shipped can be read by people, and broken ones say what is wrong."""

import asyncio
from pathlib import Path

import pytest
from rich.color import Color as RichColor
from rich.style import Style
from textual.color import Color

from loraconsole.console.app import ConsoleApp
from loraconsole.console.inks import GROUNDS, INKS
from loraconsole.console.theme import Colors, ThemeFile, read_themes, user_directory
from loraconsole.pipeline.config import Config

SHIPPED = ["dark", "colour-blind", "high-contrast", "light", "monochrome", "terminal"]
SHAPES = {
    *("faint", "border", "border-focus", "rest", "peak", "prefill", "pool-kv", "pool-adapters"),
    *(f"heat-{level}" for level in range(1, 6)),
    *(ink for ink in INKS if ink.startswith("part-")),
}
"""Inks of lines and areas; the rest is text."""
THREE = '[colors]\nforeground = "#eeeeee"\nbackground = "#101010"\nprimary = "#60a0ff"\n'


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    user_directory().mkdir(parents=True)
    return user_directory()


def test_the_shipped_themes_are_all_there_and_whole() -> None:
    themes, broken = read_themes()
    assert list(themes) == SHIPPED
    assert broken == []


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
            return {(i, g): app.inks.style(i, g) for i in INKS for g in grounds}

    return asyncio.run(resolve())


@pytest.mark.parametrize("theme", [name for name in SHIPPED if name != "terminal"])
def test_every_text_has_a_contrast_of_at_least_four_and_a_half(theme: str, tmp_path: Path) -> None:
    least = 7.0 if theme == "high-contrast" else 4.5
    for (ink, ground), style in inks_of(theme, tmp_path).items():
        if ink not in SHAPES:
            assert contrast(style) >= least, (ink, ground, round(contrast(style), 2))


@pytest.mark.parametrize("theme", [name for name in SHIPPED if name != "terminal"])
def test_plots_stand_out_from_their_ground(theme: str, tmp_path: Path) -> None:
    for (ink, ground), style in inks_of(theme, tmp_path).items():
        if ink.startswith(("heat", "part", "pool", "prefill")) and not ground:
            assert contrast(style) >= 3.0, (ink, round(contrast(style), 2))


@pytest.mark.parametrize("theme", ["dark", "light", "high-contrast", "colour-blind"])
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
                app.inks.style(ink, ground) for ink in INKS for ground in ("", "cursor")
            ]

    theme, styles = asyncio.run(resolve())
    assert theme == "monochrome"
    assert all(style.color is None or style.color.is_default for style in styles)
    assert any(style.reverse for style in styles)  # the cursor is still to be seen


def test_a_users_file_is_read_and_may_be_small(config_home: Path) -> None:
    (config_home / "mine.toml").write_text('name = "mine"\n' + THREE)
    themes, broken = read_themes()
    assert "mine" in themes and broken == []
    assert Color.parse(themes["mine"].variables["ink-dim"]) != Color.parse("#eeeeee")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("name = ", "Invalid value"),
        ('name = "x"\n', "colors"),
        ('name = "x"\n' + THREE.replace("#60a0ff", "blueish"), "'blueish' is not a colour"),
        ('name = "x"\nfont = "big"\n' + THREE, "font"),
        ('name = "x"\n' + THREE + '[inks]\nheat = ["#111111"]\n', "heat needs 5 colours, 1"),
        ('name = "x"\nansi = true\n' + THREE, "ansi-background"),
        ('name = "x"\n' + THREE + '[variables]\nborder = "wide"\n', "'wide' is not a colour"),
    ],
)
def test_a_broken_file_says_what_is_wrong_with_it(config_home: Path, text: str, why: str) -> None:
    (config_home / "bad.toml").write_text(text)
    themes, broken = read_themes()
    assert list(themes) == SHIPPED
    assert len(broken) == 1
    assert broken[0].path.endswith("bad.toml") and why in broken[0].why


def test_a_broken_file_names_itself_in_a_toast(config_home: Path, tmp_path: Path) -> None:
    (config_home / "bad.toml").write_text("name = 1")

    async def toasts() -> list[str]:
        app = ConsoleApp(Config(run=str(tmp_path)))
        async with app.run_test() as pilot:
            await pilot.pause()
            return [notification.message for notification in app._notifications]

    messages = asyncio.run(toasts())
    assert any("bad.toml" in message for message in messages)


def test_what_a_theme_leaves_out_follows_from_its_three_colours() -> None:
    colors = Colors(foreground="#ffffff", background="#000000", primary="#8888ff")
    theme = ThemeFile(name="x", colors=colors, dark=False).theme()
    assert theme.name == "x" and not theme.dark
    assert {f"ink-heat-{n}" for n in range(1, 6)} <= set(theme.variables)
    assert {f"ink-adapter-{n}" for n in range(1, 9)} <= set(theme.variables)

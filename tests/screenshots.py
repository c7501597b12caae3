"""Makes the pictures of every screen and the list of keys in `docs/`. `make screenshots`.

The pictures are simulated: the console runs with a scenario instead of a pipeline and a fixed
clock, so the same code draws the same pictures. Only the answers are real.
"""

from __future__ import annotations

import asyncio
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

from stage import StagedApp, wait

from loraconsole.console.client.answer import Answer
from loraconsole.console.settings.keymap import KeyBinding
from loraconsole.console.state.alerts import AlertLimits
from loraconsole.console.ui.bindings import catalogue

SIZE = (110, 32)


class Picture(NamedTuple):
    """One picture, and the keys that lead to it."""

    name: str
    keys: Sequence[str]
    theme: str = "dark"
    size: tuple[int, int] = SIZE
    has_alerts: bool = False


PICTURES = (
    Picture("overview", ("1",), size=(120, 40)),
    Picture("batch", ("2", "down", "down")),
    Picture("request", ("2", "end", "enter")),
    Picture("latency", ("3",), size=(120, 40)),
    Picture("adapters", ("4", "down", "down")),
    Picture("plan", ("4", "w", *"/large/tax", "enter")),
    Picture(
        "prompt",
        (
            *("5", "escape", "space", "right", "right", "right", "right", "space", "enter"),
            *(*"Tell me about the sea.", "enter", *"And in winter?", "enter"),
        ),
    ),
    Picture("logs", ("7", "slash", *"router", "tab", "enter")),
    Picture("processes", ("8",)),
    Picture("alerts", ("9", "down"), has_alerts=True),
    Picture("settings", ("comma",)),
    Picture("command", ("2", "colon", *"unload ", "tab")),
    Picture("help", ("4", "question_mark")),
    Picture("light", ("2",), "light", (80, 24)),
    Picture("colour-blind", ("2",), "colour-blind", (80, 24)),
)


SAID = {
    ("pirate", "Tell me about the sea."): (
        "The sea, a mighty one, full o' salt, as she goes, lad. She's about twice the length o' a "
        "small ship, an' she's full o' sand o' every kind."
    ),
    ("pirate", "And in winter?"): (
        "In winter, the crew hark to the wind, and the ship's mended fer a boat. She can't sail on "
        "the wind, but she'll keep her mouth open to the south an' the winds'll wind her sail."
    ),
    ("haiku", "Tell me about the sea."): (
        "The dark water\nSoft as a feather\nThe wind in the wave\nA boat stands by the shore\n"
        "Floating and then back"
    ),
    ("haiku", "And in winter?"): (
        "The ship in the harbor\nOceans above the water\nThe wind on the hull\n"
        "The door opens to the sea"
    ),
}
"""The default model's own answers with its adapters: seed 1, the console's parameters, a CPU."""


async def tell(answer: Answer, *_: Any, **__: Any) -> None:
    """Replaces `Answer.stream`: the whole answer, with fixed times."""
    for word in re.findall(r"\s*\S+", SAID[answer.model, answer.prompt]):
        answer.add(word)
    answer.end("stop")
    answer.asked_at, answer.first_at = 0.0, 0.18 if answer.model == "pirate" else 0.21
    answer.ended_at = answer.first_at + answer.num_pieces / 38.5


async def draw(picture: Picture) -> str:
    """The screen as SVG."""
    app = StagedApp("busy", 40.0, picture.theme)
    if picture.has_alerts:
        app.alert_book.limits = AlertLimits(queue=0.5, ttft_p99_ms=500.0)
        app.alert_book.update(app.store.board(app.now - 95.0))
        app.alert_book.update(app.store.board(app.now))
    with patch.object(Answer, "stream", tell):  # there is no server
        return await _draw(app, picture)


async def _draw(app: StagedApp, picture: Picture) -> str:
    async with app.run_test(size=picture.size, notifications=True) as pilot:
        await pilot.pause()
        for key in picture.keys:
            await pilot.press(key)
            await pilot.pause()
            await wait(lambda: not app.active_panel.is_live)
        app.clear_notifications()
        await pilot.pause()
        app.show()
        await pilot.pause()
        return smaller(app.export_screenshot(title="loraconsole"))


def smaller(svg: str) -> str:
    """Removes remote fonts, a clip path per line (each text has its length already), and random
    names."""
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg)
    svg = re.sub(r'<clipPath id="[^"]*-line-\d+">.*?</clipPath>', "", svg, flags=re.DOTALL)
    svg = re.sub(r' clip-path="url\(#[^"]*-line-\d+\)"', "", svg)
    svg = re.sub(r' shape-rendering="crispEdges"', "", svg)
    svg = re.sub(r"terminal-\d+-", "", svg)
    svg = merge_grounds(svg)
    svg = svg.replace("&#160;", "\N{NO-BREAK SPACE}")
    svg = svg.replace("Fira Code", "Fira Code, DejaVu Sans Mono, Menlo, Consolas")
    return re.sub(r"\s*\n\s*", "\n", svg)


CELL = re.compile(
    r'<rect fill="(#\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)" height="[\d.]+"/>'
)


def merge_grounds(svg: str) -> str:
    """Merges neighbouring rectangles of one colour, and drops those of the most common colour,
    which becomes the window's."""
    cells = [(c[1], float(c[2]), float(c[3]), float(c[4])) for c in CELL.finditer(svg)]
    area: Counter[str] = Counter()
    merged: list[tuple[str, float, float, float]] = []
    for fill, x, y, width in cells:
        area[fill] += round(width)
        if merged and merged[-1][0] == fill and merged[-1][2] == y:
            fill, start, _, so_far = merged.pop()
            merged.append((fill, start, y, so_far + width))
        else:
            merged.append((fill, x, y, width))
    ground = area.most_common(1)[0][0]
    drawn = "".join(
        f'<rect fill="{fill}" x="{x:g}" y="{y:g}" width="{width:g}" height="24.65"/>'
        for fill, x, y, width in merged
        if fill != ground
    )
    first = CELL.search(svg)
    assert first is not None
    at = first.start()
    svg = CELL.sub("", svg)
    svg = svg[:at] + drawn + svg[at:]
    return re.sub(r'(<rect fill=)"#\w+"( stroke)', rf'\1"{ground}"\2', svg, count=1)


def key_page() -> str:
    """`docs/keys.md`."""
    groups: dict[str, list[KeyBinding]] = {}
    for key in catalogue():
        groups.setdefault(key.group, []).append(key)
    first = ("everywhere", "moving about", "every list", "every table")
    rows = [
        "# Keys",
        "",
        "Made by `make screenshots` from the bindings themselves. In the console `?` shows those",
        "that work where you are. The `:` line and the key map of the settings use the names:",
        "",
        "```toml",
        "# ~/.config/loraconsole/console.toml",
        "[keys]",
        'pause = "p"',
        'show-batch = ["b", "2"]',
        "```",
        "",
        "A wrong name or key is reported with its line and the correct form; `loraconsole settings",
        "--check` does so without a screen.",
    ]
    ordered = sorted(groups, key=lambda g: first.index(g) if g in first else len(first))
    for group in ordered:
        rows += [
            "",
            f"## {group[0].upper()}{group[1:]}",
            "",
            "| key | does | name |",
            "|---|---|---|",
        ]
        for key in groups[group]:
            keys = " ".join(f"`{shown}`" for shown in key.shown.split(" "))
            what = key.description + (f": {key.tooltip}" if key.tooltip else "")
            rows.append(f"| {keys.replace('|', chr(92) + '|')} | {what} | `{key.id}` |")
    return "\n".join(rows) + "\n"


async def main(directory: Path) -> None:
    pictures = directory / "pictures"
    pictures.mkdir(parents=True, exist_ok=True)
    (directory / "keys.md").write_text(key_page())
    for picture in PICTURES:
        svg = await draw(picture)
        (pictures / f"{picture.name}.svg").write_text(svg)
        print(f"{picture.name}: {len(svg) // 1024} KiB")


if __name__ == "__main__":
    import os

    with tempfile.TemporaryDirectory() as home:  # keeps the user's settings out of the pictures
        os.environ["XDG_STATE_HOME"] = os.environ["XDG_DATA_HOME"] = home
        os.environ["XDG_CONFIG_HOME"] = "/home/you/.config"
        asyncio.run(main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs")))

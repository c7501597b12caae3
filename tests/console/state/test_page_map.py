"""The pool's map: whose each page is, cut into cells, and the pane that shows it."""

import asyncio
import random
import struct
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage import START, StagedApp, screen_text, staged
from textual.pilot import Pilot

from loraconsole.console.mock.scenario import Scenario
from loraconsole.console.state.page_map import ADAPTER, FREE, KV, Cell, PageMap, Share, pages_a_cell
from loraconsole.console.state.store import Store
from loraconsole.console.supervisor.metrics_history import MetricsHistory
from loraconsole.console.supervisor.snapshot_cache import SnapshotCache
from loraconsole.console.ui.panels.pool import PoolPane
from loraconsole.pipeline.messages import PageOwner, PoolMap

Act = Callable[[StagedApp, Pilot[str]], Coroutine[Any, Any, None]]
OWNERS = (
    PageOwner("kv", "chatcmpl-1", "pirate"),
    PageOwner("kv", "chatcmpl-2", None),
    PageOwner("adapter", "sql@1", "sql"),
)


def pool(*numbers: int, owners: tuple[PageOwner, ...] = OWNERS) -> PoolMap:
    return PoolMap(START, 16, owners, struct.pack(f"<{len(numbers)}H", *numbers))


def page_map(*numbers: int) -> PageMap:
    return PageMap(pool(*numbers), lambda adapter: adapter or "base")


def on_stage(act: Act, **options: Any) -> None:
    async def main() -> None:
        async with staged(**options) as (app, pilot):
            await act(app, pilot)

    asyncio.run(main())


# --- cells --------------------------------------------------------------------------------------


def test_a_cell_shows_who_has_the_most_of_its_pages() -> None:
    cells = page_map(1, 1, 1, 2, 0, 0, 0, 0, 3, 3, 1, 2, 0, 0, 0, 2, 2).cells(4)
    assert cells == (
        Cell(KV, "pirate"),
        Cell(FREE, "rest"),
        Cell(KV, "pirate") if cells[2].kind == KV else Cell(ADAPTER, "sql"),
        Cell(KV, "base", is_sparse=True),
        Cell(KV, "base"),
    )


def test_a_page_taken_is_never_lost_among_free_ones() -> None:
    assert page_map(*[0] * 50, 3, *[0] * 49).cells(100) == (Cell(ADAPTER, "sql", True),)


def test_the_pages_of_a_cell_are_told_apart_by_owner() -> None:
    shares = page_map(1, 1, 3, 0, 0, 2).shares(0, 5)
    assert shares == [Share(OWNERS[0], 2), Share(OWNERS[2], 1), Share(None, 2)]


def test_a_number_without_an_owner_is_free() -> None:
    strange = page_map(9, 9, 1)
    assert strange.cells(2)[0].kind == FREE
    assert strange.shares(0, 2) == [Share(None, 2)]


@given(st.lists(st.integers(0, 300), min_size=1, max_size=400), st.integers(1, 50))
def test_cells_are_what_counting_page_by_page_finds(numbers: list[int], size: int) -> None:
    """With more than 255 owners pages are looked up another way: the same must come of it."""
    owners = tuple(PageOwner("kv" if n % 3 else "adapter", f"{n}", f"a{n % 5}") for n in range(300))
    for known in (owners, owners[:200]):
        numbers = [number if number <= len(known) else 0 for number in numbers]
        made = PageMap(pool(*numbers, owners=known), lambda adapter: adapter or "base").cells(size)
        for at, cell in enumerate(made):
            here = numbers[at * size : (at + 1) * size]
            taken = [known[number - 1] for number in here if number]
            assert (cell.kind == FREE) is (not taken)
            if taken:
                kinds = [owner.kind for owner in taken]
                assert kinds.count(cell.kind) == max(map(kinds.count, kinds))
                inks = [owner.adapter for owner in taken if owner.kind == cell.kind]
                assert inks.count(cell.style) == max(map(inks.count, inks))
                assert cell.is_sparse is (2 * len(taken) < len(here))
        assert len(made) == -(-len(numbers) // size)


@pytest.mark.parametrize("cells", [1, 36, 220, 814])
@pytest.mark.parametrize("pages", [1, 60, 4096, 60_000])
def test_a_map_always_fits_its_cells(pages: int, cells: int) -> None:
    size = pages_a_cell(pages, cells)
    assert -(-pages // size) <= cells


def test_a_map_of_60_000_pages_costs_milliseconds() -> None:
    """A fifth of a frame at most, on a machine that does something else as well."""
    chance = random.Random(3)
    owners = tuple(PageOwner("kv", f"r{n}", f"a{n % 40}") for n in range(600))
    frayed = pool(
        *(chance.choice((0, chance.randint(1, 600))) for _ in range(60_000)), owners=owners
    )
    took = []
    for _ in range(5):
        started = time.process_time()
        PageMap(frayed, lambda adapter: adapter or "base").cells(80)
        took.append(time.process_time() - started)
    assert min(took) < 0.040  # 5.7 ms when it was written


# --- books --------------------------------------------------------------------------------------


def test_the_same_map_again_moves_nothing_and_a_new_router_has_none() -> None:
    scenario, store = Scenario("busy", start=START), Store("/run/here")
    for _, message in scenario.advance(START + 3):
        store.fold_message(message, START + 3)
    first = store.board(START + 3).pool
    assert first is not None and sum(1 for page in first.pages[::2] if page) > 200
    moves = store.moves
    store.fold_message(msgspec.structs.replace(first, at=START + 4), START + 4)
    assert store.moves == moves and store.board(START + 4).pool is first
    beat = store._pulses["router"].beat
    assert beat is not None
    store.fold_message(msgspec.structs.replace(beat, incarnation=beat.incarnation + 1), START + 4)
    assert store.board(START + 4).pool is None


def test_a_late_console_is_told_the_map_by_the_supervisor(tmp_path: Path) -> None:
    scenario, cache = Scenario("busy", start=START), SnapshotCache(MetricsHistory(tmp_path, START))
    for _, message in scenario.advance(START + 3):
        cache.fold_message(message)
    assert cache.latest.pool is not None
    late = Store("/run/here")
    late.fold_snapshot(scenario.snapshot(), START + 3)
    assert late.board(START + 3).pool == cache.latest.pool


# --- the pane -----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(120, 40), (200, 60)])
def test_the_overview_shows_a_cell_for_so_many_pages(size: tuple[int, int]) -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PoolPane)
        assert f"4 096 pages of 16 tokens, {pane._cell_pages} pages a cell" in screen_text(app)
        assert pane._cell_pages * len(pane._cells) >= 4096
        assert {cell.style for cell in pane._cells} >= {"rest", app.board.color_of("pirate")}

    on_stage(act, size=size)


@pytest.mark.parametrize("size", [(80, 24), (120, 40)])
def test_the_cursor_names_the_owners_of_its_pages(size: tuple[int, int]) -> None:
    """Where there is room for the bar alone, the map comes with the focus."""

    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PoolPane)
        pane.focus()
        await pilot.pause()
        assert pane.has_focus
        first = f"pages 0-{pane._cell_pages - 1}  "
        kind = "adapter " if size[0] > 80 else ""  # the pane is narrow: the colour shows it
        first += f"32 {kind}pirate@1" if pane._cell_pages > 32 else f"{kind}pirate@1"
        assert first in screen_text(app)
        await pilot.press("right")
        assert f"pages {pane._cell_pages}-" in screen_text(app)
        await pilot.press("left", "left")  # there is nothing before the first
        assert first in screen_text(app)
        await pilot.press("n")
        assert pane._cells[pane._cursor].style != pane._cells[0].style
        await pilot.press("end")
        assert "-4095  free" in screen_text(app)
        await pilot.press("up")
        assert pane._cursor == len(pane._cells) - 1 - pane._width
        await pilot.press("down", "home")
        assert first in screen_text(app)
        shown = {cell: n for n, cell in reversed(list(enumerate(pane._cells)))}
        kv = next(n for cell, n in shown.items() if cell.kind == KV)
        pane.action_jump(kv)
        await pilot.pause()
        assert "KV of" in screen_text(app)

    on_stage(act, size=size)


def test_the_mouse_names_them_as_well_and_leaves_no_trace() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PoolPane)
        assert await pilot.hover(PoolPane, offset=(2, 3))
        await pilot.pause()
        assert "adapter pirate@1" in screen_text(app)
        frames = pane.frames
        await pilot.hover(PoolPane, offset=(2, 3))
        assert pane.frames == frames
        await pilot.hover("#ring")
        await pilot.pause()
        assert "pages a cell" in screen_text(app)
        await pilot.click(PoolPane, offset=(4, 3))
        assert pane.has_focus and pane._cursor == 2

    on_stage(act)


def test_a_map_is_made_once_a_map_and_once_a_size() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        pane = app.active_panel.query_one(PoolPane)
        pane.paint()
        made, rows = pane._page_map, pane._rows
        pane.paint()
        pane.focus()
        await pilot.press("right")
        assert pane._page_map is made and pane._rows is rows
        await pilot.resize_terminal(200, 60)
        await pilot.pause()
        assert pane._page_map is made and pane._rows is not rows
        app.advance(3.0)
        app.show()
        assert pane._page_map is not made

    on_stage(act)


def test_without_a_map_the_pool_is_a_bar() -> None:
    async def act(app: StagedApp, pilot: Pilot[str]) -> None:
        app.store._latest.pool = None
        app.show()
        pane = app.active_panel.query_one(PoolPane)
        lines = pane.draw_lines(msgspec.structs.replace(app.board, pool=None), 40, 8)
        assert len(lines) == 3
        pane.focus()
        await pilot.press("right", "n", "end")  # nothing to move over

    on_stage(act)

"""An adapter's colour: of its own liking, unlike its neighbours', and the same tomorrow."""

import itertools
from pathlib import Path

import pytest

from loraconsole.console.state.adapter_colors import NUM_COLORS, AdapterColors

NAMES = [f"tenant-{number}" for number in range(200)]


def test_eight_adapters_have_eight_colours() -> None:
    adapter_colors = AdapterColors()
    adapter_colors.give(NAMES[:NUM_COLORS])
    assert len(set(adapter_colors.by_name.values())) == NUM_COLORS


def test_neighbours_differ_and_colours_are_shared_out_evenly() -> None:
    adapter_colors = AdapterColors()
    adapter_colors.give(NAMES)
    worn = [adapter_colors.by_name[name] for name in NAMES]
    assert all(one != other for one, other in itertools.pairwise(worn))
    uses = [worn.count(f"adapter-{number}") for number in range(1, NUM_COLORS + 1)]
    assert max(uses) - min(uses) <= 2


def test_a_colour_is_kept_whoever_comes_and_goes() -> None:
    adapter_colors = AdapterColors()
    adapter_colors.give(NAMES[:10])
    before = dict(adapter_colors.by_name)
    assert adapter_colors.give([*reversed(NAMES[20:40]), *NAMES[:10]])
    assert not adapter_colors.give(NAMES[:10])
    assert {name: adapter_colors.by_name[name] for name in before} == before


def test_a_colour_is_kept_until_tomorrow_in_whatever_order_they_load(home: None) -> None:
    today = AdapterColors.remembered()
    today.give(NAMES[:20])
    tomorrow = AdapterColors.remembered()
    tomorrow.give([*NAMES[50:60], *reversed(NAMES[:20])])
    assert {name: tomorrow.by_name[name] for name in NAMES[:20]} == today.by_name


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"a": "red"}', b'{"tenant-0": 999}', b"\xff"])
def test_a_file_that_is_spoilt_is_passed_over(content: bytes, home: None, tmp_path: Path) -> None:
    AdapterColors.remembered().give(NAMES[:2])
    (file,) = tmp_path.rglob("tints.json")
    file.write_bytes(content)
    adapter_colors = AdapterColors.remembered()
    adapter_colors.give(NAMES[:8])
    assert set(adapter_colors.by_name.values()) <= {
        f"adapter-{number}" for number in range(1, NUM_COLORS + 1)
    }

"""`--adapter-root` while the files under it are swapped: nothing outside it is ever read."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from loraconsole.pipeline.runtime import guarded_file
from loraconsole.pipeline.runtime.guarded_file import AdapterError, names_in, read_bounded

MOST = 1000


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with `team/sql/config`; beside it `outside/sql/config`, which has other words."""
    for place, words in (("root/team", "inside"), ("outside", "outside")):
        directory = tmp_path / place / "sql"
        directory.mkdir(parents=True)
        (directory / "config").write_text(words)
    return tmp_path / "root"


def swap(place: Path, link: Path) -> None:
    """Puts a link where a directory or a file is."""
    place.rename(place.with_name(f"{place.name}.old"))
    place.symlink_to(link)


def after_the_check(monkeypatch: pytest.MonkeyPatch, act: Callable[[], None]) -> None:
    """Has `act` run once the path of the file has been found to lie inside."""
    check = guarded_file.resolve_inside
    checks = 0

    def check_and_act(place: str, roots: Sequence[str]) -> str:
        nonlocal checks
        real = check(place, roots)
        checks += 1
        if checks == 2:  # the directory is checked, and then the file
            act()
        return real

    monkeypatch.setattr(guarded_file, "resolve_inside", check_and_act)


@pytest.mark.parametrize("part", ["team", "team/sql", "team/sql/config"])
def test_a_link_put_there_after_the_check_is_not_followed(
    part: str, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outside = root.parent / "outside" / Path(part).relative_to("team")
    after_the_check(monkeypatch, lambda: swap(root / part, outside))
    with pytest.raises(AdapterError):
        read_bounded(str(root / "team" / "sql"), "config", MOST, [str(root)])
    assert (root / "team" / "sql" / "config").read_text() == "outside"  # the swap has worked


def test_a_directory_that_was_swapped_is_not_listed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = root / "team" / "sql"
    assert names_in(real, [str(root)], 10) == names_in(real, [], 10) == ["config"]
    (root.parent / "outside" / "sql" / "other").touch()
    check = guarded_file.resolve_inside

    def check_and_swap(place: str, roots: Sequence[str]) -> str:
        found = check(place, roots)
        swap(root / "team", root.parent / "outside")
        return found

    monkeypatch.setattr(guarded_file, "resolve_inside", check_and_swap)
    assert names_in(real, [str(root)], 10) == []
    assert names_in(real, [], 1) == ["config"]


def test_a_root_that_is_a_link_of_the_operators_is_followed(root: Path, tmp_path: Path) -> None:
    named = tmp_path / "named"
    named.symlink_to(root)
    for directory in (named / "team" / "sql", root / "team" / "sql"):
        assert read_bounded(str(directory), "config", MOST, [str(named)]) == b"inside"


def test_the_root_itself_may_hold_an_adapter(root: Path) -> None:
    inner = root / "team" / "sql"
    assert read_bounded(str(inner), "config", MOST, [str(inner)]) == b"inside"
    assert names_in(inner, [str(inner)], 10) == ["config"]


def test_a_hard_link_is_a_file_of_the_root(root: Path) -> None:
    """Nothing tells it from one that was copied there; the kernel's protected_hardlinks and the
    owner of the root decide who can make it."""
    os.link(root.parent / "outside" / "sql" / "config", root / "team" / "sql" / "hard")
    assert read_bounded(str(root / "team" / "sql"), "hard", MOST, [str(root)]) == b"outside"


def test_descriptors_are_closed(root: Path) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        read_bounded(str(root / "team" / "sql"), "config", MOST, [str(root)])
        names_in(root / "team", [str(root)], 10)
        with pytest.raises(AdapterError, match="is a directory"):
            read_bounded(str(root / "team"), "sql", MOST, [str(root)])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_race_never_ends_outside(root: Path) -> None:
    """Another thread swaps the middle of the path all the time."""
    spare, place = root / "spare", root / "team"
    spare.symlink_to(root.parent / "outside")
    is_over = threading.Event()

    def race() -> None:
        aside = root / "aside"
        while not is_over.is_set():
            place.rename(aside)
            spare.rename(place)
            place.rename(spare)
            aside.rename(place)

    racer = threading.Thread(target=race)
    racer.start()
    results = set()
    try:
        for _ in range(3000):
            try:
                results.add(read_bounded(str(place / "sql"), "config", MOST, [str(root)]))
            except AdapterError:
                results.add(b"refused")
    finally:
        is_over.set()
        racer.join()
    assert results <= {b"inside", b"refused", None}  # None: for a moment there is none

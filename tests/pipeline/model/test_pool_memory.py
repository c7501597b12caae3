"""Memory of a pool that outlives its worker: found again, given back, and never another file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from loraconsole.pipeline.model.pool_memory import PoolKeeper, PoolMemory
from loraconsole.pipeline.runtime.held_memory import HeldMemory, link_of

BYTES = 3 << 20

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="Linux has these files")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    return tmp_path


def keeper(run: Path, *parts: object, may_find: bool = True) -> PoolKeeper:
    made = PoolKeeper(run, run / "model", 0, may_find=may_find)
    made.describe(*(parts or ("float32",)))
    return made


def leave(run: Path) -> HeldMemory:
    """A worker writes, is held by the router, and is gone."""
    memory = keeper(run).create(BYTES)
    assert memory
    memory.mapped[5000:5003] = b"old"
    held = HeldMemory(run)
    held.hold(0, os.getpid(), memory.fd)
    end(memory)
    return held


def end(memory: PoolMemory) -> None:
    memory.mapped.close()
    os.close(memory.fd)


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_the_next_worker_finds_what_the_one_before_has_written(run: Path) -> None:
    before = open_files()
    held = leave(run)
    found = keeper(run).find()
    assert found and found.num_bytes == BYTES
    assert found.mapped[5000:5003] == b"old" and found.mapped[:3] == bytes(3)
    held.hold(0, os.getpid(), found.fd)  # as each new worker's is
    end(found)
    held.close()
    assert not os.path.lexists(link_of(run, 0))
    assert open_files() == before, "memory is still held"


@pytest.mark.parametrize("what", ["parts", "model", "start", "warm-up"])
def test_memory_of_another_model_or_start_is_given_back_and_not_used(run: Path, what: str) -> None:
    held = leave(run)
    if what == "model":
        (run / "model" / "weights").write_text("others")
    elif what == "start":
        os.utime(run / "config.json", (1, 1))
    parts = ("bfloat16",) if what == "parts" else ("float32",)
    assert keeper(run, *parts, may_find=what != "warm-up").find() is None
    assert os.stat(link_of(run, 0)).st_size == 0, "its memory is still taken"
    assert keeper(run).find() is None, "it is empty"
    held.close()


def test_a_link_that_leads_elsewhere_is_not_followed(run: Path) -> None:
    """The router may have died, and its number be that of another process now."""
    file = run / "precious"
    file.write_text("as it was")
    link_of(run, 0).symlink_to(file)
    assert keeper(run).find() is None
    link_of(run, 0).unlink()
    link_of(run, 0).symlink_to("/proc/4194303/fd/3")
    assert keeper(run).find() is None
    assert file.read_text() == "as it was"


def test_what_is_left_counts_while_it_is_taken(run: Path) -> None:
    assert keeper(run).held_bytes() == 0
    held = leave(run)
    assert 0 < keeper(run).held_bytes() < BYTES // 100  # one page is written
    assert keeper(run, "bfloat16").find() is None
    assert keeper(run).held_bytes() == 0
    held.close()


def test_memory_of_another_pipeline_is_left_alone(
    run: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A number of a process that has died may be that of another pipeline's router."""
    other = tmp_path_factory.mktemp("other")
    held = leave(run)
    link_of(other, 0).symlink_to(os.readlink(link_of(run, 0)))
    found = PoolKeeper(other, run / "model", 0, may_find=True)
    found.describe("float32")
    assert found.find() is None
    assert os.stat(link_of(run, 0)).st_size == BYTES
    held.close()


def test_only_memory_of_a_pool_is_held(run: Path) -> None:
    held = HeldMemory(run)
    with (run / "config.json").open() as file:
        held.hold(0, os.getpid(), file.fileno())
    held.hold(1, 4194303, 3)
    held.hold(2, os.getpid(), -1)
    assert not [path for path in run.iterdir() if path.name.startswith("pool")]
    held.close()

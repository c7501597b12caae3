"""Limits of memory, as the kernel's files of both versions of cgroups say them."""

from __future__ import annotations

import resource
from pathlib import Path

import pytest

from loraconsole.pipeline.machine.memory import MemoryKills, available_bytes

GIB = 1 << 30


def machine(tmp_path: Path, cgroup: str, available: int = 16 * GIB) -> tuple[Path, Path]:
    """(/proc, /sys/fs/cgroup) of a machine whose process is in the cgroups of that file."""
    proc, groups = tmp_path / "proc", tmp_path / "groups"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "self" / "cgroup").write_text(cgroup)
    (proc / "self" / "status").write_text("Name:\tpython\nVmSize:\t  1024 kB\nVmData:\t 512 kB\n")
    (proc / "meminfo").write_text(f"MemTotal: 99 kB\nMemAvailable:   {available // 1024} kB\n")
    (proc / "vmstat").write_text("nr_free_pages 7\noom_kill 3\n")
    return proc, groups


def group(directory: Path, **files: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / f"memory.{name}").write_text(text)


def test_without_a_limit_it_is_what_linux_reports(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/a\n")
    group(groups / "a", max="max\n", current=f"{GIB}\n", stat="inactive_file 5\n")
    assert available_bytes(proc, groups) == 16 * GIB


def test_the_smallest_of_the_groups_above_counts_with_what_can_be_reclaimed(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/a/b/c\n")
    group(groups / "a" / "b" / "c", max="max\n", current="0\n")
    group(
        groups / "a",
        max=f"{4 * GIB}\n",
        current=f"{3 * GIB}\n",
        stat=f"anon 3\ninactive_file {GIB // 2}\n",
    )
    group(groups / "a" / "b", max=f"{8 * GIB}\n", current=f"{GIB}\n")
    assert available_bytes(proc, groups) == GIB + GIB // 2


def test_version_1_has_a_memory_hierarchy_of_its_own(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "9:cpu,cpuacct:/x\n4:memory:/box\n0::/\n")
    group(
        groups / "memory" / "box",
        limit_in_bytes=f"{2 * GIB}\n",
        usage_in_bytes=f"{GIB}\n",
        stat=f"inactive_file 1\ntotal_inactive_file {GIB // 4}\n",
        oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    group(groups / "memory", limit_in_bytes="9223372036854771712\n", usage_in_bytes="0\n")
    assert available_bytes(proc, groups) == GIB + GIB // 4
    assert MemoryKills(proc, groups).count() == 2


def test_in_a_container_the_limit_is_at_the_top(tmp_path: Path) -> None:
    """Its own path is one of the host's, which is not mounted there."""
    proc, groups = machine(tmp_path, "0::/../../docker/abc\n")
    group(groups, max=f"{GIB}\n", current="0\n", events="low 0\noom 1\noom_kill 1\n")
    assert available_bytes(proc, groups) == GIB
    assert MemoryKills(proc, groups).count() == 1


def test_a_limit_that_is_used_up_leaves_nothing(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, "0::/\n")
    group(groups, max=f"{GIB}\n", current=f"{2 * GIB}\n")
    assert available_bytes(proc, groups) == 0


def test_the_limit_of_a_process_counts_what_it_has_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proc, groups = machine(tmp_path, "0::/\n")
    limits = {resource.RLIMIT_AS: GIB}

    def limited(kind: int) -> tuple[int, int]:
        return limits.get(kind, resource.RLIM_INFINITY), resource.RLIM_INFINITY

    monkeypatch.setattr(resource, "getrlimit", limited)
    assert available_bytes(proc, groups) == GIB - (1 << 20)
    limits[resource.RLIMIT_DATA] = 1 << 20
    assert available_bytes(proc, groups) == 1 << 19


def test_kills_are_the_machines_where_no_group_counts_them(tmp_path: Path) -> None:
    assert MemoryKills(*machine(tmp_path, "0::/\n")).count() == 3


def test_here_there_is_memory() -> None:
    assert available_bytes() > 1 << 20
    assert MemoryKills().count() >= 0

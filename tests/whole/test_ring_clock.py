"""A running ring while the machine's clock is set back an hour, and then forward."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from ring import BASE, Ring, shipped
from waiting import wait_for

STEPS = "loraconsole_steps_total"
"""A counter of the router's."""
pytestmark = pytest.mark.processes

SHIFT = """
import os, time
FILE = {file!r}
real, real_ns = time.time, time.time_ns

def ahead():
    try:
        return int(os.readlink(FILE))
    except OSError:
        return 0

time.time = lambda: real() + ahead()
time.time_ns = lambda: real_ns() + ahead() * 10**9
"""
"""What the interpreter of every process runs first: the machine's clock is as far ahead as a file
says. Setting the real one would disturb all else on the machine."""


def counted(ring: Ring, name: str) -> float:
    """A value of /metrics."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", ring.http.get("/metrics").text, re.MULTILINE)
    assert found is not None
    return float(found[1])


def has_counted(ring: Ring, more_than: float) -> bool:
    return counted(ring, STEPS) > more_than


def models(ring: Ring) -> set[str]:
    return {model["id"] for model in ring.http.get("/v1/models").json()["data"]}


def test_a_clock_that_is_set_changes_no_answer_and_hides_nothing(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    ahead = tmp_path / "ahead"
    (tmp_path / "sitecustomize.py").write_text(SHIFT.format(file=str(ahead)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def set_clock(seconds: int) -> None:
        ahead.unlink(missing_ok=True)
        ahead.symlink_to(str(seconds))

    with Ring(tmp_path_factory.mktemp("r"), "--dtype", "float32") as ring:
        ring.wait_ready()
        before = ring.answer(BASE, "Name a colour.")
        steps = counted(ring, STEPS)
        for number, seconds in enumerate((-3600, 7200)):
            set_clock(seconds)
            name = f"later-{number}"
            loaded = ring.http.post(
                "/v1/adapters", json={"name": name, "path": str(shipped("sql"))}
            )
            assert loaded.status_code == 200, loaded.text
            assert name in models(ring)
            assert ring.answer(BASE, "Name a colour.") == before
            assert ring.answer(name, "Name a colour.")
            assert ring.http.get("/health").status_code == 200
            wait_for(partial(has_counted, ring, steps))
            steps = counted(ring, STEPS)
        texts = wait_for(
            lambda: [
                event["text"]
                for event in ring.snapshot()["events"]
                if event["text"].startswith("the machine's clock was set")
            ][1:]
        )
        assert texts and texts[0].startswith("the machine's clock was set forward by 10800 s")
        assert "READY" in ring.cli("status").stdout
        rows = ring.snapshot()["processes"]["processes"]
        assert {row["restarts"] for row in rows} == {0}

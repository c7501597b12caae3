"""The event log on a disk that is full, or in a directory that cannot be written."""

from __future__ import annotations

from pathlib import Path

from full_disk import no_file_grows_beyond

from loraconsole.pipeline.config import Config
from loraconsole.pipeline.router.event_lines import Full
from loraconsole.pipeline.router.event_log import EventLog, read_log
from loraconsole.pipeline.router.router import Router
from loraconsole.pipeline.schedule.pets import LatencyTable


def test_a_file_that_takes_no_more_ends_the_log_and_says_why(tmp_path: Path) -> None:
    log = EventLog()
    log.open(tmp_path, 1, Config(run=str(tmp_path)), LatencyTable(), 1.0)
    with no_file_grows_beyond(20_000):
        for at in range(10_000):
            log.write_line(Full(at=float(at)))
        log.flush()
    path = tmp_path / "router-1.jsonl"
    assert not log.is_open and log.error == f"cannot write {path}: File too large"
    assert 0 < path.stat().st_size <= 20_000
    log.write_line(Full(at=1.0))
    log.close()


def test_a_router_without_a_place_for_its_log_starts(tmp_path: Path) -> None:
    (tmp_path / "events").write_text("in the way")
    router = Router(Config(run=str(tmp_path), event_log=True))
    said: list[tuple[str, str]] = []
    router.event = lambda level, text: said.append((level, text))  # type: ignore[method-assign]
    router._open_event_log()
    [(level, text)] = said
    assert level == "warning" and text.startswith("no event log: cannot write to")
    assert router.core.effects.lines is None
    router.close()


def test_a_log_that_fails_ends_once_and_the_router_goes_on(tmp_path: Path) -> None:
    router = Router(Config(run=str(tmp_path), event_log=True))
    said: list[str] = []
    router.event = lambda level, text: said.append(text)  # type: ignore[method-assign]
    router._open_event_log()
    assert router.core.effects.lines is not None
    with no_file_grows_beyond(1):
        router._flush_event_log()
        router._flush_event_log()
    [text] = said
    assert text.startswith("the event log has ended: cannot write")
    assert router.core.effects.lines is None and not router.events.is_open
    router.close()


def test_what_was_written_before_can_be_read(tmp_path: Path) -> None:
    log = EventLog()
    log.open(tmp_path, 1, Config(run=str(tmp_path)), LatencyTable(), 1.0)
    log.write_line(Full(at=2.0))
    log.close()
    assert log.path is not None
    assert [type(line).__name__ for _, line in read_log(log.path)] == ["Started", "Full"]

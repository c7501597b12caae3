"""Logs of several processes as one book, while they grow, break and are cut."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest
from full_disk import no_file_grows_beyond

from loraconsole.console.supervisor import log_tail
from loraconsole.console.supervisor.log_tail import LogTail, put_aside
from loraconsole.pipeline.runtime.process import LOG_FORMAT, LOG_TIME


def write(path: Path, text: str) -> None:
    with path.open("a") as file:
        file.write(text)


def test_lines_are_merged_by_time_and_numbered(tmp_path: Path) -> None:
    write(
        tmp_path / "a.log",
        "2026-01-01T00:00:01.000 INFO a: first\n2026-01-01T00:00:03.000 INFO a: third\n",
    )
    write(tmp_path / "b.log", "2026-01-01T00:00:02.500 WARNING b: second\n")
    book = LogTail(tmp_path)
    lines = book.read_new()
    assert [(line.number, line.source, line.level, line.text) for line in lines] == [
        (1, "a", "INFO", "a: first"),
        (2, "b", "WARNING", "b: second"),
        (3, "a", "INFO", "a: third"),
    ]
    assert book.read_new() == []


def test_a_line_that_is_still_being_written_waits(tmp_path: Path) -> None:
    book = LogTail(tmp_path)
    write(tmp_path / "a.log", "2026-01-01T00:00:01.000 INFO half")
    assert book.read_new() == []
    write(tmp_path / "a.log", " and half\n")
    assert [line.text for line in book.read_new()] == ["half and half"]


def test_a_traceback_is_an_error_and_its_end_the_last_words(tmp_path: Path) -> None:
    write(
        tmp_path / "a.log",
        "2026-01-01T00:00:01.000 INFO fine\n"
        "Traceback (most recent call last):\n  File x\nValueError: broken\n",
    )
    book = LogTail(tmp_path)
    assert [line.level for line in book.read_new()] == ["INFO", "ERROR", "ERROR", "ERROR"]
    assert book.last_words("a") == "ValueError: broken"
    assert book.last_words("nobody") == ""


def test_the_format_the_processes_write_is_the_one_we_read(tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "a.log")
    handler.setFormatter(logging.Formatter(LOG_FORMAT, LOG_TIME))
    record = logging.LogRecord("router", logging.WARNING, "", 0, "look %d", (3,), None)
    handler.emit(record)
    handler.close()
    (line,) = LogTail(tmp_path).read_new()
    assert (line.level, line.text) == ("WARNING", "router: look 3")
    assert abs(line.at - record.created) < 0.002


def test_bytes_that_are_no_text_do_not_stop_the_reading(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_bytes(b"\xff\xfe\x00 garbage\nplain\n")
    assert [line.text for line in LogTail(tmp_path).read_new()][1] == "plain"


def test_a_file_that_grows_too_large_is_turned_over_without_losing_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "MAX_FILE_BYTES", 1000)
    book = LogTail(tmp_path, turns_over=True)
    seen = []
    for n in range(100):
        write(tmp_path / "a.log", f"line {n} {'x' * 40}\n")
        seen += [line.text.split()[1] for line in book.read_new()]
    assert seen == [str(n) for n in range(100)]
    assert (tmp_path / "a.log").stat().st_size <= 1100
    before = (tmp_path / "a.log.1").read_text().splitlines()
    there = [line.split()[1] for line in (*before, *(tmp_path / "a.log").read_text().splitlines())]
    assert len(there) > len(before) >= 18
    assert there == seen[-len(there) :]


def test_a_reader_beside_the_supervisor_leaves_the_files_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "MAX_FILE_BYTES", 100)
    write(tmp_path / "a.log", "line\n" * 100)
    assert len(LogTail(tmp_path).read_new()) == 100
    assert (tmp_path / "a.log").stat().st_size == 500


def test_a_full_disk_loses_the_old_file_and_makes_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "MAX_FILE_BYTES", 1000)
    book = LogTail(tmp_path, turns_over=True)
    write(tmp_path / "a.log", "line\n" * 300)
    with no_file_grows_beyond(100):
        assert len(book.read_new()) == 300
    assert (tmp_path / "a.log").stat().st_size == 0
    write(tmp_path / "a.log", "after\n")
    assert [line.text for line in book.read_new()] == ["after"]


def test_a_log_that_is_written_faster_than_it_is_read_is_continued_near_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_tail, "BEHIND_BYTES", 4 << 20)
    monkeypatch.setattr(log_tail, "READ_BYTES", 1 << 20)
    with (tmp_path / "a.log").open("w") as file:
        file.writelines(f"line {n:07}\n" for n in range(500_000))
    book = LogTail(tmp_path)
    first, *rest = book.read_new()
    assert (first.level, first.text) == ("WARNING", "5 MiB of this log are not shown")
    assert rest[-1].text == "line 0499999"
    assert [line.text for line in rest] == [
        f"line {500_000 - n:07}" for n in range(len(rest), 0, -1)
    ]
    assert book.read_new() == []


def test_a_new_run_puts_old_logs_aside(tmp_path: Path) -> None:
    write(tmp_path / "a.log", "old\n")
    put_aside(tmp_path)
    assert LogTail(tmp_path).read_new() == []
    assert (tmp_path / "a.log.1").read_text() == "old\n"


def test_the_stacks_of_a_fatal_signal_are_of_the_time_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "a.log"
    stacks = "Fatal Python error: Segmentation fault\n\nCurrent thread 0x00 (most recent call"
    write(path, f"2026-01-01T00:00:01.000 INFO fine\n{stacks} first):\n")
    last_write = 1_767_312_000.0  # a day later
    os.utime(path, (last_write, last_write))
    first, *rest = LogTail(tmp_path).read_new()
    assert first.at < last_write - 80_000
    assert {line.at for line in rest} == {last_write}
    assert {line.level for line in rest} == {"ERROR"}
    write(path, "2026-01-01T12:00:00.000 INFO the next process\n")
    *_, stack, after = LogTail(tmp_path).read_new()
    assert stack.at == after.at  # it came before the next process, and that is all that is known

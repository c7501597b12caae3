"""The journal of accepted requests: what is read back, and what a bad disk costs."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from full_disk import no_file_grows_beyond

from loraconsole.pipeline.messages import Request, SamplingParams, TokenLogprob, TokenText
from loraconsole.pipeline.server.answers import request_journal
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.request_journal import (
    AnswerAccepted,
    AnswerClosed,
    ChoiceEnded,
    JournalRecord,
    RequestJournal,
)

Events = list[tuple[str, str]]


def form(answer_id: str = "a-1") -> Format:
    return Format(kind="chat", answer_id=answer_id, model="m", created=5, is_streamed=True)


def accepted(answer_id: str = "a-1", choices: int = 2) -> AnswerAccepted:
    prompt = tuple(range(9))
    requests = [
        Request(
            request_id=f"{answer_id}.{choice}",
            adapter="pirate",
            prompt_ids=prompt,
            params=SamplingParams(seed=choice, stop=("x",)),
            arrived_at=7.0,
        )
        for choice in range(choices)
    ]
    return AnswerAccepted.of(form(answer_id), b"key", requests)


def ended(answer_id: str = "a-1") -> ChoiceEnded:
    word = TokenText(3, "b", b"b", -0.5)
    return ChoiceEnded(
        f"{answer_id}.0", (3, 4), ("b", ""), "!", "stop", (TokenLogprob(word, (word,), 0),)
    )


@pytest.fixture
def events() -> Events:
    return []


@pytest.fixture
def make(tmp_path: Path, events: Events) -> Callable[[], RequestJournal]:
    return lambda: RequestJournal(tmp_path, lambda level, text: events.append((level, text)))


def test_the_next_server_reads_what_was_written(make: Callable[[], RequestJournal]) -> None:
    journal = make()
    with pytest.raises(FileNotFoundError):
        next(journal.read())
    journal.open()
    records: list[JournalRecord] = [accepted(), ended(), AnswerClosed("a-1"), accepted("a-2", 1)]
    for record in records:
        journal.write(record)
    assert list(make().read()) == records
    requests = accepted().requests()
    assert [request.params.seed for request in requests] == [0, 1]
    assert requests[0].prompt_ids is requests[1].prompt_ids  # written once
    assert journal.path.stat().st_mode & 0o777 == 0o600


def test_a_record_that_a_kill_cut_off_is_left_out(
    make: Callable[[], RequestJournal], events: Events
) -> None:
    journal = make()
    journal.open()
    journal.write(accepted())
    first = journal.path.stat().st_size
    journal.write(ended())
    size = journal.path.stat().st_size
    for length in (size - 1, first + 9, first + 4, first + 2):
        os.truncate(journal.path, length)
        assert list(make().read()) == [accepted()]
    assert not events


def test_a_damaged_record_is_reported_and_ends_the_reading(
    make: Callable[[], RequestJournal], events: Events
) -> None:
    journal = make()
    journal.open()
    journal.write(accepted())
    first = journal.path.stat().st_size
    journal.write(AnswerClosed("a-1"))
    journal.write(accepted("a-2"))
    with journal.path.open("r+b") as file:
        file.seek(first + request_journal.HEAD_BYTES)
        file.write(b"\xc1")
    assert list(make().read()) == [accepted()]
    assert [level for level, _ in events] == ["warning"] and "is damaged" in events[0][1]


def test_the_file_holds_what_is_open_and_not_all_that_was(
    make: Callable[[], RequestJournal], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(request_journal, "LEAST_BYTES", 20_000)
    journal = make()
    kept = accepted("kept")
    journal.live = lambda: [kept]
    journal.open()
    for number in range(500):
        journal.write(accepted(f"a-{number}"))
        journal.write(AnswerClosed(f"a-{number}"))
    assert journal.path.stat().st_size < 21_000
    assert next(make().read()) == kept


def test_a_full_disk_costs_a_warning_and_what_is_open_is_written_later(
    make: Callable[[], RequestJournal], events: Events
) -> None:
    journal = make()
    live: list[JournalRecord] = []
    journal.live = lambda: live
    journal.open()
    live.append(accepted())
    journal.write(live[0])
    with no_file_grows_beyond(journal.path.stat().st_size + 30):
        for number in range(3):
            live.append(accepted(f"b-{number}"))
            journal.write(live[-1])
        assert list(make().read()) == [accepted()]
    assert [level for level, _ in events] == ["warning"]
    assert "requests go on" in events[0][1]
    journal.write(AnswerClosed("a-1"))
    assert list(make().read()) == live
    assert events[-1][0] == "info" and len(events) == 2

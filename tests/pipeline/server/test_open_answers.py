"""Open answers: read by one client or several, from the start or from a place in them, over a
change of server."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loraconsole.pipeline.messages import (
    Abort,
    AnswerHeard,
    Message,
    Refused,
    Request,
    SamplingParams,
    TextDelta,
)
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.event_id import (
    nothing_of,
    read_event_id,
    write_event_id,
    write_place,
)
from loraconsole.pipeline.server.answers.open_answers import OpenAnswers
from loraconsole.pipeline.server.answers.request_counters import RequestCounters
from loraconsole.pipeline.server.answers.request_journal import RequestJournal
from loraconsole.pipeline.server.answers.responses_form import ResponsesForm
from loraconsole.pipeline.server.answers.streams import AnswerReader, AnswerStreams, ReadPlace
from loraconsole.pipeline.server.http.bad_request import BadRequest

KEY = b"key"


class Desk:
    """The answers of one server after the other in one run directory, and what they send."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.sent: list[Message] = []
        self.events: list[str] = []
        self.counters = RequestCounters()
        self.answers = self.make()
        self.answers.restore()

    def make(self) -> OpenAnswers:
        def report(level: str, text: str) -> None:
            self.events.append(text)

        journal = RequestJournal(self.run, report)
        return OpenAnswers(journal, self.sent.append, report, self.counters)

    def kill(self) -> None:
        """The server is killed, and the next one reads the journal."""
        self.sent.clear()
        self.answers = self.make()
        assert self.answers.restore()

    def open(
        self,
        answer_id: str = "a",
        choices: int = 1,
        streamed: bool = True,
        responses: ResponsesForm | None = None,
    ) -> AnswerStreams:
        form = Format(
            kind="responses" if responses else "chat",
            answer_id=answer_id,
            model="m",
            created=1,
            is_streamed=streamed,
            responses=responses,
        )
        prompt = (1, 2)
        requests = [
            Request(
                request_id=f"{answer_id}.{choice}",
                adapter=None,
                prompt_ids=prompt,
                params=SamplingParams(seed=choice),
                arrived_at=1.0,
            )
            for choice in range(choices)
        ]
        return self.answers.open(form, KEY, requests)

    def say(self, request_id: str, text: str, start: int = 0, end: str | None = None) -> None:
        """A token a character, from token `start` on; the last one ends the choice with `end`."""
        for number, character in enumerate(text, start=start):
            is_last = number - start + 1 == len(text)
            self.answers.put(
                TextDelta(
                    request_id=request_id,
                    offset=number,
                    text=character,
                    num_tokens=number + 1,
                    token_ids=(ord(character),),
                    finish_reason=end if is_last else None,
                )
            )


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def read_all(reader: AnswerReader) -> list[tuple[int, str, str | None]]:
    """What a reader gets of an answer that has ended."""

    async def read() -> list[tuple[int, str, str | None]]:
        return [(i, delta.text, delta.finish_reason) async for i, delta in reader.deltas()]

    return asyncio.run(asyncio.wait_for(read(), 10))


def test_two_clients_read_one_answer_and_the_last_closes_it(desk: Desk) -> None:
    answer = desk.open()
    with desk.answers.reading(answer) as first:
        desk.say("a.0", "ab")
        with desk.answers.reading(answer) as second:
            desk.say("a.0", "c", 2, "length")
            expected = [(0, "a", None), (0, "b", None), (0, "c", "length")]
            assert read_all(first) == read_all(second) == expected
        assert desk.answers.find("a", KEY) is answer
    with pytest.raises(BadRequest, match="no request 'a' is open"):
        desk.answers.find("a", KEY)
    assert desk.sent == [AnswerHeard("a.0")]


def test_a_client_that_leaves_ends_its_requests_once(desk: Desk) -> None:
    with desk.answers.reading(desk.open(choices=2)):
        desk.say("a.0", "done", end="stop")
    desk.say("a.1", "late")
    aborts = [message for message in desk.sent if isinstance(message, Abort)]
    assert aborts == [Abort("a.1", "client gone")]


def test_an_answer_goes_on_in_the_next_server(desk: Desk) -> None:
    """One choice has ended; the other's tokens come again, after one that is ahead of them."""
    with desk.answers.reading(desk.open(choices=2)):
        desk.say("a.0", "yes", end="stop")
        desk.say("a.1", "begi")
        desk.kill()
    answer = desk.answers.find("a", KEY)
    assert [stream.text for stream in answer.streams] == ["yes", ""]
    assert not desk.answers.streams["a.1"].to_resume().token_ids
    with desk.answers.reading(answer) as reader:
        desk.say("a.1", "n", 4)
        assert answer.streams[1].num_tokens == 0
        desk.say("a.1", "beginning"[:5])
        desk.say("a.1", "beginning", end="length")
        found = read_all(reader)
    assert "".join(text for index, text, _ in found if index == 1) == "beginning"
    assert [end for _, _, end in found if end] == ["stop", "length"]
    desk.kill()
    assert not desk.answers.streams


def test_the_end_of_a_request_is_not_acknowledged_before_its_text_is_here(desk: Desk) -> None:
    """The router forgets a request that it hears is answered."""
    desk.open()
    desk.kill()
    desk.say("a.0", "d", 3, "stop")
    assert not desk.sent
    desk.say("a.0", "word", end="stop")
    assert desk.sent == [AnswerHeard("a.0")]


def test_an_end_without_a_new_token_adds_its_text(desk: Desk) -> None:
    """A router that finds that all tokens are there sends the last one again, as the end."""
    answer = desk.open()
    with desk.answers.reading(answer) as reader:
        desk.say("a.0", "ab")
        again = TextDelta("a.0", 1, "b!", 2, (ord("b"),), finish_reason="length")
        desk.answers.put(again)
        assert read_all(reader) == [(0, "a", None), (0, "b!", "length")]
        assert answer.streams[0].text == "ab!" and answer.output_tokens == 2
    with desk.answers.reading(desk.open("b")) as reader:
        desk.say("b.0", "ab")

        async def read() -> list[tuple[str, str | None]]:
            deltas = reader.deltas()
            found = [(await anext(deltas))[1] for _ in range(2)]
            desk.answers.put(TextDelta("b.0", 1, "b!", 2, (ord("b"),), finish_reason="length"))
            found += [delta async for _, delta in deltas]
            return [(delta.text, delta.finish_reason) for delta in found]

        assert asyncio.run(read()) == [("a", None), ("b", None), ("!", "length")]


def test_what_no_client_comes_back_for_is_given_up(desk: Desk) -> None:
    for name in ("back", "gone", "over"):
        desk.open(name)
    desk.say("over.0", "x", end="stop")
    desk.kill()
    desk.say("gone.0", "g")
    with desk.answers.reading(desk.answers.find("back", KEY)):
        assert desk.answers.num_unclaimed == 2
        desk.answers.abandon_unclaimed()
        assert list(desk.answers.streams) == ["back.0"]
    assert Abort("gone.0", "client gone") in desk.sent
    assert Abort("over.0", "client gone") not in desk.sent
    assert desk.counters.abandoned == 2
    assert "2 requests are given up" in desk.events[-1]


def test_a_server_that_leaves_its_answers_aborts_nothing(desk: Desk) -> None:
    with desk.answers.reading(desk.open()):
        desk.say("a.0", "ab")
        desk.answers.seal()
    assert not desk.sent
    desk.kill()
    assert desk.answers.find("a", KEY)


def test_only_the_key_that_asked_finds_an_answer(desk: Desk) -> None:
    desk.open()
    with pytest.raises(BadRequest) as refused:
        desk.answers.find("a", b"other")
    assert refused.value.status == 404
    with pytest.raises(BadRequest) as refused:
        desk.open()
    assert refused.value.status == 409


def test_requests_that_no_client_of_this_server_has_are_ended(desk: Desk) -> None:
    """A full disk left them out of the journal."""
    desk.say("x.0", "abc")
    assert desk.sent == [Abort("x.0", "client gone")]
    desk.say("y.0", "a", end="stop")
    assert desk.sent[1:] == [AnswerHeard("y.0")]


def test_a_refusal_reaches_the_reader_after_the_text(desk: Desk) -> None:
    answer = desk.open()
    with desk.answers.reading(answer) as reader:
        desk.say("a.0", "ab")
        answer.streams[0].refuse(Refused("a.0", 404, "no such adapter"))
        with pytest.raises(BadRequest) as refused:
            read_all(reader)
    assert (refused.value.status, refused.value.param) == (404, "model")
    assert reader.output_tokens == 2


def test_an_answer_that_is_refused_at_once_has_not_ended(desk: Desk) -> None:
    """Nothing is kept of it, unless its client knows of it or has cancelled it."""
    ended: list[str] = []

    def in_background(name: str) -> AnswerStreams:
        desk.answers.on_ended = lambda answer: ended.append(answer.form.answer_id)
        return desk.open(name, responses=ResponsesForm(repeated={}, is_background=True))

    for name in ("refused", "known", "begun", "cancelled"):
        answer = in_background(name)
        answer.is_known = name == "known"
        if name == "begun":
            desk.say("begun.0", "a")
        if name == "cancelled":
            desk.answers.cancel(answer)
        else:
            answer.streams[0].refuse(Refused(f"{name}.0", 429, "full"))
    in_background("restored")
    desk.kill()
    answer = desk.answers.find("restored", KEY)
    desk.answers.on_ended = lambda answer: ended.append(answer.form.answer_id)
    answer.streams[0].refuse(Refused("restored.0", 503, "stopping"))
    assert ended == ["known", "begun", "cancelled", "restored"]
    assert not desk.answers.streams


def test_an_event_id_says_what_a_client_has(desk: Desk) -> None:
    answer = desk.open("odd:id,7", choices=2)
    places = (ReadPlace(12), ReadPlace(7, True))
    for has_usage in (False, True):
        text = write_event_id("odd:id,7", map(write_place, places), has_usage=has_usage)
        assert read_event_id(text, answer) == (places, has_usage)
    assert read_event_id("12,7e", answer).places == places
    assert read_event_id("", answer) == nothing_of(answer)
    assert ReadPlace(3) < ReadPlace(3, True) < ReadPlace(4)


@pytest.mark.parametrize("text", ["3", "1,2,3", "other:1,2", "1,-2", "1;2", "\u0661,1", "1," * 9])
def test_an_id_of_another_answer_is_refused(desk: Desk, text: str) -> None:
    with pytest.raises(BadRequest) as refused:
        read_event_id(text, desk.open("a", choices=2))
    assert refused.value.param == "after"

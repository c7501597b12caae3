"""Stop strings across token borders, replays, half characters: the text one request gets."""

from __future__ import annotations

import codecs
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_tokenizers import MADE, write

from loraconsole.pipeline.detokenizer import OutputStream
from loraconsole.pipeline.messages import (
    NO_TOKEN,
    Logprob,
    OpenStream,
    StreamToken,
    TextDelta,
    TokenLogprob,
    TokenText,
)
from loraconsole.pipeline.server.answers.answer_format import (
    LogprobQueue,
    completion_logprobs,
    within,
)
from loraconsole.pipeline.text.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(model_directory: str) -> Tokenizer:
    return Tokenizer(model_directory)


def stream(tokenizer: Tokenizer, *stop: str, logprobs: bool = False, **more: bool) -> OutputStream:
    request = OpenStream(request_id="r", stop=stop, logprobs=logprobs, **more)
    return OutputStream(request, tokenizer)


def feed(
    output: OutputStream, ids: list[int], finish_reason: str | None = "length", start: int = 0
) -> list[TextDelta]:
    """Pushes ids until a delta finishes the request."""
    deltas = []
    for index, token_id in enumerate(ids, start=start):
        reason = finish_reason if index == start + len(ids) - 1 else None
        delta = output.push(StreamToken("r", index, token_id, (), reason))
        if delta is not None:
            deltas.append(delta)
            if delta.finish_reason:
                break
    return deltas


def text_of(deltas: list[TextDelta]) -> str:
    """Joins deltas, checking that each begins where the one before ended."""
    text = ""
    for delta in deltas:
        assert delta.offset == len(text)
        text += delta.text
    return text


def test_text_comes_whole_and_ends_with_the_reason(tokenizer: Tokenizer) -> None:
    said = "Grüße, 世界! 🏴‍☠️ done"
    deltas = feed(stream(tokenizer), tokenizer.encode(said))
    assert text_of(deltas) == said
    assert deltas[-1].finish_reason == "length"
    assert deltas[-1].num_tokens == len(tokenizer.encode(said))
    assert not any("\ufffd" in delta.text for delta in deltas)


@settings(max_examples=60, deadline=None)
@given(
    before=st.text(max_size=30),
    stop=st.text(min_size=1, max_size=8),
    after=st.text(max_size=20),
)
def test_nothing_of_a_stop_string_is_ever_sent(
    tokenizer: Tokenizer, before: str, stop: str, after: str
) -> None:
    said = before + stop + after
    deltas = feed(stream(tokenizer, stop), tokenizer.encode(said))
    whole = tokenizer.decode(tokenizer.encode(said))
    if stop in whole:
        assert text_of(deltas) == whole[: whole.index(stop)]
        assert deltas[-1].finish_reason == "stop"
    else:
        assert text_of(deltas) == whole


def test_the_first_of_several_stop_strings_wins(tokenizer: Tokenizer) -> None:
    deltas = feed(stream(tokenizer, "END", "\n\n"), tokenizer.encode("one\n\ntwo END"))
    assert text_of(deltas) == "one" and deltas[-1].finish_reason == "stop"
    assert deltas[-1].stopped_by == "\n\n"


def test_a_stop_string_within_the_least_number_of_tokens_is_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("one two one two one two", False)
    ended = {0: "one ", 2: "one two one ", 4: "one two one two one ", 6: "one two one two one two"}
    for least in range(len(ids) + 1):
        request = OpenStream(request_id="r", stop=("two",), logprobs=False, min_tokens=least)
        deltas = feed(OutputStream(request, tokenizer), ids)
        assert text_of(deltas) == ended[least - least % 2], least


def test_an_answer_without_tokens_has_its_end_alone(tokenizer: Tokenizer) -> None:
    output = stream(tokenizer)
    delta = output.push(StreamToken("r", 0, NO_TOKEN, (), "length"))
    assert delta == TextDelta("r", 0, "", 0, (), (), "length")


def test_an_end_without_a_token_releases_the_text_that_was_held(tokenizer: Tokenizer) -> None:
    for more in ({}, {"include_stop_str_in_output": True}):
        output, ids = stream(tokenizer, "###", **more), tokenizer.encode("a ##")
        deltas = feed(output, ids, finish_reason=None)
        end = output.push(StreamToken("r", len(ids), NO_TOKEN, (), "stop"))
        assert end == TextDelta("r", 2, "##", len(ids), (), (), "stop")
        assert text_of([*deltas, end]) == "a ##"


def test_what_might_become_a_stop_string_is_held_until_it_cannot(tokenizer: Tokenizer) -> None:
    output = stream(tokenizer, "###")
    deltas = feed(output, tokenizer.encode("a ##"), finish_reason=None)
    assert text_of(deltas) == "a "
    more = tokenizer.encode(" b")
    deltas += feed(output, more, start=len(tokenizer.encode("a ##")))
    assert text_of(deltas) == "a ## b"


def test_the_end_token_is_no_text(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("fine"), tokenizer.encode("<|im_end|>")[0]]
    deltas = feed(stream(tokenizer), ids, finish_reason="stop")
    assert text_of(deltas) == "fine"
    assert deltas[-1].num_tokens == len(ids) and deltas[-1].stopped_by == ids[-1]


def test_a_replay_says_nothing_twice(tokenizer: Tokenizer) -> None:
    output = stream(tokenizer)
    ids = tokenizer.encode("said once only")
    first = feed(output, ids[:2], finish_reason=None)
    assert output.push(StreamToken("r", 0, ids[0])) is None
    assert text_of(first + feed(output, ids[2:], start=2)) == "said once only"


def test_logprobs_come_with_their_tokens_as_text(tokenizer: Tokenizer) -> None:
    (token_id,) = tokenizer.encode("the")
    (other,) = tokenizer.encode("a")
    alternatives = (Logprob(token_id, -0.1), Logprob(token_id, -0.1), Logprob(other, -2.5))
    delta = stream(tokenizer, logprobs=True).push(StreamToken("r", 0, token_id, alternatives))
    assert delta is not None
    (entry,) = delta.logprobs
    assert (entry.chosen.token, entry.chosen.logprob, entry.offset) == ("the", -0.1, 0)
    assert [(other.token, other.logprob) for other in entry.top] == [("the", -0.1), ("a", -2.5)]


def with_logprobs(output: OutputStream, ids: list[int]) -> tuple[str, list[TokenLogprob]]:
    """The text of ids that each come with a logprob, and these."""
    text, found = "", []
    for index, token_id in enumerate(ids):
        alternatives = (Logprob(token_id, -0.5), Logprob(token_id, -0.5))
        reason = "length" if index == len(ids) - 1 else None
        delta = output.push(StreamToken("r", index, token_id, alternatives, reason))
        assert delta is not None
        text += delta.text
        found += delta.logprobs
        if delta.finish_reason:
            break
    return text, found


@given(said=st.text(max_size=30))
def test_the_bytes_of_all_tokens_are_those_of_the_text(tokenizer: Tokenizer, said: str) -> None:
    ids = [*tokenizer.encode(said), tokenizer.encode("<|im_end|>")[0]]
    text, found = with_logprobs(stream(tokenizer, logprobs=True), ids)
    assert b"".join(entry.chosen.data for entry in found).decode(errors="replace") == text
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offset = 0
    for entry in found:  # each begins where the text of those before it ends
        assert entry.offset == offset
        offset += len(decoder.decode(entry.chosen.data))


def test_half_a_character_has_its_own_bytes_and_the_offset_of_the_whole(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode("a🏴b")
    text, found = with_logprobs(stream(tokenizer, logprobs=True), ids)
    assert text == "a🏴b"
    assert [entry.offset for entry in found] == [0, *[1] * (len(ids) - 2), 2]
    assert found[1].chosen.data != "\ufffd".encode()
    assert completion_logprobs(found)["tokens"][1].startswith("bytes:\\xf0")


def test_offsets_are_the_same_streamed_or_whole_and_inside_the_text(tokenizer: Tokenizer) -> None:
    """A stop string takes the text of tokens whose logprobs have come already."""
    ids = tokenizer.encode("one two three four")
    output, queue = stream(tokenizer, " two three f", logprobs=True), LogprobQueue()
    text, streamed, whole = "", [], []
    for index, token_id in enumerate(ids):
        delta = output.push(StreamToken("r", index, token_id, (Logprob(token_id, 0.0),)))
        assert delta is not None
        text += delta.text
        whole += delta.logprobs
        ready = queue.take(delta)
        assert all(entry.offset <= len(text) for entry in ready)
        streamed += ready
        if delta.finish_reason:
            break
    assert text == "one" and len(streamed) == len(whole) == len(ids)
    assert streamed == within(whole, len(text))


def test_tokens_that_are_written_alike_are_both_kept_and_the_chosen_one_always() -> None:
    def word(token_id: int, data: bytes, logprob: float) -> TokenText:
        return TokenText(token_id, data.decode(errors="replace"), data, logprob)

    top = (word(1, b"a", -1), word(2, b"a", -2), word(3, b"\xc3", -3), word(4, b"\xe2", -4))
    (found,) = completion_logprobs([TokenLogprob(word(9, b"z", -9), top, 0)])["top_logprobs"]
    assert found == {
        "a": -1,
        "token_id:2": -2,
        "bytes:\\xc3": -3,
        "bytes:\\xe2": -4,
        "z": -9,
    }
    (found,) = completion_logprobs([TokenLogprob(word(9, b"z", -9), (), 0)])["top_logprobs"]
    assert found == {"z": -9}


# --- special tokens


def test_a_stop_string_that_is_a_special_token_ends_the_text_before_it(
    tokenizer: Tokenizer,
) -> None:
    ids = tokenizer.encode("fine<|im_end|>\nmore")
    for stop in ("<|im_end|>", "<|im_end|>\n"):
        deltas = feed(stream(tokenizer, stop), ids)
        assert text_of(deltas) == "fine" and deltas[-1].finish_reason == "stop"
    deltas = feed(stream(tokenizer, "fine<|im_end|>\nmo", "absent"), ids)
    assert text_of(deltas) == "" and deltas[-1].finish_reason == "stop"
    deltas = feed(stream(tokenizer, "e\nm"), ids)  # sought in what the client sees
    assert text_of(deltas) == "fin"


def test_special_tokens_stand_in_the_text_where_that_is_asked_for(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("fine<|im_end|>\nmore")
    deltas = feed(stream(tokenizer, skip_special_tokens=False), ids)
    assert text_of(deltas) == "fine<|im_end|>\nmore"
    deltas = feed(stream(tokenizer, "<|im_end|>\n", skip_special_tokens=False), ids)
    assert text_of(deltas) == "fine" and deltas[-1].finish_reason == "stop"


def test_a_special_token_that_is_shown_stands_in_the_text(tokenizer: Tokenizer) -> None:
    shown = tokenizer.token_id("<|im_end|>")
    assert shown is not None
    ids = tokenizer.encode("<|im_start|>fine<|im_end|>\nmore")
    deltas = feed(stream(tokenizer, shown_special_ids=(shown,)), ids)
    assert text_of(deltas) == "fine<|im_end|>\nmore"
    deltas = feed(stream(tokenizer, "<|im_end|>\nm", shown_special_ids=(shown,)), ids)
    assert text_of(deltas) == "fine" and deltas[-1].finish_reason == "stop"
    deltas = feed(stream(tokenizer, "<|im_start|>f", shown_special_ids=(shown,)), ids)
    assert text_of(deltas) == "" and deltas[-1].finish_reason == "stop"


def test_the_stop_string_stays_where_that_is_asked_for(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("One. Two.<|im_end|>")
    for stop, said in ((".", "One."), ("<|im_end|>", "One. Two.<|im_end|>")):
        deltas = feed(stream(tokenizer, stop, include_stop_str_in_output=True), ids, "stop")
        assert text_of(deltas) == said


@pytest.mark.parametrize("kind", ["sentencepiece, legacy", "unigram", "word pieces", "words"])
def test_bytes_join_to_the_text_of_every_kind_of_vocabulary(kind: str, tmp_path: Path) -> None:
    MADE[kind]().save(str(tmp_path / "tokenizer.json"))
    write(tmp_path, "llama", {})
    tokenizer = Tokenizer(tmp_path)
    for said in ("hello world", "x ** 2", "1 22 333", "café, Größe"):
        ids = tokenizer.encode(said, add_special_tokens=False)
        text, found = with_logprobs(stream(tokenizer, logprobs=True), ids)
        assert b"".join(entry.chosen.data for entry in found).decode() == text
        assert [entry.offset for entry in found] == sorted(entry.offset for entry in found)


def test_a_token_ahead_of_those_sent_again_is_not_taken(tokenizer: Tokenizer) -> None:
    """What an earlier router sent may arrive after the stream was opened again."""
    ids = tokenizer.encode("one two three four five")
    output = stream(tokenizer)
    feed(output, ids[:2], finish_reason=None)
    assert output.push(StreamToken("r", len(ids) - 1, ids[-1], (), "length")) is None
    again = stream(tokenizer)
    assert output.push(StreamToken("r", 0, ids[0])) is None
    assert text_of(feed(again, ids)) == "one two three four five"

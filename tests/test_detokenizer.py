"""Stop strings across token borders, replays, half characters: the text one request gets."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loraconsole.pipeline.detokenizer import OutputStream
from loraconsole.pipeline.messages import Logprob, OpenStream, StreamToken, TextDelta
from loraconsole.pipeline.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def tokenizer(model_directory: str) -> Tokenizer:
    return Tokenizer(model_directory)


def stream(tokenizer: Tokenizer, *stop: str, logprobs: bool = False) -> OutputStream:
    return OutputStream(OpenStream(request_id="r", stop=stop, logprobs=logprobs), tokenizer)


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
    assert deltas[-1].num_tokens == len(ids)


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
    assert (entry.token, entry.logprob) == ("the", -0.1)
    assert entry.top == (("the", -0.1), ("a", -2.5))

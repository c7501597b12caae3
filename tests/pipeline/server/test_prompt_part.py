"""What an answer repeats of its prompt, for every kind of vocabulary."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
from made_tokenizers import MADE, write

from loraconsole.pipeline.messages import PromptLogprobs, Request, SamplingParams
from loraconsole.pipeline.server.answers.answer_format import Format
from loraconsole.pipeline.server.answers.prompt_part import PromptPart, unpacked
from loraconsole.pipeline.server.answers.streams import Stream
from loraconsole.pipeline.text.tokenizer import Tokenizer

TEXTS = ("hello world, I am fine", "Größe; Ελλάδα 你好 😀 dog", "x ** 2  # squared")


def piece(start: int, count: int, most: int = 0) -> PromptLogprobs:
    """Logprobs that are minus the index, each alternative a hundredth less; ranks are the index."""
    indices = range(start, start + count)
    values = [-i - other / 100 for i in indices for other in range(1 + most)]
    ids = [i + other for i in indices for other in range(most)]
    return PromptLogprobs(
        start,
        struct.pack(f"<{len(values)}f", *values),
        struct.pack(f"<{len(ids)}i", *ids),
        struct.pack(f"<{count}i", *indices),
    )


def part(
    tokenizer: Tokenizer, ids: list[int], echo: str | None, most: int = 0, **form: Any
) -> tuple[PromptPart, Stream]:
    """The part of a prompt whose logprobs came in two pieces, with `most` alternatives."""
    params = SamplingParams(logprobs=most, prompt_logprobs=most)
    request = Request(
        request_id="r", adapter=None, prompt_ids=tuple(ids), params=params, arrived_at=0.0
    )
    stream, first = Stream(request, lambda: None), (len(ids) - 1) // 2
    stream.put_scores(piece(1, first, most))
    stream.put_scores(piece(1, len(ids) - 1, most))  # the first ones come again
    given = {"kind": "text", "answer_id": "a", "model": "m", "created": 0, "is_streamed": False}
    made = Format(**(given | form))
    return PromptPart(made, stream, echo, tokenizer), stream


def echoed(found: PromptPart) -> dict[str, Any]:
    choice: dict[str, Any] = {"text": "", "logprobs": None}
    found.complete_choice(choice)
    return choice


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("kind", MADE)
def test_tokens_of_an_echo_lie_where_its_text_has_them(
    kind: str, text: str, tmp_path: Path
) -> None:
    write(tmp_path, "llama", {})
    MADE[kind]().save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer(tmp_path)
    ids = tokenizer.encode(text)
    echo = tokenizer.decode(ids)
    choice = echoed(part(tokenizer, ids, echo)[0])
    offsets, tokens = choice["logprobs"]["text_offset"], choice["logprobs"]["tokens"]
    assert choice["text"] == echo and len(tokens) == len(ids)
    assert offsets == sorted(offsets) and offsets[0] == 0 and offsets[-1] <= len(echo)
    found = 0
    for token_id, token, start in zip(ids, tokens, offsets, strict=True):
        if tokenizer.is_special(token_id) or token.startswith("bytes:"):
            continue
        assert echo.startswith((token, token.lstrip(" ")), start), (token, start)
        found += 1
    assert found >= 2 and offsets[-1] >= len(echo) - 12
    assert choice["logprobs"]["token_logprobs"] == [None, *(-float(i) for i in range(1, len(ids)))]


def test_alternatives_are_cut_to_what_each_field_asks_for(model_directory: str) -> None:
    tokenizer = Tokenizer(model_directory)
    ids = tokenizer.encode("one two three four")
    found, _ = part(tokenizer, ids, None, most=3, prompt_logprobs=1)
    entries = echoed(found)["prompt_logprobs"]
    assert entries[0] is None and len(entries) == len(ids)
    for index, entry in enumerate(entries[1:], start=1):
        own = entry.pop(str(ids[index]))
        assert (own["logprob"], own["rank"]) == (-index, index)
        ((other, value),) = entry.items()
        assert int(other) == index and value["rank"] == 1
        assert value["logprob"] == pytest.approx(-index - 0.01)
        assert value["decoded_token"] == tokenizer.token_text(index)


def test_the_prompts_own_token_among_the_likeliest_is_not_listed_twice(
    model_directory: str,
) -> None:
    """The alternatives of `piece` begin with the token whose id is the index."""
    found, _ = part(Tokenizer(model_directory), [0, 1, 2], None, most=2, prompt_logprobs=2)
    _, first, second = echoed(found)["prompt_logprobs"]
    assert list(first) == ["1", "2"] and list(second) == ["2", "3"]


def test_a_piece_is_unpacked_with_as_many_alternatives_as_wanted() -> None:
    scores = [*unpacked(piece(5, 2, most=3), 2)]
    assert [score.rank for score in scores] == [5, 6]
    assert scores[1].logprob == -6.0
    assert scores[1].likeliest == [(6, pytest.approx(-6.01)), (7, pytest.approx(-6.02))]
    assert [*unpacked(piece(1, 0), 4)] == []

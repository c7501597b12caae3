"""Sampling parameters: the limits of the fields are those of the HTTP API."""

import math

import msgspec
import pytest

from loraconsole.console.client.chat import ChatParams
from loraconsole.console.client.sampling_fields import (
    MOST_STOP_CHARACTERS,
    MOST_STOPS,
    SAMPLING_FIELDS,
    SamplingField,
    parse_stops,
)
from loraconsole.pipeline.server.bodies import sampling_fields
from loraconsole.pipeline.server.bodies.body import decode_body
from loraconsole.pipeline.server.bodies.openai_bodies import ChatBody
from loraconsole.pipeline.server.bodies.sampling_fields import stop_strings
from loraconsole.pipeline.server.http.bad_request import BadRequest

MESSAGES = [{"role": "user", "content": "Ahoy"}]
FIELDS = {field.name: field for field in SAMPLING_FIELDS}


def is_taken(name: str, value: float) -> bool:
    """Whether the server takes a chat with this parameter."""
    given = ChatParams(**{name: value})
    try:
        decode_body(msgspec.json.encode({"messages": MESSAGES, **given.body}), ChatBody)
    except BadRequest:
        return False
    return True


def takes(field: SamplingField, text: str) -> bool:
    try:
        field.parse(text)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_takes_what_the_server_takes_and_nothing_else(name: str) -> None:
    field = FIELDS[name]
    step = 1 if field.is_whole else 0.001
    edges = [field.least, field.least - step, field.least + step]
    edges += [field.most, field.most + step, field.most - step]
    values = [int(edge) if field.is_whole else float(edge) for edge in edges]
    for value in values:
        assert takes(field, repr(value)) == is_taken(name, value), value


@pytest.mark.parametrize("text", ["0.7.2", "-", ".", "hot", "nan", "inf", "1e999"])
def test_what_is_no_number_is_refused_with_the_rule(text: str) -> None:
    with pytest.raises(ValueError, match="is not a number from 0 to 100"):
        FIELDS["temperature"].parse(text)


def test_an_empty_field_leaves_the_parameter_to_the_server() -> None:
    assert FIELDS["seed"].parse("  ") is None
    assert ChatParams().body == {}


def test_a_whole_number_is_not_rounded() -> None:
    with pytest.raises(ValueError, match=r"max: .* is not a whole number, at least 1"):
        FIELDS["max_tokens"].parse("1.5")


def test_stop_strings_are_those_between_bars_and_take_escapes() -> None:
    assert parse_stops("") == ()
    assert parse_stops(r"end|\n\n|a\|b|\\|\d") == ("end", "\n\n", "a|b", "\\", r"\d")
    assert stop_strings(list(parse_stops(r"end|\n")), "stop") == ("end", "\n")


@pytest.mark.parametrize("text", ["a||b", "|", "|".join("abcdefghijklmnopq"), "x" * 4097])
def test_stop_strings_that_the_server_refuses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="stop: "):
        parse_stops(text)
    with pytest.raises(BadRequest):
        stop_strings(text.split("|"), "stop")


def test_the_limits_of_stop_strings_are_the_servers() -> None:
    limits = (sampling_fields.MOST_STOPS, sampling_fields.MOST_STOP_CHARACTERS)
    assert limits == (MOST_STOPS, MOST_STOP_CHARACTERS)


def test_every_parameter_reaches_the_server_under_its_name() -> None:
    initial = {field.name: 1 if field.is_whole else 0.5 for field in SAMPLING_FIELDS}
    params = ChatParams(**initial, stop=("end",))  # type: ignore[arg-type]
    body = decode_body(msgspec.json.encode({"messages": MESSAGES, **params.body}), ChatBody)
    for name, value in initial.items():
        sent = body.top_logprobs if name == "logprobs" else getattr(body, name)
        assert sent == value and not math.isnan(value)
    assert body.stop == ["end"] and body.logprobs

"""Bodies are checked once, and every refusal names its field."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from loraconsole.pipeline.grammar.specification import GrammarRefused
from loraconsole.pipeline.model_files.generation_config import GenerationDefaults
from loraconsole.pipeline.server.bodies.body import Body, convert_body, decode_body
from loraconsole.pipeline.server.bodies.generate_body import GenerateBody
from loraconsole.pipeline.server.bodies.openai_bodies import ChatBody, CompletionBody
from loraconsole.pipeline.server.bodies.order_bodies import LoadBody, SchedulerBody
from loraconsole.pipeline.server.bodies.responses_body import ResponsesBody
from loraconsole.pipeline.server.bodies.sglang_body import SglangSampling
from loraconsole.pipeline.server.http.bad_request import BadRequest

CHAT: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
COMPLETION: dict[str, Any] = {"model": "m", "prompt": "hi"}


@pytest.mark.parametrize(
    ("changes", "param", "reason"),
    [
        ({"temperature": -1}, "temperature", ">= 0.0"),
        ({"temperature": "hot"}, "temperature", "Expected"),
        ({"top_p": 0}, "top_p", "> 0.0"),
        ({"top_p": 1.5}, "top_p", "<= 1.0"),
        ({"top_k": -2}, "top_k", ">= -1"),
        ({"max_tokens": 0}, "max_tokens", ">= 1"),
        ({"n": 0}, "n", ">= 1"),
        ({"seed": "x"}, "seed", "Expected"),
        ({"max_tokens": "5"}, "max_tokens", "Expected"),
        ({"max_tokens": True}, "max_tokens", "Expected"),
        ({"max_tokens": 5.5}, "max_tokens", "Expected"),
        ({"max_tokens": 2**70}, "max_tokens", "<="),
        ({"seed": 2**70}, "seed", "<="),
        ({"top_k": 2**70}, "top_k", "<="),
        ({"stop_token_ids": [-(2**70)]}, "stop_token_ids[0]", ">="),
        ({"stop_token_ids": [1] * 1025}, "stop_token_ids", "length"),
        ({"model": "m" * 5000}, "model", "length"),
        ({"messages": None}, "messages", "missing"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream: true"),
        ({"stream": True, "stream_options": {"x": 1}}, "stream_options.x", "not a field"),
        ({"stream": True, "stream_options": 3}, "stream_options", "Expected"),
        ({"logit_bias": {"5": 1, "17": 100.5}}, "logit_bias.17", "<= 100.0"),
        ({"allowed_token_ids": []}, "allowed_token_ids", "length >= 1"),
        ({"bad_words": [""]}, "bad_words[0]", "length >= 1"),
        ({"logprob_token_ids": [5]}, "logprob_token_ids", "needs logprobs: true"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "<= 20"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", "not streamed"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens", ">= -1"),
        (
            {"response_format": {"type": "yaml"}},
            "response_format.type",
            "json_schema or structural_",
        ),
        ({"truncation_side": "up"}, "truncation_side", "'up', expected left or right (in"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "<= 20"),
        ({"stop": [""]}, "stop", "none of them empty"),
        ({"stop": "x" * 5000}, "stop", "5000 characters"),
        ({"stop": ["x"] * 17}, "stop", "up to 16"),
        ({"max_token": 4}, "max_token", "did you mean max_tokens?"),
        ({"x" * 5000: 4}, "x" * 80 + "…", "not a field"),
    ],
)
def test_a_bad_chat_names_its_field(changes: dict[str, Any], param: str, reason: str) -> None:
    with pytest.raises(BadRequest) as refused:
        body = decode_body(json.dumps(CHAT | changes).encode(), ChatBody)
        body.check()
        body.params(16, None, 0)
    assert refused.value.status == 400
    assert refused.value.param == param
    assert reason in refused.value.reason
    assert len(refused.value.reason) < 400


@pytest.mark.parametrize(
    ("kind", "given", "param"),
    [
        (CompletionBody, {"prompt": "x", "logit_bias": {"5": 1, "17": "x"}}, "logit_bias.17"),
        (ResponsesBody, {"input": "x", "metadata": {"a": "b", "c": 5}}, "metadata.c"),
        (SchedulerBody, {"weights": {"a": 1, "b": "x"}}, "weights.b"),
        (SchedulerBody, {"weights": {"a": 1, "b" * 300: 1}}, "weights." + "b" * 80 + "…"),
        (SglangSampling, {"logit_bias": {"5": 1, "6": None}}, "logit_bias.6"),
    ],
)
def test_a_wrong_entry_of_an_object_is_named(
    kind: type[Body], given: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        convert_body(given, kind)
    assert refused.value.param == param and f"(in {param})" in refused.value.reason


@pytest.mark.parametrize("text", [r"\ud800", r"\uDC00", r"x\ud83d", r"\ud83d\u0041", r"\\\ud800"])
def test_half_a_character_is_named(text: str) -> None:
    body = b'{"messages": [], "user": "\\ud83d\\ude00 %s"}' % text.encode()
    with pytest.raises(BadRequest, match="is half of a character") as refused:
        decode_body(body, ChatBody)
    assert re.search(r"\\u[dD]\w{3}", text).group() in refused.value.reason  # type: ignore[union-attr]
    cut = rb'{"user": "\\ud800 \ud83d\ude00'
    with pytest.raises(BadRequest, match="truncated"):
        decode_body(cut, ChatBody)


NESTED = b"[" * 100_000 + b"]" * 100_000


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b'{"model": "m"}', b"\xff\xfe", NESTED, b'{"n": 1e999}', b"9" * 5000]
)
def test_a_body_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(BadRequest):
        decode_body(body, ChatBody)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"suffix": "x", "echo": True}, "suffix"),
        ({"n": 3, "best_of": 2}, "best_of"),
        ({"best_of": 2, "stream": True}, "best_of"),
        ({"best_of": 2, "max_tokens": 0, "echo": True}, "best_of"),
        ({"logprob_token_ids": [5]}, "logprob_token_ids"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
    ],
)
def test_fields_of_completions_that_contradict_each_other_are_refused(
    changes: dict[str, Any], param: str
) -> None:
    with pytest.raises(BadRequest) as refused:
        decode_body(json.dumps(COMPLETION | changes).encode(), CompletionBody).check()
    assert refused.value.param == param


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [("a", ["a"]), (["a", "b"], ["a", "b"]), ([1, 2], [[1, 2]]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_come_in_four_shapes(prompt: Any, prompts: Any) -> None:
    body = decode_body(json.dumps(COMPLETION | {"prompt": prompt}).encode(), CompletionBody)
    assert body.prompts() == prompts


@pytest.mark.parametrize(
    ("changes", "most", "shown"),
    [
        ({}, None, None),
        ({"echo": True}, None, None),
        ({"echo": True, "logprobs": 2}, 2, None),
        ({"echo": True, "logprobs": 0, "prompt_logprobs": 3}, 3, 3),
        ({"logprobs": 2, "prompt_logprobs": 0}, 0, 0),
    ],
)
def test_logprobs_of_the_prompt_come_with_echo_or_by_their_own_field(
    changes: dict[str, Any], most: int | None, shown: int | None
) -> None:
    body = decode_body(json.dumps(COMPLETION | changes).encode(), CompletionBody)
    body.check()
    assert body.params(4, body.logprobs, 0).prompt_logprobs == most
    assert body.prompt_logprobs == shown


def test_a_prompt_is_cut_on_the_side_that_is_asked_for() -> None:
    ids = list(range(10))

    def cut(**fields: Any) -> list[int]:
        body = decode_body(json.dumps(COMPLETION | fields).encode(), CompletionBody)
        truncation = body.truncation(8, 3)
        return ids if truncation is None else truncation.cut(ids)

    assert cut() == ids
    assert cut(truncate_prompt_tokens=4) == [6, 7, 8, 9]
    assert cut(truncate_prompt_tokens=4, truncation_side="right") == [0, 1, 2, 3]
    assert cut(truncate_prompt_tokens=-1) == [5, 6, 7, 8, 9]
    for wrong in (0, 9):
        with pytest.raises(BadRequest, match="1 to 8"):
            cut(truncate_prompt_tokens=wrong)


@pytest.mark.parametrize(
    ("fields", "echoed"),
    [
        ({}, None),
        ({"add_generation_prompt": False}, "hi"),
        ({"messages": [{"role": "assistant", "content": "so"}]}, "so"),
        ({"messages": [{"role": "assistant", "content": [{"type": "text", "text": "a"}]}]}, "a"),
        ({"messages": [{"role": "assistant", "content": None}]}, None),
    ],
)
def test_a_chat_echoes_the_message_that_it_continues(
    fields: dict[str, Any], echoed: str | None
) -> None:
    body = decode_body(json.dumps(CHAT | {"echo": True} | fields).encode(), ChatBody)
    assert body.echoed_text == echoed


def test_choices_are_seeded_apart_and_again_alike() -> None:
    body = decode_body(json.dumps(CHAT | {"seed": 40, "n": 3}).encode(), ChatBody)
    assert [body.params(8, None, i).seed for i in range(3)] == [40, 41, 42]
    unseeded = decode_body(json.dumps(CHAT).encode(), ChatBody)
    assert unseeded.params(8, None, 0).seed != unseeded.params(8, None, 0).seed


NULLABLE: dict[type, dict[str, Any]] = {ChatBody: CHAT, CompletionBody: COMPLETION}


@pytest.mark.parametrize("kind", NULLABLE)
def test_a_null_is_as_an_absent_field(kind: Any) -> None:
    whole = NULLABLE[kind]
    nulls = {name: None for name in kind.table if name not in whole} | whole
    assert decode_body(json.dumps(nulls).encode(), kind) == decode_body(
        json.dumps(whole).encode(), kind
    )
    nulls = {"inputs": "x", "parameters": dict.fromkeys(GenerateBody.nested["parameters"].table)}
    body = decode_body(json.dumps(nulls).encode(), GenerateBody)
    assert body == decode_body(b'{"inputs": "x", "parameters": null}', GenerateBody)
    options = {"stream_options": {"include_usage": None}}
    assert decode_body(json.dumps(whole | options).encode(), kind).stream_options is None


def test_a_whole_number_may_have_a_point() -> None:
    text = b'{"model": "m", "prompt": "x", "max_tokens": 5.0, "n": 2.0, "seed": 1e3, "top_p": 1}'
    body = decode_body(text, CompletionBody)
    assert (body.max_tokens, body.n, body.seed, body.top_p) == (5, 2, 1000, 1.0)
    assert type(body.max_tokens) is int


def test_a_seed_of_minus_one_is_a_random_one() -> None:
    body = decode_body(json.dumps(CHAT | {"seed": -1}).encode(), ChatBody)
    assert body.params(8, None, 0).seed != body.params(8, None, 0).seed
    body = decode_body(json.dumps(CHAT | {"seed": -2}).encode(), ChatBody)
    assert body.params(8, None, 1).seed == (1 << 63) - 1


def test_a_temperature_too_small_to_divide_by_is_zero() -> None:
    body = decode_body(json.dumps(CHAT | {"temperature": 1e-320}).encode(), ChatBody)
    assert body.params(8, None, 0).temperature == 0.0


def test_the_models_defaults_hold_where_a_request_names_none() -> None:
    defaults = GenerationDefaults(
        temperature=0.6, top_k=20, top_p=0.8, repetition_penalty=1.1, stop_strings="END"
    )
    params = decode_body(json.dumps(CHAT).encode(), ChatBody).params(8, None, 0, defaults)
    assert (params.temperature, params.top_k, params.top_p) == (0.6, 20, 0.8)
    assert (params.repetition_penalty, params.stop) == (1.1, ("END",))
    own = {"temperature": 1, "top_k": 0, "top_p": 1, "repetition_penalty": 1, "stop": "x"}
    params = decode_body(json.dumps(CHAT | own).encode(), ChatBody).params(8, None, 0, defaults)
    assert (params.temperature, params.top_k, params.top_p) == (1.0, 0, 1.0)
    assert (params.repetition_penalty, params.stop) == (1.0, ("x", "END"))


@pytest.mark.parametrize(
    ("asked", "temperature"),
    [({}, 0.0), ({"temperature": 0.9}, 0.9), ({"top_p": 0.9}, 0.6), ({"seed": 3}, 0.0)],
)
def test_a_model_that_is_greedy_is_so_until_a_request_samples(
    asked: dict[str, Any], temperature: float
) -> None:
    defaults = GenerationDefaults(temperature=0.6, do_sample=False)
    body = decode_body(json.dumps(CHAT | asked).encode(), ChatBody)
    assert body.params(8, None, 0, defaults).temperature == temperature


def test_adapters_are_named_in_any_of_their_fields() -> None:
    body = decode_body(json.dumps(CHAT | {"lora_path": "a", "adapter_id": "b"}).encode(), ChatBody)
    assert body.adapters() == {"adapter_id": "b", "lora_path": "a"}
    generate = {"inputs": "x", "lora_dir": "a", "parameters": {"adapter_id": "b"}}
    found = decode_body(json.dumps(generate).encode(), GenerateBody).adapters()
    assert found == {"lora_dir": "a", "parameters.adapter_id": "b"}


def test_orders_refuse_what_they_do_not_know() -> None:
    load = {"lora_name": "a", "lora_path": "/a", "lora_int_id": 3}
    assert decode_body(json.dumps(load).encode(), LoadBody).lora_name == "a"
    with pytest.raises(BadRequest, match="mixtures of experts"):
        decode_body(json.dumps(load | {"is_3d_lora_weight": True}).encode(), LoadBody)
    with pytest.raises(BadRequest, match="did you mean policy"):
        decode_body(b'{"polcy": "lifo"}', SchedulerBody)
    with pytest.raises(BadRequest, match="max_wait_tokens"):
        decode_body(b'{"max_wait_tokens": %d}' % 2**70, SchedulerBody)


def test_generate_samples_where_it_says_so_with_the_models_temperature() -> None:
    def temperature(**defaults: Any) -> float:
        body = decode_body(b'{"inputs": "x", "parameters": {"do_sample": true}}', GenerateBody)
        return body.parameters.params(GenerationDefaults(**defaults)).temperature

    assert temperature() == temperature(do_sample=False) == 1.0
    assert temperature(temperature=0.6, do_sample=False) == 0.6


def test_generate_takes_both_names_of_stop_strings_and_not_two_at_once() -> None:
    def params(**values: Any) -> Any:
        body = {"inputs": "x", "parameters": values}
        return decode_body(json.dumps(body).encode(), GenerateBody).parameters.params()

    assert params(stop=["six"]).stop == params(stop_sequences="six").stop == ("six",)
    for field in ("stop", "stop_sequences"):
        with pytest.raises(BadRequest) as refused:
            params(**{field: ["x"] * 100_000})
        assert refused.value.param == f"parameters.{field}"
    with pytest.raises(BadRequest, match="two names"):
        params(stop="a", stop_sequences="b")


def test_generate_is_greedy_unless_it_says_do_sample() -> None:
    def temperature(**values: Any) -> float:
        body = {"inputs": "x", "parameters": values}
        return decode_body(json.dumps(body).encode(), GenerateBody).parameters.params().temperature

    assert temperature(temperature=0.7, do_sample=True) == 0.7
    assert temperature() == temperature(temperature=1.0, top_p=1, top_k=-1, min_p=0) == 0.0


@pytest.mark.parametrize(
    "given", [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}]
)
def test_generate_drops_no_sampling_field_for_want_of_do_sample(given: dict[str, Any]) -> None:
    body = {"inputs": "x", "parameters": {"do_sample": False, **given}}
    with pytest.raises(BadRequest, match="needs do_sample: true") as refused:
        decode_body(json.dumps(body).encode(), GenerateBody).parameters.params()
    assert refused.value.param == f"parameters.{next(iter(given))}"


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"json_object": False}, None),
        ({"disable_any_whitespace": False, "json": None, "_backend_was_auto": True}, None),
        ({"json_object": True, "disable_any_whitespace": False}, "json_object"),
        ({"json": False}, "json_schema"),
    ],
)
def test_a_default_object_of_structured_outputs_asks_for_nothing(
    given: dict[str, Any], kind: str | None
) -> None:
    body = convert_body({"prompt": "x", "structured_outputs": given}, CompletionBody)
    wanted = body.wanted_grammar()
    assert (wanted.kind if wanted else None) == kind


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, "") for field in ("guided_regex", "regex", "guided_grammar", "ebnf", "grammar")),
        *((field, "") for field in ("guided_json", "json_schema", "structural_tag")),
        ("guided_choice", []),
    ],
)
def test_an_empty_form_is_not_ignored(field: str, value: Any) -> None:
    wanted = convert_body({"prompt": "x", field: value}, CompletionBody).wanted_grammar()
    assert wanted is not None and wanted.field == field
    with pytest.raises(GrammarRefused):
        wanted.text(frozenset())
    assert convert_body({"prompt": "x", field: None}, CompletionBody).wanted_grammar() is None


@pytest.mark.parametrize("field", ["json_schema", "regex", "ebnf", "structural_tag"])
def test_an_empty_form_of_sglang_is_not_ignored(field: str) -> None:
    wanted = convert_body({field: ""}, SglangSampling).wanted_grammar()
    assert wanted is not None and wanted.field == f"sampling_params.{field}"
    with pytest.raises(GrammarRefused):
        wanted.text(frozenset())


def test_white_space_of_a_schema_needs_the_schema() -> None:
    given = {"prompt": "x", "guided_whitespace_pattern": " ", "regex": "a"}
    with pytest.raises(BadRequest, match="needs guided_json") as refused:
        convert_body(given, CompletionBody).wanted_grammar()
    assert refused.value.param == "guided_whitespace_pattern"


def test_options_without_a_form_are_refused() -> None:
    given = {"prompt": "x", "structured_outputs": {"disable_any_whitespace": True}}
    with pytest.raises(BadRequest, match="takes exactly one form, not none"):
        convert_body(given, CompletionBody).wanted_grammar()

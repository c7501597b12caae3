"""The table of fields: the structs, the page and what a body meets all say the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from loraconsole.pipeline.server.bodies.anthropic_body import CountTokensBody, MessagesBody
from loraconsole.pipeline.server.bodies.body import Body, decode_body
from loraconsole.pipeline.server.bodies.embedding_body import EmbeddingBody
from loraconsole.pipeline.server.bodies.field_pages import PAGES
from loraconsole.pipeline.server.bodies.field_table import OFF, Field, page_of
from loraconsole.pipeline.server.bodies.generate_body import GenerateBody, GenerateParameters
from loraconsole.pipeline.server.bodies.grammar_fields import (
    JsonSchemaFormat,
    ResponseFormat,
    StructuredOutputs,
)
from loraconsole.pipeline.server.bodies.openai_bodies import ChatBody, CompletionBody, StreamOptions
from loraconsole.pipeline.server.bodies.order_bodies import (
    AdapterBody,
    LoadBody,
    PlanBody,
    ProfilerBody,
    SchedulerBody,
    UnloadBody,
)
from loraconsole.pipeline.server.bodies.responses_body import (
    ResponsesBody,
    ResponsesReasoning,
    ResponsesText,
)
from loraconsole.pipeline.server.bodies.sglang_body import SglangBody, SglangSampling
from loraconsole.pipeline.server.bodies.tokenize_body import DetokenizeBody, TokenizeBody
from loraconsole.pipeline.server.http.bad_request import BadRequest

PAGE = Path(__file__).resolve().parents[3] / "docs" / "http.md"
LEAST: dict[type[Body], dict[str, Any]] = {
    ChatBody: {"messages": [{"role": "user", "content": "hi"}]},
    CompletionBody: {"prompt": "hi"},
    StreamOptions: {"include_obfuscation": False},
    ResponsesBody: {"input": "hi"},
    ResponsesText: {},
    TokenizeBody: {},
    EmbeddingBody: {"input": "hi"},
    SglangBody: {"text": "hi"},
    SglangSampling: {},
    DetokenizeBody: {"tokens": [1]},
    MessagesBody: {"messages": [{"role": "user", "content": "hi"}]},
    CountTokensBody: {"messages": [{"role": "user", "content": "hi"}]},
    ResponsesReasoning: {},
    ResponseFormat: {"type": "json_object"},
    JsonSchemaFormat: {"schema": {"type": "object"}},
    StructuredOutputs: {"_backend": "xgrammar"},
    GenerateBody: {"inputs": "hi"},
    GenerateParameters: {},
    LoadBody: {"lora_name": "a", "lora_path": "/a"},
    UnloadBody: {"lora_name": "a"},
    AdapterBody: {"name": "a", "path": "/a"},
    PlanBody: {"paths": ["/a"]},
    SchedulerBody: {},
    ProfilerBody: {},
}
"""What each body must have."""
PARENTS: dict[type[Body], tuple[type[Body], dict[str, Any], str]] = {
    StreamOptions: (CompletionBody, {"stream": True}, "stream_options"),
    GenerateParameters: (GenerateBody, {}, "parameters"),
    ResponsesText: (ResponsesBody, {}, "text"),
    ResponsesReasoning: (ResponsesBody, {}, "reasoning"),
    ResponseFormat: (CompletionBody, {}, "response_format"),
    StructuredOutputs: (CompletionBody, {}, "structured_outputs"),
    JsonSchemaFormat: (ResponseFormat, {"type": "json_schema"}, "json_schema"),
}
"""Objects that lie in another body: in which, with what beside them, under which name."""
VALUES: dict[str, Any] = {
    **dict.fromkeys(("model", "adapter_id", "lora_path", "lora_dir", "policy"), "a"),
    **{name: ["a", "b"] for name in ("stop",)},
    **dict.fromkeys(("stream", "ignore_eos", "ignore_eos_token", "do_sample", "pinned"), True),
    "load_inplace": True,
    **dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), 0.5),
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), -0.5),
    **dict.fromkeys(("top_k", "seed", "max_tokens", "max_completion_tokens", "top_logprobs"), 3),
    **dict.fromkeys(("max_new_tokens", "batch_num_adapters", "max_wait_tokens"), 3),
    **dict.fromkeys(("include_stop_str_in_output", "continue_final_message"), True),
    "echo": True,
    **dict.fromkeys(("include_usage", "continuous_usage_stats", "pin", "layers", "nvtx"), True),
    **dict.fromkeys(("add_special_tokens", "add_generation_prompt"), False),
    "skip_special_tokens": False,
    "adapter_source": "hub",
    "stop_token_ids": [1, 2],
    "n": 2,
    "best_of": 2,
    "suffix": "end",
    "logit_bias": {"17": -2.5},
    "bad_words": ["word"],
    "truncation_side": "right",
    **dict.fromkeys(("min_tokens", "prompt_logprobs", "truncate_prompt_tokens"), 3),
    **{key: [5, 6] for key in ("allowed_token_ids", "logprob_token_ids")},
    **dict.fromkeys(("return_token_ids", "return_tokens_as_token_ids", "no_stop_trim"), True),
    "max_per_adapter": 3,
    "slo_seconds": 2.5,
    "weights": {"a": 2.0},
    "stream_options": {"include_usage": True},
    "parameters": {"top_k": 3},
    "chat_template_kwargs": {"a": 1},
    "documents": [{"text": "a"}],
    **dict.fromkeys(("instructions", "previous_response_id", "user", "effort"), "a"),
    **dict.fromkeys(("safety_identifier", "prompt_cache_key"), "a"),
    "store": False,
    "background": True,
    "max_output_tokens": 3,
    "text": {"format": {"type": "json_object"}},
    "format": {"type": "json_object"},
    "tools": [{"type": "function", "name": "f"}],
    "tool_choice": "required",
    **dict.fromkeys(("parallel_tool_calls", "include_reasoning", "separate_reasoning"), False),
    "functions": [{"name": "f"}],
    **dict.fromkeys(("function_call", "reasoning_effort"), "none"),
    "enable_thinking": True,
    "thinking": {"type": "enabled"},
    "chat_template": "{{ messages }}",
    "reasoning": {"effort": "low"},
    "include": ["message.output_text.logprobs"],
    "metadata": {"a": "b"},
    **{key: {"type": "null"} for key in ("json_schema", "guided_json", "json", "structural_tag")},
    **dict.fromkeys(("regex", "ebnf", "grammar", "guided_regex", "guided_grammar"), "a"),
    **dict.fromkeys(("guided_whitespace_pattern", "whitespace_pattern"), " "),
    **{key: ["a"] for key in ("choice", "guided_choice", "triggers")},
    **dict.fromkeys(("disable_any_whitespace", "disable_additional_properties"), True),
    "response_format": {"type": "json_object"},
    "structured_outputs": {"regex": "a"},
    "json_object": True,
    "value": {"type": "null"},
    "schema": {"type": "null"},
    "structures": [{"begin": "a"}],
    "logprobs_mode": "processed_logprobs",
    "system": "a",
    "encoding_format": "base64",
    "logprob_start_len": 3,
    "decoder_input_details": True,
    "dimensions": 3,
    "pooling": "mean",
    "normalize": False,
    "use_activation": False,
    "input_ids": [1],
    "sampling_params": {"top_k": 3},
    "rid": "a",
    **dict.fromkeys(("return_logprob", "return_text_in_logprobs", "no_stop_trim"), True),
    **dict.fromkeys(("top_logprobs_num", "min_new_tokens", "sampling_seed"), 3),
    **dict.fromkeys(("truncate", "top_n_tokens", "return_k_alternatives"), 3),
    **dict.fromkeys(("details", "decoder_input_details", "return_full_text"), True),
    "prompt": "a",
    "messages": [],
    "return_token_strs": True,
    "stop_sequences": ["a", "b"],
    "output_config": {"format": {"type": "json_object"}},
    "output_format": {"type": "json_object"},
}
"""A value of each honoured field that is not its default."""
EACH = [(kind, name, field) for kind in LEAST for name, field in kind.table.items()]


def value_of(kind: type[Body], name: str) -> Any:
    if kind is ResponseFormat and name == "json_schema":
        return {"schema": {}}
    if kind is GenerateParameters and name == "grammar":
        return {"type": "regex", "value": "a"}
    if name == "logprobs":
        return True if kind is ChatBody else 3
    if name == "tool_choice" and issubclass(kind, CountTokensBody):
        return {"type": "any"}
    return LEAST[kind].get(name) or VALUES[name]


def decode(kind: type[Body], **fields: Any) -> Body:
    """A body with these fields more; a nested object lies in its parent."""
    whole = LEAST[kind] | fields
    if kind in PARENTS:
        parent, beside, name = PARENTS[kind]
        return decode(parent, **beside, **{name: whole})
    return decode_body(json.dumps(whole).encode(), kind)


@pytest.mark.parametrize(
    ("kind", "name", "field"), EACH, ids=[f"{k.__name__}-{n}" for k, n, _ in EACH]
)
def test_each_field_does_what_the_table_says(kind: type[Body], name: str, field: Field) -> None:
    plain = decode(kind)
    if name not in LEAST[kind]:
        assert decode(kind, **{name: None}) == plain
    if field.kind == "honoured":
        changed = decode(kind, **{name: value_of(kind, name)})
        assert changed != plain or name in LEAST[kind]
    elif field.kind == "harmless":
        for value in (True, 1, "x", [1], {"a": 1}, 2**70):
            assert decode(kind, **{name: value}) == plain
    else:
        for off in field.off:
            assert decode(kind, **{name: off}) == plain
        for value in (True, 7, "x", [1], {"a": 1}):
            if value in field.off:
                continue
            with pytest.raises(BadRequest) as refused:
                decode(kind, **{name: value})
            assert (refused.value.param or "").endswith(name)
            assert f"{name} is not supported: {field.note}" in refused.value.reason


@pytest.mark.parametrize("kind", LEAST)
def test_what_is_honoured_is_what_the_body_has(kind: type[Body]) -> None:
    honoured = {name for name, field in kind.table.items() if field.kind == "honoured"}
    assert honoured == set(kind.__struct_fields__)
    with pytest.raises(BadRequest, match=r"no_such_field' is not a field of this request"):
        decode(kind, no_such_field=1)


def test_the_page_has_every_table_and_no_other() -> None:
    text = PAGE.read_text()
    tables = {id(kind.table) for kind in LEAST}
    assert {id(table) for table in PAGES.values()} == tables
    for heading, table in PAGES.items():
        assert f"### {heading}\n\n{page_of(table)}\n" in text, (
            "run: python -m loraconsole.pipeline.server.bodies.field_pages"
        )
    rows = sum(line.startswith("| `") for line in text.partition("## Fields")[2].splitlines())
    assert rows == sum(map(len, PAGES.values()))


def test_zero_is_no_false_and_one_is_a_whole_number() -> None:
    assert 0 not in [off for off in OFF if off is not False]
    with pytest.raises(BadRequest, match="return_hidden_states"):
        decode(CompletionBody, return_hidden_states=0)
    text = {"type": "text", "json_schema": None}
    body = decode(CompletionBody, response_format=text)
    assert isinstance(body, CompletionBody) and body.wanted_grammar() is None
    for nothing in ({}, {"include_usage": None}):
        assert decode(CompletionBody, stream_options=nothing) == decode(CompletionBody)
    assert decode(CompletionBody, typical_p=1) == decode(CompletionBody, typical_p=1.0)
    with pytest.raises(BadRequest, match="typical_p"):
        decode(CompletionBody, typical_p=True)

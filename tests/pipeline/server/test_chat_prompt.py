"""Messages become a prompt whole, or a refusal that names the place."""

from __future__ import annotations

import json
from typing import Any

import pytest

from loraconsole.pipeline.server.chat.chat_prompt import chat_prompt, conversation
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.text.chat_template import ChatTemplate
from loraconsole.pipeline.text.tokenizer import Tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    "{% if enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)
USER = {"role": "user", "content": "What is it?"}


@pytest.fixture(scope="module")
def tokenizer(model_directory: str) -> Tokenizer:
    return Tokenizer(model_directory)


def template(source: str = CHATML) -> ChatTemplate:
    return ChatTemplate({"default": source}, {}, "here")


def text(tokenizer: Tokenizer, messages: list[Any], source: str = CHATML, **more: Any) -> str:
    ids = chat_prompt(tokenizer, messages, chat_template=template(source), **more).token_ids
    return tokenizer.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("message", "param"),
    [
        (3, "messages[1]"),
        ({"content": "hi"}, "messages[1]"),
        ({"role": "", "content": "hi"}, "messages[1]"),
        ({"role": "user"}, "messages[1]"),
        ({"role": "user", "contents": "hi"}, "messages[1]"),
        ({"role": "user", "content": None}, "messages[1]"),
        ({"role": "assistant", "content": None, "tool_calls": []}, "messages[1]"),
        ({"role": "user", "content": 3}, "messages[1].content"),
        ({"role": "user", "content": [{"type": "image_url"}]}, "messages[1].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[1].content[0]"),
        (
            {"role": "user", "content": [{"type": "text", "text": "hi", "foo": 1}]},
            "messages[1].content[0].foo",
        ),
        (
            {"role": "user", "content": [{"type": "image_url", "text": "hi"}]},
            "messages[1].content[0]",
        ),
        ({"role": "assistant", "content": "", "audio": {"id": "x"}}, "messages[1].audio"),
        ({"role": "assistant", "tool_calls": "f"}, "messages[1].tool_calls"),
        ({"role": "assistant", "tool_calls": [{}]}, "messages[1].tool_calls[0]"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]},
            "messages[1].tool_calls[0].function.arguments",
        ),
    ],
)
def test_a_bad_message_is_named(message: Any, param: str) -> None:
    with pytest.raises(BadRequest) as refused:
        conversation([USER, message])
    assert refused.value.param == param
    assert param in refused.value.reason


def test_a_chat_without_messages_is_refused() -> None:
    with pytest.raises(BadRequest, match="messages is empty"):
        conversation([])


def test_tool_calls_reach_the_template_with_their_arguments_as_objects() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
    (said,) = conversation([{"role": "assistant", "content": None, "tool_calls": [call]}])
    assert said["tool_calls"] == [{**call, "function": {"name": "f", "arguments": {"a": 1}}}]
    assert said["content"] == ""


def test_other_fields_reach_the_template_as_they_are(tokenizer: Tokenizer) -> None:
    source = "{% for m in messages %}{{ m.name }}:{{ m.content }}{% endfor %}"
    assert text(tokenizer, [{**USER, "name": "Ann"}], source) == "Ann:What is it?"


def test_variables_reach_the_template(tokenizer: Tokenizer) -> None:
    said = text(tokenizer, [USER], template_kwargs={"enable_thinking": False})
    assert said.endswith("<think></think>") and "<think>" not in text(tokenizer, [USER])


def test_variables_that_are_fields_of_the_request_are_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadRequest) as refused:
        text(tokenizer, [USER], template_kwargs={"messages": []})
    assert refused.value.param == "chat_template_kwargs"


def test_a_template_that_refuses_names_the_messages(tokenizer: Tokenizer) -> None:
    with pytest.raises(BadRequest, match="one at a time") as refused:
        text(tokenizer, [USER], "{{ raise_exception('one at a time') }}")
    assert refused.value.param == "messages"


def test_the_head_of_an_answer_is_left_out_where_that_is_asked_for(tokenizer: Tokenizer) -> None:
    assert text(tokenizer, [USER]).endswith("<|im_start|>assistant\n")
    assert text(tokenizer, [USER], add_generation_prompt=False).endswith("<|im_end|>\n")


def test_the_last_message_goes_on(tokenizer: Tokenizer) -> None:
    last = {"role": "assistant", "content": "The capital is"}
    said = text(tokenizer, [USER, last], continue_final_message=True)
    assert said.endswith("<|im_start|>assistant\nThe capital is")
    with pytest.raises(BadRequest) as refused:
        text(tokenizer, [USER, last], continue_final_message=True, add_generation_prompt=True)
    assert refused.value.param == "continue_final_message"


def test_documents_that_a_template_does_not_read_are_refused(tokenizer: Tokenizer) -> None:
    documents = [{"title": "A", "text": "B"}]
    with pytest.raises(BadRequest) as refused:
        text(tokenizer, [USER], documents=documents)
    assert refused.value.param == "documents"
    source = "{% for d in documents or [] %}{{ d.text }};{% endfor %}" + CHATML
    assert text(tokenizer, [USER], source, documents=documents).startswith("B;")


def test_a_message_that_the_template_leaves_out_is_refused(tokenizer: Tokenizer) -> None:
    source = (
        "{% for m in messages %}{% if m.role in ('user', 'assistant') %}{{ m.content }}"
        "{% elif m.role == 'tool' %}{{ m.content | tojson }}{% endif %}{% endfor %}"
    )
    tool = {"role": "tool", "content": 'it "is"\n'}
    assert text(tokenizer, [USER, tool], source) == 'What is it?"it \\"is\\"\\n"'
    with pytest.raises(BadRequest) as refused:
        text(tokenizer, [{"role": "developer", "content": "Be brief."}, USER], source)
    assert refused.value.param == "messages[0]"
    assert "developer" in refused.value.reason


def test_a_developers_message_is_one_of_the_system_unless_the_template_knows_it(
    tokenizer: Tokenizer,
) -> None:
    said = [{"role": "developer", "content": "Be brief."}, USER]
    as_system = [{"role": "system", "content": "Be brief."}, USER]
    assert text(tokenizer, said, CHATML) == text(tokenizer, as_system, CHATML)
    knows = "{% if messages[0].role == 'developer' %}D:{% endif %}" + CHATML
    assert text(tokenizer, said, knows).startswith("D:")


def test_a_message_of_reasoning_alone_has_empty_content(tokenizer: Tokenizer) -> None:
    said = [USER, {"role": "assistant", "content": None, "reasoning_content": "hm"}]
    assert text(tokenizer, said).endswith(
        "<|im_start|>assistant\n<|im_end|>\n<|im_start|>assistant\n"
    )


CALL = {"id": "1", "type": "function", "function": {"name": "look_up", "arguments": '{"a": 1}'}}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object"}}}
SAID = [
    USER,
    {"role": "assistant", "content": None, "tool_calls": [CALL, CALL]},
    {"role": "tool", "tool_call_id": "1", "content": "It is x."},
    {"role": "tool", "tool_call_id": "1", "content": [{"type": "text", "text": "Or y."}]},
]


def test_tool_calls_that_the_template_leaves_out_are_refused(tokenizer: Tokenizer) -> None:
    said = SAID[:2]
    with pytest.raises(BadRequest, match="reads no tool calls") as refused:
        text(tokenizer, said, CHATML + "{# a tool has no role here #}")
    assert refused.value.param == "messages[1].tool_calls"
    source = "{% for m in messages %}{{ m.content }}{{ (m.tool_calls or []) | tojson }}{% endfor %}"
    assert "look_up" in text(tokenizer, said, source)


def test_calls_and_results_become_text_for_a_template_that_knows_no_tools(
    tokenizer: Tokenizer,
) -> None:
    rendered = text(tokenizer, SAID, add_generation_prompt=False)
    call = '<tool_call>\n{"name": "look_up", "arguments": {"a": 1}}\n</tool_call>'
    assert f"<|im_start|>assistant\n{call}\n{call}<|im_end|>" in rendered
    results = "<tool_response>\nIt is x.\n</tool_response>\n<tool_response>\nOr y.\n"
    assert f"<|im_start|>user\n{results}</tool_response><|im_end|>" in rendered
    assert "<|im_start|>tool" not in rendered


def test_tools_become_text_for_a_template_that_reads_none(tokenizer: Tokenizer) -> None:
    system = {"role": "system", "content": "Be brief."}
    definition = '{"name": "look_up", "parameters": {"type": "object"}}'
    rendered = text(tokenizer, [system, USER], tools=[TOOL])
    assert f"<tools>\n{definition}\n</tools>" in rendered
    assert rendered.startswith("<|im_start|>system\nBe brief.\n\nYou can call functions.")
    rendered = text(tokenizer, [USER], tools=[TOOL])
    assert rendered.startswith("<|im_start|>system\nYou can call functions.")
    assert rendered.count("<|im_start|>system") == 1
    refuses = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('none') }}{% endif %}" + CHATML
    )
    rendered = text(tokenizer, [USER], refuses, tools=[TOOL])
    assert rendered.startswith("<|im_start|>user\nYou can call functions.")
    assert "in words.\n\nWhat is it?<|im_end|>" in rendered


def test_tools_reach_a_template_that_reads_them_unchanged(tokenizer: Tokenizer) -> None:
    source = "{{ tools | tojson }}{% for m in messages %}{{ m.content }}{% endfor %}"
    assert text(tokenizer, [USER], source, tools=[TOOL]) == json.dumps([TOOL]) + "What is it?"
    assert text(tokenizer, [USER], source) == "nullWhat is it?"


def test_messages_of_the_old_form_become_those_of_the_new() -> None:
    call = {"name": "f", "arguments": '{"a": 1}'}
    said, result = conversation(
        [
            {"role": "assistant", "content": None, "function_call": call},
            {"role": "function", "name": "f", "content": "3"},
        ]
    )
    assert said["tool_calls"][0]["function"] == {"name": "f", "arguments": {"a": 1}}
    assert "function_call" not in said
    assert (result["role"], result["content"]) == ("tool", "3")
    assert result["tool_call_id"] == said["tool_calls"][0]["id"]
    assert len(result["tool_call_id"]) == 9

"""Tool calls and reasoning by an unmodified openai client, on a real pipeline.

The default model's chat template knows no tools. Templates of the other formats come with the
requests, and `guided_grammar` has the model write what a model of that format would.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from made_tokenizers import byte_level
from openai.types.chat import ChatCompletion
from ring import BASE, TINY, Ring

from loraconsole.pipeline.tool_calls import deepseek
from loraconsole.pipeline.tool_calls.formats import TOOL_FORMATS

pytestmark = pytest.mark.processes

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"enum": ["C", "F"]}},
        "required": ["city"],
    },
}
TIME = {"name": "get_time", "description": "The time"}
TOOLS: list[Any] = [{"type": "function", "function": one} for one in (WEATHER, TIME)]
ASKED: list[Any] = [{"role": "user", "content": "What is the weather in Paris?"}]
GREEDY: dict[str, Any] = {"model": BASE, "messages": ASKED, "temperature": 0, "max_tokens": 200}
ONE: dict[str, Any] = {"tools": TOOLS, "parallel_tool_calls": False}
NAMED: Any = {"type": "function", "function": {"name": "get_time"}}

PARIS = '{"city": "Paris"}'
TURN = "{% for m in messages %}{{ m.content }}\n{% endfor %}"
FORMATS = {
    "hermes": (
        "<tool_call>",
        'I look.\n<tool_call>\n{"name": "get_weather", "arguments": %s}\n</tool_call>',
    ),
    "llama3": ("<|python_tag|>", '{"name": "get_weather", "parameters": %s}'),
    "mistral": ("[TOOL_CALLS]", 'I look.[TOOL_CALLS][{"name": "get_weather", "arguments": %s}]'),
    "mistral_args": ("[TOOL_CALLS][ARGS]", "I look.[TOOL_CALLS]get_weather[ARGS]%s"),
    "pythonic": ("func_name1(", '[get_weather(city="Paris")]'),
    "deepseek_v3": (
        f"{deepseek.CALL_BEGIN}```json",
        f"I look.{deepseek.CALLS_BEGIN}{deepseek.CALL_BEGIN}function{deepseek.SEPARATOR}"
        f"get_weather\n```json\n%s\n```{deepseek.CALL_END}{deepseek.CALLS_END}",
    ),
    "deepseek_v31": (
        deepseek.CALL_BEGIN,
        f"I look.{deepseek.CALLS_BEGIN}{deepseek.CALL_BEGIN}get_weather{deepseek.SEPARATOR}%s"
        + deepseek.CALL_END
        + deepseek.CALLS_END,
    ),
    "qwen_xml": (
        "<function=<parameter=",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n"
        "</tool_call>",
    ),
}
"""What a template of each format shows, and an answer with a call."""


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    options = ("--dtype", "float32", "--trust-request-chat-template")
    with Ring(tmp_path_factory.mktemp("r"), *options) as ring:
        yield ring


@pytest.fixture(scope="module")
def client(ring: Ring) -> openai.OpenAI:
    http = httpx.Client(trust_env=False)
    return openai.OpenAI(
        base_url=ring.url + "/v1", api_key="x", max_retries=0, timeout=60, http_client=http
    )


def test_every_format_has_an_answer_here() -> None:
    assert FORMATS.keys() == TOOL_FORMATS.keys()


def calls(answer: ChatCompletion, choice: int = 0) -> list[tuple[str, Any]]:
    found = answer.choices[choice].message.tool_calls or []
    return [(call.function.name, json.loads(call.function.arguments)) for call in found]


def streamed(client: openai.OpenAI, **asked: Any) -> ChatCompletion:
    """The answer that the client makes of a stream."""
    with client.chat.completions.stream(**GREEDY, **asked) as stream:
        return stream.get_final_completion()


def test_a_required_call_follows_the_schema_streamed_as_whole(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**GREEDY, **ONE, tool_choice="required")
    ((name, arguments),) = calls(whole)
    assert name in ("get_weather", "get_time")
    assert name == "get_time" or "city" in arguments
    assert whole.choices[0].finish_reason == "tool_calls"
    assert whole.choices[0].message.content is None
    again = streamed(client, **ONE, tool_choice="required")
    assert calls(again) == calls(whole)
    assert again.choices[0].finish_reason == "tool_calls"


def test_a_named_function_is_called(client: openai.OpenAI) -> None:
    for model in (BASE, "pirate"):
        asked = GREEDY | {"model": model}
        answer = client.chat.completions.create(**asked, **ONE, tool_choice=NAMED)
        assert calls(answer) == [("get_time", {})]
        assert answer.choices[0].finish_reason == "stop"


def test_each_of_several_choices_has_calls_of_its_own(client: openai.OpenAI) -> None:
    asked = GREEDY | {"temperature": 1.0, "seed": 3}
    answer = client.chat.completions.create(
        **asked, **ONE, tool_choice="required", n=3, logprobs=True
    )
    ids = []
    for index in range(3):
        assert len(calls(answer, index)) == 1
        ids += [call.id for call in answer.choices[index].message.tool_calls or []]
        assert answer.choices[index].logprobs
    assert len(set(ids)) == 3


def test_a_loop_ends_in_an_answer_that_has_read_the_result(client: openai.OpenAI) -> None:
    asked = client.chat.completions.create(
        **GREEDY, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "get_weather"}}
    )
    message = asked.choices[0].message
    assert message.tool_calls
    result = {
        "role": "tool",
        "tool_call_id": message.tool_calls[0].id,
        "content": "Sunny, 25 degrees.",
    }
    messages = [*ASKED, message.model_dump(exclude_none=True), result]
    answer = client.chat.completions.create(**GREEDY | {"messages": messages}, tools=TOOLS)
    assert "sunny" in (answer.choices[0].message.content or "")
    assert answer.choices[0].finish_reason == "stop"


def test_functions_of_old_are_answered_in_the_old_form(client: openai.OpenAI) -> None:
    functions: Any = {"functions": [WEATHER, TIME], "function_call": {"name": "get_time"}}
    whole = client.chat.completions.create(**GREEDY, **functions)
    called = whole.choices[0].message.function_call
    assert called
    assert (called.name, json.loads(called.arguments)) == ("get_time", {})
    assert whole.choices[0].message.tool_calls is None
    deltas = [
        chunk.choices[0].delta.function_call
        for chunk in client.chat.completions.create(**GREEDY, **functions, stream=True)
        if chunk.choices[0].delta.function_call
    ]
    assert [delta.name for delta in deltas if delta.name] == ["get_time"]
    assert "".join(delta.arguments or "" for delta in deltas) == called.arguments


def test_without_a_choice_to_call_there_is_text(client: openai.OpenAI) -> None:
    plain = client.chat.completions.create(**GREEDY, tools=TOOLS, tool_choice="none")
    forced = {"guided_grammar": "start: " + json.dumps(FORMATS["hermes"][1] % PARIS)}
    for choice in ("none", "auto"):
        answer = client.chat.completions.create(
            **GREEDY, tools=TOOLS, tool_choice=choice, extra_body=forced
        )
        assert len(calls(answer)) == (choice == "auto")
        assert "<tool_call>" in (answer.choices[0].message.content or "") or choice == "auto"
    assert plain.choices[0].message.tool_calls is None


@pytest.mark.parametrize(
    ("name", "thinks"), [*((name, False) for name in FORMATS), ("hermes", True), ("llama3", True)]
)
def test_a_call_of_each_format_is_read_streamed_and_whole(
    client: openai.OpenAI, name: str, thinks: bool
) -> None:
    signs, said = FORMATS[name]
    said = said.replace("%s", PARIS)
    template = f"{{# {signs} #}}{TURN}{{% if tools %}}{{{{ tools | tojson }}}}{{% endif %}}"
    if thinks:
        template += "<think>\n{# </think> #}"
        said = f"I must look.\n</think>\n\n{said}"
    more = {"guided_grammar": f"start: {json.dumps(said)}", "chat_template": template}
    whole = client.chat.completions.create(**GREEDY, tools=TOOLS, extra_body=more)
    message = whole.choices[0].message
    assert calls(whole) == [("get_weather", {"city": "Paris"})]
    assert message.content == ("I look." if "I look." in said else None)
    assert getattr(message, "reasoning_content", None) == ("I must look." if thinks else None)
    assert whole.choices[0].finish_reason == "tool_calls"
    again = streamed(client, tools=TOOLS, extra_body=more)
    assert calls(again) == calls(whole)
    assert (again.choices[0].message.content or None) == message.content
    (call,) = again.choices[0].message.tool_calls or []
    assert (call.type, call.id[:5] == "call_") == ("function", not name.startswith("mistral"))


@pytest.mark.parametrize("name", FORMATS)
def test_a_required_call_is_written_in_the_templates_format(
    client: openai.OpenAI, name: str
) -> None:
    template = f"{{# {FORMATS[name][0]} #}}{TURN}{{{{ tools | tojson }}}}"
    answer = client.chat.completions.create(
        **GREEDY, **ONE, tool_choice=NAMED, extra_body={"chat_template": template}
    )
    assert calls(answer) == [("get_time", {})]


def test_reasoning_is_separate_hidden_or_part_of_the_text(client: openai.OpenAI) -> None:
    text = "Two and two.\n</think>\n\nFour."
    more = {
        "guided_grammar": f"start: {json.dumps(text)}",
        "chat_template": TURN + "<think>\n{# </think> #}",
    }

    def message(**fields: Any) -> Any:
        answer = client.chat.completions.create(**GREEDY, extra_body=more | fields)
        return answer.choices[0].message

    said = message()
    assert (said.content, said.reasoning_content, said.reasoning) == (
        "Four.",
        *["Two and two."] * 2,
    )
    hidden = message(include_reasoning=False)
    assert hidden.content == "Four."
    assert not hasattr(hidden, "reasoning_content")
    assert message(separate_reasoning=False).content == text
    deltas = [
        chunk.choices[0].delta
        for chunk in client.chat.completions.create(**GREEDY, extra_body=more, stream=True)
    ]
    reasoning = "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas)
    assert reasoning == "Two and two."
    assert "".join(delta.content or "" for delta in deltas) == "Four."


def turn(city: str, weather: str) -> list[Any]:
    """A question that was answered by a call without a unit."""
    function = {"name": "get_weather", "arguments": json.dumps({"city": city})}
    return [
        {"role": "user", "content": f"What is the weather in {city}?"},
        {
            "role": "assistant",
            "tool_calls": [{"id": "a", "type": "function", "function": function}],
        },
        {"role": "tool", "tool_call_id": "a", "content": weather},
        {"role": "assistant", "content": f"It is {weather} in {city}."},
    ]


def test_a_call_of_the_models_own_choice_follows_the_schema_of_a_strict_tool(
    client: openai.OpenAI,
) -> None:
    before = [*turn("Rome", "sunny"), *turn("Oslo", "rainy"), *turn("Berlin", "cloudy")]
    parameters = {
        "type": "object",
        "properties": {"unit": {"enum": ["C", "F"]}, "city": {"type": "string"}},
        "required": ["unit", "city"],
        "additionalProperties": False,
    }
    for strict in (False, True):
        function: Any = {"name": "get_weather", "parameters": parameters, "strict": strict}
        answer = client.chat.completions.create(
            **GREEDY | {"messages": [*before, *ASKED]},
            tools=[{"type": "function", "function": function}],
        )
        ((name, arguments),) = calls(answer)
        assert name == "get_weather"
        assert arguments["city"] == "Paris"
        assert arguments.keys() == ({"unit", "city"} if strict else {"city"})


def test_a_client_that_comes_back_gets_the_same_deltas_from_there(ring: Ring) -> None:
    body = {**GREEDY, **ONE, "tool_choice": "required", "stream": True}
    headers = {"x-request-id": "tools-1"}
    with ring.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as first:
        lines = first.iter_lines()
        events = [line for line in itertools.islice(lines, 12) if line]
        last = next(line for line in reversed(events) if line.startswith("id: "))[4:]
        with ring.http.stream(
            "GET", "/v1/requests/tools-1", headers={"last-event-id": last}
        ) as second:
            rest = [line for line in second.iter_lines() if line]
        events += [line for line in lines if line]
    after = events[events.index(f"id: {last}") + 2 :]
    assert rest == after
    with ring.http.stream("POST", "/v1/chat/completions", json=body, headers=headers) as again:
        begun = [line for line in again.iter_lines() if '"name"' in line]
    assert len(begun) == 1


def test_marks_that_are_special_tokens_are_forced_and_read(tmp_path: Path) -> None:
    model = tmp_path / "model"
    model.mkdir()
    specials = ["<unk>", "<s>", "</s>", "<think>", "</think>", "[TOOL_CALLS]", "[ARGS]"]
    byte_level(specials).save(str(model / "tokenizer.json"))
    config = TINY | {"vocab_size": 420, "eos_token_id": 2, "bos_token_id": 1}
    (model / "config.json").write_text(json.dumps(config))
    marks = "{# [TOOL_CALLS][ARGS]<think></think> #}"
    template = f"{marks}{TURN}{{{{ tools | tojson }}}}"
    settings = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": template}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    with Ring(tmp_path / "r", "--dummy", "--model", str(model)) as ring:
        body = {"messages": ASKED, **ONE, "tool_choice": NAMED, "max_tokens": 400, "seed": 1}
        no_thought = {"logit_bias": {"3": -100}}
        answer = ring.http.post("/v1/chat/completions", json=body | no_thought).json()
        (call,) = answer["choices"][0]["message"]["tool_calls"]
        assert call["function"] == {"name": "get_time", "arguments": "{}"}
        assert len(call["id"]) == 9
        one_thought = {"logit_bias": {"3": 100, "4": 100}}
        answer = ring.http.post("/v1/chat/completions", json=body | one_thought).json()
        message = answer["choices"][0]["message"]
        assert message["tool_calls"][0]["function"] == call["function"]
        assert message["content"] is None


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        (
            {"tool_choice": "required", "response_format": {"type": "json_object"}},
            "response_format",
        ),
        ({"tool_choice": "some"}, "tool_choice"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"functions": [WEATHER]}, "functions"),
        ({"chat_template": "{% if %}"}, "chat_template"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(
    ring: Ring, fields: dict[str, Any], param: str
) -> None:
    answer = ring.http.post("/v1/chat/completions", json={**GREEDY, **ONE, **fields})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param


def test_a_form_is_that_of_the_content_after_the_reasoning(client: openai.OpenAI) -> None:
    template = "{% for m in messages %}<|im_start|>user\n{{ m.content }}<|im_end|>\n{% endfor %}"
    template += "<|im_start|>assistant\n<think>\n{# </think> #}"
    answer = client.chat.completions.create(
        **GREEDY | {"max_tokens": 400, "temperature": 0.7, "seed": 1},
        extra_body={"chat_template": template, "guided_regex": "(4|5)!"},
    )
    message: Any = answer.choices[0].message
    if answer.choices[0].finish_reason == "stop":
        assert message.content in ("4!", "5!")
    else:  # it has not stopped to think
        assert message.content is None
    assert message.reasoning_content


def test_a_form_and_tools_of_the_models_choice_go_together(client: openai.OpenAI) -> None:
    before = [*turn("Rome", "sunny"), *turn("Oslo", "rainy"), *turn("Berlin", "cloudy")]
    shape = {
        "type": "object",
        "properties": {"sky": {"enum": ["sunny", "grey"]}},
        "additionalProperties": False,
    }
    form: Any = {
        "type": "json_schema",
        "json_schema": {"name": "sky", "schema": shape | {"required": ["sky"]}},
    }
    asked = GREEDY | {"messages": [*before, *ASKED]}
    called = client.chat.completions.create(**asked, tools=TOOLS, response_format=form)
    assert calls(called)[0][0] == "get_weather"
    told = client.chat.completions.create(
        **GREEDY, tools=TOOLS, tool_choice="none", response_format=form
    )
    assert json.loads(told.choices[0].message.content or "")["sky"] in ("sunny", "grey")


def test_a_schema_that_cannot_be_compiled_is_refused(ring: Ring) -> None:
    wrong = {"type": "object", "properties": {"a": {"$ref": "#/$defs/missing"}}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": wrong}}]
    body = {**GREEDY, "tools": tools, "tool_choice": "required"}
    answer = ring.http.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "tools[0].function.parameters"

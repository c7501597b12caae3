"""openai for Python: chat, completions, models, errors. Answers are validated against its types."""

from __future__ import annotations

import asyncio
from enum import StrEnum

import openai
import pytest
from conftest import BASE, QUESTION, WEATHER, Server, is_weather, wait_for
from openai.types.chat import ChatCompletionMessageParam
from pydantic import BaseModel

ASK: list[ChatCompletionMessageParam] = [{"role": "user", "content": QUESTION}]
TOOL = {"type": "function", "function": WEATHER}


class City(StrEnum):
    MADRID = "Madrid"
    LISBON = "Lisbon"


class Place(BaseModel):
    """What a structured answer holds."""

    city: City
    is_capital: bool


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=server.v1, max_retries=0, _strict_response_validation=True)


@pytest.fixture(scope="module")
def lenient(server: Server) -> openai.OpenAI:
    """For what OpenAI itself answers in another form than its client's types have."""
    return openai.OpenAI(base_url=server.v1, max_retries=0)


# -- chat


@pytest.mark.parametrize("model", [BASE, "pirate", "haiku", f"{BASE}:pirate"])
def test_a_model_answers_as_it_does_without_the_client(
    client: openai.OpenAI, server: Server, model: str
) -> None:
    answer = client.chat.completions.create(
        model=model, messages=ASK, temperature=0, max_completion_tokens=12
    )
    assert answer.choices[0].message.content == server.chat(model)
    assert answer.usage and answer.usage.completion_tokens <= 12


def test_adapters_answer_otherwise_than_the_base_model(server: Server) -> None:
    assert len({server.chat(model) for model in (BASE, "pirate", "haiku")}) == 3


def test_a_stream_is_the_whole_answer_with_its_usage_at_the_end(
    client: openai.OpenAI, server: Server
) -> None:
    chunks = list(
        client.chat.completions.create(
            model="pirate",
            messages=ASK,
            temperature=0,
            max_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == server.chat("pirate")
    assert chunks[-1].usage and not chunks[-1].choices
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_choice_0_of_several_is_the_answer_to_one(client: openai.OpenAI) -> None:
    def texts(n: int) -> list[str | None]:
        answer = client.chat.completions.create(
            model=BASE, messages=ASK, temperature=1, seed=5, max_tokens=8, n=n
        )
        return [choice.message.content for choice in answer.choices]

    one, four = texts(1), texts(4)
    assert len(four) == 4 and four[0] == one[0] and len(set(four)) > 1


def test_stop_strings_end_an_answer_before_them(client: openai.OpenAI, server: Server) -> None:
    whole = server.chat(BASE)
    stop = whole.split()[2]
    answer = client.chat.completions.create(
        model=BASE, messages=ASK, temperature=0, max_tokens=30, stop=["@@", stop]
    )
    assert answer.choices[0].finish_reason == "stop"
    assert answer.choices[0].message.content == whole[: whole.index(stop)]


def test_bytes_of_logprobs_join_to_the_text(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": "Repeat exactly: 😀😃😄"}],
        temperature=0,
        max_tokens=12,
        logprobs=True,
        top_logprobs=3,
    )
    logprobs = answer.choices[0].logprobs
    assert logprobs and logprobs.content
    joined = b"".join(bytes(entry.bytes or ()) for entry in logprobs.content)
    assert joined.decode() == answer.choices[0].message.content
    assert all(len(entry.top_logprobs) == 3 for entry in logprobs.content)


def test_fields_that_change_nothing_are_accepted(client: openai.OpenAI, server: Server) -> None:
    answer = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": [{"type": "text", "text": QUESTION}]}],
        temperature=0,
        max_tokens=12,
        user="u",
        metadata={"a": "b"},
        store=False,
        service_tier="auto",
        tools=[],
    )
    assert answer.choices[0].message.content == server.chat(BASE)


def test_the_developers_message_is_the_systems(client: openai.OpenAI) -> None:
    def answer(role: str) -> str | None:
        messages = [{"role": role, "content": "Answer in French."}, *ASK]
        made = client.chat.completions.create(
            model=BASE, messages=messages, temperature=0, max_tokens=12
        )
        return made.choices[0].message.content

    assert answer("developer") == answer("system")


def test_logit_bias_forbids_a_token(client: openai.OpenAI, server: Server) -> None:
    body = {"model": BASE, "prompt": "The capital of Spain is", "add_special_tokens": False}
    tokens = server.post("/tokenize", body | {"prompt": server.chat(BASE)})["tokens"]
    answer = client.chat.completions.create(
        model=BASE,
        messages=ASK,
        temperature=0,
        max_tokens=12,
        logit_bias={str(tokens[0]): -100},
    )
    text = answer.choices[0].message.content or ""
    assert text and text.split()[0] != server.chat(BASE).split()[0]


def test_async_requests_run_side_by_side(server: Server) -> None:
    async def ask() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=server.v1, max_retries=0) as client:
            answers = await asyncio.gather(
                *(
                    client.chat.completions.create(
                        model=model, messages=ASK, temperature=0, max_tokens=12
                    )
                    for model in (BASE, "pirate", "haiku", "pirate")
                )
            )
            return [answer.choices[0].message.content for answer in answers]

    expected = [server.chat(model) for model in (BASE, "pirate", "haiku", "pirate")]
    assert asyncio.run(ask()) == expected


def test_a_closed_stream_ends_its_request(client: openai.OpenAI, server: Server) -> None:
    stream = client.chat.completions.create(
        model=BASE,
        messages=ASK,
        max_tokens=2000,
        stream=True,
        extra_body={"ignore_eos": True},
    )
    next(iter(stream))
    wait_for(lambda: server.running() == 1, seconds=20)
    stream.close()
    wait_for(lambda: server.running() == 0, seconds=20)


def test_a_clients_timeout_ends_its_request(client: openai.OpenAI, server: Server) -> None:
    with pytest.raises(openai.APITimeoutError):
        client.with_options(timeout=0.5).chat.completions.create(
            model=BASE, messages=ASK, max_tokens=4000, extra_body={"ignore_eos": True}
        )
    wait_for(lambda: server.running() == 0, seconds=20)


# -- structured output


def test_parse_returns_the_model_of_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.parse(
        model=BASE, messages=ASK, response_format=Place, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, Place)


def test_a_streamed_schema_is_parsed_too(client: openai.OpenAI) -> None:
    with client.chat.completions.stream(
        model="pirate", messages=ASK, response_format=Place, max_tokens=60
    ) as stream:
        for _ in stream:
            pass
        answer = stream.get_final_completion()
    assert isinstance(answer.choices[0].message.parsed, Place)


@pytest.mark.parametrize(
    ("constraint", "pattern"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "yes|no"),
        ({"structured_outputs": {"regex": "[0-9]{3}-[0-9]{2}"}}, "[0-9]{3}-[0-9]{2}"),
        ({"guided_choice": ["yes", "no"]}, "yes|no"),
        ({"regex": "[0-9]{4}"}, "[0-9]{4}"),
        ({"ebnf": 'root ::= "a" | "b"'}, "a|b"),
    ],
)
def test_constraints_of_peers_in_extra_body(
    client: openai.OpenAI, constraint: dict[str, object], pattern: str
) -> None:
    import re

    answer = client.chat.completions.create(
        model=BASE, messages=ASK, max_tokens=20, extra_body=constraint
    )
    text = answer.choices[0].message.content or ""
    assert re.fullmatch(pattern, text), text
    assert answer.choices[0].finish_reason == "stop"


def test_a_schema_that_cannot_be_compiled_is_a_bad_request(client: openai.OpenAI) -> None:
    wrong = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "no-such"}}}
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(model=BASE, messages=ASK, response_format=wrong)
    assert "type" in str(refused.value)


# -- tools


@pytest.mark.parametrize(
    "choice", ["required", {"type": "function", "function": {"name": "get_weather"}}]
)
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model", [BASE, "pirate"])
def test_a_demanded_call_fits_its_schema(
    client: openai.OpenAI, choice: object, stream: bool, model: str
) -> None:
    asked = {"model": model, "messages": ASK, "tools": [TOOL], "tool_choice": choice}
    asked |= {"parallel_tool_calls": False}
    reason = "tool_calls" if choice == "required" else "stop"  # as OpenAI's
    if stream:
        names, arguments, ends = [], "", []
        for chunk in client.chat.completions.create(**asked, max_tokens=100, stream=True):
            for call in chunk.choices[0].delta.tool_calls or ():
                assert call.index == 0
                names += [call.function.name] if call.function and call.function.name else []
                arguments += (call.function and call.function.arguments) or ""
            ends += [chunk.choices[0].finish_reason] if chunk.choices[0].finish_reason else []
        assert names == ["get_weather"] and ends == [reason]
    else:
        answer = client.chat.completions.create(**asked, max_tokens=100)
        (call,) = answer.choices[0].message.tool_calls or ()
        assert call.function.name == "get_weather" and call.id
        assert answer.choices[0].finish_reason == reason
        arguments = call.function.arguments
    assert is_weather(arguments)


def test_parallel_calls_each_fit_the_schema(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BASE, messages=ASK, tools=[TOOL], tool_choice="required", max_tokens=200, seed=1
    )
    calls = answer.choices[0].message.tool_calls or []
    complete = calls if answer.choices[0].finish_reason == "tool_calls" else calls[:-1]
    assert complete and len({call.id for call in calls}) == len(calls)
    assert all(is_weather(call.function.arguments) for call in complete)


def test_a_loop_of_call_result_and_answer(client: openai.OpenAI) -> None:
    messages: list[ChatCompletionMessageParam] = [*ASK]
    first = client.chat.completions.create(
        model=BASE,
        messages=messages,
        tools=[TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=100,
    )
    message = first.choices[0].message
    (call,) = message.tool_calls or ()
    messages += [
        message,
        {"role": "tool", "tool_call_id": call.id, "content": '{"degrees": 21}'},
    ]
    second = client.chat.completions.create(
        model=BASE, messages=messages, tools=[TOOL], tool_choice="none", max_tokens=20
    )
    assert second.choices[0].message.content and not second.choices[0].message.tool_calls


def test_functions_of_old(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(
        model=BASE,
        messages=ASK,
        functions=[WEATHER],
        function_call={"name": "get_weather"},
        max_tokens=100,
    )
    call = answer.choices[0].message.function_call
    assert call and call.name == "get_weather" and is_weather(call.arguments)


@pytest.mark.parametrize(
    ("tools", "choice"),
    [(None, "required"), ([TOOL], {"type": "function", "function": {"name": "absent"}})],
)
def test_a_choice_without_its_tool_is_a_bad_request(
    client: openai.OpenAI, tools: object, choice: object
) -> None:
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=BASE, messages=ASK, tools=tools or openai.omit, tool_choice=choice
        )


# -- completions


def test_a_batch_of_prompts_comes_back_in_its_order(client: openai.OpenAI, server: Server) -> None:
    prompts = ["Once upon a time", "The sky is", "Two plus two is"]
    answer = client.completions.create(model="haiku", prompt=prompts, temperature=0, max_tokens=8)
    texts = [choice.text for choice in sorted(answer.choices, key=lambda choice: choice.index)]
    assert texts == [server.complete("haiku", prompt, 8) for prompt in prompts]


def test_token_ids_are_a_prompt(client: openai.OpenAI, server: Server) -> None:
    ids = server.post("/tokenize", {"model": BASE, "prompt": "Once upon a time"})["tokens"]
    answer = client.completions.create(model=BASE, prompt=ids, temperature=0, max_tokens=8)
    assert answer.choices[0].text == server.complete(BASE, "Once upon a time", 8)


def test_echo_scores_the_prompt(lenient: openai.OpenAI) -> None:
    """The first token's score is null."""
    prompt = "The capital of Spain is Madrid"
    answer = lenient.completions.create(
        model=BASE, prompt=prompt, echo=True, logprobs=1, max_tokens=0, temperature=0
    )
    choice = answer.choices[0]
    assert choice.text == prompt and choice.logprobs
    assert "".join(choice.logprobs.tokens or ()) == prompt
    scores = choice.logprobs.token_logprobs or []
    assert scores[0] is None and all(score <= 0 for score in scores[1:])
    assert answer.usage and answer.usage.completion_tokens == 0


def test_logprobs_name_the_sampled_token_and_its_place(client: openai.OpenAI) -> None:
    answer = client.completions.create(
        model=BASE, prompt="The", temperature=2, seed=3, max_tokens=6, logprobs=2
    )
    choice = answer.choices[0]
    assert choice.logprobs and choice.logprobs.tokens and choice.logprobs.top_logprobs
    for token, entries in zip(choice.logprobs.tokens, choice.logprobs.top_logprobs, strict=True):
        assert token in entries and 2 <= len(entries) <= 3
    assert all(0 <= offset <= len(choice.text) for offset in choice.logprobs.text_offset or ())


def test_best_of_and_n(client: openai.OpenAI) -> None:
    answer = client.completions.create(model=BASE, prompt="The", max_tokens=4, n=2, best_of=3)
    assert len(answer.choices) == 2


# -- models and errors


def test_models_are_listed_and_found_by_each_name(client: openai.OpenAI) -> None:
    ids = [model.id for model in client.models.list()]
    assert ids[0] == BASE and {"pirate", "haiku"} <= set(ids)
    for name in (BASE, "pirate", f"{BASE}:pirate"):
        assert client.models.retrieve(name).id == name


def test_a_missing_model_is_not_found_and_the_served_ones_are_named(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.chat.completions.create(model="absent", messages=ASK)
    assert BASE in str(refused.value) and "pirate" in str(refused.value)
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_too_long_a_prompt_has_openais_code(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(model=BASE, prompt="a " * 20_000, max_tokens=1)
    assert refused.value.code == "context_length_exceeded"
    assert "maximum context length" in str(refused.value)


def test_routes_that_are_absent_answer_with_openais_error(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as refused:
        client.moderations.create(input="x")
    assert refused.value.body


# -- embeddings


def test_embeddings_are_vectors_of_the_model_and_its_adapters(lenient: openai.OpenAI) -> None:
    """The client asks for base64, and decodes it after the validation."""
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose again."]

    def vectors(model: str) -> list[list[float]]:
        return [
            entry.embedding for entry in lenient.embeddings.create(model=model, input=texts).data
        ]

    def cosine(a: list[float], b: list[float]) -> float:
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5

    base, pirate = vectors(BASE), vectors("pirate")
    assert len({len(vector) for vector in base + pirate}) == 1
    assert cosine(base[0], base[1]) > cosine(base[0], base[2])
    assert base[0] != pirate[0]

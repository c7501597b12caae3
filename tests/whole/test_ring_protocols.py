"""The protocols beside OpenAI's chat and completions, asked as their clients ask, of one pipeline
with the real small model."""

from __future__ import annotations

import itertools
import json
import math
import re
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from ring import BASE, Ring
from waiting import wait_for

pytestmark = pytest.mark.processes

SEA = "Tell me about the sea."
CHAT = [{"role": "user", "content": SEA}]
GREEDY: dict[str, Any] = {"temperature": 0, "model": "pirate"}


@pytest.fixture(scope="module")
def client(ring: Ring) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(
        base_url=f"{ring.url}/v1",
        api_key="none",
        max_retries=0,
        _strict_response_validation=True,
    ) as client:
        yield client


def post(ring: Ring, path: str, **body: Any) -> Any:
    response = ring.http.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def events(response: httpx.Response) -> list[tuple[str, Any]]:
    """(name, data) of each event; a text that is no JSON as it is."""
    found = []
    for block in response.text.split("\n\n"):
        lines = dict(line.split(": ", 1) for line in block.splitlines() if ": " in line)
        if "data" in lines:
            data = lines["data"]
            found.append((lines.get("event", ""), json.loads(data) if data[0] == "{" else data))
    return found


def chat_text(ring: Ring, model: str = "pirate", count: int = 12, **more: Any) -> str:
    """What the chat's own route says."""
    body = {"messages": CHAT, "model": model, "temperature": 0, "max_tokens": count, **more}
    text: str = post(ring, "/v1/chat/completions", **body)["choices"][0]["message"]["content"]
    return text


# --- OpenAI's responses


def test_a_response_says_what_a_chat_says(ring: Ring, client: openai.OpenAI) -> None:
    whole = client.responses.create(**GREEDY, input=SEA, max_output_tokens=12)
    assert whole.output_text == chat_text(ring)
    assert whole.status == "incomplete" and whole.usage and whole.usage.output_tokens == 12
    stream = list(client.responses.create(**GREEDY, input=SEA, max_output_tokens=12, stream=True))
    assert [event.sequence_number for event in stream] == list(range(len(stream)))
    deltas = [e.delta for e in stream if e.type == "response.output_text.delta"]
    last = stream[-1]
    assert last.type == "response.incomplete"
    assert "".join(deltas) == last.response.output_text == whole.output_text


def test_a_request_goes_on_from_a_response(ring: Ring, client: openai.OpenAI) -> None:
    first = client.responses.create(**GREEDY, input=SEA, max_output_tokens=6, instructions="Hm.")
    second = client.responses.create(
        **GREEDY, input="And the sky?", max_output_tokens=6, previous_response_id=first.id
    )
    said = [
        *CHAT,
        {"role": "assistant", "content": first.output_text},
        {"role": "user", "content": "And the sky?"},
    ]
    assert second.output_text == chat_text(ring, messages=said, count=6)
    item = {"type": "item_reference", "id": first.output[0].id}
    third = client.responses.create(
        **GREEDY,
        input=[CHAT[0], item, {"role": "user", "content": "And the sky?"}],  # type: ignore[list-item]
        max_output_tokens=6,
    )
    assert third.output_text == second.output_text
    assert client.responses.retrieve(second.id).output_text == second.output_text
    client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.create(input="x", previous_response_id=first.id)
    unkept = client.responses.create(**GREEDY, input=SEA, max_output_tokens=1, store=False)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(unkept.id)
    with pytest.raises(openai.BadRequestError, match="cannot cancel a synchronous response"):
        client.responses.cancel(second.id)


def await_end(client: openai.OpenAI, response_id: str) -> Response:
    def ended() -> Response | None:
        response = client.responses.retrieve(response_id)
        return None if response.status in ("queued", "in_progress") else response

    return wait_for(ended, 60)


def test_a_response_in_the_background_goes_on_without_a_client(
    ring: Ring, client: openai.OpenAI
) -> None:
    begun = client.responses.create(**GREEDY, input=SEA, max_output_tokens=12, background=True)
    assert begun.status == "queued" and begun.background and begun.output == []
    response = await_end(client, begun.id)
    assert response.status == "incomplete" and response.output_text == chat_text(ring)
    more = {"extra_body": {"ignore_eos": True}, "background": True, "max_output_tokens": 60}
    with client.responses.create(**GREEDY, **more, input=SEA, stream=True) as stream:
        first = next(iter(stream))
    assert first.type == "response.created"
    usage = await_end(client, first.response.id).usage
    assert usage is not None and usage.output_tokens == 60
    with pytest.raises(openai.BadRequestError, match="background needs store"):
        client.responses.create(**GREEDY, input=SEA, background=True, store=False)


def test_a_response_in_the_background_is_cancelled(ring: Ring, client: openai.OpenAI) -> None:
    more = {"extra_body": {"ignore_eos": True}, "background": True, "max_output_tokens": 2000}
    begun = client.responses.create(**GREEDY, **more, input=SEA)
    wait_for(lambda: client.responses.retrieve(begun.id).status == "in_progress", 60)
    with pytest.raises(openai.ConflictError, match="still runs"):
        client.responses.delete(begun.id)
    with pytest.raises(openai.BadRequestError, match="still runs"):
        client.responses.create(**GREEDY, input="x", previous_response_id=begun.id)
    cancelled = client.responses.cancel(begun.id)
    assert (cancelled.status, cancelled.error) == ("cancelled", None)
    assert cancelled.output_text and cancelled.usage and cancelled.usage.output_tokens
    ring.wait_idle()
    for again in (client.responses.retrieve(begun.id), client.responses.cancel(begun.id)):
        assert again == cancelled
    client.responses.delete(begun.id)
    with client.responses.create(**GREEDY, **more, input=SEA, stream=True) as stream:
        response_id = next(e.response.id for e in stream if e.type == "response.created")
        cancelled = client.responses.cancel(response_id)
        last = list(stream)[-1]
    assert last.type == "response.failed" and last.response == cancelled
    assert cancelled.status == "cancelled" and cancelled.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.cancel("resp_unknown")


def test_logprobs_of_a_response_are_those_of_its_text(client: openai.OpenAI) -> None:
    stream = list(
        client.responses.create(
            **GREEDY,
            input=SEA,
            max_output_tokens=8,
            top_logprobs=2,
            include=["message.output_text.logprobs"],
            stream=True,
        )
    )
    last = stream[-1]
    assert last.type == "response.incomplete" and last.response.output[0].type == "message"
    part = last.response.output[0].content[0]
    assert part.type == "output_text" and part.logprobs
    joined = b"".join(bytes(entry.bytes) for entry in part.logprobs)
    assert joined.decode() == part.text and len(part.logprobs) == 8
    streamed = [
        entry.logprob
        for event in stream
        if event.type == "response.output_text.delta"
        for entry in event.logprobs
    ]
    assert streamed == [entry.logprob for entry in part.logprobs]


def test_a_response_under_way_is_taken_up_again(ring: Ring) -> None:
    body = {**GREEDY, "input": SEA, "max_output_tokens": 40, "ignore_eos": True, "stream": True}
    ids = {"x-request-id": "resp_mine"}
    taken: list[str] = []
    with ring.http.stream("POST", "/v1/responses", json=body, headers=ids) as response:
        lines = response.iter_lines()
        while sum(line.startswith("id: ") for line in taken) < 3:
            taken.append(next(lines))
        state = ring.http.get("/v1/responses/resp_mine").json()
        assert state["status"] == "in_progress" and state["output"] == []
        last = next(line for line in reversed(taken) if line.startswith("id: "))[4:]
        rest = ring.http.get("/v1/requests/resp_mine", params={"after": last})
        found = [*taken, *lines]
    numbers = [
        json.loads(line[6:])["sequence_number"] for line in found if line.startswith("data: ")
    ]
    assert numbers == list(range(len(numbers)))
    again = [data["sequence_number"] for _, data in events(rest)]
    assert again == list(range(again[0], len(numbers)))


PLACE = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 12}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER = [{"role": "user", "content": "What is the weather in Paris?"}]


def test_a_response_calls_a_function_and_goes_on_from_its_output(
    client: openai.OpenAI,
) -> None:
    ask: dict[str, Any] = {
        "model": BASE,
        "input": WEATHER,
        "temperature": 0,
        "max_output_tokens": 60,
        "tools": [{"type": "function", "name": "weather", "parameters": PLACE, "strict": True}],
        "parallel_tool_calls": False,
    }
    whole = client.responses.create(**ask, tool_choice="required")
    (call,) = whole.output
    assert call.type == "function_call" and call.name == "weather" and whole.status == "completed"
    assert json.loads(call.arguments)["city"]
    named = {"type": "function", "name": "weather"}
    stream = list(client.responses.create(**ask, tool_choice=named, stream=True))  # type: ignore[call-overload]
    parts = [e.delta for e in stream if e.type == "response.function_call_arguments.delta"]
    assert "".join(parts) == call.arguments and len(parts) > 1
    assert [e.type for e in stream if e.type.endswith("item.added")] == [
        "response.output_item.added"
    ]
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Rain."}
    more = {**ask, "input": [output], "previous_response_id": whole.id, "max_output_tokens": 4}
    assert client.responses.create(**more, tool_choice="none").output_text
    reference = {"type": "item_reference", "id": call.id}
    again = {**more, "input": [*WEATHER, reference, output], "previous_response_id": None}
    assert client.responses.create(**again, tool_choice="none").output[0].type == "message"


def test_a_response_has_the_form_that_is_asked_for(client: openai.OpenAI) -> None:
    form = {"type": "json_schema", "name": "place", "schema": PLACE, "strict": True}
    found = client.responses.create(
        **GREEDY,
        input="A city",
        text={"format": form},
        max_output_tokens=60,  # type: ignore[arg-type]
    )
    assert set(json.loads(found.output_text)) == {"city"}
    assert found.text and found.text.format and found.text.format.type == "json_schema"


# --- Anthropic's messages


def test_a_message_uses_a_tool_and_reads_its_result(ring: Ring) -> None:
    ask: dict[str, Any] = {
        "messages": WEATHER,
        "max_tokens": 60,
        "temperature": 0,
        "tools": [{"name": "weather", "input_schema": PLACE}],
    }
    choice = {"type": "any", "disable_parallel_tool_use": True}
    whole = post(ring, "/v1/messages", **ask, tool_choice=choice)
    (use,) = whole["content"]
    assert (use["type"], use["name"], whole["stop_reason"]) == ("tool_use", "weather", "tool_use")
    named = {"type": "tool", "name": "weather", "disable_parallel_tool_use": True}
    body = {**ask, "tool_choice": named, "stream": True}
    stream = events(ring.http.post("/v1/messages", json=body))
    parts = [data["delta"] for name, data in stream if name == "content_block_delta"]
    assert json.loads("".join(part["partial_json"] for part in parts)) == use["input"]
    assert stream[-2][1]["delta"]["stop_reason"] == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use["id"], "content": "Rain."}
    said = [
        *WEATHER,
        {"role": "assistant", "content": whole["content"]},
        {"role": "user", "content": [result]},
    ]
    more = {**ask, "messages": said, "max_tokens": 4, "tool_choice": {"type": "none"}}
    assert post(ring, "/v1/messages", **more)["content"][0]["type"] == "text"


def test_a_message_says_what_a_chat_says(ring: Ring) -> None:
    ask = {**GREEDY, "messages": CHAT, "max_tokens": 12}
    whole = post(ring, "/v1/messages", **ask)
    assert whole["content"] == [{"type": "text", "text": chat_text(ring)}]
    assert whole["stop_reason"] == "max_tokens" and whole["usage"]["output_tokens"] == 12
    stream = events(ring.http.post("/v1/messages", json={**ask, "stream": True}))
    assert all(name == data["type"] for name, data in stream)
    deltas = [data["delta"]["text"] for name, data in stream if name == "content_block_delta"]
    assert "".join(deltas) == whole["content"][0]["text"]
    assert stream[0][0] == "message_start" and stream[-1][0] == "message_stop"
    count = post(ring, "/v1/messages/count_tokens", model="pirate", messages=CHAT)
    assert count == {"input_tokens": whole["usage"]["input_tokens"]}


def test_a_message_is_continued_and_stopped(ring: Ring) -> None:
    said = [*CHAT, {"role": "assistant", "content": "One, two, three,"}]
    more = {"continue_final_message": True, "add_generation_prompt": False}
    text = chat_text(ring, model=BASE, messages=said, count=20, **more)
    ask = {"messages": said, "temperature": 0, "max_tokens": 20}
    whole = post(ring, "/v1/messages", **ask, stop_sequences=[text[8:12]])
    assert (whole["stop_reason"], whole["stop_sequence"]) == ("stop_sequence", text[8:12])
    assert whole["content"][0]["text"] == text[: text.index(text[8:12])]


def test_errors_of_messages_have_anthropics_shape(ring: Ring) -> None:
    for body, status, kind in (
        ({"messages": CHAT, "model": "absent"}, 404, "not_found_error"),
        ({"messages": []}, 400, "invalid_request_error"),
        ({"messages": CHAT, "top_x": 1}, 400, "invalid_request_error"),
    ):
        response = ring.http.post("/v1/messages", json=body)
        assert response.status_code == status
        found = response.json()
        assert found["type"] == "error" and found["error"]["type"] == kind


# --- TGI, LoRAX, S-LoRA


def completion(ring: Ring, model: str, count: int, prompt: Any = "The sea") -> str:
    text: str = post(
        ring, "/v1/completions", model=model, prompt=prompt, max_tokens=count, temperature=0
    )["choices"][0]["text"]
    return text


@pytest.mark.parametrize("path", ["/generate", "/"])
def test_tgis_clients_read_one_text(ring: Ring, path: str) -> None:
    parameters = {"max_new_tokens": 6, "details": True, "top_n_tokens": 2, "adapter_id": "pirate"}
    found = post(ring, path, inputs="The sea", parameters=parameters, stream=False)
    answer = found[0] if path == "/" else found
    assert answer["generated_text"] == completion(ring, "pirate", 6)
    details = answer["details"]
    assert "".join(token["text"] for token in details["tokens"]) == answer["generated_text"]
    assert (details["finish_reason"], details["generated_tokens"]) == ("length", 6)
    assert [len(top) for top in details["top_tokens"]] == [2] * 6
    body = {"inputs": "The sea", "parameters": parameters, "stream": True}
    stream = [data for _, data in events(ring.http.post(path, json=body))]
    assert "".join(event["token"]["text"] for event in stream) == answer["generated_text"]
    assert [event["generated_text"] for event in stream[:-1]] == [None] * 5
    assert stream[-1]["generated_text"] == answer["generated_text"]
    assert stream[-1]["details"]["generated_tokens"] == 6


def test_sloras_clients_read_a_list(ring: Ring) -> None:
    body = {"inputs": "The sea", "parameters": {"max_new_tokens": 6}, "lora_dir": "pirate"}
    assert post(ring, "/generate", **body) == {
        "generated_text": [completion(ring, "pirate", 6)],
        "count_output_tokens": 6,
    }


def test_a_prompt_is_cut_and_repeated_as_asked(ring: Ring) -> None:
    cut = post(
        ring,
        "/generate",
        inputs="Nothing of this stays: The sea",
        parameters={"max_new_tokens": 5, "truncate": 2, "return_full_text": True},
    )
    ids = post(ring, "/tokenize", prompt="Nothing of this stays: The sea")["tokens"][-2:]
    prefix = "Nothing of this stays: The sea"
    assert cut["generated_text"] == prefix + completion(ring, BASE, 5, prompt=ids)


def test_a_sampling_field_samples_for_tgis_clients_alone(ring: Ring) -> None:
    parameters = {"max_new_tokens": 4, "temperature": 0.7, "seed": 3, "details": True}
    sampled = post(ring, "/generate", inputs="The sea", parameters=parameters)
    assert sampled["details"]["seed"] == 3
    body = {"inputs": "The sea", "parameters": parameters, "lora_dir": "pirate"}
    assert ring.http.post("/generate", json=body).status_code == 400


# --- SGLang


def test_sglangs_answer_has_text_ids_and_reasons(ring: Ring) -> None:
    sampling = {"max_new_tokens": 6, "temperature": 0}
    one = post(ring, "/generate", text="The sea", sampling_params=sampling)
    assert one["text"] == completion(ring, BASE, 6)
    meta = one["meta_info"]
    assert meta["finish_reason"] == {"type": "length", "length": 6}
    assert (meta["prompt_tokens"], meta["completion_tokens"]) == (2, len(one["output_ids"]))
    stopped = post(ring, "/generate", text="The sea", sampling_params={**sampling, "stop": " the"})
    assert stopped["meta_info"]["finish_reason"] == {"type": "stop", "matched": " the"}


def test_each_prompt_of_sglang_has_its_adapter_and_parameters(ring: Ring) -> None:
    found = post(
        ring,
        "/generate",
        text=["The sea", "The sky"],
        lora_path=["pirate", None],
        rid=["a", "b"],
        return_logprob=[True, False],
        top_logprobs_num=2,
        sampling_params=[
            {"max_new_tokens": 3, "temperature": 0},
            {"max_new_tokens": 4, "temperature": 0, "n": 2},
        ],
    )
    assert [each["text"] for each in found] == [
        completion(ring, "pirate", 3),
        *[completion(ring, BASE, 4, prompt="The sky")] * 2,
    ]
    assert [each["meta_info"]["id"] for each in found] == ["a", "b", "b"]
    ids = [entry[1] for entry in found[0]["meta_info"]["output_token_logprobs"]]
    assert ids == found[0]["output_ids"]
    assert [len(top) for top in found[0]["meta_info"]["output_top_logprobs"]] == [2] * 3
    assert "output_token_logprobs" not in found[1]["meta_info"]


def test_sglangs_stream_has_the_whole_text_each_time(ring: Ring) -> None:
    sampling = {"max_new_tokens": 6, "temperature": 0}
    body = {"text": "The sea", "sampling_params": sampling, "stream": True}
    *found, (_, last) = events(ring.http.post("/generate", json=body))
    assert last == "[DONE]"
    texts = [data["text"] for _, data in found]
    assert all(after.startswith(before) for before, after in itertools.pairwise(texts))
    assert texts[-1] == completion(ring, BASE, 6)
    assert [bool(data["meta_info"]["finish_reason"]) for _, data in found] == [
        *([False] * (len(found) - 1)),
        True,
    ]


def echoed(ring: Ring, prompt: str) -> list[float | None]:
    """The logprobs of a prompt, by OpenAI's route."""
    body = {"prompt": prompt, "max_tokens": 0, "echo": True, "logprobs": 0}
    found: list[float | None] = post(ring, "/v1/completions", **body)["choices"][0]["logprobs"][
        "token_logprobs"
    ]
    return found


def test_the_native_routes_have_the_logprobs_of_a_prompt(ring: Ring) -> None:
    prompt = "The sea is blue, and the sky too"
    expected = echoed(ring, prompt)
    ids = post(ring, "/tokenize", prompt=prompt)["tokens"]
    meta = post(
        ring,
        "/generate",
        text=prompt,
        sampling_params={"max_new_tokens": 2, "temperature": 0},
        return_logprob=True,
        logprob_start_len=2,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
    )["meta_info"]
    assert [entry[1] for entry in meta["input_token_logprobs"]] == ids[2:]
    assert [entry[0] for entry in meta["input_token_logprobs"]] == pytest.approx(expected[2:])
    assert "".join(entry[2] for entry in meta["input_token_logprobs"]) in prompt
    assert [len(top) for top in meta["input_top_logprobs"]] == [2] * len(ids[2:])
    parameters = {"max_new_tokens": 2, "details": True, "decoder_input_details": True}
    details = post(ring, "/generate", inputs=prompt, parameters=parameters)["details"]
    assert [each["id"] for each in details["prefill"]] == ids
    assert details["prefill"][0]["logprob"] is None
    assert [each["logprob"] for each in details["prefill"][1:]] == pytest.approx(expected[1:])
    for body, param in (
        ({"text": "a", "logprob_start_len": 0, "stream": True}, "logprob_start_len"),
        (
            {"inputs": "a", "parameters": parameters, "stream": True},
            "parameters.decoder_input_details",
        ),
    ):
        assert ring.http.post("/generate", json=body).json()["error"]["param"] == param


def test_sglangs_answers_have_forms_and_biases(ring: Ring) -> None:
    sampling: dict[str, Any] = {"max_new_tokens": 12, "temperature": 0}
    found = post(
        ring,
        "/generate",
        text=["The sea", "A city as JSON:", "The sea"],
        sampling_params=[
            {**sampling, "regex": "[0-9]{4}"},
            {**sampling, "json_schema": json.dumps(PLACE), "max_new_tokens": 60},
            {**sampling, "logit_bias": {"30": 100}, "max_new_tokens": 3},
        ],
    )
    assert re.fullmatch("[0-9]{4}", found[0]["text"])
    assert set(json.loads(found[1]["text"])) == {"city"}
    assert found[2]["output_ids"] == [30] * 3
    for name, value in (("regex", "("), ("json_schema", "{"), ("logit_bias", {"x": 1})):
        body = {"text": "a", "sampling_params": {**sampling, name: value}}
        refusal = ring.http.post("/generate", json=body).json()["error"]
        assert refusal["param"] == f"sampling_params.{name}"


def test_what_routers_add_to_a_body_is_taken(ring: Ring) -> None:
    """sglang-router and vllm-router write the defaults of their own fields into each body."""
    names = ("return_text_in_logprobs", "stream", "return_hidden_states", "background", "no_logs")
    more = dict.fromkeys((*names, "return_bytes", "return_entropy", "return_logprob"), False)
    sampling = {"max_new_tokens": 2, "temperature": 0}
    body = {"text": "The sea", "model": None, "sampling_params": sampling, "log_metrics": True}
    assert post(ring, "/generate", **body, **more)["text"] == completion(ring, BASE, 2)
    off = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "top_p": 1.0, "priority": 0}
    response = post(ring, "/v1/responses", **GREEDY, **off, input=SEA, stream=None, store=True)
    assert response["status"] == "completed"


def test_an_invocation_is_a_chat_or_a_completion(ring: Ring) -> None:
    chat = post(ring, "/invocations", model="pirate", messages=CHAT, temperature=0, max_tokens=12)
    assert chat["choices"][0]["message"]["content"] == chat_text(ring)
    text = post(ring, "/invocations", prompt="The sea", temperature=0, max_tokens=2)
    assert text["choices"][0]["text"] == completion(ring, BASE, 2)
    missing = ring.http.post("/invocations", json={}).json()["error"]
    assert (missing["param"], missing["message"]) == (
        "messages",
        "messages, of a chat, or prompt is missing",
    )


@pytest.mark.parametrize("name", ["tgi", "dummy"])
def test_the_clients_of_tgi_name_no_model_of_ours(ring: Ring, name: str) -> None:
    assert chat_text(ring, model=name) == chat_text(ring, model=BASE)


# --- tokens


def test_tokens_there_and_back(ring: Ring) -> None:
    there = post(ring, "/tokenize", prompt="Hello, sea!", return_token_strs=True)
    assert there["count"] == len(there["tokens"]) == len(there["token_strs"])
    assert there["token_strs"][-2] == "Ġsea"
    back = post(ring, "/detokenize", tokens=there["tokens"])
    assert back == {"prompt": "Hello, sea!", "text": "Hello, sea!"}
    batch = post(ring, "/v1/tokenize", prompt=["a", "b c"])
    assert batch["count"] == [1, 2]
    assert post(ring, "/v1/detokenize", tokens=batch["tokens"])["text"] == ["a", "b c"]
    chat = post(ring, "/tokenize", messages=CHAT, model="pirate")
    usage = post(ring, "/v1/chat/completions", messages=CHAT, model="pirate", max_tokens=1)["usage"]
    assert chat["count"] == usage["prompt_tokens"]
    long = post(ring, "/tokenize", prompt="sea " * chat["max_model_len"])
    assert long["count"] > chat["max_model_len"], "what is too long for an answer is counted too"
    for path, body in (
        ("/tokenize", {}),
        ("/tokenize", {"prompt": "a", "messages": CHAT}),
        ("/detokenize", {"tokens": [1, [2]]}),
        ("/detokenize", {"tokens": [-1]}),
        ("/detokenize", {"tokens": [1] * 200_000}),
    ):
        assert ring.http.post(path, json=body).status_code == 400
    absent = ring.http.post("/tokenize", json={"prompt": "a", "model": "absent"})
    assert absent.status_code == 404


def test_the_tokenizers_settings_can_be_read(ring: Ring) -> None:
    info = ring.http.get("/tokenizer_info").json()
    assert info["tokenizer_class"] and info["eos_token"] == "<|im_end|>"
    assert "messages" in info["chat_template"]


def test_tgis_info_names_model_and_limits(ring: Ring) -> None:
    info = ring.http.get("/info").json()
    assert info["model_id"] == BASE and info["max_total_tokens"] == info["max_input_tokens"] + 1
    assert ring.http.get("/").status_code == 200


# --- embeddings


def test_embeddings_are_vectors_of_length_one(ring: Ring) -> None:
    texts = ["The sea is blue.", "word " * 700, "A"]
    found = post(ring, "/v1/embeddings", input=texts, model=BASE)
    assert [each["index"] for each in found["data"]] == [0, 1, 2]
    vectors = [each["embedding"] for each in found["data"]]
    assert all(abs(math.hypot(*vector) - 1) < 1e-5 for vector in vectors)
    counts = [post(ring, "/tokenize", prompt=text)["count"] for text in texts]
    assert found["usage"]["prompt_tokens"] == found["usage"]["total_tokens"] == sum(counts)
    ids = [post(ring, "/tokenize", prompt=text)["tokens"] for text in texts]
    again = post(ring, "/v1/embeddings", input=ids)
    for vector, other in zip(vectors, again["data"], strict=True):
        assert other["embedding"] == pytest.approx(vector, abs=1e-5)


def test_a_vector_is_of_its_adapter_and_pooling(ring: Ring) -> None:
    ask: dict[str, Any] = {"input": "The sea is blue."}
    asked = [
        {},
        {"model": "pirate"},
        {"pooling": "mean"},
        {"normalize": False},
        {"truncate_prompt_tokens": 2},
    ]
    found = [post(ring, "/v1/embeddings", **ask, **more) for more in asked]
    vectors = [each["data"][0]["embedding"] for each in found]
    assert len({tuple(vector) for vector in vectors}) == len(asked)
    last, _, _, whole, _ = vectors
    length = math.hypot(*whole)
    assert [number / length for number in whole] == pytest.approx(last, abs=1e-5)
    single = post(ring, "/v1/embeddings", input="A", pooling="mean")["data"][0]["embedding"]
    other = post(ring, "/v1/embeddings", input="A")["data"][0]["embedding"]
    assert single == pytest.approx(other, abs=1e-6)


def test_openais_client_reads_base64(ring: Ring) -> None:
    with openai.OpenAI(base_url=f"{ring.url}/v1", api_key="none", max_retries=0) as client:
        read = client.embeddings.create(model="pirate", input="The sea").data[0].embedding
    plain = post(ring, "/v1/embeddings", model="pirate", input="The sea")["data"][0]["embedding"]
    assert read == pytest.approx(plain, abs=1e-6)


def test_what_no_vector_can_be_made_of_is_refused(ring: Ring) -> None:
    for body, param in (
        ({"input": []}, "input"),
        ({"input": ""}, "input"),
        ({"input": ["a", [1]]}, "input"),
        ({"input": "a", "dimensions": 7}, "dimensions"),
        ({"input": "a", "encoding_format": "hex"}, "encoding_format"),
        ({"input": "sea " * 9000}, "input"),
        ({"input": "a", "model": "absent"}, "model"),
    ):
        response = ring.http.post("/v1/embeddings", json=body)
        assert response.status_code in (400, 404), response.text
        assert response.json()["error"]["param"] == param
    ring.wait_idle()

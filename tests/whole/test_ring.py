"""The whole ring with the real small model: real processes, real sockets, real HTTP."""

from __future__ import annotations

import asyncio
import itertools
import json
import stat
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import zmq
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families
from ring import ADAPTERS, BASE, Ring
from waiting import wait_for

from loraconsole.console.client.recording import RecordingPlayer
from loraconsole.console.client.remote import Remote
from loraconsole.console.client.tape import Tape
from loraconsole.pipeline.config import Config
from loraconsole.pipeline.messages import Heartbeat, Moment, RouterStats, Snapshot

IS_JSON = {"content-type": "application/json"}
pytestmark = pytest.mark.processes

MODELS = (BASE, *ADAPTERS)
QUESTIONS = ("What is the capital of Spain?", "Tell me about the sea.")


@pytest.fixture(scope="module")
def client(ring: Ring) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{ring.url}/v1", api_key="none", max_retries=0) as client:
        yield client


# --- answers


def test_the_openai_client_lists_base_and_adapters(client: openai.OpenAI) -> None:
    models = {model.id: model for model in client.models.list()}
    assert set(models) == set(MODELS)
    assert client.models.retrieve("sql").id == "sql"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("absent")


def test_the_openai_client_gets_a_chat(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model=BASE,
        messages=[{"role": "user", "content": "Say hello."}],
        temperature=0,
        max_tokens=8,
    )
    assert done.choices[0].message.role == "assistant"
    assert done.choices[0].message.content
    assert done.choices[0].finish_reason in ("length", "stop")
    assert done.usage and done.usage.total_tokens == (
        done.usage.prompt_tokens + done.usage.completion_tokens
    )


@pytest.mark.parametrize("model", [BASE, "pirate", f"{BASE}:pirate"])
def test_a_stream_says_what_the_whole_says(client: openai.OpenAI, model: str) -> None:
    ask: dict[str, Any] = {
        "model": model,
        "messages": [{"role": "user", "content": QUESTIONS[1]}],
        "temperature": 0,
        "max_tokens": 20,
    }
    whole = client.chat.completions.create(**ask)
    parts = list(
        client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True})
    )
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == whole.choices[0].message.content
    assert parts[-1].usage == whole.usage
    assert [p.choices[0].finish_reason for p in parts if p.choices][-1] == (
        whole.choices[0].finish_reason
    )


def test_base_colon_adapter_is_the_adapter_and_not_the_base(ring: Ring) -> None:
    base = ring.answer(BASE, QUESTIONS[0])
    assert ring.answer("pirate", QUESTIONS[0]) == ring.answer(f"{BASE}:pirate", QUESTIONS[0])
    assert ring.answer("pirate", QUESTIONS[0]) != base


@pytest.mark.parametrize("field", ["adapter_id", "lora_path"])
def test_an_adapter_may_be_named_beside_the_model(ring: Ring, field: str) -> None:
    pirate = ring.answer("pirate", QUESTIONS[0])
    for model in (BASE, "pirate", f"{BASE}:pirate"):
        assert ring.answer(model, QUESTIONS[0], **{field: "pirate"}) == pirate
    refused = ring.chat("haiku", QUESTIONS[0], **{field: "pirate"})
    assert refused.status_code == 400 and refused.json()["error"]["param"] == field


def test_a_model_goes_on_with_the_last_message(ring: Ring) -> None:
    messages = [
        {"role": "user", "content": QUESTIONS[0]},
        {"role": "assistant", "content": "The capital of Spain is"},
    ]
    said = ring.answer(BASE, "", messages=messages, continue_final_message=True, max_tokens=2)
    assert said.startswith(" Madrid")


def test_completions_take_texts_and_ids_and_several(client: openai.OpenAI) -> None:
    one = client.completions.create(model=BASE, prompt="Once upon", temperature=0, max_tokens=6)
    several = client.completions.create(
        model=BASE, prompt=["Once upon", "The sky"], temperature=0, max_tokens=6
    )
    assert [choice.index for choice in several.choices] == [0, 1]
    assert several.choices[0].text == one.choices[0].text
    ids = client.completions.create(
        model=BASE, prompt=[6403, 3080], temperature=0, max_tokens=6, logprobs=2
    )
    logprobs = ids.choices[0].logprobs
    assert logprobs and logprobs.tokens and len(logprobs.tokens) == 6
    assert all(len(top) == 2 for top in logprobs.top_logprobs or ())
    assert "".join(logprobs.tokens) == ids.choices[0].text


def test_chat_logprobs_are_of_the_tokens_said(client: openai.OpenAI) -> None:
    done = client.chat.completions.create(
        model="sql",
        messages=[{"role": "user", "content": "Count the users."}],
        temperature=0,
        max_tokens=5,
        logprobs=True,
        top_logprobs=3,
    )
    entries = done.choices[0].logprobs.content  # type: ignore[union-attr]
    assert entries and len(entries) == done.usage.completion_tokens  # type: ignore[union-attr]
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        # Greedy: the token said is the likeliest.
        assert entry.logprob == pytest.approx(entry.top_logprobs[0].logprob, abs=1e-4)


def test_n_choices_differ_and_a_seed_brings_them_back(client: openai.OpenAI) -> None:
    def sample(seed: int) -> list[str | None]:
        done = client.chat.completions.create(
            model=BASE,
            messages=[{"role": "user", "content": "Name an animal."}],
            temperature=1.2,
            max_tokens=12,
            n=3,
            seed=seed,
        )
        return [choice.message.content for choice in done.choices]

    first = sample(7)
    assert len(set(first)) > 1
    assert sample(7) == first
    assert sample(8) != first


def test_a_stop_string_ends_the_answer_and_frees_its_pages(ring: Ring) -> None:
    whole = ring.answer(BASE, QUESTIONS[1], max_tokens=30)
    stop = whole.split()[4]
    response = ring.chat(BASE, QUESTIONS[1], max_tokens=30, stop=[stop])
    choice = response.json()["choices"][0]
    assert choice["finish_reason"] == "stop"
    assert choice["message"]["content"] == whole[: whole.index(stop)]
    ring.wait_idle()


def test_generate_answers_as_s_lora_does(ring: Ring) -> None:
    body = {"inputs": "The sea is", "lora_dir": "haiku", "parameters": {"max_new_tokens": 8}}
    done = ring.http.post("/generate", json=body).json()
    assert done["count_output_tokens"] == 8 and len(done["generated_text"]) == 1
    events = [
        json.loads(line[5:])
        for line in ring.http.post("/generate_stream", json=body).text.splitlines()
        if line.startswith("data:")
    ]
    assert "".join(event["token"]["text"] for event in events) == done["generated_text"][0]
    assert [event["finished"] for event in events] == [False] * 7 + [True]
    assert all(event["token"]["logprob"] <= 0 for event in events)


def test_32_mixed_streams_say_what_each_says_alone(ring: Ring) -> None:
    """Greedy, fp32, base and four adapters in one batch: nobody hears their neighbours."""

    async def stream(client: httpx.AsyncClient, model: str, text: str) -> str:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": text}],
            "temperature": 0,
            "max_tokens": 16,
            "stream": True,
        }
        said = ""
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            async for line in response.aiter_lines():
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["delta"]["content"]
        return said

    async def together() -> list[str]:
        limits = httpx.Limits(max_connections=64)
        async with httpx.AsyncClient(
            base_url=ring.url, timeout=120, limits=limits, trust_env=False
        ) as client:
            return await asyncio.gather(*(stream(client, *ask) for ask in asks))

    asks = [(MODELS[i % 5], f"{QUESTIONS[i % 2]} ({i // 5})") for i in range(32)]
    answers = asyncio.run(together())
    for index in (*range(0, 10), 21, 31):  # a few of each model; all would take a minute
        assert ring.answer(*asks[index]) == answers[index], asks[index]


# --- refusals


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"model": "absent"}, 404, "no adapter 'absent' is registered"),
        ({"model": f"{BASE}:absent"}, 404, "no adapter 'absent' is registered"),
        ({"max_tokens": 9000}, 400, "this model's maximum context length is 8192 tokens"),
        (
            {"messages": [{"role": "user", "content": "word " * 9000}]},
            400,
            "this model's maximum context length is 8192 tokens",
        ),
        ({"temperature": -1}, 400, "temperature"),
        ({"messages": []}, 400, "empty"),
        ({"tools": [{"type": "function"}]}, 400, "tools"),
        ({"messages": [{"role": "user", "content": "half \ud83d"}]}, 400, ""),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_cannot_run_is_told_why(
    ring: Ring, body: dict[str, Any], status: int, reason: str, stream: bool
) -> None:
    whole = {"model": BASE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    # ensure_ascii, so that half a character travels as the escape it is written as
    content = json.dumps(whole | body | {"stream": stream})
    response = ring.http.post("/v1/chat/completions", content=content, headers=IS_JSON)
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert reason in error["message"]
    word = "context_length_exceeded" if "context length" in reason else status
    assert error["code"] == ("model_not_found" if status == 404 else word)
    assert error["type"] == "invalid_request_error"
    if status == 404:
        assert f"the base model is {BASE!r}" in error["message"] and "pirate" in error["message"]


def test_unknown_paths_and_bodies_that_are_no_json_are_refused(ring: Ring) -> None:
    assert ring.http.get("/v1/absent").status_code == 404
    assert ring.http.post("/v1/completions", content=b"{", headers=IS_JSON).status_code == 400
    assert ring.http.post("/generate", json={"inputs": 3}).status_code == 400
    big = ring.http.post("/v1/completions", content=b"x" * (17 << 20), headers=IS_JSON)
    assert big.status_code == 413


def test_a_client_that_leaves_is_aborted_and_its_pages_freed(ring: Ring) -> None:
    body = {
        "model": BASE,
        "prompt": "For ever and",
        "max_tokens": 2000,
        "ignore_eos": True,
        "stream": True,
    }
    with ring.http.stream("POST", "/v1/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        wait_for(lambda: ring.snapshot()["router"]["running"] == 1)
    router = ring.wait_idle()
    assert router["aborts"] >= 1
    with pytest.raises(httpx.ReadTimeout):  # and one who never saw a byte
        ring.http.post("/v1/completions", json=body | {"stream": False}, timeout=0.5)
    assert ring.wait_idle()["aborts"] >= 2


def test_garbage_on_the_sockets_is_refused_and_the_ring_serves_on(ring: Ring) -> None:
    context = zmq.Context()
    for name in ("router", "worker-0", "detokenizer", "server", "supervisor"):
        push = context.socket(zmq.PUSH)
        push.connect(f"ipc://{ring.run}/{name}.inbox")
        for frame in (b"", b"\x80\x04K\x01.", b"\xff" * 1000, b"\x81\xa4type\xa5Batch"):
            push.send(frame)
        push.close(linger=1000)
    context.term()
    assert ring.answer(BASE, QUESTIONS[0])

    def refused() -> set[int]:
        beats = {beat["name"]: beat["hops"][0]["refused"] for beat in ring.snapshot()["beats"]}
        return {beats[name] for name in ("router", "worker-0", "detokenizer", "server")}

    wait_for(lambda: refused() == {4})


# --- what is told to others


def test_health_and_metrics_tell_the_truth(ring: Ring) -> None:
    health = ring.http.get("/health").json()
    assert health == {"status": "ok", "resumed": 0, "abandoned": 0, "without_client": 0}
    ring.answer("sql", QUESTIONS[0])

    def settled() -> dict[str, Metric] | None:
        """The metrics, once the router has listed what `sql` did: every two seconds."""
        text = ring.http.get("/metrics").text
        families = {family.name: family for family in text_string_to_metric_families(text)}
        tokens = {
            sample.labels["adapter"]: sample.value
            for sample in families["loraconsole_adapter_output_tokens"].samples
            if sample.name.endswith("_total")
        }
        pages = {s.labels["use"]: s.value for s in families["loraconsole_pages"].samples}
        is_settled = tokens.get("sql", 0) > 0 and pages["free"] > 0 and pages["kv"] == 0
        return families if is_settled else None

    families = wait_for(settled)
    assert families is not None and families["loraconsole_up"].samples[0].value == 1
    most = int(families["vllm:lora_requests_info"].samples[0].labels["max_lora"])
    assert 4 < most <= ring.snapshot()["router"]["max_adapters"]
    read = {s.labels["what"]: s.value for s in families["loraconsole_step_read_bytes"].samples}
    assert min(read.values()) > 0 and read["weights"] > read["adapters"]
    assert families["loraconsole_lora_tax_pairs"].samples[0].value > 0
    if tax := families.get("loraconsole_lora_tax_ratio"):  # absent while it is noise
        spread = families["loraconsole_lora_tax_spread_ratio"].samples[0].value
        assert tax.samples[0].value > spread >= 0
    assert families["loraconsole_step_read_bytes_per_second"].samples[0].value > 1e6
    assert families["loraconsole_copy_bytes_per_second"].samples[0].value > 1e8
    kernels = families["loraconsole_kernels_info"].samples[0].labels
    assert kernels["rank"] == "0" and "plain PyTorch" in kernels["kernels"]
    counts = families["loraconsole_time_to_first_token_seconds"].samples
    assert next(s.value for s in counts if s.name.endswith("_count")) > 0


def test_the_run_directory_is_private(ring: Ring) -> None:
    assert stat.S_IMODE(ring.run.stat().st_mode) == 0o700
    assert stat.S_IMODE((ring.run / "config.json").stat().st_mode) == 0o600


# --- the command line


def test_status_says_ready(ring: Ring) -> None:
    assert "READY" in ring.cli("status").stdout
    assert ring.cli("adapters", "list", "--json").returncode == 0


def test_the_command_line_says_where_an_adapter_lies_and_each_source_once(ring: Ring) -> None:
    listed = ring.cli("adapters", "list").stdout
    assert "on device" in listed and "gpu" not in listed
    logs = ring.cli("logs", "router", "-n", "1000").stdout
    assert " router      adapter " in logs and "router: " not in logs


def test_alerts_says_what_is_wrong_by_the_limits_of_the_settings(
    ring: Ring, tmp_path: Path
) -> None:
    def said() -> dict[str, str]:
        done = ring.cli("alerts", "--json", check=False)
        found = {alert["rule"]: alert["level"] for alert in json.loads(done.stdout)}
        assert done.returncode == (1 if found else 0)
        return found

    before = said()  # what other tests did to this ring
    assert "disk low" not in before and "TTFT high" not in before
    (tmp_path / "config" / "loraconsole").mkdir(parents=True)  # `home`, of every test
    settings = tmp_path / "config" / "loraconsole" / "console.toml"
    settings.write_text("[alerts]\nttft_p99_ms = 0.001\ndisk_gib = 1e9\n")
    ring.answer(BASE, "Hello")
    late = {"TTFT high": "warn"}  # on a CPU the sync wait is the step itself: it is not judged
    wait_for(lambda: said() == before | late | {"disk low": "bad"})


def test_prompt_asks_several_side_by_side(ring: Ring) -> None:
    done = ring.cli(
        *("prompt", "--json", "--base", "--adapter", "pirate", "--adapter", "haiku"),
        *("--temperature", "0", "--max-tokens", "12", QUESTIONS[1]),
    )
    answers = {answer["adapter"]: answer for answer in json.loads(done.stdout)}
    assert set(answers) == {None, "pirate", "haiku"}
    assert len({answer["text"] for answer in answers.values()}) == 3
    assert all(answer["ttft_ms"] > 0 and not answer["error"] for answer in answers.values())
    assert answers["pirate"]["text"] == ring.answer("pirate", QUESTIONS[1], max_tokens=12)


def test_prompt_says_what_is_wrong(ring: Ring) -> None:
    done = ring.cli("prompt", "--adapter", "absent", "hi", check=False)
    assert done.returncode == 1
    assert "no adapter 'absent'" in done.stderr


def test_logs_are_merged_and_chosen(ring: Ring) -> None:
    merged = ring.cli("logs").stdout
    assert " server " in merged and " supervisor " in merged
    lines = json.loads(ring.cli("logs", "router", "--json").stdout)
    assert {line["source"] for line in lines} <= {"router"}
    assert ring.cli("logs", "absent", check=False).returncode == 1


def test_drain_refuses_what_is_new_until_it_is_resumed(ring: Ring) -> None:
    ring.cli("drain")
    try:
        refused = ring.chat(BASE, QUESTIONS[0], max_tokens=2)
        assert refused.status_code == 503, refused.text
    finally:
        ring.cli("drain", "--resume")
    assert ring.answer(BASE, QUESTIONS[0])


def test_abort_ends_one_request_by_the_end_of_its_id(ring: Ring) -> None:
    assert ring.cli("abort", "nobody", check=False).returncode == 1
    body = {"model": BASE, "prompt": "Once", "max_tokens": 2000, "ignore_eos": True}
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(ring.http.post, "/v1/completions", json=body)
        while not (batch := ring.snapshot()["batch"]) or not batch["requests"]:
            time.sleep(0.1)
        request_id = batch["requests"][0]["request_id"]
        done = ring.cli("abort", request_id[-10:], "--json")
        assert json.loads(done.stdout) == {"request": request_id, "status": "ok"}
        answer.result(timeout=60)
    assert ring.wait_idle()["pages_kv"] == 0


def test_a_second_up_is_refused(ring: Ring) -> None:
    done = ring.cli("up", check=False)
    assert done.returncode == 1
    assert "already runs" in done.stderr
    assert ring.http.get("/health").status_code == 200


# --- what a run keeps of itself


def test_a_run_keeps_its_past_and_can_be_recorded(ring: Ring, tmp_path: Path) -> None:
    """The real pipeline's history, as a console that comes late is told it; and a recording."""
    ring.answer(BASE, QUESTIONS[0], max_tokens=24, ignore_eos=True)
    config = Config.load(ring.run)

    async def ask() -> Snapshot:
        async with Remote(config) as remote:
            return await remote.snapshot(history_s=60.0)

    def moments_with_a_busy_one() -> tuple[Moment, ...]:
        moments = asyncio.run(ask()).moments
        busy = [m for m in moments if m.steps and m.busy_ms and m.decode_tokens_s > 0]
        return moments if busy else ()

    moments = wait_for(moments_with_a_busy_one)
    assert all(0.5 < b.at - a.at < 5.0 for a, b in itertools.pairwise(moments[-5:]))
    path = tmp_path / "tape"
    done = json.loads(ring.cli("record", str(path), "--seconds", "2", "--json").stdout)
    assert done["messages"] > 20 and done["bytes"] == path.stat().st_size
    clock = 0.0
    tape = RecordingPlayer(Tape(path), clock=lambda: clock)
    clock += 60.0
    kinds = {type(heard.message) for heard in tape.take()}
    assert {Snapshot, Heartbeat, RouterStats} <= kinds

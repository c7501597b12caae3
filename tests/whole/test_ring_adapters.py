"""Adapters of the running ring: they come and go, are renewed, verified, merged and refused."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from broken import BROKEN
from hub import Hub, serve
from ring import ADAPTERS, BASE, Ring, shipped
from safetensors.torch import load_file, save_file
from waiting import wait_for

from loraconsole.pipeline.runtime.percentile import percentile

pytestmark = pytest.mark.processes

QUESTIONS = ("What is the capital of Spain?", "Tell me about the sea.")


def placed_pages(ring: Ring) -> int:
    return sum(adapter["pages"] for adapter in ring.http.get("/v1/adapters").json()["adapters"])


def costs(ring: Ring) -> dict[str, dict[str, Any]]:
    """The router's rows by name; "" is the base."""
    table = ring.snapshot()["adapters"]
    return {view["name"]: view for view in (table["base"], *table["adapters"])}


def adapter_state(ring: Ring, name: str) -> dict[str, Any]:
    return ring.http.get(f"/v1/adapters/{name}").json()


def wait_until(ring: Ring, name: str, field: str, value: object) -> None:
    """The command line was answered by the router; the server hears it next."""
    deadline = time.monotonic() + 30
    while adapter_state(ring, name).get(field) != value:
        assert time.monotonic() < deadline, adapter_state(ring, name)
        time.sleep(0.05)


def test_a_loaded_adapter_answers_and_an_unloaded_one_gives_its_pages_back(ring: Ring) -> None:
    before = placed_pages(ring)
    assert ring.chat("again", "Ahoy").status_code == 404
    body = {"lora_name": "again", "lora_path": str(shipped("pirate"))}
    assert ring.http.post("/v1/load_lora_adapter", json=body).status_code == 200
    again = ring.http.post("/v1/load_lora_adapter", json=body)
    assert again.status_code == 400, "OpenAI's clients would repeat a 409"
    assert "already been loaded" in again.json()["error"]["message"]
    assert "again" in {m["id"] for m in ring.http.get("/v1/models").json()["data"]}
    assert ring.answer("again", QUESTIONS[0]) == ring.answer("pirate", QUESTIONS[0])
    assert ring.http.post("/unload_lora_adapter", json={"lora_name": "again"}).status_code == 200
    assert ring.chat("again", "Ahoy").status_code == 404
    assert placed_pages(ring) == before


def test_vllms_clients_find_its_words_and_sglangs_its_fields(ring: Ring) -> None:
    adapter, pirate = {"lora_name": "peer"}, {"lora_path": str(shipped("pirate"))}
    for prefix, missing in (("/v1", 404), ("", 400)):
        loaded = ring.http.post(f"{prefix}/load_lora_adapter", json=adapter | pirate)
        assert loaded.status_code == 200
        assert "Success: LoRA adapter 'peer' added successfully." in loaded.text
        body = loaded.json()
        assert (body["success"], body["error_message"]) == (True, "")
        assert body["loaded_adapters"]["peer"] == str(shipped("pirate"))
        twice = ring.http.post(f"{prefix}/load_lora_adapter", json=adapter | pirate)
        assert twice.status_code == 400 and twice.json()["success"] is False
        assert twice.json()["error_message"] == twice.json()["error"]["message"]
        assert "already loaded" in twice.json()["error_message"]
        gone = ring.http.post(f"{prefix}/unload_lora_adapter", json=adapter)
        assert "Success: LoRA adapter 'peer' removed successfully." in gone.text
        assert "peer" not in gone.json()["loaded_adapters"]
        unknown = ring.http.post(f"{prefix}/unload_lora_adapter", json=adapter)
        assert unknown.status_code == missing and unknown.json()["success"] is False
        nowhere = adapter | {"lora_path": "/nowhere/at/all"}
        absent = ring.http.post(f"{prefix}/load_lora_adapter", json=nowhere)
        assert absent.status_code == missing and "/nowhere/at/all" in absent.text


def test_a_load_in_place_gives_the_name_other_weights(ring: Ring) -> None:
    body = {"lora_name": "turned", "lora_path": str(shipped("pirate"))}
    assert ring.http.post("/v1/load_lora_adapter", json=body).status_code == 200
    first = ring.answer("turned", QUESTIONS[0])
    body = {"lora_name": "turned", "lora_path": str(shipped("haiku")), "load_inplace": True}
    assert "successfully" in ring.http.post("/v1/load_lora_adapter", json=body).text
    assert ring.answer("turned", QUESTIONS[0]) == ring.answer("haiku", QUESTIONS[0]) != first
    assert adapter_state(ring, "turned")["path"] == str(shipped("haiku"))
    assert ring.http.delete("/v1/adapters/turned").status_code == 200


def test_an_adapter_that_cannot_be_loaded_leaves_no_name(ring: Ring, tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("this is not json")
    body = {"lora_name": "broken", "lora_path": str(tmp_path)}
    refused = ring.http.post("/v1/load_lora_adapter", json=body)
    assert refused.status_code == 400 and "adapter_config.json" in refused.json()["error_message"]
    assert ring.http.get("/v1/adapters/broken").status_code == 404
    models = ring.http.get("/v1/models").json()["data"]
    assert "broken" not in {model["id"] for model in models}
    assert 'adapter="broken"' not in ring.http.get("/metrics").text
    unknown = ring.chat("broken", "Ahoy")
    assert unknown.status_code == 404 and "broken," not in unknown.json()["error"]["message"]
    assert "adapter broken failed" in ring.cli("logs", "-n", "50").stdout
    loaded = ring.http.post("/v1/load_lora_adapter", json=body | {"lora_path": str(shipped("sql"))})
    assert loaded.status_code == 200
    assert ring.http.post("/v1/unload_lora_adapter", json=body).status_code == 400
    assert ring.http.delete("/v1/adapters/broken").status_code == 200


def test_unload_waits_for_who_runs_and_refuses_who_comes(ring: Ring) -> None:
    expected = ring.answer("pirate", QUESTIONS[1], max_tokens=60, ignore_eos=True)
    ring.cli("adapters", "load", "brief", str(shipped("pirate")))
    said = ""
    with ThreadPoolExecutor(1) as pool:
        body = {
            "model": "brief",
            "messages": [{"role": "user", "content": QUESTIONS[1]}],
            **{"temperature": 0, "max_tokens": 60, "ignore_eos": True, "stream": True},
        }
        with ring.http.stream("POST", "/v1/chat/completions", json=body) as response:
            for line in response.iter_lines():
                if line.startswith("data: {"):
                    delta = json.loads(line[6:])["choices"][0]["delta"].get("content", "")
                    if delta and not said:
                        unloading = pool.submit(ring.http.delete, "/v1/adapters/brief")
                        time.sleep(0.3)
                        assert ring.chat("brief", "late").status_code == 404
                    said += delta
        assert said == expected
        assert unloading.result().json()["message"].endswith("its pages are free")
    ring.wait_idle()


def test_reload_serves_the_new_files_and_a_broken_reload_the_old_ones(
    ring: Ring, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped("pirate") / name, tmp_path / name)
    ring.cli("adapters", "load", "shifty", str(tmp_path))
    as_pirate = ring.answer("pirate", QUESTIONS[0])
    assert ring.answer("shifty", QUESTIONS[0]) == as_pirate
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped("sql") / name, tmp_path / name)
    assert ring.answer("shifty", QUESTIONS[0]) == as_pirate, "files alone change nothing"
    ring.cli("adapters", "reload", "shifty")
    assert ring.answer("shifty", QUESTIONS[0]) == ring.answer("sql", QUESTIONS[0])
    (tmp_path / "adapter_model.safetensors").write_bytes(b"broken")
    refused = ring.http.post("/v1/adapters/shifty/reload")
    assert refused.status_code == 400
    assert "generation 2 is still served" in refused.json()["error"]["message"]
    assert ring.answer("shifty", QUESTIONS[0]) == ring.answer("sql", QUESTIONS[0])
    assert (state := adapter_state(ring, "shifty"))["generation"] == 2 and state["state"] == "gpu"
    assert ring.http.delete("/v1/adapters/shifty").status_code == 200


def test_the_costs_of_adapters_add_up_and_agree_with_the_clients_clock(ring: Ring) -> None:
    """`dear` is asked four times as often as `cheap`, for answers twice as long."""
    for name in ("dear", "cheap"):
        ring.cli("adapters", "load", name, str(shipped("pirate")))
    ring.wait_idle()
    before = wait_for(lambda: found if "cheap" in (found := costs(ring)) else None)
    seen: dict[str, list[float]] = {"dear": [], "cheap": []}

    def ask(name: str, tokens: int) -> None:
        started = time.monotonic()
        body = {
            "model": name,
            "messages": [{"role": "user", "content": QUESTIONS[1]}],
            **{"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "stream": True},
        }
        with ring.http.stream("POST", "/v1/chat/completions", json=body) as response:
            texts = (
                line
                for line in response.iter_lines()
                if '"content"' in line and '"content":""' not in line
            )
            next(texts)
            seen[name].append((time.monotonic() - started) * 1e3)
            for _ in texts:
                pass

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, "dear", 32) for _ in range(8)]
        asked += [pool.submit(ask, "cheap", 16) for _ in range(2)]
        held = 0
        while not all(request.done() for request in asked):
            held = max(held, costs(ring)["dear"]["kv_pages"])
            time.sleep(0.2)
        for request in asked:
            request.result()
    assert held > 0, "its running requests held no page of KV"
    ring.wait_idle()
    deadline = time.monotonic() + 30
    after = costs(ring)
    while any(view["kv_pages"] for view in after.values()):
        assert time.monotonic() < deadline, after  # a table comes every two seconds
        time.sleep(0.2)
        after = costs(ring)
    assert (after["dear"]["output_tokens"], after["cheap"]["output_tokens"]) == (256, 32)
    spent = {name: after[name]["device_us"] - before[name]["device_us"] for name in after}
    assert spent["dear"] > spent["cheap"] > 0  # alone in a step, a token is dearer
    assert not any(us for name, us in spent.items() if name not in seen)
    for name, times in seen.items():
        times.sort()
        view = after[name]
        assert 0 <= view["wait_p50_ms"] <= view["ttft_p50_ms"] <= view["ttft_p99_ms"]
        # The client's clock starts earlier and stops later; times are rounded to 0.1 ms.
        assert view["ttft_p50_ms"] <= percentile(times, 0.5) + 0.1
        assert percentile(times, 0.99) * 0.3 < view["ttft_p99_ms"] <= times[-1] + 0.1
        assert view["recent_tokens"] == view["prompt_tokens"] + view["output_tokens"]
    document = json.loads(ring.cli("adapters", "list", "--json").stdout)
    for share in ("device", "tokens", "run_device", "run_tokens"):
        assert sum(found[share] for found in document["shares"].values()) == pytest.approx(1.0)
    assert document["shares"]["dear"]["device"] > document["shares"]["cheap"]["device"]
    listed = [row.split()[0] for row in ring.cli("adapters", "list").stdout.splitlines()]
    assert listed.index("dear") < listed.index("cheap"), "the costliest is not first"
    text = ring.http.get("/metrics").text
    [seconds] = re.findall(r'adapter_device_seconds_total\{adapter="dear"\} (\S+)', text)
    assert float(seconds) == pytest.approx(after["dear"]["device_us"] / 1e6, rel=0.01)
    assert 'loraconsole_adapter_pages{adapter="cheap",use="weights"}' in text
    assert (
        'loraconsole_adapter_time_to_first_token_seconds{adapter="cheap",quantile="0.99"}' in text
    )
    for name in seen:
        ring.cli("adapters", "unload", name)
    # The list over HTTP follows the router's table, which comes up to ten times a second.
    wait_for(lambda: all(ring.http.get(f"/v1/adapters/{n}").status_code == 404 for n in seen))


def test_a_broken_adapter_is_refused_takes_no_page_and_may_be_mended(
    ring: Ring, tmp_path: Path
) -> None:
    before = placed_pages(ring)
    failed = ring.cli("adapters", "load", "broken", str(tmp_path), check=False)
    assert failed.returncode == 1 and "is empty; an adapter is a directory with" in failed.stderr
    assert "loraconsole adapters load NAME PATH again once that is mended" in failed.stderr
    gone = ring.cli("adapters", "load", "broken", str(tmp_path / "gone"), check=False)
    assert gone.returncode == 1 and "once that is mended" in gone.stderr
    assert placed_pages(ring) == before
    assert ring.chat("broken", "Hi").status_code == 404
    wait_for(lambda: "broken" not in ring.cli("adapters", "list").stdout)
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped("json") / name, tmp_path / name)
    ring.cli("adapters", "load", "broken", str(tmp_path), "--pin")
    assert ring.answer("broken", QUESTIONS[0]) == ring.answer("json", QUESTIONS[0])
    assert ring.cli("adapters", "unload", "broken").stdout.endswith("its pages are free\n")


def test_a_broken_chat_template_of_an_adapter_stands_in_its_warning(
    ring: Ring, tmp_path: Path
) -> None:
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped("json") / name, tmp_path / name)
    (tmp_path / "chat_template.jinja").write_text("{% endfo %}")
    ring.cli("adapters", "load", "mute", str(tmp_path))
    refused = ring.chat("mute", "Hi")
    assert refused.status_code == 400 and "chat template" in refused.json()["error"]["message"]
    wait_until(ring, "mute", "warning", adapter_state(ring, "mute")["chat"])
    listed = ring.cli("adapters", "list").stdout
    assert "mute: chats with it are refused: its chat template does not compile: line 1" in listed
    ring.cli("adapters", "unload", "mute")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"name": "x", "path": "relative"}, "neither an absolute path"),
        ({"name": "x", "path": "../../etc"}, "neither an absolute path"),
        ({"name": "a@b", "path": "/x"}, "cannot name an adapter"),
        ({"name": "", "path": "/x"}, "cannot name an adapter"),
        ({"name": "x"}, "path"),
    ],
)
def test_a_bad_order_says_what_is_wrong(ring: Ring, body: dict[str, str], reason: str) -> None:
    response = ring.http.post("/v1/adapters", json=body)
    assert response.status_code == 400 and reason in response.json()["error"]["message"]
    assert ring.http.delete("/v1/adapters/absent").status_code == 404
    assert ring.http.get("/v1/adapters/absent").status_code == 404
    assert ring.http.post("/v1/adapters/absent/reload").status_code == 404


# --- plans, pins, verification, merged weights


def test_a_plan_tells_the_cost_and_loads_nothing(ring: Ring, tmp_path: Path) -> None:
    before = ring.http.get("/v1/adapters").json()
    paths = [str(shipped("pirate")), str(tmp_path), "org/of-a-hub"]
    done = ring.http.post("/v1/adapters/plan", json={"paths": paths}).json()
    pirate, nothing, hub = done["plans"]
    known = adapter_state(ring, "pirate")
    for field in ("rank", "num_bytes", "pages", "target_modules"):
        assert pirate[field] == known[field], field
    assert pirate["kv_tokens"] == 16 * known["pages"] and pirate["fits"] and not pirate["evicts"]
    assert (
        "it is empty; an adapter is a directory with" in nothing["reason"] and not nothing["fits"]
    )
    assert "is a hub id" in hub["reason"]
    assert ring.http.get("/v1/adapters").json() == before


def test_verify_compares_with_the_merged_weights_while_others_are_served(ring: Ring) -> None:
    said = ""
    body = {"model": "sql", "prompt": "SELECT", "max_tokens": 200, "ignore_eos": True}
    expected = ring.http.post("/v1/completions", json=body | {"temperature": 0}).json()
    with ThreadPoolExecutor(1) as pool:
        stream = body | {"temperature": 0, "stream": True}
        with ring.http.stream("POST", "/v1/completions", json=stream) as response:
            for line in response.iter_lines():
                if not said:
                    verifying = pool.submit(ring.cli, "adapters", "verify", "pirate", "--json")
                if line.startswith("data: {"):
                    said += json.loads(line[6:])["choices"][0]["text"]
        found = json.loads(verifying.result().stdout)
    assert said == expected["choices"][0]["text"]
    text = json.dumps(found)
    assert "alone" in text and "mixed" in text
    report = ring.http.post("/v1/adapters/pirate/verify").json()["verification"]
    assert report["is_right"] and report["key"].startswith("pirate@")
    assert [row["place"] for row in report["comparisons"]] == ["alone", *["mixed"] * 6]
    assert {
        row["adapter"] and row["adapter"].partition("@")[0] for row in report["comparisons"]
    } == {
        None,
        *ADAPTERS,
    }
    for row in report["comparisons"]:
        assert row["equal_tokens"] == row["tokens"] == 16
        assert row["largest_logit"] < 2e-5 * row["range_logit"], row
    ring.wait_idle()


def overflowing(directory: Path) -> Path:
    """Pirate with weights that are finite, and whose products are not."""
    shutil.copytree(shipped("pirate"), directory)
    weights = directory / "adapter_model.safetensors"
    tensors = {
        key: tensor.float() * (1e30 if "lora_B" in key else 1e9)
        for key, tensor in load_file(weights).items()
    }
    save_file(tensors, weights)
    return directory


def test_logits_that_cannot_be_used_end_their_request_alone_and_mark_the_adapter(
    ring: Ring, tmp_path: Path
) -> None:
    expected = ring.answer("sql", QUESTIONS[1], max_tokens=40, ignore_eos=True)
    ring.cli("adapters", "load", "huge", str(overflowing(tmp_path / "huge")))
    with ThreadPoolExecutor(1) as pool:
        neighbour = pool.submit(ring.answer, "sql", QUESTIONS[1], max_tokens=40, ignore_eos=True)
        for more in ({}, {"temperature": 1.0}, {"logprobs": True}):
            refused = ring.chat("huge", QUESTIONS[0], **more)
            assert refused.status_code == 500
            reason = refused.json()["error"]["message"]
            assert "the logits of adapter huge are infinite, NaN or all alike" in reason
        streamed = ring.chat("huge", QUESTIONS[0], stream=True)
        assert "all alike" in streamed.text and "[DONE]" not in streamed.text
        assert neighbour.result() == expected
    assert "all alike in 4 requests" in adapter_state(ring, "huge")["warning"]
    assert adapter_state(ring, "sql")["warning"] == ""
    assert "request r-" in ring.cli("logs", "router", "-n", "200").stdout
    ring.cli("adapters", "unload", "huge")
    ring.wait_idle()


def test_merged_weights_answer_as_the_adapter(ring: Ring) -> None:
    expected = ring.answer("haiku", QUESTIONS[1], max_tokens=40)
    ring.cli("adapters", "merge", "haiku")
    wait_until(ring, "haiku", "merged", True)
    assert ring.answer("haiku", QUESTIONS[1], max_tokens=40) == expected
    assert ring.answer("pirate", QUESTIONS[0]) == ring.answer(f"{BASE}:pirate", QUESTIONS[0])
    assert ring.http.delete("/v1/adapters/pirate/merge").status_code == 409
    ring.cli("adapters", "unmerge")
    wait_until(ring, "haiku", "merged", False)
    assert ring.answer("haiku", QUESTIONS[1], max_tokens=40) == expected


def test_pins_are_set_and_taken_off(ring: Ring) -> None:
    ring.cli("adapters", "pin", "sql")
    wait_until(ring, "sql", "pinned", True)
    assert ring.http.delete("/v1/adapters/sql/pin").status_code == 200
    assert not adapter_state(ring, "sql")["pinned"]
    for path in ("pin", "merge", "verify"):
        assert ring.http.post(f"/v1/adapters/absent/{path}").status_code == 404


def test_lorax_names_an_adapter_in_its_parameters(ring: Ring) -> None:
    def ask(**body: Any) -> Any:
        parameters = {"max_new_tokens": 12, **body.pop("parameters", {})}
        ask = {"inputs": "The sea", "parameters": parameters, **body}
        return ring.http.post("/generate", json=ask)

    def text(**body: Any) -> Any:
        """S-LoRA's client reads a list, LoRAX's a text."""
        found = ask(**body).json()["generated_text"]
        return found[0] if isinstance(found, list) else found

    by_name = text(lora_dir="pirate")
    assert text(parameters={"adapter_id": "pirate", "adapter_source": "local"}) == by_name
    assert text() != by_name
    assert ask(parameters={"adapter_id": "../pirate"}).status_code == 404
    assert ask(parameters={"adapter_id": "sql"}, lora_dir="pirate").status_code == 400


def test_an_adapter_of_a_hub_out_of_reach_fails_with_the_reason(ring: Ring) -> None:
    body = {"name": "far", "path": "org/none"}
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(ring.http.post, "/v1/adapters", json=body)
        assert ring.answer(BASE, QUESTIONS[0]), "a fetch keeps nobody"
        response = loading.result()
    assert response.status_code == 400
    assert "the hub does not give org/none" in response.json()["error"]["message"]
    assert ring.http.get("/v1/adapters/far").status_code == 404


def test_each_broken_adapter_is_refused_and_the_ring_serves_on(ring: Ring, tmp_path: Path) -> None:
    """Every one of them, one after the other: none takes a page, nobody who runs notices."""
    model = ring.run / "model"
    expected = ring.answer("pirate", QUESTIONS[0])
    before = ring.wait_idle()["pages_adapters"]
    said: dict[str, str] = {}
    for number, (name, case) in enumerate(BROKEN.items()):
        path = tmp_path / f"{number}"
        case.make(path, model)
        response = ring.http.post("/v1/adapters", json={"name": "bad", "path": str(path)})
        assert response.status_code == 400, name
        reason = response.json()["error"]["message"].replace(str(path), "PATH")
        assert re.search(case.reason, reason), f"{name}: {reason}"
        assert reason not in said, f"{name} is refused as {said[reason]} is"
        said[reason] = name
        assert placed_pages(ring) == before, name
        if number % 10 == 0:
            assert ring.answer("pirate", QUESTIONS[0]) == expected
    assert len(said) >= 60
    router = ring.wait_idle()
    free = router["pages_total"] - router["pages_kv"] - router["pages_adapters"]
    assert (router["pages_adapters"], router["pages_kv"]) == (before, 0) and free > 0
    assert ring.http.get("/v1/adapters/bad").status_code == 404


@pytest.fixture(scope="module")
def hub() -> Iterator[Any]:
    """A hub that has the pirate adapter as org/model."""
    server = serve(Hub)
    names = ("adapter_config.json", "adapter_model.safetensors")
    server.files = {name: (shipped("pirate") / name).read_bytes() for name in names}
    server.files |= {"README.md": b"x", "training_args.bin": b"x"}
    server.sent = []
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def baseline(hub: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """Adapters outside of the pool, and never swapped."""
    flags = ("--no-mem-pool", "--no-lora-swap", "--dtype", "float32")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{hub.server_port}")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hub")))
        with Ring(tmp_path_factory.mktemp("b"), *flags) as ring:
            yield ring


def test_an_adapter_of_a_hub_is_fetched_and_served(baseline: Ring, hub: Any) -> None:
    body = {"name": "far", "path": "org/model@main"}
    assert baseline.http.post("/v1/adapters", json=body).status_code == 200
    assert set(hub.sent) == {"adapter_config.json", "adapter_model.safetensors"}
    assert baseline.answer("far", QUESTIONS[0]) == baseline.answer("pirate", QUESTIONS[0])
    assert adapter_state(baseline, "far")["path"] == "org/model@main"
    assert baseline.http.post("/v1/adapters/far/reload").status_code == 200
    assert baseline.http.delete("/v1/adapters/far").status_code == 200


def test_baselines_give_the_same_answers(ring: Ring, baseline: Ring) -> None:
    for name in ADAPTERS:
        assert baseline.answer(name, QUESTIONS[1]) == ring.answer(name, QUESTIONS[1])
    assert baseline.wait_idle()["pages_adapters"] == 0 < placed_pages(ring)
    states = baseline.http.get("/v1/adapters").json()["adapters"]
    assert all(adapter["pinned"] and adapter["state"] == "gpu" for adapter in states)
    assert baseline.http.delete("/v1/adapters/sql").status_code == 200
    assert baseline.chat("sql", "hi").status_code == 404

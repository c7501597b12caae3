"""A router that is killed at work: what ran goes on by the same weights, and what was ordered stays
ordered."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from ring import BASE, Ring, shipped
from waiting import wait_for

pytestmark = pytest.mark.processes

PROMPT = "Tell me about the sea and its ships."


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    with Ring(tmp_path_factory.mktemp("d"), "--dtype", "float32", "--event-log") as ring:
        yield ring


@pytest.fixture(autouse=True)
def forgiven(ring: Ring) -> None:
    """An operator's restart forgives the deaths of the last minute: five are the most."""
    before = ring.process("router")["pid"]
    ring.cli("restart", "router")
    wait_for(lambda: ring.process("router")["pid"] not in (0, before), seconds=60)
    ring.wait_ready()


class Stream:
    """An answer that is read in a thread: its choices by index, with all that clients get."""

    def __init__(self, ring: Ring, model: str, **more: Any) -> None:
        self.texts: dict[int, str] = {}
        self.reasons: dict[int, str | None] = {}
        self.logprobs: list[tuple[str, float]] = []
        self.error = ""
        self.begun = threading.Event()
        usual = {"max_tokens": 48, "temperature": 0, "ignore_eos": True}
        self._body = {"model": model, "prompt": PROMPT, "stream": True, **usual, **more}
        self._url = ring.url
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            url = f"{self._url}/v1/completions"
            with httpx.stream(
                "POST", url, json=self._body, timeout=120, trust_env=False
            ) as response:
                for line in response.iter_lines():
                    if line.startswith("data: {"):
                        self._take(json.loads(line[6:]))
        except httpx.HTTPError as error:
            self.error = f"{type(error).__name__}: {error}"
        finally:
            self.begun.set()

    def _take(self, event: dict[str, Any]) -> None:
        if "error" in event:
            self.error = event["error"]["message"]
            return
        [choice] = event["choices"]
        index = choice["index"]
        self.texts[index] = self.texts.get(index, "") + choice["text"]
        self.reasons[index] = choice["finish_reason"]
        if found := choice.get("logprobs"):
            self.logprobs += zip(found["tokens"], found["token_logprobs"], strict=True)
        if len(self.texts[index]) > 12:
            self.begun.set()

    def end(self) -> Stream:
        self._thread.join(120)
        assert not self._thread.is_alive(), f"no answer: {self.texts}"
        assert not self.error, self.error
        return self

    @property
    def answer(self) -> tuple[object, ...]:
        return self.texts, self.reasons, [token for token, _ in self.logprobs]


ASKED: tuple[tuple[str, dict[str, Any]], ...] = (
    (BASE, {}),
    ("pirate", {"n": 2, "temperature": 0.8, "seed": 5}),
    ("haiku", {"logprobs": 2}),
    ("sql", {"stop": ["zzz", "ships", " the"], "max_tokens": 90}),
    ("json", {"temperature": 1.0, "top_k": 40, "seed": 11, "frequency_penalty": 0.7}),
)


def ask_all(ring: Ring) -> list[Stream]:
    return [Stream(ring, model, **more) for model, more in ASKED]


def kill_router(ring: Ring) -> None:
    before = ring.kill("router")
    wait_for(lambda: ring.process("router")["pid"] not in (0, before), seconds=60)


def wait_for_state(ring: Ring, name: str, **fields: object) -> None:
    def state() -> bool:
        view = ring.http.get(f"/v1/adapters/{name}").json()
        return all(view.get(field) == value for field, value in fields.items())

    wait_for(state, seconds=60)


def copy_adapter(name: str, directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        shutil.copy(shipped(name) / file, directory / file)
    return directory


def test_streams_of_all_kinds_go_on_alike(ring: Ring) -> None:
    """Adapters, several choices, seeds, penalties, logprobs and stop strings; twice, since the
    second router goes on from what the first one went on from."""
    expected = [stream.end() for stream in ask_all(ring)]
    streams = ask_all(ring)
    for stream in streams:
        stream.begun.wait(60)
    for _ in range(2):
        kill_router(ring)
        ring.wait_ready()
    for stream, whole in zip(streams, expected, strict=True):
        assert stream.end().answer == whole.answer
        for (_, one), (_, other) in zip(stream.logprobs, whole.logprobs, strict=True):
            assert one == pytest.approx(other, abs=1e-3)
    ring.wait_idle()


def test_an_answer_in_one_piece_comes_though_the_router_died(ring: Ring) -> None:
    expected = ring.answer("pirate", PROMPT, max_tokens=60, ignore_eos=True)
    with ThreadPoolExecutor(1) as pool:
        options = {"max_tokens": 60, "ignore_eos": True}
        asked = pool.submit(ring.answer, "pirate", PROMPT, **options)
        wait_for(lambda: ring.snapshot()["router"]["running"])
        kill_router(ring)
        assert asked.result(timeout=120) == expected
    ring.wait_ready()


def test_a_router_that_an_operator_restarts_loses_no_request_either(ring: Ring) -> None:
    expected = Stream(ring, "pirate", max_tokens=120).end().answer
    stream = Stream(ring, "pirate", max_tokens=120)
    assert stream.begun.wait(60)
    ring.cli("restart", "router")
    assert stream.end().answer == expected
    ring.wait_ready()


def test_adapters_keep_their_generations_pins_and_weights(ring: Ring, tmp_path: Path) -> None:
    """One was loaded by an order and reloaded, and its first generation still answers; another was
    unloaded and does not come back. The workers read nothing again."""
    path = copy_adapter("pirate", tmp_path / "shifty")
    ring.cli("adapters", "load", "shifty", str(path), "--pin")
    as_pirate = Stream(ring, "pirate", max_tokens=90).end().answer
    as_sql = Stream(ring, "sql", max_tokens=90).end().answer
    ring.cli("adapters", "load", "gone", str(shipped("json")))
    ring.cli("adapters", "unload", "gone")
    ring.cli("scheduler", "vtc_fair")
    old = Stream(ring, "shifty", max_tokens=90)
    assert old.begun.wait(60)
    copy_adapter("sql", path)
    ring.cli("adapters", "reload", "shifty")
    new = Stream(ring, "shifty", max_tokens=90)
    assert new.begun.wait(60)
    shutil.rmtree(path)  # what is read again now is not there
    kill_router(ring)
    ring.wait_ready()
    assert (old.end().answer, new.end().answer) == (as_pirate, as_sql)
    wait_for_state(ring, "shifty", generation=2, pinned=True, state="gpu")
    table = ring.http.get("/v1/adapters").json()["adapters"]
    assert {view["name"] for view in table} == {"haiku", "json", "pirate", "shifty", "sql"}
    assert ring.snapshot()["router"]["scheduling"]["policy"] == "vtc_fair"
    assert Stream(ring, "shifty", max_tokens=90).end().answer == as_sql
    ring.cli("adapters", "unload", "shifty")
    ring.cli("scheduler", "fcfs")


def test_weights_that_cannot_be_had_again_are_refused_by_name(ring: Ring, tmp_path: Path) -> None:
    """The worker dies with the router, and the files have changed meanwhile."""
    path = copy_adapter("pirate", tmp_path / "brittle")
    ring.cli("adapters", "load", "brittle", str(path))
    stream, other = (Stream(ring, name, max_tokens=200) for name in ("brittle", "pirate"))
    assert stream.begun.wait(60) and other.begun.wait(60)
    copy_adapter("sql", path)
    ring.kill("worker-0")
    kill_router(ring)
    stream._thread.join(120)
    assert "brittle" in stream.error and "files changed" in stream.error, stream.error
    other.end()
    ring.wait_ready()
    refused = ring.chat("brittle", "Ahoy")
    assert refused.status_code == 409, refused.text
    ring.cli("adapters", "unload", "brittle")


def test_an_order_is_answered_by_the_next_router(ring: Ring) -> None:
    """An unload that waits for a request, from an HTTP client and from the command line."""
    for name in ("first", "second"):
        ring.cli("adapters", "load", name, str(shipped("pirate")))
    streams = [Stream(ring, name, max_tokens=150) for name in ("first", "second")]
    for stream in streams:
        assert stream.begun.wait(60)
    with ThreadPoolExecutor(2) as pool:
        by_http = pool.submit(ring.http.delete, "/v1/adapters/first")
        by_line = pool.submit(ring.cli, "adapters", "unload", "second")
        for name in ("first", "second"):
            wait_for(lambda name=name: ring.chat(name, "late").status_code == 404)  # type: ignore[misc]
        kill_router(ring)
        assert "unloaded" in by_http.result(timeout=120).json()["message"]
        assert "unloaded" in by_line.result(timeout=120).stdout
    texts = {stream.end().texts[0] for stream in streams}
    assert len(texts) == 1
    ring.wait_ready()


def test_what_is_merged_stays_merged(ring: Ring) -> None:
    expected = Stream(ring, "haiku").end().answer
    ring.cli("adapters", "merge", "haiku")
    wait_for_state(ring, "haiku", merged=True)
    stream = Stream(ring, "haiku")
    assert stream.begun.wait(60)
    kill_router(ring)
    ring.wait_ready()
    assert stream.end().answer == expected
    wait_for_state(ring, "haiku", merged=True)
    ring.kill("worker-0")
    wait_for(lambda: ring.process("worker-0")["restarts"], seconds=60)
    ring.wait_ready(120)
    wait_for_state(ring, "haiku", merged=True)
    # Until the workers are known to be back, it is refused: "the workers restarted".
    wait_for(lambda: ring.cli("adapters", "unmerge", check=False).returncode == 0, seconds=60)
    wait_for_state(ring, "haiku", merged=False)


def test_a_draining_router_goes_on_draining(ring: Ring) -> None:
    stream = Stream(ring, "pirate", max_tokens=120)
    assert stream.begun.wait(60)
    ring.cli("drain")
    wait_for(lambda: ring.chat(BASE, "Hello").status_code == 503)
    kill_router(ring)
    assert stream.end().reasons == {0: "length"}
    wait_for(lambda: "draining" in ring.http.get("/health").text)
    ring.cli("drain", "--resume")
    ring.wait_ready()
    assert ring.chat(BASE, "Hello").status_code == 200


@pytest.mark.parametrize("other", ["worker-0", "detokenizer"])
def test_it_may_die_together_with_another(ring: Ring, other: str) -> None:
    expected = [stream.end() for stream in ask_all(ring)]
    streams = ask_all(ring)
    for stream in streams:
        stream.begun.wait(60)
    ring.kill(other)
    kill_router(ring)
    ring.wait_ready(120)
    for stream, whole in zip(streams, expected, strict=True):
        assert stream.end().answer == whole.answer
    ring.wait_idle()


def test_the_log_of_a_router_that_went_on_is_decided_again_alike(ring: Ring) -> None:
    stream = Stream(ring, "pirate", max_tokens=60)
    assert stream.begun.wait(60)
    kill_router(ring)
    stream.end()
    ring.wait_ready()
    newest = max((ring.run / "events").glob("router-*.jsonl"), key=lambda path: path.name)
    first = json.loads(newest.read_text().splitlines()[0])
    assert first["record"]["adapters"]
    lines = newest.read_bytes()
    whole = ring.run / "replayed.jsonl"
    whole.write_bytes(lines[: lines.rindex(b"\n") + 1])
    done = ring.cli("replay", str(whole))
    assert "all the same" in done.stdout
    assert b'"outputs":' in whole.read_bytes()


def test_a_new_pipeline_begins_without_a_record(ring: Ring) -> None:
    record = ring.run / "router.json"
    assert record.stat().st_mode & 0o777 == 0o600
    ring.cli("adapters", "pin", "sql")
    assert [a["pinned"] for a in json.loads(record.read_text())["adapters"] if a["name"] == "sql"]
    ring.cli("down", "--now")
    ring.cli("up", "--port", "0", *ring.options)
    ring.url = ring.snapshot()["server"]["url"]
    ring.http = httpx.Client(base_url=ring.url, timeout=60, trust_env=False)
    assert ring.http.get("/v1/adapters/sql").json()["pinned"] is False

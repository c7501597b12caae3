"""Compares models and adapters made with the real tools, each served by a real pipeline, with
transformers and peft. `python tests/measure_inputs.py --python TOOLS/bin/python` prints one line
per input. Not a test: it needs an environment with the tools (gigabytes), and half an hour:
    python -m venv TOOLS && TOOLS/bin/pip install torch==2.13.0 transformers==5.23.0 peft==0.21.2 \\
        trl==1.16.0 accelerate datasets sentencepiece protobuf gguf==0.19.0 compressed-tensors scipy
    TOOLS/bin/pip install --no-deps torchao==0.18.0 bitsandbytes==0.50.2 optimum-quanto==0.2.7 \\
        hqq mlx-lm==0.32.2 mlx==0.32.4 mlx-cpu==0.32.4 auto-round
An input whose tool is missing is listed as not made. `--llama-cpp` is a folder with llama.cpp's
convert_hf_to_gguf.py, `--ggml` its libggml-base.so; `--older` a folder into which
`pip install --no-deps --target` has installed transformers 4.57.6, tokenizers 0.22.2 and
huggingface_hub 0.36.2.

SAME            prompt length, sixteen greedy tokens and logprobs, text, stop and chat equal those
                of transformers (peft)
REFUSED CLEARLY the refusal names the unsupported feature
UNCLEAR         it does not, or the pipeline fails later
WRONG ANSWER    served, and something differs, or there is no reference to compare with
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

LISTS = ("models", "quantised", "gguf_files", "older", "adapters")
TOLERANCE = 2e-3
"""Largest difference of a logprob, both sides in float32. A closer tie may go either way."""
LOST = "\ufffd"


def make(arguments: argparse.Namespace, folder: Path) -> None:
    """Makes the inputs, with `inputs/make.py` in the tools' environment."""
    extra = {"LLAMA_CPP": arguments.llama_cpp, "GGML_BASE": arguments.ggml}
    environment = {**os.environ, **{k: str(v) for k, v in extra.items() if v}}
    script = Path(__file__).parent / "inputs" / "make.py"
    for names in LISTS:
        older = {"PYTHONPATH": str(arguments.older)} if names == "older" else {}
        if names == "older" and not arguments.older:
            continue
        command = [arguments.python, str(script), names, str(folder), arguments.make]
        with (folder / f"{names}.log").open("w") as log:
            subprocess.run(command, env=environment | older, stdout=log, stderr=log, check=False)


class Pipeline:
    """`loraconsole` with its own home and runtime directories."""

    def __init__(self, program: str, port: int, home: Path) -> None:
        self.program, self.port = program, port
        (home / "run").mkdir(mode=0o700, exist_ok=True)
        self.environment = {**os.environ, "HOME": str(home), "XDG_RUNTIME_DIR": str(home / "run")}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60, trust_env=False)

    def run(self, *words: str) -> tuple[int, str]:
        try:
            done = subprocess.run(
                [self.program, *words],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=240,
            )
        except subprocess.TimeoutExpired:
            return 1, "no end within 240 s"
        return done.returncode, (done.stdout + done.stderr).strip()

    @contextmanager
    def serving(self, model: str) -> Iterator[str]:
        """Starts the pipeline; yields the output of `up` if it failed, else ""."""
        options = ("--dtype", "float32", "--max-total-tokens", "4096", "--port", str(self.port))
        code, output = self.run("up", "--model", model, *options)
        try:
            yield output or f"status {code}" if code else ""
        finally:
            self.run("down", "--now")


def differs(pipeline: Pipeline, wanted: dict[str, Any], model: str, adapter: str = "") -> str:
    """The first difference from the reference; "" if there is none."""
    name = adapter or model
    for number, prompt in enumerate(wanted["prompts"]):
        found = generated(pipeline, prompt["prompt"], len(prompt["steps"]), adapter)
        if isinstance(found, str):
            return f"prompt {number}: {found}"
        for place, ((token, logprob), (right, exact, lead)) in enumerate(
            zip(found, prompt["steps"], strict=False)
        ):
            if token != right and lead < TOLERANCE:
                break
            if token != right or abs(logprob - exact) > TOLERANCE:
                where = f"prompt {number}, token {place}"
                return f"{where}: {token} ({logprob:.4f}), not {right} ({exact:.4f})"
        body = {"model": name, "prompt": prompt["prompt"], "max_tokens": 16, "temperature": 0}
        reason = answer_differs(pipeline, "/v1/completions", body, prompt)
        if reason:
            return f"prompt {number}: {reason}"
    if wanted["chat"]:
        chat = wanted["chat"]
        body = {"model": name, "messages": chat["messages"], "max_tokens": 16, "temperature": 0}
        reason = answer_differs(pipeline, "/v1/chat/completions", body, chat)
        if reason:
            return f"chat: {reason}"
    return ""


def generated(
    pipeline: Pipeline, text: str, count: int, adapter: str
) -> list[tuple[int, float]] | str:
    """Greedy tokens with their logprobs, or the error."""
    parameters = {"do_sample": False, "max_new_tokens": count, "ignore_eos": True}
    body: dict[str, Any] = {
        "inputs": text,
        "parameters": parameters | {"repetition_penalty": 1.0},
    }
    if adapter:
        body["lora_dir"] = adapter
    answer = pipeline.http.post("/generate_stream", json=body)
    if answer.status_code != 200:
        return f"HTTP {answer.status_code}: {answer.text[:200]}"
    events = [json.loads(x[6:]) for x in answer.text.splitlines() if x.startswith("data: {")]
    return [(e["token"]["id"], e["token"]["logprob"]) for e in events if "token" in e]


def answer_differs(
    pipeline: Pipeline, path: str, body: dict[str, Any], wanted: dict[str, Any]
) -> str:
    """The first difference in prompt length, text or stop from `generate`; "" if there is none."""
    answer = pipeline.http.post(path, json=body)
    if answer.status_code != 200:
        return f"HTTP {answer.status_code}: {answer.text[:200]}"
    found = answer.json()
    choice = found["choices"][0]
    text = choice["message"]["content"] if "message" in choice else choice["text"]
    if found["usage"]["prompt_tokens"] != len(wanted["ids"]):
        return f"{found['usage']['prompt_tokens']} prompt tokens, not {len(wanted['ids'])}"
    if not same_text(text or "", wanted["text"]):
        return f"text {text!r}, not {wanted['text']!r}"
    if (choice["finish_reason"] == "stop") != wanted["stopped"]:
        return f"finish_reason {choice['finish_reason']}, stop token: {wanted['stopped']}"
    return ""


def same_text(found: str, wanted: str) -> bool:
    """Whether two texts agree apart from broken characters. Random weights produce invalid UTF-8,
    and the sixteenth token may be half a character; in a run of byte tokens with one invalid byte,
    transformers drops every byte, while a stream has already sent the valid ones."""
    pattern = ".*".join(re.escape(part) for part in re.split(f"{LOST}+", wanted.strip()))
    return re.fullmatch(rf"\s*{pattern}\s*", found.replace(LOST, ""), re.DOTALL) is not None


def verdict(
    entry: dict[str, Any], refusal: str, pipeline: Pipeline, adapter: str = ""
) -> tuple[str, str]:
    """(verdict, explanation)."""
    if refusal:
        words = " ".join(refusal.split())
        clear = re.search(entry["refused"] or r"$^", refusal.replace(entry["path"], ""))
        if clear and "Traceback" not in refusal:
            return "REFUSED CLEARLY", words
        return ("UNCLEAR" if entry["refused"] else "REFUSED, EXPECTED SAME"), words
    if not entry.get("reference"):
        return "WRONG ANSWER", f"served; no reference: {entry.get('why_none')}"
    name = pipeline.http.get("/v1/models").json()["data"][0]["id"]
    reason = differs(pipeline, entry["reference"], name, adapter)
    return ("WRONG ANSWER", reason) if reason else ("SAME", "")


def measure(entries: dict[str, dict[str, Any]], pipeline: Pipeline, pattern: str) -> Iterator[dict]:
    """Measures each model, with its adapters, in its own pipeline."""
    by_base: dict[str, list[dict[str, Any]]] = {}
    for entry in entries.values():
        if entry["base"] and re.search(pattern, entry["name"]):
            by_base.setdefault(entry["base"], []).append(entry)
    for entry in entries.values():
        if entry["base"]:
            continue
        adapters = by_base.get(entry["name"], [])
        wanted = re.search(pattern, entry["name"])
        if not wanted and not adapters:
            continue
        if "not_made" in entry:
            yield entry | {"verdict": "NOT MADE", "happened": entry["not_made"]}
            continue
        with pipeline.serving(entry["path"]) as refusal:
            if wanted:
                yield judged(entry, refusal, pipeline)
            for adapter in adapters:
                if "not_made" in adapter:
                    yield adapter | {"verdict": "NOT MADE", "happened": adapter["not_made"]}
                    continue
                body = {"name": adapter["name"], "path": adapter["path"]}
                if refusal:
                    yield adapter | {"verdict": "UNCLEAR", "happened": "its base is not served"}
                    continue
                answer = pipeline.http.post("/v1/adapters", json=body)
                said = "" if answer.status_code == 200 else answer.text
                if said.startswith("{"):
                    said = json.loads(said)["error"]["message"]
                yield judged(adapter, said, pipeline, adapter["name"])


def judged(entry: dict[str, Any], refusal: str, pipeline: Pipeline, adapter: str = "") -> dict:
    try:
        kind, happened = verdict(entry, refusal, pipeline, adapter)
    except Exception as error:
        kind, happened = "UNCLEAR", f"{type(error).__name__}: {error}"
    return entry | {"verdict": kind, "happened": happened}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--python", help="python of the tools; without it the inputs of `--keep` are used"
    )
    parser.add_argument("--llama-cpp", type=Path)
    parser.add_argument("--ggml", type=Path)
    parser.add_argument("--older", type=Path)
    parser.add_argument("--keep", type=Path, help="folder of the inputs, kept")
    parser.add_argument("--make", default=".", help="pattern of names to make")
    parser.add_argument("--only", default=".", help="pattern of names to serve")
    parser.add_argument("--port", type=int, default=8180)
    parser.add_argument("--program", default=str(Path(sys.executable).parent / "loraconsole"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="in-") as temporary:
        folder = arguments.keep or Path(temporary) / "inputs"
        folder.mkdir(exist_ok=True)
        if arguments.python:
            make(arguments, folder)
        found = [json.loads(p.read_text()) for p in sorted(folder.glob("*.json"))]
        pipeline = Pipeline(arguments.program, arguments.port, Path(temporary))
        counts: Counter[str] = Counter()
        for row in measure({e["name"]: e for e in found}, pipeline, arguments.only):
            counts[row["verdict"]] += 1
            expected = f"refused by /{row['refused']}/" if row["refused"] else "same"
            happened = row["happened"].replace(str(folder), "…")
            cells = (row["name"], row.get("made_by", ""), expected, happened, row["verdict"])
            print("| " + " | ".join(c.replace("|", "\\|") for c in cells) + " |", flush=True)
        print(dict(counts))


if __name__ == "__main__":
    main()

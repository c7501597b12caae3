"""Measures constrained answers: whether all parse and validate, and what they add to a step.

    python tests/measure_structured.py answers --answers 1000
    python tests/measure_structured.py steps MODEL_DIRECTORY --rows 1 8 32

`answers` starts a pipeline with the default model and its four adapters, and asks for JSON by 50
schemas, each model in turn, 16 requests at once. `steps` runs the bare loop on a CPU with plain
and with constrained rows, in turns on one loaded model. Not a test: machines are shared.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fastjsonschema
from ring import ADAPTERS, BASE, Ring, shipped

from loraconsole.pipeline.bench.bare_loop import GREEDY, BareLoop
from loraconsole.pipeline.bench.engine import ENDLESS
from loraconsole.pipeline.config import Config, shipped_adapters
from loraconsole.pipeline.grammar.specification import json_schema_grammar
from loraconsole.pipeline.grammar.token_table import make_token_table, write_token_table
from loraconsole.pipeline.messages import SamplingParams
from loraconsole.pipeline.text.tokenizer import Tokenizer

WORDS = ("name", "city", "age", "price", "color", "kind", "size", "note", "date", "email")


def schemas(count: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    """Objects of all sorts, whose answers end within some 200 tokens."""
    chance = random.Random(seed)
    leaves: list[dict[str, Any]] = [
        {"type": "string", "maxLength": 12},
        {"type": "string", "minLength": 2, "maxLength": 8, "pattern": "^[A-Z][a-z]*$"},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "uuid"},
        {"type": "integer", "minimum": -5, "maximum": 1000},
        {"type": "number", "minimum": 0, "exclusiveMaximum": 10, "multipleOf": 0.25},
        {"type": "boolean"},
        {"type": "null"},
        {"enum": ["small", "large", 3, None, {"a": [1]}]},
        {"const": "fixed text"},
        {"anyOf": [{"type": "null"}, {"type": "integer", "maximum": 9, "minimum": 0}]},
        {"$ref": "#/$defs/pair"},
    ]

    def part(depth: int) -> dict[str, Any]:
        shape = chance.choice(["leaf", "leaf", "object", "array", "tuple"]) if depth else "leaf"
        if shape == "object":
            return an_object(depth - 1)
        if shape == "array":
            return {"type": "array", "items": part(depth - 1), "minItems": 1, "maxItems": 3}
        if shape == "tuple":
            prefix = [part(0), part(0)]
            return {"type": "array", "prefixItems": prefix, "items": False, "minItems": 2}
        return chance.choice(leaves)

    def an_object(depth: int) -> dict[str, Any]:
        names = chance.sample(WORDS, chance.randint(1, 4))
        return {
            "type": "object",
            "properties": {name: part(depth) for name in names},
            "required": names[: chance.randint(1, len(names))],
            "additionalProperties": False,
        }

    pair = {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}}
    for _ in range(count):
        yield {**an_object(2), "$defs": {"pair": pair | {"minItems": 2, "maxItems": 2}}}


def checkable(schema: Any) -> Any:
    """The schema as fastjsonschema knows it: draft 7 has no prefixItems."""
    if isinstance(schema, dict):
        found = {key: checkable(value) for key, value in schema.items()}
        if "prefixItems" in found:
            found["additionalItems"] = found.pop("items")
            found["items"] = found.pop("prefixItems")
        return found
    return [checkable(value) for value in schema] if isinstance(schema, list) else schema


def measure_answers(given: argparse.Namespace) -> None:
    made = list(schemas(50))
    checks = [fastjsonschema.compile(checkable(schema)) for schema in made]
    models = [BASE, *ADAPTERS]
    adapters = [word for name in ADAPTERS for word in ("--adapter", f"{name}={shipped(name)}")]
    outcomes: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="s") as run, Ring(Path(run), *adapters) as ring:

        def ask(number: int) -> str:
            schema = made[number % len(made)]
            answer = ring.http.post(
                "/v1/chat/completions",
                json={
                    "model": models[number // len(made) % len(models)],
                    "messages": [{"role": "user", "content": "Fill in this form, as JSON."}],
                    "response_format": {"type": "json_schema", "json_schema": {"schema": schema}},
                    "max_tokens": 1000,
                    "temperature": 1.0,
                    "seed": number,
                },
                timeout=600,
            )
            if answer.status_code != 200:
                return f"status {answer.status_code}: {answer.text[:200]}"
            (choice,) = answer.json()["choices"]
            text = choice["message"]["content"]
            try:
                checks[number % len(made)](json.loads(text))
            except ValueError as error:
                return f"{choice['finish_reason']}: {error}: {text[:200]}"
            return "valid"

        started = time.monotonic()
        with ThreadPoolExecutor(16) as pool:
            outcomes.update(pool.map(ask, range(given.first, given.first + given.answers)))
        seconds = time.monotonic() - started
    print(f"{given.answers} answers in {seconds:.0f} s")
    for outcome, count in outcomes.most_common():
        print(f"{count:5} {outcome}")


def measure_steps(given: argparse.Namespace) -> None:
    tokens = max(given.rows) * (given.context + given.steps + 32) + 16384
    write_token_table(given.directory, make_token_table(Tokenizer(given.directory)))
    config = Config(adapter=shipped_adapters(), device="cpu", max_total_tokens=tokens)
    loop = BareLoop(config, given.directory)
    constrained = SamplingParams(
        temperature=0.0, grammar=json_schema_grammar(ENDLESS), ignore_eos=True
    )

    def run(rows: int, params: SamplingParams) -> float:
        """Microseconds per step."""
        speed = loop.decode(rows, given.steps, given.context, mixed=True, params=params)
        return rows / speed * 1e6

    run(2, constrained)
    for rows in given.rows:
        plain, bound, added = [], [], []
        for turn in range(given.repeat):
            kinds = (GREEDY, constrained, constrained, GREEDY)
            order = kinds if turn % 2 else (constrained, GREEDY, GREEDY, constrained)
            values = [(params is GREEDY, run(rows, params)) for params in order]
            plain += [value for is_plain, value in values if is_plain]
            bound += [value for is_plain, value in values if not is_plain]
            added.append(sum(bound[-2:]) / sum(plain[-2:]) - 1)
        print(
            f"{rows:3d} rows: plain {statistics.median(plain):8.1f} us, constrained "
            f"{statistics.median(bound):8.1f} us a step: {statistics.median(added):+.2%}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    kinds = parser.add_subparsers(required=True)
    answers = kinds.add_parser("answers")
    answers.add_argument("--answers", type=int, default=1000)
    answers.add_argument("--first", type=int, default=0, help="to measure in pieces")
    answers.set_defaults(work=measure_answers)
    steps = kinds.add_parser("steps")
    steps.add_argument("directory", type=Path, help="model directory; its table is written there")
    steps.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32])
    steps.add_argument("--steps", type=int, default=32, help="decode steps of one measurement")
    steps.add_argument("--context", type=int, default=64, help="prompt tokens of each row")
    steps.add_argument("--repeat", type=int, default=9)
    steps.set_defaults(work=measure_steps)
    given = parser.parse_args()
    given.work(given)


if __name__ == "__main__":
    main()

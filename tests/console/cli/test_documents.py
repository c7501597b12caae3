"""`--json`: what the commands of a real pipeline print is what docs/json-schema.json says."""

from __future__ import annotations

import contextlib
import enum
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastjsonschema
import msgspec
import pytest
from json_schema import DOCUMENTS, WITHOUT, make_schema, schema_text
from ring import Ring, shipped
from stage import keep_result

from loraconsole.console.client.transcripts import VARIABLE, Transcripts, Turn
from loraconsole.console.commands.table import COMMANDS, CommandGroup
from loraconsole.pipeline.messages import ProcessState, ProcessView
from loraconsole.pipeline.runtime.json_document import to_document

ROOT = Path(__file__).resolve().parents[3]
UNIT = re.compile(r"((^|_)(s|ms|us|bytes)|seconds|_ms_p\d+)$|^(at|since)$|_at$")


def validate(command: str, text: str) -> Any:
    """The document in `text`. Raises `fastjsonschema.JsonSchemaException` if the schema has
    another."""
    schema = make_schema()
    document = json.loads(text)
    shape = schema["properties"][command] | {"$defs": schema["$defs"]}
    if "$ref" in shape:
        shape = {"allOf": [schema["properties"][command]], "$defs": schema["$defs"]}
    return fastjsonschema.validate(shape, document)


# --- the schema ---------------------------------------------------------------------------------


def test_the_schema_in_docs_is_made_of_the_present_types() -> None:
    assert (ROOT / "docs" / "json-schema.json").read_text() == schema_text(), (
        "python tests/json_schema.py docs"
    )


def test_every_command_has_its_document() -> None:
    names = set()
    for command in COMMANDS:
        if isinstance(command, CommandGroup):
            names |= {f"{command.NAME} {verb.NAME}" for verb in command.verbs}
        else:
            names.add(command.NAME)
    assert names - WITHOUT == {name for name in DOCUMENTS if name in names}


def test_no_row_is_positional_and_every_measured_number_has_a_unit() -> None:
    schema = make_schema()
    assert "prefixItems" not in json.dumps(schema)
    bare = [
        f"{name}.{field}"
        for name, shape in schema["$defs"].items()
        for field, kind in shape.get("properties", {}).items()
        if '"number"' in json.dumps(kind) and "description" not in kind and not UNIT.search(field)
    ]
    assert not bare, "no unit in the name, no description below the field"


def test_a_document_with_a_missing_an_extra_or_a_positional_field_is_refused() -> None:
    row = ProcessView("router", ProcessState.READY, 1, 0, 0.0, "")
    good = to_document(row)
    shape = {"allOf": [{"$ref": "#/$defs/ProcessView"}], "$defs": make_schema()["$defs"]}
    fastjsonschema.validate(shape, good)
    lacking = {name: value for name, value in good.items() if name != "pid"}
    for wrong in (lacking, good | {"extra": 1}, json.loads(msgspec.json.encode(row))):
        with pytest.raises(fastjsonschema.JsonSchemaException):
            fastjsonschema.validate(shape, wrong)


def test_rows_tags_enums_bytes_and_named_tuples_become_plain_values() -> None:
    class Pair(NamedTuple):
        left: int
        right: tuple[str, ...]

    class Colour(enum.Enum):
        RED = "red"

    class Row(msgspec.Struct, array_like=True, tag=True):
        pair: Pair
        colour: Colour
        data: bytes

    found = to_document({1: [Row(Pair(1, ("a",)), Colour.RED, b"\x00\xff")]})
    row = {"pair": {"left": 1, "right": ["a"]}, "colour": "red", "data": "AP8="}
    assert found == {"1": [row]}
    with pytest.raises(TypeError, match="object has no form in JSON"):
        to_document([object()])


# --- the commands -------------------------------------------------------------------------------


OPTIONS = ("--port", "0", "--dtype", "float32", "--event-log")


def ask(ring: Ring, name: str, *more: str, code: int = 0) -> Any:
    """What a command prints with `--json`, once it is known to be valid."""
    done = ring.cli(*name.split(), *more, "--json", check=False)
    assert done.returncode == code, done.stderr
    return validate("error" if code else name, done.stdout)


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ring]:
    """A pipeline that was started, and is stopped, by commands with `--json`."""
    ring = Ring(tmp_path_factory.mktemp("documents") / "r")
    assert ask(ring, "status", code=3)["error"].startswith("no pipeline")
    adapter = f"--adapter=pirate={shipped('pirate')}"
    up = ask(ring, "up", *OPTIONS, adapter)
    assert up["state"] == "ready" and up["failed_adapters"] == []
    ring.url = up["url"]
    yield ring
    assert ask(ring, "down", "--now") == {"state": "stopped"}


@pytest.mark.processes
def test_commands_that_look_print_these_documents(ring: Ring, tmp_path: Path) -> None:
    answers = ask(ring, "prompt", "--base", "--adapter", "pirate", "--max-tokens", "4", "The sea")
    assert [(a["adapter"], a["output_tokens"]) for a in answers] == [(None, 4), ("pirate", 4)]
    status = ask(ring, "status")
    states = {row["name"]: row["state"] for row in status["processes"]["processes"]}
    assert states["worker-0"] == "ready" and status["router"]["pages_total"] > 0
    assert {view["name"]: view["requests"] for view in status["adapters"]["adapters"]}[
        "pirate"
    ] == 1
    assert ask(ring, "alerts") == []
    assert ask(ring, "where")["is_running"]
    assert any(line["source"] == "router" for line in ask(ring, "logs"))
    checks = ask(ring, "doctor")
    assert {check["name"]: check["verdict"] for check in checks}["torch"] == "good"
    recording = tmp_path / "recording"
    assert ask(ring, "record", str(recording), "--seconds", "1")["messages"] > 0
    [log] = (ring.run / "events").iterdir()
    assert ask(ring, "replay", str(log))["decisions"] > 0
    out = str(tmp_path / "out.jsonl")
    load = ("--requests", "2", "--concurrency", "1", "--max-tokens", "2", "--rounds", "2")
    rows = ask(ring, "bench", *load, "--model", "pirate", "--out", out)
    assert [row["result"]["completed"] for row in rows] == [2, 2]


@pytest.mark.processes
def test_orders_print_these_documents(ring: Ring) -> None:
    new = ask(ring, "scheduler", "vtc_fair", "--fair-weight", "pirate=2")
    assert new["policy"] == "vtc_fair" and new["weights"] == {"pirate": 2.0}
    assert ask(ring, "adapters load", "sql", str(shipped("sql")))["adapter"] == "sql"
    for verb in ("pin", "unpin", "reload", "merge"):
        assert ask(ring, f"adapters {verb}", "sql")["status"] == "ok"
    assert ask(ring, "adapters unmerge")["status"] == "ok"
    names = [view["name"] for view in ask(ring, "adapters list")["adapters"]]
    assert names == ["pirate", "sql"]
    assert ask(ring, "adapters plan", str(shipped("json")))["plans"][0]["rank"] > 0
    found = ask(ring, "adapters verify", "sql")["verification"]
    assert found["is_right"] and found["comparisons"][0]["tokens"] > 0
    assert ask(ring, "adapters unload", "sql")["adapter"] == "sql"
    assert ask(ring, "adapters unload", "sql", code=1)["hint"]
    assert ask(ring, "drain")["router"] == "draining"
    assert ask(ring, "drain", "--resume")["router"] == "ready"
    assert ask(ring, "profile", "start")["processes"][0]["is_on"]
    assert ask(ring, "prompt", "--max-tokens", "2", "The sea")[0]["output_tokens"] == 2
    assert ask(ring, "profile", "stop")["spans"] > 0
    assert ask(ring, "spans")[0]["count"] > 0
    assert ask(ring, "signal", "server", "CONT")["state"] == "sent"
    assert ask(ring, "stop", "detokenizer")["state"] == "stopped"
    assert ask(ring, "start", "detokenizer")["state"] == "ready"
    assert ask(ring, "restart", "detokenizer")["state"] == "ready"


@pytest.mark.processes
def test_commands_without_a_pipeline_print_these_documents(
    ring: Ring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "transcripts.db"
    monkeypatch.setenv(VARIABLE, str(path))
    with contextlib.closing(Transcripts(path)) as kept:
        kept.add(Turn(conversation="aaaa1111", at=1.0, model="m", prompt="sea", answer="blue"))
    assert ask(ring, "transcripts list")["conversations"][0]["title"] == "sea"
    assert ask(ring, "transcripts search", "blue")["turns"][0]["model"] == "m"
    out = ("--out", str(tmp_path / "out.md"))
    assert ask(ring, "transcripts export", *out)["turns"] == 1
    assert ask(ring, "transcripts delete", "--all") == {"conversations": 1, "turns": 1}
    assert ask(ring, "settings")["settings"]["fps"]["from"] == "default"
    for option in ("--path", "--example", "--check", "--keys"):
        assert ask(ring, f"settings {option}")
    a, b = tmp_path / "a.jsonl", tmp_path / "b.jsonl"
    for file in (a, b):
        keep_result(file, 1.0)
    [compared] = ask(ring, "bench compare", str(a), str(b))
    assert set(compared["sides"]) == {"a", "b"}

"""Draws `docs/json-schema.json` from the types of the documents that commands print with `--json`:
`python tests/json_schema.py docs`."""

from __future__ import annotations

import ast
import inspect
import json
import sys
import textwrap
import typing
from pathlib import Path
from typing import Any

import msgspec

from loraconsole.console.cli import against, bench_compare, doctor, documents, profile, transcripts
from loraconsole.console.cli import settings as settings_verb
from loraconsole.console.client.ssh_tunnel import Place
from loraconsole.pipeline.bench.ablation import AblationDocument
from loraconsole.pipeline.bench.results import ResultRow
from loraconsole.pipeline.bench.what_if_results import WhatIfDocument
from loraconsole.pipeline.messages import LogLine, Snapshot
from loraconsole.pipeline.router.replay import ReplayDocument

DOCUMENTS: dict[str, Any] = {
    "error": documents.ErrorDocument,
    "up": documents.UpDocument,
    "up, adapters failed": documents.FailedStart,
    "record": documents.RecordDocument,
    "where": Place,
    "status": Snapshot,
    "alerts": tuple[documents.AlertDocument, ...],
    "down": documents.DownDocument,
    "stop": documents.ProcessDocument,
    "start": documents.ProcessDocument,
    "restart": documents.ProcessDocument,
    "signal": documents.ProcessDocument,
    "logs": tuple[LogLine, ...],
    "logs --follow": LogLine,
    "drain": documents.DrainDocument,
    "abort": documents.AbortDocument,
    "scheduler": documents.SchedulerDocument,
    "doctor": tuple[doctor.Check, ...],
    "doctor MODEL": against.ReportedModel,
    "doctor MODEL --against": against.ComparisonDocument,
    "settings": settings_verb.SettingsDocument,
    "settings --path": settings_verb.PathDocument,
    "settings --example": settings_verb.ExampleDocument,
    "settings --check": settings_verb.ProblemsDocument,
    "settings --keys": settings_verb.KeysDocument,
    "adapters list": documents.AdaptersDocument,
    "adapters load": documents.OrderDocument,
    "adapters unload": documents.OrderDocument,
    "adapters reload": documents.OrderDocument,
    "adapters pin": documents.OrderDocument,
    "adapters unpin": documents.OrderDocument,
    "adapters merge": documents.OrderDocument,
    "adapters unmerge": documents.OrderDocument,
    "adapters verify": documents.VerificationDocument,
    "adapters verify --against": against.ComparisonDocument,
    "adapters plan": documents.PlansDocument,
    "replay": ReplayDocument,
    "replay --against": WhatIfDocument,
    "profile": documents.ProfileDocument,
    "spans": tuple[profile.SpanTotal, ...],
    "transcripts list": transcripts.ConversationsDocument,
    "transcripts search": transcripts.TurnsDocument,
    "transcripts export": transcripts.ExportDocument,
    "transcripts delete": transcripts.DeletedDocument,
    "bench": tuple[ResultRow, ...],
    "bench compare": tuple[bench_compare.ComparedLoad, ...],
    "bench --ablate": AblationDocument,
    "prompt": tuple[documents.AnswerDocument, ...],
}
"""The document of each command; several where an option changes it."""
WITHOUT = {"attach", "play", "web"}
"""Commands that print no document."""


def make_schema() -> dict[str, Any]:
    """The schema: one property a command, types under `$defs`."""
    kinds = list(DOCUMENTS.values())
    shapes, types = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    records = {found.__name__: found for found in _records(kinds)}
    for name, shape in types.items():
        if kind := records.get(name):
            types[name] = _named(kind, shape)
        elif "description" in shape:
            shape["description"] = _unwrapped(shape["description"])
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Documents of loraconsole --json",
        "description": "#/properties/COMMAND is what COMMAND prints. Suffixes of names are units: "
        "_s seconds, _ms milliseconds, _us microseconds, _bytes; `at`, `since` and names in _at "
        "are unix seconds. Numbers without one are counts, or what their description says.",
        "type": "object",
        "properties": dict(zip(DOCUMENTS, shapes, strict=True)),
        "$defs": dict(sorted(types.items())),
    }


def _named(kind: Any, shape: dict[str, Any]) -> dict[str, Any]:
    """The shape of a record whose fields are all written, by name and without a tag."""
    names = getattr(kind, "_fields", None) or kind.__struct_fields__
    fields = dict(zip(names, getattr(kind, "__struct_encode_fields__", names), strict=True))
    if "prefixItems" in shape:
        items = shape["prefixItems"]
        tags = len(items) - len(fields)
        shapes = dict(zip(fields.values(), items[tags:], strict=True))
    else:
        shapes = {shown: shape["properties"][shown] for shown in fields.values()}
    lines = field_lines(kind)
    for name, shown in fields.items():
        shapes[shown].pop("default", None)
        if name in lines:
            shapes[shown]["description"] = lines[name]
    named = {"type": "object", "properties": shapes, "required": list(shapes)}
    about = inspect.getdoc(kind)
    return {"description": _unwrapped(about or ""), **named, "additionalProperties": False}


def field_lines(kind: type) -> dict[str, str]:
    """The documentation below each field of a class and its bases."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__):
        if not owner.__module__.startswith("loraconsole."):
            continue
        [node] = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
        assert isinstance(node, ast.ClassDef)
        for field, after in zip(node.body, node.body[1:], strict=False):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = _unwrapped(text)
    return found


def _unwrapped(text: str) -> str:
    return " ".join(text.split())


def _records(kinds: list[Any]) -> set[type]:
    """Every struct and named tuple within these types."""
    found: set[type] = set()

    def visit(kind: Any) -> None:
        if isinstance(kind, type) and (
            issubclass(kind, msgspec.Struct) or hasattr(kind, "_fields")
        ):
            if kind in found:
                return
            found.add(kind)
            for hint in typing.get_type_hints(kind).values():
                visit(hint)
        for part in typing.get_args(kind):
            visit(part)

    for kind in kinds:
        visit(kind)
    return found


def schema_text() -> str:
    return json.dumps(make_schema(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    directory = Path(sys.argv[1] if len(sys.argv) > 1 else "docs")
    (directory / "json-schema.json").write_text(schema_text())

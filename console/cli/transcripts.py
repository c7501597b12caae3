"""`loraconsole transcripts …`: what was asked and answered, from the command line. Each returns an
exit status."""

from __future__ import annotations

import argparse
import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.runtime.text_output import json_text
from ...pipeline.runtime.wording import counted
from ..client.transcripts import VARIABLE, Transcripts, Turn, as_jsonl, as_markdown, open_default
from ..text import units
from .pipeline import print_json, say

LONGEST = 60


def run(given: argparse.Namespace) -> int:
    """Raises `OperatorError` where none are kept, or none is of that name."""
    with contextlib.closing(_open()) as kept:
        match given.verb:
            case "search":
                return _search(kept, given)
            case "export":
                return _export(kept, given)
            case "delete":
                return _delete(kept, given)
            case _:
                return _list(kept, given)


def _open() -> Transcripts:
    kept = open_default()
    if kept is None:
        raise OperatorError("no transcripts are kept", f"${VARIABLE} is empty")
    return kept


def _list(kept: Transcripts, given: argparse.Namespace) -> int:
    found = kept.conversations(getattr(given, "limit", 20))
    if given.json:
        print_json({"conversations": msgspec.to_builtins(found)})
        return 0
    if not found:
        print("nothing has been asked yet")
    for each in found:
        title = units.fit(_one_line(each.title), LONGEST).rstrip()
        models = ", ".join(units.visible(model) for model in each.models)
        turns = counted(each.turns, "turn")
        print(f"{each.id[:8]}  {_when(each.at)}  {turns:>9}  {title}  [{models}]")
    return 0


def _search(kept: Transcripts, given: argparse.Namespace) -> int:
    found = kept.search(" ".join(given.words), given.limit)
    if given.json:
        print_json({"turns": msgspec.to_builtins(found)})
        return 0
    for turn in found:
        prompt = units.fit(_one_line(turn.prompt), LONGEST).rstrip()
        print(f"{turn.conversation[:8]}  {_when(turn.at)}  {units.visible(turn.model)}: {prompt}")
        print(f"{'':10}{units.fit(_one_line(turn.answer), LONGEST + 28).rstrip()}")
    if not found:
        print("no turn has all these words", file=sys.stderr)
    return 0 if found else 1


def _export(kept: Transcripts, given: argparse.Namespace) -> int:
    turns: Sequence[Turn] = (
        [turn for name in given.conversations for turn in kept.turns(name)]
        if given.conversations
        else kept.everything()
    )
    is_json = given.format == "jsonl"
    lines = as_jsonl(turns) if is_json else as_markdown(turns)
    if given.out is None:
        for line in lines:
            print(json_text(line.encode()) if is_json else _as_shown(line))
        return 0
    text = "".join(f"{line}\n" for line in lines)
    try:
        Path(given.out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {given.out}: {error.strerror}") from error
    document = {"turns": len(turns), "file": given.out}
    say(document, f"{counted(len(turns), 'turn', 'are')} in {given.out}", given.json)
    return 0


def forgetting(given: argparse.Namespace) -> str:
    """What `delete` is about to forget: `2 conversations with 9 turns`. Raises `OperatorError`."""
    with contextlib.closing(_open()) as kept:
        names = _named(kept, given)
        turns = sum(len(kept.turns(name)) for name in names)
    return f"{counted(len(names), 'conversation')} with {counted(turns, 'turn')}"


def _named(kept: Transcripts, given: argparse.Namespace) -> list[str]:
    if given.all == bool(given.conversations):
        raise UsageError("name conversations, or --all", "see: loraconsole transcripts list")
    return given.conversations or [each.id for each in kept.conversations(1 << 30)]


def _delete(kept: Transcripts, given: argparse.Namespace) -> int:
    names = _named(kept, given)
    turns = sum(kept.delete(name) for name in names)
    document = {"conversations": len(names), "turns": turns}
    lost = f"{counted(len(names), 'conversation')} with {counted(turns, 'turn')}"
    say(document, f"forgotten: {lost}", given.json)
    return 0


def _as_shown(text: str) -> str:
    """To a terminal nothing that would command it; to a file or a pipe what was said."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(units.visible(row) for row in text.split("\n"))


def _one_line(text: str) -> str:
    return " ".join(units.clean(text.replace("\n", " ")).split())


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))

"""`loraconsole transcripts …`: lists, searches, exports and deletes the kept conversations. Each
returns an exit status."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from ...pipeline.errors import OperatorError
from ...pipeline.runtime.text_output import json_text
from ...pipeline.runtime.wording import counted
from ..client.transcripts import (
    Conversation,
    Transcripts,
    Turn,
    as_jsonl,
    as_markdown,
    open_transcripts,
)
from ..commands.transcripts import (
    DeleteTranscriptsCommand,
    ExportTranscriptsCommand,
    ListTranscriptsCommand,
    SearchTranscriptsCommand,
    TranscriptsCommand,
)
from ..text import units
from .printing import print_json, say

LONGEST = 60


class ConversationsDocument(msgspec.Struct, frozen=True):
    """`transcripts list`."""

    conversations: tuple[Conversation, ...]


class TurnsDocument(msgspec.Struct, frozen=True):
    """`transcripts search`."""

    turns: tuple[Turn, ...]


class ExportDocument(msgspec.Struct, frozen=True):
    """`transcripts export --out`."""

    turns: int
    file: str


class DeletedDocument(msgspec.Struct, frozen=True):
    """`transcripts delete`: how many were deleted."""

    conversations: int
    turns: int


def run(command: TranscriptsCommand) -> int:
    """Raises `OperatorError` if no transcripts are kept or a name is unknown."""
    with contextlib.closing(open_transcripts()) as kept:
        match command:
            case ListTranscriptsCommand():
                return _list(kept, command)
            case SearchTranscriptsCommand():
                return _search(kept, command)
            case ExportTranscriptsCommand():
                return _export(kept, command)
            case DeleteTranscriptsCommand():
                return _delete(kept, command)
    raise NotImplementedError(command)


def _list(kept: Transcripts, command: ListTranscriptsCommand) -> int:
    found = kept.conversations(command.limit)
    if command.json:
        print_json(ConversationsDocument(tuple(found)))
        return 0
    if not found:
        print("no transcripts yet")
    for each in found:
        title = units.fit(_one_line(each.title), LONGEST).rstrip()
        models = ", ".join(units.visible(model) for model in each.models)
        turns = counted(each.turns, "turn")
        print(f"{each.id[:8]}  {_when(each.at)}  {turns:>9}  {title}  [{models}]")
    return 0


def _search(kept: Transcripts, command: SearchTranscriptsCommand) -> int:
    found = kept.search(" ".join(command.words), command.limit)
    if command.json:
        print_json(TurnsDocument(tuple(found)))
        return 0
    for turn in found:
        prompt = units.fit(_one_line(turn.prompt), LONGEST).rstrip()
        print(f"{turn.conversation[:8]}  {_when(turn.at)}  {units.visible(turn.model)}: {prompt}")
        print(f"{'':10}{units.fit(_one_line(turn.answer), LONGEST + 28).rstrip()}")
    if not found:
        print("no turn contains all these words", file=sys.stderr)
    return 0 if found else 1


def _export(kept: Transcripts, command: ExportTranscriptsCommand) -> int:
    turns: Sequence[Turn] = (
        [turn for name in command.conversations for turn in kept.turns(name)]
        if command.conversations
        else kept.everything()
    )
    is_json = command.format == "jsonl"
    lines = as_jsonl(turns) if is_json else as_markdown(turns)
    if command.out is None:
        for line in lines:
            print(json_text(line.encode()) if is_json else _as_shown(line))
        return 0
    text = "".join(f"{line}\n" for line in lines)
    try:
        Path(command.out).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OperatorError(f"cannot write {command.out}: {error.strerror}") from error
    document = ExportDocument(len(turns), command.out)
    say(document, f"{counted(len(turns), 'turn', 'are')} in {command.out}", command.json)
    return 0


def _delete(kept: Transcripts, command: DeleteTranscriptsCommand) -> int:
    names = kept.choose(command.conversations, command.all)
    lost = kept.describe(names)
    turns = sum(kept.delete(name) for name in names)
    document = DeletedDocument(len(names), turns)
    say(document, f"deleted: {lost}", command.json)
    return 0


def _as_shown(text: str) -> str:
    """The text, without control characters if stdout is a terminal."""
    if not sys.stdout.isatty():
        return text
    return "\n".join(units.visible(row) for row in text.split("\n"))


def _one_line(text: str) -> str:
    return " ".join(units.clean(text.replace("\n", " ")).split())


def _when(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at))

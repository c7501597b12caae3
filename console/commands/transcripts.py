"""Commands about the prompts and answers kept by the console."""

# No future import of annotations: as objects they need not be evaluated for the parser.

from typing import Annotated, Literal

from .argument import Argument
from .base import Command, Json


class TranscriptsCommand(Command, frozen=True, kw_only=True):
    """Base of the commands about transcripts."""

    json: Json = False


class ListTranscriptsCommand(TranscriptsCommand, frozen=True, kw_only=True):
    NAME = "list"
    HELP = "conversations, the newest first (the default)"
    limit: Annotated[int, Argument(metavar="N")] = 20


class SearchTranscriptsCommand(TranscriptsCommand, frozen=True, kw_only=True):
    NAME = "search"
    HELP = "turns with all these words; exit 1 if there are none"
    words: Annotated[tuple[str, ...], Argument(metavar="WORD", is_positional=True)]
    limit: Annotated[int, Argument(metavar="N")] = 20


class ExportTranscriptsCommand(TranscriptsCommand, frozen=True, kw_only=True):
    NAME = "export"
    HELP = "conversations in full; all if none is named"
    conversations: Annotated[tuple[str, ...], Argument(metavar="ID", is_positional=True)] = ()
    format: Annotated[Literal["markdown", "jsonl"], Argument()] = "markdown"
    out: Annotated[str | None, Argument("default: standard output", metavar="FILE")] = None


class DeleteTranscriptsCommand(TranscriptsCommand, frozen=True, kw_only=True):
    NAME = "delete"
    HELP = "delete conversations"
    conversations: Annotated[tuple[str, ...], Argument(metavar="ID", is_positional=True)] = ()
    all: Annotated[bool, Argument("all conversations")] = False

"""`Transcripts`: prompts and answers, kept in SQLite under the user's data directory.

One file for all runs; several consoles may write at once. Knows no widget and no server.
"""

from __future__ import annotations

import json
import os
import re
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from ...pipeline.errors import OperatorError, UsageError
from ...pipeline.private_files import private_umask
from ...pipeline.runtime.wording import counted
from ..paths import data_directory

VARIABLE = "LORACONSOLE_TRANSCRIPTS"
"""Environment variable: the path of another file; empty keeps no transcripts."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS turn (
    id INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL,
    at REAL NOT NULL,
    model TEXT NOT NULL,
    prompt TEXT NOT NULL,
    answer TEXT NOT NULL,
    params TEXT NOT NULL,
    finish_reason TEXT NOT NULL,
    error TEXT NOT NULL,
    prompt_tokens INTEGER,
    output_tokens INTEGER,
    ttft_s REAL,
    tokens_s REAL
);
CREATE INDEX IF NOT EXISTS turn_of_conversation ON turn (conversation, id);
"""
MOVE_IT = "is the disk full? If the file is damaged, move it away: a new one is made"
SYSTEM = "system"
"""The name of the system prompt among a turn's parameters."""
INDEX = "CREATE VIRTUAL TABLE IF NOT EXISTS words USING fts5 (model, prompt, answer)"


class Turn(msgspec.Struct, frozen=True, kw_only=True):
    """One prompt and one model's answer."""

    id: int = 0
    conversation: str
    at: float
    model: str
    prompt: str
    answer: str
    params: dict[str, Any] = {}
    finish_reason: str = ""
    error: str = ""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    ttft_s: float | None = None
    tokens_s: float | None = None


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation in a list."""

    id: str
    at: float
    """The time of its first turn."""
    turns: int
    models: tuple[str, ...]
    title: str
    """Its first prompt."""


def default_path() -> Path | None:
    """$LORACONSOLE_TRANSCRIPTS if set, None if that is empty; by default
    `$XDG_DATA_HOME/loraconsole/transcripts.db`, under `~/.local/share`."""
    if (named := os.environ.get(VARIABLE)) is not None:
        return Path(named) if named else None
    return data_directory() / "transcripts.db"


class Transcripts:
    """The file of transcripts. May be called from any thread."""

    def __init__(self, path: Path) -> None:
        """Raises `OperatorError` if the file cannot be used."""
        self.path = path
        self._lock = threading.Lock()
        try:
            with private_umask():
                path.parent.mkdir(parents=True, exist_ok=True)
                if not path.exists():
                    path.touch()  # SQLite gives its other files the mode of this one
            self._db = sqlite3.connect(path, timeout=1.0, check_same_thread=False)
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            self._db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise OperatorError(
                f"transcripts cannot be saved in  {path}: {error}",
                f"set ${VARIABLE} to another file; empty turns transcripts off",
            ) from error
        self.has_index = True
        try:
            self._db.execute(INDEX)
        except sqlite3.OperationalError:  # SQLite without FTS5: search reads every turn
            self.has_index = False

    def close(self) -> None:
        self._db.close()

    def add(self, turn: Turn) -> int:
        """Stores a turn and returns its id. Raises `OperatorError` if it cannot be written."""
        values = msgspec.structs.asdict(turn) | {"params": json.dumps(turn.params)}
        del values["id"]
        names = ", ".join(values)
        marks = ", ".join(f":{name}" for name in values)
        try:
            with self._lock, self._db:
                row = self._db.execute(f"INSERT INTO turn ({names}) VALUES ({marks})", values)
                if self.has_index:
                    self._db.execute(
                        "INSERT INTO words (rowid, model, prompt, answer) VALUES (?, ?, ?, ?)",
                        (row.lastrowid, turn.model, turn.prompt, turn.answer),
                    )
        except sqlite3.Error as error:
            raise OperatorError(
                f"{self.path} cannot be written: {error}", "later turns are not saved"
            ) from error
        return row.lastrowid or 0

    def conversations(self, limit: int = 50) -> list[Conversation]:
        """Conversations, the newest first."""
        rows = self._all(
            "SELECT conversation, min(at), count(*), group_concat(DISTINCT model), min(id) "
            "FROM turn GROUP BY conversation ORDER BY min(id) DESC LIMIT ?",
            (limit,),
        )
        titles = dict(
            self._all(
                "SELECT conversation, prompt FROM turn WHERE id IN "
                "(SELECT min(id) FROM turn GROUP BY conversation)",
                (),
            )
        )
        return [
            Conversation(
                id=name,
                at=at,
                turns=turns,
                models=tuple(models.split(",")),
                title=titles.get(name, ""),
            )
            for name, at, turns, models, _ in rows
        ]

    def turns(self, conversation: str) -> list[Turn]:
        """The turns of a conversation in order. `conversation` is its id or the beginning of it;
        raises `OperatorError` if it fits none or several."""
        names = [
            name
            for (name,) in self._all(
                "SELECT DISTINCT conversation FROM turn WHERE substr(conversation, 1, ?) = ?",
                (len(conversation), conversation),
            )
        ]
        if len(names) != 1 or not conversation:
            many = counted(len(names), "conversation", "begin")
            count = many if names else "no conversation begins"
            raise OperatorError(
                f"{count} with {conversation!r}", "see: loraconsole transcripts list"
            )
        return self._turns("WHERE conversation = ? ORDER BY id", (names[0],))

    def everything(self) -> list[Turn]:
        return self._turns("ORDER BY id", ())

    def search(self, text: str, limit: int = 50) -> list[Turn]:
        """Turns whose model, prompt and answer together match every word of `text` as a prefix, the
        newest first; every turn if there are no words."""
        words = re.findall(r"\w+", text)
        if self.has_index and words:
            query = " ".join(f'"{word}"*' for word in words)
            return self._turns(
                "WHERE id IN (SELECT rowid FROM words WHERE words MATCH ?) "
                "ORDER BY id DESC LIMIT ?",
                (query, limit),
            )
        has_all = " AND ".join(["instr(lower(model||' '||prompt||' '||answer), ?)"] * len(words))
        return self._turns(
            f"{'WHERE ' + has_all if words else ''} ORDER BY id DESC LIMIT ?",
            (*(word.lower() for word in words), limit),
        )

    def prompts(self, limit: int = 200) -> list[str]:
        """The latest distinct prompts, the oldest first."""
        rows = self._all(
            "SELECT prompt FROM turn GROUP BY prompt ORDER BY max(id) DESC LIMIT ?", (limit,)
        )
        return [prompt for (prompt,) in reversed(rows)]

    def choose(self, conversations: Sequence[str], every: bool) -> list[str]:
        """Ids of the given conversations, or of all if `every`. Raises `UsageError` if both or
        neither are given."""
        if every == bool(conversations):
            raise UsageError("name conversations, or --all", "see: loraconsole transcripts list")
        return list(conversations) or [each.id for each in self.conversations(1 << 30)]

    def describe(self, conversations: Sequence[str]) -> str:
        """`2 conversations with 9 turns`. Raises as `turns` does."""
        turns = sum(len(self.turns(name)) for name in conversations)
        return f"{counted(len(conversations), 'conversation')} with {counted(turns, 'turn')}"

    def delete(self, conversation: str) -> int:
        """Deletes a conversation; returns its number of turns. Raises as `turns` does."""
        numbers = [(turn.id,) for turn in self.turns(conversation)]
        try:
            with self._lock, self._db:
                self._db.executemany("DELETE FROM turn WHERE id = ?", numbers)
                if self.has_index:
                    self._db.executemany("DELETE FROM words WHERE rowid = ?", numbers)
        except sqlite3.Error as error:
            raise OperatorError(f"{self.path} cannot be written: {error}", MOVE_IT) from error
        return len(numbers)

    def _all(self, query: str, values: Sequence[Any]) -> list[tuple[Any, ...]]:
        try:
            with self._lock:
                return self._db.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise OperatorError(f"{self.path} cannot be read: {error}", MOVE_IT) from error

    def _turns(self, where: str, values: Sequence[Any]) -> list[Turn]:
        names = Turn.__struct_fields__
        rows = self._all(f"SELECT {', '.join(names)} FROM turn {where}", values)
        found = []
        for row in rows:
            known = dict(zip(names, row, strict=True))
            found.append(Turn(**known | {"params": json.loads(known["params"])}))
        return found


def short_conversation(name: str) -> str:
    """The beginning of a conversation's id, which names it on screens and in commands."""
    return name[:8]


def open_transcripts() -> Transcripts:
    """The user's transcripts. Raises `OperatorError` if none are kept."""
    kept = open_default()
    if kept is None:
        raise OperatorError("transcripts are off", f"${VARIABLE} is empty")
    return kept


def open_default() -> Transcripts | None:
    """The user's transcripts; None if none are kept. Raises `OperatorError` if the file cannot be
    used."""
    path = default_path()
    return None if path is None else Transcripts(path)


# --- export -------------------------------------------------------------------------------------


def as_markdown(turns: Sequence[Turn]) -> Iterator[str]:
    """Lines of a Markdown document: each prompt as a quote, below it each model's answer."""
    before: tuple[str, str] | None = None
    conversation = system = ""
    for turn in turns:
        if turn.conversation != conversation:
            conversation = turn.conversation
            day = time.strftime("%Y-%m-%d %H:%M", time.localtime(turn.at))
            yield from (f"# Conversation {short_conversation(conversation)}, {day}", "")
            system = ""
        if (now := turn.params.get(SYSTEM, "")) != system:
            system = now
            yield from (f"**System prompt:** {system or '(none)'}", "")
        if before != (turn.conversation, turn.prompt):
            before = (turn.conversation, turn.prompt)
            yield from (*(f"> {part}" for part in turn.prompt.split("\n")), "")
        facts = [counted(turn.output_tokens, "token")] if turn.output_tokens else []
        facts += [f"{turn.tokens_s:.1f} tokens/s"] if turn.tokens_s else []
        facts += (
            [f"ended by {turn.finish_reason}"] if turn.finish_reason not in ("", "stop") else []
        )
        yield from (f"**{turn.model}**" + (f" ({', '.join(facts)})" if facts else ""), "")
        yield from (turn.answer or "(nothing)", "")
        if turn.error:
            yield from (f"*failed: {turn.error}*", "")


def as_jsonl(turns: Sequence[Turn]) -> Iterator[str]:
    """JSON lines, one per turn."""
    for turn in turns:
        yield json.dumps(msgspec.to_builtins(turn), ensure_ascii=False)

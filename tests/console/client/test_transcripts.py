"""What was asked and answered: kept, found, exported, forgotten."""

import json
import sqlite3
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from full_disk import no_file_grows_beyond

from loraconsole.console.client import transcripts
from loraconsole.console.client.transcripts import Transcripts, Turn, as_jsonl, as_markdown
from loraconsole.pipeline.errors import OperatorError

PIRATE = Turn(
    conversation="aaaa1111",
    at=1_790_000_000.0,
    model="pirate",
    prompt="What is the capital of Spain?",
    answer="Arrr, it be *Madrid*.",
    params={"temperature": 0.7},
    finish_reason="stop",
    output_tokens=9,
    tokens_s=21.5,
)
TURNS = (
    PIRATE,
    Turn(
        conversation="aaaa1111",
        at=1_790_000_001.0,
        model="base",
        prompt=PIRATE.prompt,
        answer="Madrid",
    ),
    Turn(
        conversation="bbbb2222",
        at=1_790_000_009.0,
        model="sql",
        prompt="Drop it",
        answer="",
        error="429",
    ),
)


@pytest.fixture(params=[True, False], ids=["indexed", "plain"])
def kept(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Transcripts:
    if not request.param:  # an SQLite that was built without FTS5
        monkeypatch.setattr(transcripts, "INDEX", "CREATE VIRTUAL TABLE words USING fts0 (model)")
    found = Transcripts(tmp_path / "new" / "transcripts.db")
    assert found.has_index is request.param
    for turn in TURNS:
        found.add(turn)
    return found


def test_turns_come_back_as_they_were(kept: Transcripts) -> None:
    again = Transcripts(kept.path)
    assert [turn.prompt for turn in again.turns("bbbb2222")] == ["Drop it"]
    first = again.turns("aaaa")[0]  # the head of its name will do
    assert first == Turn(
        **{name: getattr(PIRATE, name) for name in PIRATE.__struct_fields__} | {"id": 1}
    )
    assert again.prompts() == [PIRATE.prompt, "Drop it"]


def test_a_search_finds_all_words_anywhere_the_newest_first(kept: Transcripts) -> None:
    assert [turn.model for turn in kept.search("madrid")] == ["base", "pirate"]
    assert [turn.model for turn in kept.search("spain arrr")] == ["pirate"]
    assert [turn.model for turn in kept.search("sql")] == ["sql"]
    assert kept.search("spain lisbon") == []
    assert len(kept.search("")) == 3 and len(kept.search('"*!?')) == 3


def test_conversations_are_listed_with_their_first_prompt_and_deleted_whole(
    kept: Transcripts,
) -> None:
    newest, oldest = kept.conversations()
    assert (newest.id, newest.title, newest.turns) == ("bbbb2222", "Drop it", 1)
    assert (oldest.title, oldest.turns) == (PIRATE.prompt, 2)
    assert set(oldest.models) == {"pirate", "base"}
    assert kept.delete("aaaa") == 2
    assert [each.id for each in kept.conversations()] == ["bbbb2222"]
    assert kept.search("madrid") == []


@pytest.mark.parametrize(("name", "why"), [("c", "no conversation begins"), ("", "conversation")])
def test_a_name_that_names_none_is_refused(kept: Transcripts, name: str, why: str) -> None:
    with pytest.raises(OperatorError, match=why):
        kept.turns(name)


def test_only_their_owner_can_read_them(tmp_path: Path) -> None:
    kept = Transcripts(tmp_path / "new" / "transcripts.db")
    assert stat.S_IMODE(kept.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(kept.path.parent.stat().st_mode) == 0o700


def test_a_file_that_cannot_be_used_says_so(tmp_path: Path) -> None:
    (tmp_path / "transcripts.db").write_bytes(
        b"this is no database, but long enough to be looked at" * 99
    )
    with pytest.raises(OperatorError, match="not a database"):
        Transcripts(tmp_path / "transcripts.db")


def test_a_full_disk_is_an_operators_error(kept: Transcripts) -> None:
    kept._db.execute("PRAGMA query_only=1")
    with pytest.raises(OperatorError, match="cannot be written"):
        kept.add(PIRATE)


def test_several_consoles_write_at_once(tmp_path: Path) -> None:
    one, other = (Transcripts(tmp_path / "transcripts.db") for _ in range(2))
    for _ in range(20):
        one.add(PIRATE)
        other.add(TURNS[2])
    assert sqlite3.connect(tmp_path / "transcripts.db").execute(
        "SELECT count(*) FROM turn"
    ).fetchone() == (40,)


def test_markdown_quotes_a_prompt_once_and_names_each_model() -> None:
    text = "\n".join(as_markdown(TURNS))
    assert text.count("> What is the capital of Spain?") == 1
    assert "**pirate** (9 tokens, 21.5 tokens/s)\n\nArrr, it be *Madrid*." in text
    assert "**base**\n\nMadrid" in text and "*failed: 429*" in text
    assert text.count("# Conversation") == 2


def test_jsonl_has_every_field_of_every_turn() -> None:
    rows = [json.loads(line) for line in as_jsonl(TURNS)]
    assert [row["model"] for row in rows] == ["pirate", "base", "sql"]
    assert rows[0]["params"] == {"temperature": 0.7} and rows[2]["error"] == "429"


@pytest.mark.processes
def test_the_command_line_lists_searches_exports_and_deletes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(*words: str, code: int = 0) -> str:
        command = [sys.executable, "-P", "-m", "loraconsole.console", "transcripts", *words]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        return done.stdout

    monkeypatch.setenv(transcripts.VARIABLE, str(tmp_path / "t.db"))
    kept = Transcripts(tmp_path / "t.db")
    for turn in TURNS:
        kept.add(turn)
    assert "What is the capital of Spain?  [" in run()
    assert [c["id"] for c in json.loads(run("--json"))["conversations"]] == ["bbbb2222", "aaaa1111"]
    assert "pirate" in run("search", "arrr")
    run("search", "lisbon", code=1)
    out = tmp_path / "all.jsonl"
    assert "3 turns" in run("export", "--format", "jsonl", "--out", str(out))
    assert len(out.read_text().splitlines()) == 3
    assert run("export", "aaaa").startswith("# Conversation aaaa1111")
    run("delete", code=2)
    run("delete", "zz", code=1)
    assert "1 conversation with 2 turns" in run("delete", "aaaa")
    assert "aaaa" not in run("list")
    monkeypatch.setenv(transcripts.VARIABLE, "")
    run("list", code=1)


def test_a_file_that_was_damaged_is_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "t.db"
    kept = Transcripts(path)
    for turn in TURNS:
        kept.add(turn)
    kept._db.execute("DROP TABLE turn")
    for use in (lambda: kept.conversations(), lambda: kept.search("x"), lambda: kept.add(PIRATE)):
        with pytest.raises(OperatorError, match=r"t\.db cannot be") as caught:
            use()
    assert caught.value.hint
    with pytest.raises(OperatorError, match="cannot be read") as caught:
        kept.prompts()
    assert "move it away" in caught.value.hint
    kept.close()


def test_a_full_disk_refuses_a_turn_and_keeps_those_before(tmp_path: Path) -> None:
    kept = Transcripts(tmp_path / "t.db")
    kept.add(PIRATE)
    with (
        no_file_grows_beyond(1 << 16),
        pytest.raises(OperatorError, match="cannot be written"),
    ):
        kept.add(msgspec.structs.replace(PIRATE, answer="x" * 200_000))
    assert [turn.answer for turn in kept.everything()] == [PIRATE.answer]
    kept.add(PIRATE)
    assert len(kept.everything()) == 2
    kept.close()

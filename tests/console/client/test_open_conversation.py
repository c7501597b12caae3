"""A conversation: what its models remember, and its Markdown."""

import json
from pathlib import Path

from loraconsole.console.client.answer import CANCELLED, Answer
from loraconsole.console.client.chat import ChatParams
from loraconsole.console.client.open_conversation import OpenConversation

PARAMS = ChatParams(temperature=0.2)


def ended(talk: OpenConversation, model: str, prompt: str, text: str, **more: str) -> Answer:
    answer = Answer(model, model, before=talk.before(model), prompt=prompt, **more)
    if text:
        answer.add(text)
    answer.end("stop")
    return answer


def test_a_model_remembers_its_own_answers_only() -> None:
    talk = OpenConversation()
    talk.add([ended(talk, "sql", "Who?", "Me."), ended(talk, "pirate", "Who?", "Arrr.")], PARAMS)
    assert talk.before("sql") == (("Who?", "Me."),)
    answer = ended(talk, "sql", "Why?", "So.", system="Be brief.")
    assert [(message["role"], message["content"]) for message in answer.messages] == [
        ("system", "Be brief."),
        ("user", "Who?"),
        ("assistant", "Me."),
        ("user", "Why?"),
    ]


def test_an_answer_that_is_taken_back_or_broken_is_not_remembered() -> None:
    talk = OpenConversation()
    answer = ended(talk, "sql", "Who?", "Me.")
    talk.add([answer], PARAMS)
    talk.take_back([answer])
    broken = Answer("sql", "sql", prompt="Who?")
    broken.add("M")
    broken.end(error=CANCELLED)
    (turn,) = talk.add([broken], PARAMS)
    assert talk.before("sql") == () and turn.error == CANCELLED


def test_the_document_has_every_answer_and_the_system_prompt_where_it_changes() -> None:
    talk = OpenConversation()
    assert talk.export(Path("a.md")) == "" and talk.add([Answer("sql", "sql")], PARAMS) == []
    talk.add([ended(talk, "sql", "Who?", "Me.", system="Be brief.")], PARAMS)
    talk.add([ended(talk, "sql", "Why?", "So.", system="Be brief.")], PARAMS)
    talk.add([ended(talk, "sql", "When?", "Now.")], PARAMS)
    text = talk.export(Path("a.md"))
    assert text.startswith(f"# Conversation {talk.name}, ")
    assert text.count("System prompt") == 2 and "(none)" in text
    order = ["Be brief.", "> Who?", "Me.", "> Why?", "So.", "(none)", "> When?", "Now."]
    assert sorted(order, key=text.index) == order
    assert talk.turns[0].params == {"temperature": 0.2, "system": "Be brief."}


def test_the_ending_of_the_path_chooses_the_format() -> None:
    talk = OpenConversation()
    talk.add(
        [ended(talk, "sql", "Qui\u00e9n?", "Me."), ended(talk, "pirate", "Who?", "Arrr.")], PARAMS
    )
    rows = [json.loads(row) for row in talk.export(Path("a.jsonl")).splitlines()]
    assert rows == json.loads(talk.export(Path("a.json"))) and len(rows) == 2
    assert rows[0]["answer"] == "Me." and rows[0]["conversation"] == talk.id
    assert "\u00e9" in talk.export(Path("a.json")) and "> Who?" in talk.export(Path("a"))

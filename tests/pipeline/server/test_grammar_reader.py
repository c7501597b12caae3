"""A refusal of a form names the field that the client has sent, and the place in its schema."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from made_tokenizers import byte_level
from starlette.requests import Request

from loraconsole.pipeline.grammar.specification import MOST_CHARACTERS
from loraconsole.pipeline.grammar.wanted_grammar import WantedGrammar
from loraconsole.pipeline.server.bodies import anthropic_body, responses_body
from loraconsole.pipeline.server.bodies.body import convert_body
from loraconsole.pipeline.server.bodies.openai_bodies import CompletionBody
from loraconsole.pipeline.server.bodies.renamed import renamed
from loraconsole.pipeline.server.bodies.tool_fields import read_old_functions, read_tools
from loraconsole.pipeline.server.chat.answer_plan import ChatFormats, plan_answer
from loraconsole.pipeline.server.gateway.gateway import Gateway
from loraconsole.pipeline.server.gateway.grammar_reader import GrammarReader
from loraconsole.pipeline.server.gateway.text_workers import TextWorkers
from loraconsole.pipeline.server.http.bad_request import BadRequest
from loraconsole.pipeline.text.tokenizer import Tokenizer

BAD = {"type": "object", "properties": {"a": {"type": "obj"}}}
GOOD = {"type": "object", "properties": {}}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("run")
    byte_level(["<unk>", "</s>"]).save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text("{}")
    return directory


def read(run: Path, wanted: WantedGrammar | None) -> str:
    """The grammar, as the server reads it."""
    tokenizer = Tokenizer(run)
    gateway = SimpleNamespace(tokenizer=tokenizer, run=run, vocab_size=tokenizer.vocab_size)
    reader = GrammarReader(cast(Gateway, gateway), TextWorkers())
    return asyncio.run(reader.read(Request({"type": "http", "client": ("::1", 1)}), wanted))


def read_of_tools(run: Path, functions: list[dict[str, Any]], *, old: bool = False) -> str:
    """The grammar of a chat that must call, or may call strict ones."""
    given = [{"type": "function", "function": function} for function in functions]
    tools = read_old_functions(functions, {"name": "w"}) if old else read_tools(given, "auto")
    plan = plan_answer(Tokenizer(run), "", tools, ChatFormats("hermes", ""))
    return read(run, plan.whole_grammar(None))


def function(name: str, schema: dict[str, Any], *, strict: bool = True) -> dict[str, Any]:
    return {"name": name, "parameters": schema, "strict": strict}


def test_a_tools_schema_is_named(run: Path) -> None:
    many = {f"p{i}": {"type": "null"} for i in range(491)}
    for schema, place in (
        (BAD, "Invalid type: obj (at /properties/a)"),
        ({"properties": {"a": {"properties": many}}}, "required, or divide the object (at /prop"),
    ):
        with pytest.raises(BadRequest) as refused:
            read_of_tools(run, [function("v", GOOD), function("w", schema)])
        assert refused.value.param == "tools[1].function.parameters"
        assert f"{place}" in refused.value.reason
    assert read_of_tools(run, [function("v", GOOD), function("w", BAD, strict=False)])
    with pytest.raises(BadRequest) as refused:
        read_of_tools(run, [function("v", GOOD), function("w", BAD)], old=True)
    assert refused.value.param == "functions[1].parameters"


def test_other_protocols_name_their_own_fields(run: Path) -> None:
    wanted = WantedGrammar("json_schema", BAD, "response_format.json_schema.schema")
    for names, of_tools, of_format in (
        (responses_body.CHAT_NAMES, "tools[0].parameters", "text.format.schema"),
        (anthropic_body.CHAT_NAMES, "tools[0].input_schema", "output_config.format.schema"),
    ):
        with pytest.raises(BadRequest) as refused, renamed(names):
            read_of_tools(run, [function("w", BAD)])
        assert refused.value.param == of_tools
        assert refused.value.reason.startswith(f"{of_tools}: Invalid type")
        with pytest.raises(BadRequest) as refused, renamed(names):
            read(run, wanted)
        assert refused.value.param == of_format
        assert refused.value.reason == f"{of_format}: Invalid type: obj (at /properties/a)"


def test_the_limit_counts_the_schemas_that_the_client_sent(run: Path) -> None:
    assert len(read_of_tools(run, [function(f"f{i}", GOOD) for i in range(300)])) > MOST_CHARACTERS
    half = {"description": "x" * (MOST_CHARACTERS // 2)}
    with pytest.raises(BadRequest, match=r"schemas have 6\d+ characters together") as refused:
        read_of_tools(run, [function("v", half), function("w", half)])
    assert refused.value.param == "tools"


def test_white_space_that_is_no_expression_is_named(run: Path) -> None:
    for given, field in (
        ({"structured_outputs": {"json": {}, "whitespace_pattern": "("}}, "structured_outputs."),
        ({"guided_json": {}, "guided_whitespace_pattern": "("}, "guided_"),
    ):
        wanted = convert_body({"prompt": "x", **given}, CompletionBody).wanted_grammar()
        with pytest.raises(BadRequest, match="unclosed group") as refused:
            read(run, wanted)
        assert refused.value.param == f"{field}whitespace_pattern"

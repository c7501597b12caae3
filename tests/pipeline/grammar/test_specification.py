"""From what a request asks for to a grammar: what it matches, and what is refused."""

from __future__ import annotations

import json
import threading
from typing import Any

import pytest
from token_tables import matches, vocabulary

from loraconsole.pipeline.grammar.compile_cost import MOST_MULTIPLES, cost_fault
from loraconsole.pipeline.grammar.grammar_checker import GrammarChecker
from loraconsole.pipeline.grammar.json_schema import enforceable, subschemas
from loraconsole.pipeline.grammar.matcher import ONE_SIZE, compile_grammar
from loraconsole.pipeline.grammar.specification import (
    MOST_CHARACTERS,
    MOST_OPTIONAL,
    GrammarRefused,
    choice_grammar,
    json_object_grammar,
    json_schema_grammar,
    own_grammar,
    regex_grammar,
    structural_tag_grammar,
)

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
    "required": ["name"],
}


def many(count: int, name: str = "p") -> dict[str, Any]:
    """An object of so many integers."""
    properties = {f"{name}{i}": {"type": "integer"} for i in range(count)}
    return {"type": "object", "properties": properties, "additionalProperties": False}


@pytest.fixture(scope="module")
def checker() -> GrammarChecker:
    return GrammarChecker(vocabulary())


def test_a_schema_matches_what_it_describes() -> None:
    grammar = json_schema_grammar(PERSON)
    for text in ('{"name": "Ada"}', '{\n  "name":"Ada" ,"age" : 36\n}'):
        assert matches(grammar, text)
    for text in ('{"age": 36}', '{"name": 1}', '{"name": "Ada"', "[]", ' {"name": "A"}'):
        assert not matches(grammar, text)
    assert json_schema_grammar(json.dumps(PERSON)) == grammar
    assert matches(json_schema_grammar(True), "[1, {}]")


def test_white_space_is_bounded_or_as_asked() -> None:
    usual = json_schema_grammar({"type": "object"})
    value = {"a": [1, {"b": [[{"c": [2, 3]}]]}], "d": {}, "e": []}
    for indent in (None, 0, 1, 2, 4, "\t"):
        assert matches(usual, json.dumps(value, indent=indent))
    assert matches(usual, json.dumps(value, separators=(",", ":")))
    assert matches(usual, json.dumps(value, indent=2).replace("\n", "\r\n"))
    for blanks in ("  ", "\n\n", " \n", "\n" + 33 * " ", "\t"):
        assert not matches(usual, '{"a":' + blanks + "1}")
    compact = json_schema_grammar(PERSON, is_compact=True)
    assert matches(compact, '{"name":"A"}') and not matches(compact, '{"name": "A"}')
    own = json_schema_grammar(PERSON, whitespace="_")
    assert matches(own, '{"name":_"A"}') and not matches(own, '{"name": "A"}')
    assert json_object_grammar(whitespace="") == json_object_grammar(is_compact=True)
    assert not matches(json_object_grammar(is_compact=True), '{"a": 1}')
    assert matches(json_object_grammar(), '{"a": 1}') and not matches(json_object_grammar(), "[1]")


def test_a_closed_schema_has_no_further_properties() -> None:
    schema = {**PERSON, "properties": {"name": {"type": "string"}, "free": {"type": "object"}}}
    merged = {"allOf": [{"properties": {"a": {"const": 1}}}, {"type": "object"}]}
    assert matches(json_schema_grammar(merged), '{"a": 1, "x": 1}')
    assert not matches(json_schema_grammar(merged, is_closed=True), '{"a": 1, "x": 1}')
    closed = json_schema_grammar(schema, is_closed=True)
    assert matches(closed, '{"name": "A", "free": {"x": 1}}')
    assert not matches(closed, '{"name": "A", "x": 1}')
    open_one = json_schema_grammar({**schema, "additionalProperties": True}, is_closed=True)
    assert matches(open_one, '{"name": "A", "x": 1}')


ADDRESS = {"type": "object", "properties": {"city": {"type": "string"}}}
TOWN = {"type": "object", "properties": {"size": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("schema", "text", "is_match"),
    [
        (ADDRESS, '{"city": "A", "x": 1}', False),
        ({"$defs": {"a": ADDRESS}, "items": {"$ref": "#/$defs/a"}}, '[{"x": 1}]', False),
        ({"anyOf": [ADDRESS, {"type": "null"}], "title": "A"}, '{"x": 1}', False),
        ({"allOf": [ADDRESS], "description": "one"}, '{"x": 1}', False),
        ({**ADDRESS, "additionalProperties": True}, '{"city": "A", "x": 1}', True),
        ({**ADDRESS, "additionalProperties": {"type": "null"}}, '{"x": null}', True),
        ({**ADDRESS, "patternProperties": {"^x": {"const": 2}}}, '{"xy": 2}', True),
        ({**ADDRESS, "required": ["x"]}, '{"x": 1}', True),
        ({**ADDRESS, "minProperties": 2, "required": ["city"]}, '{"city": "A", "x": 1}', True),
        ({"type": "object"}, '{"x": 1}', True),
        ({"allOf": [ADDRESS, TOWN]}, '{"city": "A", "size": 1}', True),
        ({**ADDRESS, "$ref": "#/$defs/t", "$defs": {"t": TOWN}}, '{"city": "A", "size": 1}', True),
        (
            {"$defs": {"t/n": TOWN}, "allOf": [{"$ref": "#/$defs/t~1n"}, ADDRESS]},
            '{"size": 1, "city": "A"}',
            True,
        ),
        ({**ADDRESS, "anyOf": [TOWN, {"required": ["y"]}]}, '{"city": "A", "size": 1}', True),
    ],
)
def test_objects_have_the_properties_that_they_list(
    schema: dict[str, Any], text: str, is_match: bool
) -> None:
    before = json.dumps(schema)
    assert matches(json_schema_grammar(schema), text) is is_match
    assert json.dumps(schema) == before


def test_formats_are_enforced_if_they_are_known() -> None:
    dated = json_schema_grammar({"type": "string", "format": "date"})
    assert matches(dated, '"2024-02-29"') and not matches(dated, '"today"')
    assert matches(json_schema_grammar({"type": "string", "format": "file-path"}), '"/a"')
    schema = {
        "properties": {"format": {"enum": [{"format": "x"}]}},
        "items": {"format": "password"},
        "const": {"format": "y"},
    }
    assert enforceable(schema) == {**schema, "items": {}}
    counted = json_schema_grammar({"type": "array", "items": {"const": 1}, "maxItems": 2.0})
    assert matches(counted, "[1, 1]") and not matches(counted, "[1, 1, 1]")


def test_every_part_of_a_schema_has_its_place() -> None:
    schema = {
        "$defs": {"a/b": {"x": 1}},
        "properties": {"items": {"items": [{}, {"not": {}}]}},
        "anyOf": [{"const": {"properties": {"no": {}}}}],
        "additionalProperties": False,
    }
    assert [place for place, _ in subschemas(schema)] == [
        "",
        "/$defs/a~1b",
        "/properties/items",
        "/properties/items/items/0",
        "/properties/items/items/1",
        "/properties/items/items/1/not",
        "/anyOf/0",
    ]


@pytest.mark.parametrize(
    ("pattern", "text", "is_match"),
    [
        ("^ab$", "ab", True),
        ("^a|b$", "b", True),
        (r"\Aa\z", "a", True),
        ("(^a)b$", "ab", True),
        (r"\d+", "12", True),
        (r"\d", "\u0663", False),  # an Arabic digit, which JavaScript's \d does not match
        ("[$^]", "^", True),
        (r"a\$", "a$", True),
        ("a/b\nc", "a/b\nc", True),
        ('["/\\\\]+', '/"\\', True),
        ("(?i)abc", "aBC", True),
        ("é\U0001f600?", "é\U0001f600", True),
        ("ab", "abc", False),
    ],
)
def test_a_regular_expression_matches_the_whole_answer(
    pattern: str, text: str, is_match: bool
) -> None:
    assert matches(regex_grammar(pattern), text) is is_match


def test_a_limit_counts_what_the_request_has() -> None:
    """Not what is written around it."""
    regex_grammar("a" * MOST_CHARACTERS)
    choice_grammar(["abcdef"] * (MOST_CHARACTERS // 6))
    item = json.dumps({"properties": {"a": {}}}, separators=(",", ":"))
    count = (MOST_CHARACTERS - 12) // (len(item) + 1)
    assert len(json_schema_grammar(f'{{"anyOf":[{",".join([item] * count)}]}}')) > MOST_CHARACTERS


def test_choices_are_exactly_their_texts() -> None:
    texts = ["yes", "no", 'say "no"\n', "a\\b", "\U0001f600 ü", "yes!"]
    grammar = choice_grammar(texts)
    assert all(matches(grammar, text) for text in texts)
    assert not any(matches(grammar, text) for text in ("ye", "yesno", "", "yes "))


def test_grammars_are_read_as_lark_and_as_gbnf() -> None:
    for text in ('start: "a" NUMBER\nNUMBER: /[0-9]+/', 'root ::= "a" [0-9]+'):
        assert matches(own_grammar(text), "a12") and not matches(own_grammar(text), "a")
    assert matches(own_grammar('start: "n: " %json {"type": "null"}'), "n: null")


def test_a_structural_tag_constrains_what_follows_its_trigger() -> None:
    tag = {
        "triggers": ["<f="],
        "structures": [{"begin": "<f=a>", "schema": {"type": "integer"}, "end": "</f>"}],
    }
    grammar = structural_tag_grammar(tag)
    assert grammar == structural_tag_grammar(json.dumps(tag))
    for text in ("plain", "so <f=a>12</f> it is", "<f=a>1</f><f=a>2</f>"):
        assert matches(grammar, text)
    for text in ("<f=b>", "<f=a>x", "<f=a>12</g>"):
        assert not matches(grammar, text)


@pytest.mark.parametrize(
    ("make", "value", "reason"),
    [
        (json_schema_grammar, 7, "a schema is a JSON object"),
        (json_schema_grammar, False, "a schema is a JSON object"),
        (json_schema_grammar, "{", "not JSON"),
        (
            json_schema_grammar,
            {"enum": ["x" * MOST_CHARACTERS]},
            "^65549 characters; at most 65536",
        ),
        (json_schema_grammar, '{"items":' * 101 + "{}" + "}" * 101, "more than 100 objects"),
        (json_schema_grammar, '{"items":' * 900 + "{}" + "}" * 900, "more than 100 objects"),
        (json_schema_grammar, " " * 300_000, "^300000 characters"),
        (regex_grammar, "a" * (MOST_CHARACTERS + 1), "^65537 characters; at most 65536"),
        (choice_grammar, ["ab"] * 40_000, "^80000 characters; at most 65536"),
        (choice_grammar, [chr(n) for n in range(256, 40_000)], "the grammar that is made of it"),
        (regex_grammar, "", "empty"),
        (choice_grammar, [], "at least one text"),
        (choice_grammar, ["a", ""], "at least one text"),
        (own_grammar, " ", "empty"),
        (own_grammar, "root ::= missing", "missing"),
        (own_grammar, "root ::= " + "(" * 5000, "recursion"),
        (own_grammar, "x" * (MOST_CHARACTERS + 1), "at most 65536"),
        (structural_tag_grammar, [], "a JSON object"),
        (structural_tag_grammar, {"triggers": ["a"]}, "list of triggers"),
        (structural_tag_grammar, {"trigger": ["a"]}, '"trigger" is not a field'),
        (
            structural_tag_grammar,
            {"triggers": ["a"], "structures": [{"begin": "a", "schma": {}}]},
            '"schma" is not a field',
        ),
        (
            structural_tag_grammar,
            {"triggers": ["a"], "structures": [{"begin": "b", "schema": {}}]},
            "none of the triggers",
        ),
    ],
)
def test_what_cannot_be_a_grammar_is_refused(make: Any, value: Any, reason: str) -> None:
    with pytest.raises(GrammarRefused, match=reason):
        make(value)


def node(inner: object, **more: object) -> dict[str, Any]:
    """A schema of objects that have the property "next"."""
    return {"type": "object", "properties": {"next": inner}, "required": ["next"], **more}


@pytest.mark.parametrize(
    ("schema", "reason", "place"),
    [
        ({"type": "objekt"}, "Invalid type: objekt", ""),
        (
            {"properties": {"a/b": {"items": {"not": {}}}}},
            '"not" cannot be enforced',
            "/properties/a~1b/items",
        ),
        ({"$defs": {"x": {"not": {}}}, "items": {"$ref": "#/$defs/x"}}, "not", "/$defs/x"),
        ({"properties": {"a": {"pattern": "(?=x)"}}}, "look-ahead", "/properties/a"),
        ({"$ref": "https://example.com/a"}, "references to others are not followed", ""),
        ({"type": "string", "minLength": 2, "maxLength": 1}, "Unsatisfiable", ""),
        ({"items": {"oneOf": [{"type": "integer"}, {"type": "number"}]}}, "use anyOf", "/items"),
        ({"enum": []}, "without entries", ""),
        ({"minLength": -1}, "minLength is -1; it must be a whole number from 0", ""),
        ({"anyOf": [many(300, "a"), many(300, "b")]}, "up to 490", ""),
        (
            node({"type": "string", "minLength": 2, "maxLength": 1}, type="object"),
            "required property 'next'",
            "/properties/next",
        ),
        (
            {
                "type": "array",
                "items": {"allOf": [{"type": "null"}, {"type": "integer"}]},
                "minItems": 1,
            },
            "Unsatisfiable",
            "/items",
        ),
        (
            node({"$ref": "#/$defs/z"}) | {"$defs": {"z": node({"enum": []})}},
            "required property 'next' is unsatisfiable$",
            "/$defs/z/properties/next",
        ),
        (
            # only what is used is at fault
            {"$defs": {"b": {"enum": []}, "c": {"enum": []}}, **node({"$ref": "#/$defs/c"})},
            "without entries",
            "/$defs/c",
        ),
        (
            {"properties": {"a": {"$ref": "#/$defs/y"}, "ab": {"not": {}}}}
            | {"$defs": {"y": {"items": {"$ref": "#/$defs/z"}}, "z": {"items": {"not": {}}}}},
            '"not" cannot be enforced',
            "/$defs/z/items",
        ),
        ({"type": "number", "minimum": 1e-300}, "as many decimal places", ""),
        ({"items": {"type": "number", "minimum": 1e300}}, "too large or too small", "/items"),
        (node({"pattern": "^y$", "const": "z"}), "no text|unsatisfiable", "/properties/next"),
    ],
)
def test_a_schema_at_fault_is_refused_with_its_place(
    checker: GrammarChecker, schema: dict[str, Any], reason: str, place: str
) -> None:
    with pytest.raises(GrammarRefused, match=reason) as refused:
        checker.check(json_schema_grammar(schema))
    assert checker.innermost_fault(schema, refused.value.reason)[1] == place


def open_node(**more: object) -> dict[str, Any]:
    """A schema of objects that require the property "next" and do not list it."""
    return {"type": "object", "required": ["next"], **more}


ROOT = {"$ref": "#"}
PAIRS = {"a": node({"$ref": "#/$defs/b"}), "b": node({"anyOf": [ROOT, {"$ref": "#/$defs/a"}]})}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (node(ROOT), "/properties/next"),
        ({"type": "array", "items": ROOT, "minItems": 1}, "/items"),
        ({"type": "array", "prefixItems": [{}, ROOT], "minItems": 2}, "/prefixItems/1"),
        (
            {"type": ["array", "object"], "minItems": 1, "items": ROOT, **node({**ROOT})}
            | {"type": ["array", "object"]},
            "/properties/next",
        ),
        ({"allOf": [{"$ref": "#/$defs/a"}], "$defs": PAIRS}, "/$defs/b/properties/next/anyOf/0"),
        ({"anyOf": [ROOT, node(ROOT)]}, "/anyOf/0"),
        (open_node(additionalProperties=ROOT), "/additionalProperties"),
        (
            open_node(additionalProperties=ROOT, patternProperties={"^x": {"type": "null"}}),
            "/additionalProperties",
        ),
        *(
            (open_node(patternProperties={pattern: ROOT}), f"/patternProperties/{pattern}")
            for pattern in ("^ne", "^next$", "xt$", "e", "", "^.*$", "^n.*")
        ),
        (
            {"type": "object", "minProperties": 1, "additionalProperties": ROOT},
            "/additionalProperties",
        ),
        (
            {**node(ROOT), "required": [], "minProperties": 1, "additionalProperties": False},
            "/properties/next",
        ),
        (
            {"allOf": [node(ROOT, required=[]), {"required": ["next"]}]},
            "/allOf/0/properties/next",
        ),
        (
            {"allOf": [{"properties": {"next": ROOT}}, {"$ref": "#/$defs/r"}]}
            | {"$defs": {"r": {"type": "object", "required": ["next"]}}},
            "/allOf/0/properties/next",
        ),
        (
            {"allOf": [{"items": ROOT}, {"minItems": 1}], "type": ["array"]},
            "/allOf/0/items",
        ),
        ({"$id": "http://e/x", **node({"$ref": "http://e/x"})}, "/properties/next"),
        ({"$id": "http://e/x", **node({"$ref": "http://e/x#"})}, "/properties/next"),
        ({"$anchor": "n", **node({"$ref": "#n"})}, "/properties/next"),
    ],
)
def test_a_schema_whose_values_never_end_is_refused(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(GrammarRefused, match="matches no text that ends") as refused:
        json_schema_grammar(schema)
    assert refused.value.place == place


@pytest.mark.parametrize(
    "schema",
    [
        node({"anyOf": [ROOT, {"type": "null"}]}),
        node({"type": "array", "items": ROOT}),
        node({"type": "array", "items": ROOT, "minItems": 1}, required=[]),
        node(ROOT, type=["object", "string"]),
        {"type": "array", "prefixItems": [{}, ROOT], "minItems": 1},
        {"type": "array", "items": {"enum": [1]}, "minItems": 1},
        node({"type": "object", "enum": [{"next": 1}], **node(ROOT)}),
        {"$defs": PAIRS, "type": "integer"},
        open_node(patternProperties={"^x": ROOT}),
        open_node(patternProperties={"^(n|x)": ROOT}),  # it is not looked at
        open_node(additionalProperties=ROOT, properties={"next": {"type": "null"}}),
        open_node(additionalProperties=ROOT, patternProperties={"^n": {"type": "null"}}),
        open_node(),
        {"type": "object", "minProperties": 1, "additionalProperties": {"anyOf": [ROOT, {}]}},
        {"type": "object", "minProperties": 0, "additionalProperties": ROOT},
        node(ROOT, required=[], minProperties=1, additionalProperties={"type": "null"}),
        {"allOf": [node(ROOT, required=[]), {"required": ["other"]}]},
        {"allOf": [{"properties": {"next": ROOT}}, {"required": ["next"]}]},  # or a number
        {"allOf": [{"type": ["object", "null"]}, {"properties": {"next": ROOT}}]}
        | {"type": ["null", "object"], "required": ["next"]},
        {"$id": "http://e/x", **node({"anyOf": [{"$ref": "http://e/x"}, {"type": "null"}]})},
    ],
)
def test_a_schema_that_contains_itself_and_can_end_is_taken(schema: dict[str, Any]) -> None:
    json_schema_grammar(schema)


SELF = {"$ref": "#/properties/a"}


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        (ROOT, ""),
        ({"properties": {"a": SELF}}, "/properties/a"),
        ({"properties": {"a": {"allOf": [{"type": "null"}, SELF]}}}, "/properties/a"),
        (
            {"properties": {"b": {"$ref": "#/$defs/c"}, "a": {"$ref": "#/$defs/c"}}}
            | {"$defs": {"c": SELF}},
            "/properties/a",
        ),
        ({"$anchor": "n", "$ref": "#n"}, ""),
    ],
)
def test_a_schema_that_refers_to_itself_is_refused(schema: dict[str, Any], place: str) -> None:
    with pytest.raises(GrammarRefused, match="lead back to itself") as refused:
        json_schema_grammar(schema)
    assert refused.value.place == place
    json_schema_grammar({"properties": {"a": {"anyOf": [SELF, {"type": "null"}]}}})


def row(count: int, last: dict[str, Any]) -> dict[str, Any]:
    """A schema that refers to another one, which refers to the next, and so on to the last."""
    schemas = {str(n): {"items": {"$ref": f"#/$defs/{n + 1}"}} for n in range(count)}
    return {"$ref": "#/$defs/0", "$defs": {**schemas, str(count): last}}


def test_a_long_row_of_references_is_compiled_on_any_stack() -> None:
    compiled: list[str] = []

    def compile_it() -> None:
        library = compile_grammar(json_schema_grammar(row(300, {"type": "null"})), vocabulary())
        compiled.append(library.get_error())

    with ONE_SIZE:
        usual = threading.stack_size(1 << 20)  # an eighth of what threads usually have
        try:
            thread = threading.Thread(target=compile_it)
            thread.start()
        finally:
            threading.stack_size(usual)
    thread.join()
    assert compiled == [""]
    assert threading.stack_size() == usual


def test_a_circle_of_many_references_is_found() -> None:
    count = 1000
    schemas = {str(n): {"$ref": f"#/$defs/{n + 1}"} for n in range(count)}
    schemas[str(count)] = {"$ref": "#/$defs/1"}
    with pytest.raises(GrammarRefused, match="lead back to itself") as refused:
        json_schema_grammar({"properties": {"a": {"$ref": "#/$defs/0"}}, "$defs": schemas})
    assert refused.value.place == "/$defs/1"


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (regex_grammar("[a"), "unclosed character class"),
        (regex_grammar("a^b"), "lookarounds not supported"),
        (regex_grammar("^$"), "matches no text"),
        (own_grammar("start: b"), r'at 1\(8\): unknown name: "b"'),
        (own_grammar("start: <|nowhere|>"), "unknown special token"),
        (own_grammar("start: " + "(" * 1000 + '"a"' + ")" * 1000), "too deeply nested"),
    ],
)
def test_a_grammar_at_fault_is_refused(checker: GrammarChecker, grammar: str, reason: str) -> None:
    for _ in range(2):  # the second time it is remembered
        with pytest.raises(GrammarRefused, match=reason):
            checker.check(grammar)


ABOVE = MOST_MULTIPLES + 1
"""Just more than may be compiled, which takes 60 ms."""


@pytest.mark.parametrize(
    ("schema", "reason", "place"),
    [
        ({"multipleOf": ABOVE}, "at most 10000, or a power of ten", ""),
        ({"properties": {"a": {"multipleOf": ABOVE / 100}}}, "too long", "/properties/a"),
        (
            {
                "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/x"}},
                "$defs": {"x": {"multipleOf": ABOVE}},
            },
            "too long",
            "/$defs/x",
        ),
        ({"items": {"prefixItems": [{"multipleOf": n} for n in (5003, 5009)]}}, "are 10012", ""),
        ({"items": {"allOf": [{"multipleOf": n} for n in (101, 103)]}}, "is 10403", "/items"),
    ],
)
def test_a_multiple_that_takes_long_to_compile_is_refused(
    checker: GrammarChecker, schema: dict[str, Any], reason: str, place: str
) -> None:
    with pytest.raises(GrammarRefused, match=reason) as refused:
        checker.check(json_schema_grammar(schema))
    assert checker.innermost_fault(schema, refused.value.reason)[1].startswith(place)


def test_a_multiple_is_found_in_every_grammar(checker: GrammarChecker) -> None:
    for key in ("multipleOf", "m\\u0075ltipleOf"):
        with pytest.raises(GrammarRefused, match="too long"):
            checker.check(own_grammar(f'start: %json {{"{key}" : {ABOVE}}}'))
    part = {"begin": "<a>", "schema": {"multipleOf": ABOVE}, "end": "</a>"}
    with pytest.raises(GrammarRefused, match="too long"):
        checker.check(structural_tag_grammar({"triggers": ["<"], "structures": [part]}))
    for usual in (0.01, 2.5, 1000, 1_000_000, 0.000001, MOST_MULTIPLES):
        checker.check(json_schema_grammar({"type": "number", "multipleOf": usual}))
    optional = {"anyOf": [{"type": "number", "multipleOf": 0.01}, {"type": "null"}]}
    checker.check(json_schema_grammar({"properties": {"a": optional, "b": {"multipleOf": 5}}}))
    assert cost_fault(json_schema_grammar({"multipleOf": 0})) == ""


@pytest.mark.parametrize("is_compact", [True, False])
def test_too_many_optional_properties_are_refused_with_their_place(
    checker: GrammarChecker, is_compact: bool
) -> None:
    most = {**many(MOST_OPTIONAL), "additionalProperties": True}
    grammar = json_schema_grammar(most, is_compact=is_compact)
    checker.check(grammar)
    assert matches(grammar, '{"p7":1,"p489":1}')
    more = many(MOST_OPTIONAL + 1)
    tag = {"begin": "<a>", "schema": {"items": more}, "end": ""}
    for make, place in (
        (lambda: json_schema_grammar({"properties": {"a": more}}), "/properties/a"),
        (lambda: structural_tag_grammar({"triggers": ["<"], "structures": [tag]}), "/structures/0"),
    ):
        with pytest.raises(GrammarRefused, match="491 optional properties") as refused:
            make()
        assert refused.value.place.startswith(place)
    every_third = {**many(1500), "required": [f"p{i}" for i in range(0, 1500, 3)]}
    checker.check(json_schema_grammar(every_third))

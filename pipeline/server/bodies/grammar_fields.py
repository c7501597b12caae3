"""The fields of a body that constrain the answer, in the forms of OpenAI, vLLM, SGLang, llama.cpp,
TGI and LoRAX."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Literal, TypeAlias

from ...grammar.wanted_grammar import GrammarKind, WantedGrammar
from ..http.bad_request import BadRequest
from .body import Body
from .field_table import Table, harmless, honoured, refused
from .model_body import ModelBody

GRAMMAR: Table = {
    "response_format": honoured("the answer's form; its fields are below"),
    "structured_outputs": honoured("vLLM: the answer's form; its fields are below"),
    "guided_json": honoured("vLLM before 0.12: a JSON schema"),
    "guided_regex": honoured("vLLM before 0.12: a regular expression for the whole answer"),
    "guided_choice": honoured("vLLM before 0.12: the answer is one of these texts"),
    "guided_grammar": honoured("vLLM before 0.12: a grammar, as GBNF or Lark"),
    "guided_whitespace_pattern": honoured("vLLM before 0.12: with guided_json"),
    "guided_decoding_backend": harmless("llguidance serves all forms"),
    "structural_tag": honoured("vLLM before 0.12: triggers, and schemas of what follows them"),
    "json_schema": honoured("SGLang: a JSON schema, as text or object"),
    "regex": honoured("SGLang: a regular expression for the whole answer"),
    "ebnf": honoured("SGLang: a grammar, as GBNF or Lark"),
    "grammar": honoured("llama.cpp: a grammar, as GBNF or Lark"),
    "logprobs_mode": honoured(
        "`raw_logprobs`: the model's own; `processed_logprobs`: after grammar, biases and penalties"
    ),
}
"""Fields of OpenAI's routes."""

RESPONSE_FORMAT: Table = {
    "type": honoured(
        "`text`, `json_object`, `json_schema`, `structural_tag`; TGI and LoRAX: `json`, `regex`"
    ),
    "json_schema": honoured("with `json_schema`; its fields are below"),
    "schema": honoured("LoRAX, llama.cpp: with `json_object`, a JSON schema"),
    "value": honoured("TGI: with `json`, a JSON schema; with `regex`, a regular expression"),
    "triggers": honoured("with `structural_tag`: texts that begin a structure"),
    "structures": honoured("with `structural_tag`: objects with begin, schema and end"),
    "format": refused("of structural tags only triggers and structures"),
}

JSON_SCHEMA: Table = {
    "schema": honoured("a JSON schema"),
    "name": harmless("names the schema"),
    "description": harmless("describes the schema; put it into a message"),
    "strict": harmless("every schema is enforced"),
}

STRUCTURED_OUTPUTS: Table = {
    "json": honoured("a JSON schema, as object or text"),
    "regex": honoured("a regular expression for the whole answer"),
    "choice": honoured("the answer is one of these texts"),
    "grammar": honoured("a grammar, as GBNF or Lark"),
    "json_object": honoured("true: a JSON object"),
    "structural_tag": honoured("triggers, and schemas of what follows them, as object or text"),
    "disable_any_whitespace": honoured("JSON without white space between its parts"),
    "disable_additional_properties": honoured("objects have only the properties of the schema"),
    "whitespace_pattern": honoured("a regular expression for white space between parts of JSON"),
    "disable_fallback": harmless("there is one backend"),
    "_backend": harmless("there is one backend"),
    "_backend_was_auto": harmless("there is one backend"),
}


Bodies: TypeAlias = dict[str, type[Body]]
"""Of a class that has a field `type`, which hides the builtin of that name."""


class JsonSchemaFormat(Body, frozen=True, kw_only=True):
    table: ClassVar[Table] = JSON_SCHEMA

    schema: dict[str, Any] | bool


class ResponseFormat(Body, frozen=True, kw_only=True):
    """OpenAI's response_format, and TGI's grammar."""

    table: ClassVar[Table] = RESPONSE_FORMAT
    nested: ClassVar[Bodies] = {"json_schema": JsonSchemaFormat}

    type: Literal["text", "json_object", "json_schema", "structural_tag", "json", "regex"]
    json_schema: JsonSchemaFormat | None = None
    schema: dict[str, Any] | bool | None = None
    value: dict[str, Any] | str | None = None
    triggers: list[str] | None = None
    structures: list[dict[str, Any]] | None = None

    def wanted(self, at: str) -> WantedGrammar | None:
        """The grammar; None for text. `at` is the path of this object. Raises `BadRequest` on a
        value that is missing or belongs to another type."""
        kind = self.type
        names = {"json_schema": ("json_schema",), "structural_tag": ("triggers", "structures")}
        expected = names.get(kind, () if kind == "text" else ("schema", "value"))
        given = [
            name
            for name in ("json_schema", "schema", "value", "triggers", "structures")
            if getattr(self, name) is not None
        ]
        for name in given:
            if name not in expected:
                raise BadRequest(
                    f"{at}.{name} does not belong to type {kind}", param=f"{at}.{name}"
                )
        if kind == "text":
            return None
        if kind == "json_schema":
            if self.json_schema is None:
                raise BadRequest(f"{at}.json_schema is missing", param=f"{at}.json_schema")
            return WantedGrammar("json_schema", self.json_schema.schema, f"{at}.json_schema.schema")
        if kind == "structural_tag":
            tag = {"triggers": self.triggers, "structures": self.structures}
            return WantedGrammar("structural_tag", tag, at)
        value = self.schema if self.schema is not None else self.value
        if value is None:
            if kind != "json_object":
                raise BadRequest(f"{at}.value is missing", param=f"{at}.value")
            return WantedGrammar("json_object", None, at)
        if kind == "regex":
            return WantedGrammar("regex", _text(value, f"{at}.{given[0]}"), f"{at}.{given[0]}")
        return WantedGrammar("json_schema", value, f"{at}.{given[0]}")


def _text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise BadRequest(f"{field} is not a text", param=field)
    return value


class StructuredOutputs(Body, frozen=True, kw_only=True):
    """vLLM's structured_outputs."""

    table: ClassVar[Table] = STRUCTURED_OUTPUTS

    json: dict[str, Any] | str | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None
    structural_tag: dict[str, Any] | str | None = None
    disable_any_whitespace: bool = False
    disable_additional_properties: bool = False
    whitespace_pattern: str | None = None

    def wanted(self, at: str) -> WantedGrammar | None:
        """The grammar; None if no field is more than null or false. Raises `BadRequest` unless
        exactly one form is given."""
        values = (getattr(self, name) for name in self.__struct_fields__ if name != "json")
        if self.json is None and all(value in (None, False) for value in values):
            return None
        given: list[tuple[GrammarKind, str, Any]] = [
            (kind, name, getattr(self, name))
            for name, kind in STRUCTURED_KINDS.items()
            if getattr(self, name) is not None and (name != "json_object" or self.json_object)
        ]
        if len(given) != 1:
            named = " and ".join(name for _, name, _ in given) or "none"
            raise BadRequest(f"{at} takes exactly one form, not {named}", param=at)
        if self.disable_any_whitespace and self.whitespace_pattern is not None:
            raise BadRequest(
                f"{at}.disable_any_whitespace and whitespace_pattern exclude each other",
                param=f"{at}.whitespace_pattern",
            )
        ((kind, name, value),) = given
        return WantedGrammar(
            kind,
            value,
            f"{at}.{name}",
            whitespace=self.whitespace_pattern,
            whitespace_field=f"{at}.whitespace_pattern",
            is_compact=self.disable_any_whitespace,
            is_closed=self.disable_additional_properties,
        )


STRUCTURED_KINDS: dict[str, GrammarKind] = {
    "json": "json_schema",
    "regex": "regex",
    "choice": "choice",
    "grammar": "grammar",
    "json_object": "json_object",
    "structural_tag": "structural_tag",
}


class GrammarBody(ModelBody, frozen=True, kw_only=True):
    """The fields of OpenAI's routes that constrain the answer. An empty value is no form, and is
    refused where the grammar is made; only null is absent."""

    nested: ClassVar[dict[str, type[Body]]] = {
        "response_format": ResponseFormat,
        "structured_outputs": StructuredOutputs,
    }

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    guided_whitespace_pattern: str | None = None
    structural_tag: dict[str, Any] | str | None = None
    json_schema: dict[str, Any] | str | None = None
    regex: str | None = None
    ebnf: str | None = None
    grammar: str | None = None
    logprobs_mode: Literal["raw_logprobs", "processed_logprobs"] | None = None

    def wanted_grammar(self) -> WantedGrammar | None:
        """The form that the body asks for; None: any text. Raises `BadRequest` if it asks for two,
        or if a form lacks its value."""
        if self.guided_whitespace_pattern is not None and self.guided_json is None:
            field = "guided_whitespace_pattern"
            raise BadRequest(f"{field} needs guided_json", param=field)
        found = [
            one.wanted(name)
            for name, one in (
                ("response_format", self.response_format),
                ("structured_outputs", self.structured_outputs),
            )
            if one is not None
        ]
        plain: list[tuple[str, GrammarKind]] = [
            ("guided_json", "json_schema"),
            ("guided_regex", "regex"),
            ("guided_choice", "choice"),
            ("guided_grammar", "grammar"),
            ("structural_tag", "structural_tag"),
            ("json_schema", "json_schema"),
            ("regex", "regex"),
            ("ebnf", "grammar"),
            ("grammar", "grammar"),
        ]
        for name, kind in plain:
            value = getattr(self, name)
            if value is not None:
                field = "guided_whitespace_pattern"
                whitespace = getattr(self, field) if name == "guided_json" else None
                found.append(WantedGrammar(kind, value, name, whitespace, field))
        return only_one(found)


def only_one(found: Iterable[WantedGrammar | None]) -> WantedGrammar | None:
    """The single form among those given. Raises `BadRequest` if there are two."""
    wanted = [one for one in found if one is not None]
    if len(wanted) > 1:
        first, second = wanted[0].field, wanted[1].field
        raise BadRequest(f"{first} and {second} both constrain the answer; give one", param=second)
    return wanted[0] if wanted else None

"""What a request asks for, as a grammar: JSON by a schema, a regular expression, one of some texts,
or a grammar of its own.

A grammar is a text in llguidance's variant of Lark. It is not compiled here.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from llguidance import StructTag, regex_to_lark
from llguidance.gbnf_to_lark import GbnfToLarkError, any_to_lark

from .endless import circular_place, endless_place
from .json_schema import close_objects, enforceable, most_optional, subschemas

MOST_CHARACTERS = 64 * 1024
"""Longest schema, expression or grammar, as JSON without blanks, and longest choices together:
60 ms to compile for ordinary ones of this length."""
MOST_FRAMED = 4 * MOST_CHARACTERS
"""Longest grammar with what is written here around them."""
MOST_NESTED = 100
"""Most objects and lists inside one another in a schema that comes as text; 128 in llguidance."""
MOST_OPTIONAL = 490
"""Most properties in a row that may be left out: four items of a parser that has 2 000."""
WHITESPACE = r"( |\r?\n[ \t]{0,32})"
"""White space between the parts of a JSON text: a space, or a line end and what indents the next
line. With more, small models write blanks until their answer is cut."""
TAIL = '\n%llguidance {"no_forcing": true}\n'
"""Leaves the choice of tokens to the model where the text is fixed: llguidance would take the
longest, with which models are not trained."""


class GrammarRefused(ValueError):
    """A request's grammar or schema cannot be used. The text says why; `place` is the path inside
    the schema, "" for the whole."""

    def __init__(self, reason: str, place: str = "") -> None:
        super().__init__(reason)
        self.reason, self.place = reason, place


class TooLong(GrammarRefused):
    """The request's form is too long as a whole."""


# --- JSON ---------------------------------------------------------------------------------------


def json_schema_grammar(
    schema: Any,
    *,
    whitespace: str | None = None,
    is_compact: bool = False,
    is_closed: bool = False,
) -> str:
    """The grammar of the JSON texts that a schema (an object, true, or either as text) describes.

    `whitespace` is a regular expression for the white space between their parts; an empty one, or
    `is_compact`, allows none. Objects have only the properties that their schema lists, unless it
    says more of others or is merged with other schemas; with `is_closed`, then too, unless it has
    additionalProperties. Raises `GrammarRefused`.
    """
    if isinstance(schema, str):
        schema = _parsed(schema)
    if schema is True:
        schema = {}
    if not isinstance(schema, dict):
        raise GrammarRefused(f"a schema is a JSON object, not {_short(schema)}")
    check_together([schema])
    usable = enforceable(schema)
    check_schema(usable)
    close_objects(usable, all_of_them=is_closed)
    options: dict[str, Any] = {"whitespace_pattern": whitespace or WHITESPACE}
    if is_compact or whitespace == "":
        options = {"whitespace_flexible": False}
    own = usable.get("x-guidance")
    usable["x-guidance"] = options | (own if isinstance(own, dict) else {})
    return framed_grammar(f"start: %json {json.dumps(usable, ensure_ascii=False)}")


def check_schema(schema: dict[str, Any]) -> None:
    """Raises `GrammarRefused` with the place of an object that has too many optional properties, of
    a part that refers to itself, or of one that makes every value endless."""
    for place, part in subschemas(schema):
        if (count := most_optional(part)) > MOST_OPTIONAL:
            raise GrammarRefused(
                f"{count} optional properties in a row; at most {MOST_OPTIONAL}. List some in "
                "required, or divide the object",
                place,
            )
    if (circular := circular_place(schema)) is not None:
        raise GrammarRefused(
            "its references lead back to itself, so that they describe no value", circular
        )
    if (endless := endless_place(schema)) is not None:
        raise GrammarRefused(
            "it matches no text that ends: each value contains another one of the same schema. Let "
            "it be left out, be null, or its list be empty",
            endless,
        )


def json_object_grammar(*, whitespace: str | None = None, is_compact: bool = False) -> str:
    """The grammar of any JSON object."""
    return json_schema_grammar({"type": "object"}, whitespace=whitespace, is_compact=is_compact)


def _parsed(schema: str) -> Any:
    if len(schema) > MOST_FRAMED:  # blanks do not count below
        raise _too_long(len(schema))
    try:
        found = json.loads(schema)
    except (ValueError, RecursionError) as error:
        raise GrammarRefused(f"it is not JSON: {error}") from error
    level = [found]
    for _ in range(MOST_NESTED):
        lists = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for each in lists for one in each if isinstance(one, (dict, list))]
        if not level:
            return found
    raise GrammarRefused(f"more than {MOST_NESTED} objects and lists inside one another")


# --- others -------------------------------------------------------------------------------------


def regex_grammar(pattern: str) -> str:
    r"""The grammar of the texts that a regular expression matches as a whole. `\d` is an ASCII
    digit. Raises `GrammarRefused`."""
    if not pattern:
        raise GrammarRefused("the regular expression is empty")
    if len(pattern) > MOST_CHARACTERS:
        raise _too_long(len(pattern))
    return framed_grammar(f"start: /{regex_to_lark(pattern, 'd')}/")


def choice_grammar(choices: Sequence[str]) -> str:
    """The grammar of exactly these texts. Raises `GrammarRefused`."""
    if not choices or not all(choices):
        raise GrammarRefused("a choice takes at least one text, none of them empty")
    if (total := sum(map(len, choices))) > MOST_CHARACTERS:
        raise _too_long(total)
    texts = "\n  | ".join(json.dumps(choice, ensure_ascii=False) for choice in choices)
    return framed_grammar(f"start: CHOICE\nCHOICE: {texts}")


def own_grammar(text: str) -> str:
    """The grammar that a request brings, as Lark or as GBNF (`root ::= …`, which many servers call
    EBNF). Raises `GrammarRefused`."""
    if not text.strip():
        raise GrammarRefused("the grammar is empty")
    if len(text) > MOST_CHARACTERS:  # converting takes time, too
        raise _too_long(len(text))
    if "::=" not in text:
        return framed_grammar(text)
    try:
        return framed_grammar(any_to_lark(text))
    except GrammarRefused:
        raise
    except (GbnfToLarkError, RecursionError) as error:
        raise GrammarRefused(f"{error or 'nested too deeply'}") from error
    except Exception as error:  # the converter raises bare ones for a rule that is missing
        raise GrammarRefused(str(error)) from error


def framed_grammar(text: str) -> str:
    """The grammar of a text in Lark, in which is written here what belongs around the request's
    own. Raises `GrammarRefused` if it is too long."""
    if len(text) > MOST_FRAMED:
        raise TooLong(
            f"the grammar that is made of it has {len(text)} characters; at most {MOST_FRAMED}: "
            "give fewer tools, choices or properties"
        )
    return text + TAIL


def check_together(schemas: Iterable[Mapping[str, Any]]) -> None:
    """Raises `TooLong` if the schemas of one request are, together."""
    lengths = [
        len(json.dumps(schema, ensure_ascii=False, separators=(",", ":"))) for schema in schemas
    ]
    if (total := sum(lengths)) > MOST_CHARACTERS:
        if len(lengths) == 1:
            raise _too_long(total)
        raise TooLong(f"their schemas have {total} characters together; at most {MOST_CHARACTERS}")


def structural_tag_grammar(tag: Any, special: frozenset[str] = frozenset()) -> str:
    """The grammar of a text in which each trigger begins a part that follows a schema:
    `{"triggers": […], "structures": [{"begin", "schema", "end"}]}`, or that as text. `special` are
    the texts of special tokens. Raises `GrammarRefused`."""
    if isinstance(tag, str):
        tag = _parsed(tag)
    if not isinstance(tag, dict):
        raise GrammarRefused(f"a structural tag is a JSON object, not {_short(tag)}")
    check_together([tag])
    _check_names(tag, ("type", "triggers", "structures"), "")
    triggers, structures = tag.get("triggers"), tag.get("structures")
    if not isinstance(triggers, list) or not isinstance(structures, list) or not structures:
        raise GrammarRefused("a structural tag has a list of triggers and one of structures")
    tags = []
    for number, part in enumerate(structures):
        place = f"/structures/{number}"
        if not isinstance(part, dict) or not _are_texts([part.get("begin"), part.get("end", "")]):
            raise GrammarRefused("a structure has begin, schema and end", place)
        _check_names(part, ("type", "begin", "schema", "end"), place)
        begin, end = part["begin"], part.get("end", "")
        usable_triggers = (t for t in triggers if isinstance(t, str) and t)
        trigger = next((t for t in usable_triggers if begin.startswith(t)), None)
        if trigger is None:
            raise GrammarRefused("begin starts with none of the triggers", f"{place}/begin")
        schema = part.get("schema", {})
        if not isinstance(schema, dict):
            raise GrammarRefused("a schema is a JSON object", f"{place}/schema")
        try:
            check_schema(schema)
        except GrammarRefused as refused:
            raise GrammarRefused(refused.reason, f"{place}/schema{refused.place}") from refused
        options = {"x-guidance": {"whitespace_pattern": WHITESPACE}}
        usable = enforceable(schema)
        close_objects(usable)
        grammar = options | usable
        tags.append(StructTag(trigger=trigger, begin=begin, grammar=grammar, end=end))
    uses_special = any(one.trigger in special for one in tags)
    return framed_grammar(StructTag.to_grammar(tags, assume_special=uses_special))


def _check_names(given: dict[str, Any], known: tuple[str, ...], place: str) -> None:
    """Raises `GrammarRefused` if the object at `place` has a name that is not `known`."""
    for name, value in given.items():
        if name not in known and value is not None:
            raise GrammarRefused(f"{_short(name)} is not a field: {', '.join(known)} are", place)


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _too_long(length: int) -> TooLong:
    return TooLong(f"{length} characters; at most {MOST_CHARACTERS} are allowed")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 40 else f"{text[:36]} …"

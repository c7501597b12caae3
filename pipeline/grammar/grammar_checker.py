"""`GrammarChecker`: whether a grammar can be compiled and matches any text; if not, the reason."""

from __future__ import annotations

import itertools
import json
import re
from collections import OrderedDict
from typing import Any

import numpy as np
from llguidance import LLMatcher
from llguidance.numpy import fill_next_token_bitmask
from numpy.typing import NDArray

from .compile_cost import cost_fault
from .json_schema import References, subschemas
from .matcher import DEAD_END, compile_grammar, reason_of
from .specification import GrammarRefused, TooLong, json_schema_grammar
from .vocabulary import Vocabulary

MOST_CHECKED = 256
"""Grammars whose check is remembered."""
MOST_PLACES = 200
"""Most parts of a schema that are tried to find the one at fault: 0.3 ms each."""
NO_TEXT = "it matches no text"
SHARED = ("$defs", "definitions")
"""Keywords of schemas that are used by references."""
UNMATCHED = re.compile(f"Unsatisfiable|without entries|{NO_TEXT}")
"""In the reasons of schemas that no text matches: that of the whole names the property only."""
EXCERPT = re.compile(r"(regex parse error:).*\nerror: ", re.DOTALL)

REMEDIES = (
    (re.compile(r" while processing json-schema:\S*"), ""),
    (
        re.compile(r"regex parse error: exceed the maximum number of nested.*"),
        "a pattern is nested more than 250 deep, or minimum or maximum has about as many decimal "
        "places",
    ),
    (
        re.compile(r"Failed to generate regex for (float|integer) range.*"),
        "minimum or maximum is too large or too small to be enforced",
    ),
    (
        re.compile(r"Resource '(.*?)' is not present in a registry.*"),
        r" is another document, and references to others are not followed",
    ),
    (re.compile(r"Regex is empty.*"), NO_TEXT),
    (
        re.compile(r"oneOf constraints are not supported.*"),
        "oneOf cannot be enforced where its parts may overlap: use anyOf",
    ),
    (
        re.compile(r"Unimplemented keys: \[(.*)\]"),
        r"\1 cannot be enforced: describe with other keywords what may come",
    ),
    (re.compile(r"anyOf is empty"), "an enum or anyOf without entries allows no value"),
    (
        re.compile(r"Expected positive integer for '(\w+)', got (.*)"),
        r"\1 is \2; it must be a whole number from 0",
    ),
    (
        re.compile(r".*Current row has (\d+) items; max is (\d+).*"),
        r"too many alternatives at one place: \1 items of the parser, at most \2. Use fewer "
        "optional properties in an object (up to 490), or fewer parts of anyOf",
    ),
    (
        re.compile(r"(?i)schema too large"),
        "the schema, with its references followed, has too many parts: use fewer or smaller ones",
    ),
)
"""llguidance's words, and those of a refusal."""


class GrammarChecker:
    """Compiles grammars as the workers will. May be called from several threads."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._checked: OrderedDict[str, str] = OrderedDict()

    def check(self, text: str) -> None:
        """Raises `GrammarRefused` with llguidance's reason."""
        fault = self._checked.get(text)
        if fault is None:
            fault = self._checked[text] = self._fault(text)
            while len(self._checked) > MOST_CHECKED:
                self._checked.popitem(last=False)
        if fault:
            raise GrammarRefused(fault)

    def _fault(self, text: str) -> str:
        if fault := cost_fault(text):
            return fault
        library = compile_grammar(text, self._vocabulary)
        mask = np.zeros((1, self._vocabulary.words), dtype=np.int32)
        if not library.is_error():
            fill_next_token_bitmask(library, mask)  # some faults show in the first mask only
            self._try_object(library, mask.copy())
        if library.is_error():
            return readable(reason_of(library.get_error()))
        only_end = self._vocabulary.mask_of([self._vocabulary.end])
        return "" if (mask[0] & ~only_end).any() else NO_TEXT

    def _try_object(self, library: LLMatcher, mask: NDArray[np.int32]) -> None:
        """Goes on to an object's first key, if the answer may be an object: with very many
        properties it fails there."""
        brace = self._vocabulary.library.greedy_tokenize("{")
        if len(brace) == 1 and mask[0][brace[0] // 32] >> (brace[0] % 32) & 1:
            library.consume_token(brace[0])
            fill_next_token_bitmask(library, mask)

    def schema_fault(self, schema: object) -> tuple[str, str] | None:
        """Why a schema by itself is refused, and the JSON pointer of the part at fault."""
        try:
            self.check(json_schema_grammar(schema))
        except GrammarRefused as refused:
            if refused.place or isinstance(refused, TooLong):
                return refused.reason, refused.place
            return self.innermost_fault(schema, refused.reason)
        return None

    def innermost_fault(self, schema: object, reason: str) -> tuple[str, str]:
        """The reason and JSON pointer of the innermost part of a schema that is refused for
        `reason`, or that no text matches if `reason` says so of the whole. The pointer is "" if it
        is the schema as a whole."""
        try:
            parts = json.loads(schema) if isinstance(schema, str) else schema
        except (ValueError, RecursionError):  # which is the reason
            return reason, ""
        if not isinstance(parts, dict):
            return reason, ""
        references = References(parts)
        places = dict(itertools.islice(subschemas(parts), MOST_PLACES))
        place_of = {id(part): place for place, part in places.items()}
        shared = {key: parts[key] for key in SHARED if key in parts}
        found, tried = (reason, ""), {""}
        while True:
            for place, part in places.items():
                if place not in tried and _is_inside(place, found[1]):
                    tried.add(place)
                    if fault := self._fault_like(reason, shared, part):
                        found = fault, place
            # What several parts share is at fault where a reference leads to it.
            target = references.target_of(places[found[1]])
            place = place_of.get(id(target), found[1])
            if target is None or place in tried:
                return found
            tried.add(place)
            fault = self._fault_like(reason, shared, target)
            if not fault:
                return found
            found = fault, place

    def _fault_like(self, reason: str, shared: dict[str, Any], part: dict[str, Any]) -> str:
        """Why a part of a schema is refused, if for `reason`, or if no text matches it as well; ""
        otherwise."""
        refers = shared if '"$ref"' in json.dumps(part) else {}
        try:
            self.check(json_schema_grammar({**refers, **part}))
        except GrammarRefused as refused:
            are_unmatched = UNMATCHED.search(reason) and UNMATCHED.search(refused.reason)
            return refused.reason if are_unmatched or refused.reason == reason else ""
        return ""


def _is_inside(place: str, outer: str) -> bool:
    """Whether a part of a schema is in another one, and not among those that it shares."""
    step = place.removeprefix(outer).split("/")
    return place.startswith(f"{outer}/") and step[1] not in SHARED


def readable(reason: str) -> str:
    """llguidance's reason in a line, without its excerpts, and with what to do about common
    ones."""
    reason = EXCERPT.sub(r"\1 ", reason.partition("\n   1 |")[0])
    if reason == DEAD_END:
        return NO_TEXT
    reason = " ".join(reason.split())
    for words, remedy in REMEDIES:
        reason = words.sub(remedy, reason)
    return reason

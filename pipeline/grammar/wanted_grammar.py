"""`WantedGrammar`: the form of the answer that a request asks for, as it names it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

GrammarKind: TypeAlias = Literal[
    "json_schema", "json_object", "regex", "choice", "grammar", "structural_tag", "lark"
]


@dataclass(frozen=True)
class WantedGrammar:
    """One kind of form, with its value as it is in the body."""

    kind: GrammarKind
    value: Any
    field: str
    """Path of the value in the body, for refusals."""
    whitespace: str | None = None
    """A regular expression for the white space between parts of JSON; None: the usual."""
    whitespace_field: str = ""
    """Path of that in the body."""
    is_compact: bool = False
    """JSON without white space."""
    is_closed: bool = False
    """Objects of a schema have no properties beside those that it names, unless it allows them."""
    schemas: tuple[tuple[str, dict[str, Any]], ...] = ()
    """The schemas of tools in it, each with its field."""
    frame: Callable[[str], str] | None = None
    """Makes of the content's grammar that of the whole text, with reasoning and tool calls."""

    def text(self, special: frozenset[str]) -> str:
        """The grammar. `special` are the texts of special tokens. Raises `GrammarRefused`."""
        from . import specification as spec  # llguidance: 0.1 s

        text = self._content(special)
        if self.frame is None:
            return text
        return spec.framed_grammar(self.frame(text.removesuffix(spec.TAIL)))

    def _content(self, special: frozenset[str]) -> str:
        from . import specification as spec

        match self.kind:
            case "json_schema":
                return spec.json_schema_grammar(
                    self.value,
                    whitespace=self.whitespace,
                    is_compact=self.is_compact,
                    is_closed=self.is_closed,
                )
            case "json_object":
                return spec.json_object_grammar(
                    whitespace=self.whitespace, is_compact=self.is_compact
                )
            case "regex":
                return spec.regex_grammar(self.value)
            case "choice":
                return spec.choice_grammar(self.value)
            case "grammar":
                return spec.own_grammar(self.value)
            case "lark":
                return spec.framed_grammar(self.value)
            case "structural_tag":
                return spec.structural_tag_grammar(self.value, special)

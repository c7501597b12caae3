"""`GrammarReader`: makes grammars of the forms that bodies ask for, away from the event loop.

They are compiled here, so that the workers get only those that they can compile. Knows no route.
"""

from __future__ import annotations

import functools
import re
import threading
from typing import TYPE_CHECKING

from starlette.requests import Request as HttpRequest

from ...grammar.wanted_grammar import WantedGrammar
from ..http.bad_request import BadRequest, shortened
from .gateway import Gateway
from .text_workers import TextWorkers

if TYPE_CHECKING:
    from ...grammar.grammar_checker import GrammarChecker

MOST_PLACE = 400
"""Most characters of a JSON pointer that a refusal repeats."""
OUR_PLACE = re.compile(r"^at \d+\(\d+\): (failed to compile JSON schema: )?")
"""The place in a grammar that the request has not written."""


class GrammarReader:
    """Reads the grammars of requests to the model of `gateway`."""

    def __init__(self, gateway: Gateway, workers: TextWorkers) -> None:
        self._gateway, self._workers = gateway, workers
        self._starting = threading.Lock()
        self._started: tuple[GrammarChecker, frozenset[str]] | None = None

    async def read(self, request: HttpRequest, wanted: WantedGrammar | None) -> str:
        """The grammar as the workers take it; "" if none is wanted. Raises `BadRequest` with the
        field, and the place in a schema."""
        if wanted is None:
            return ""
        if self._gateway.tokenizer.cleans_up:
            raise BadRequest(
                "this model's tokenizer removes spaces from what it decodes, so that an answer "
                "cannot be held to a form (clean_up_tokenization_spaces)",
                param=wanted.field,
            )
        client = request.client.host if request.client else ""
        work = functools.partial(self._compile, wanted)
        return await self._workers.compile(client, work)

    def _compile(self, wanted: WantedGrammar) -> str:
        from ...grammar import specification as spec

        checker, special = self._start()
        for field, schema in wanted.schemas:
            try:
                spec.json_schema_grammar(schema)
            except spec.GrammarRefused as refused:
                raise _refusal(field, refused.reason, refused.place) from refused
        try:
            spec.check_together(schema for _, schema in wanted.schemas)
            text = wanted.text(special)
            checker.check(text)
        except spec.GrammarRefused as refused:
            for field, schema in wanted.schemas:
                if fault := checker.schema_fault(schema):
                    raise _refusal(field, *fault) from refused
            if wanted.whitespace:
                try:
                    checker.check(spec.regex_grammar(wanted.whitespace))
                except spec.GrammarRefused as fault:
                    raise _refusal(wanted.whitespace_field, fault.reason, "") from refused
            reason, place = refused.reason, refused.place
            if wanted.kind == "json_schema" and not place and not isinstance(refused, spec.TooLong):
                reason, place = checker.innermost_fault(wanted.value, reason)
            raise _refusal(wanted.field, reason, place, wanted.kind == "grammar") from refused
        return text

    def _start(self) -> tuple[GrammarChecker, frozenset[str]]:
        """Makes the vocabulary, and writes the table of tokens for the workers, once."""
        from ...grammar.grammar_checker import GrammarChecker  # llguidance: 0.1 s
        from ...grammar.token_table import make_token_table, write_token_table
        from ...grammar.vocabulary import Vocabulary

        with self._starting:
            if self._started is None:
                table = make_token_table(self._gateway.tokenizer)
                try:
                    write_token_table(self._gateway.run, table)
                except OSError as error:
                    raise BadRequest(
                        f"the workers' table of tokens cannot be written: {error}", status=503
                    ) from error
                special = frozenset(
                    table.tokens[token_id].decode(errors="replace") for token_id in table.special
                )
                checker = GrammarChecker(Vocabulary(table, self._gateway.vocab_size))
                self._started = checker, special
            return self._started


def _refusal(field: str, reason: str, place: str, is_own: bool = False) -> BadRequest:
    """`place`: JSON pointer in the field; `is_own`: the request has written the grammar, of which
    the reason may name a place, too."""
    if not is_own:
        reason = OUR_PLACE.sub("", reason)
    at = f" (at {shortened(place, MOST_PLACE)})" if place else ""
    return BadRequest(f"{field}: {shortened(reason, 400)}{at}", param=field)

"""`MatcherCache`: compiled grammars by their text, copied for each answer."""

from __future__ import annotations

import functools
from collections import OrderedDict
from collections.abc import Iterable

from llguidance import LLMatcher

from .matcher import Ending, Matcher, compile_grammar
from .vocabulary import Vocabulary

MOST_GRAMMARS = 64


class MatcherCache:
    """The grammars used last. Choices of one request, and requests with one schema, share one."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._ending = functools.lru_cache(MOST_GRAMMARS)(Ending.of)

    def new_matcher(self, text: str, end_ids: Iterable[int], never_ids: Iterable[int]) -> Matcher:
        """A matcher at the beginning of an answer. `end_ids` end it: the model's own end tokens
        unless the request ignores them, and the request's stop tokens. `never_ids` are the model's
        end tokens that it ignores."""
        found = self._compiled.get(text)
        if found is None:
            found = self._compiled[text] = compile_grammar(text, self._vocabulary)
            if len(self._compiled) > MOST_GRAMMARS:
                self._compiled.popitem(last=False)
        else:
            self._compiled.move_to_end(text)
        ending = self._ending(self._vocabulary, tuple(end_ids), tuple(never_ids))
        return Matcher(found.deep_copy(), self._vocabulary, ending)

"""`TokenParams`: a body's fields about single tokens, as the workers take them.

Knows no route. Refusals are `BadRequest`s that name the field.
"""

from __future__ import annotations

import msgspec

from ...messages import SamplingParams
from ..bodies.openai_bodies import SamplingBody
from ..http.bad_request import BadRequest, shortened
from .gateway import Gateway
from .prompt_reader import PromptReader

MOST_NAMED = 8
"""Wrong names that a refusal repeats."""
TokenWord = tuple[int, ...]


class TokenParams:
    """Checks ids and words by the model's vocabulary."""

    def __init__(self, gateway: Gateway, prompts: PromptReader) -> None:
        self._gateway, self._prompts = gateway, prompts

    def complete(self, params: list[SamplingParams], body: SamplingBody) -> list[SamplingParams]:
        """The parameters of all choices with what the body asks of single tokens."""
        self._prompts.check_ids(body.stop_token_ids or [], "stop_token_ids")
        bias = self.read_bias(body.logit_bias or {}, "logit_bias")
        allowed, words = self._allowed(body), self._words(body.bad_words or [])
        named = tuple(dict.fromkeys(body.logprob_token_ids or ()))
        self._prompts.check_ids(named, "logprob_token_ids")
        most = params[0].max_tokens
        if body.min_tokens > most:
            raise BadRequest(
                f"min_tokens {body.min_tokens} is more than max_tokens, {most}", param="min_tokens"
            )
        if allowed and body.bad_words and {(token,) for token in allowed}.issubset(words):
            raise BadRequest("bad_words leave none of allowed_token_ids", param="bad_words")
        if not (bias or allowed or words or named or body.min_tokens):
            return params
        return [
            msgspec.structs.replace(
                each,
                logit_bias=bias,
                allowed_token_ids=allowed,
                bad_words=words,
                min_tokens=body.min_tokens,
                logprob_token_ids=named,
            )
            for each in params
        ]

    def read_bias(self, given: dict[str, float], field: str) -> tuple[tuple[int, float], ...]:
        """What is added to the logits of tokens, by id, of the values of `field`."""
        try:
            found = {int(token_id): value for token_id, value in given.items()}
        except ValueError:
            wrong = [name for name in given if not name.strip().lstrip("-").isdecimal()]
            named = ", ".join(repr(shortened(name)) for name in wrong[:MOST_NAMED])
            reason = f"{field}: {named}{', …' * (len(wrong) > MOST_NAMED)} is no token id"
            raise BadRequest(reason, param=field) from None
        self._prompts.check_ids([*found], field)
        return tuple(found.items())

    def _allowed(self, body: SamplingBody) -> tuple[int, ...] | None:
        if body.allowed_token_ids is None:
            return None
        self._prompts.check_ids(body.allowed_token_ids, "allowed_token_ids")
        return tuple(dict.fromkeys(body.allowed_token_ids))

    def _words(self, given: list[str]) -> tuple[TokenWord, ...]:
        """The tokens of each word at the start of a text and after a space, as vLLM bans both."""
        tokenizer, found = self._gateway.tokenizer, dict[TokenWord, None]()
        for word in given:
            bare = word.lstrip()
            forms = [tuple(tokenizer.encode(text, False)) for text in (bare, f" {bare}")]
            if not bare or not forms[0]:
                raise BadRequest(f"bad_words: {shortened(word)!r} has no token", param="bad_words")
            found.update(dict.fromkeys(form for form in forms if form))
        for form in found:
            self._prompts.check_ids(form, "bad_words")
        return tuple(found)

"""`TokenFields`: fields of OpenAI's routes about single tokens, of the answer and of the prompt.

Their values need the model's vocabulary: `gateway.token_params` checks them.
"""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple, TypeAlias

from msgspec import Meta

from ..http.bad_request import BadRequest
from .field_table import Table, honoured
from .grammar_fields import GrammarBody
from .value_types import TokenId, TopLogprobs

MOST_BIASED = 4096
MOST_WORDS = 128
MOST_WORD_CHARACTERS = 256
MOST_NAMED = 128  # vLLM's

Bias: TypeAlias = Annotated[float, Meta(ge=-100.0, le=100.0)]
BadWord: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MOST_WORD_CHARACTERS)]
Side: TypeAlias = Literal["left", "right"]

TOKEN_FIELDS: Table = {
    "logit_bias": honoured("-100 to 100 for each of up to 4 096 token ids"),
    "min_tokens": honoured("tokens before which neither end token nor stop string ends the answer"),
    "bad_words": honoured("up to 128 words that are not answered, with a space before or without"),
    "allowed_token_ids": honoured("the only tokens that may be answered"),
    "skip_special_tokens": honoured("false: special tokens stay in the text"),
    "no_stop_trim": honoured("SGLang's name for `include_stop_str_in_output`"),
    "prompt_logprobs": honoured("vLLM: 0 to 20 alternatives for each token of the prompt"),
    "logprob_token_ids": honoured("vLLM: up to 128 ids, whose logprobs replace the likeliest"),
    "return_token_ids": honoured("vLLM: adds `prompt_token_ids` and `token_ids`"),
    "return_tokens_as_token_ids": honoured("vLLM: logprobs name tokens `token_id:17`"),
    "truncate_prompt_tokens": honoured("vLLM: keeps that many tokens of the prompt; -1: that fit"),
    "truncation_side": honoured("`left`, the default, drops the first tokens; `right` the last"),
}


class Truncation(NamedTuple):
    """How a prompt is cut."""

    most: int
    side: Side

    def cut(self, ids: list[int]) -> list[int]:
        """At most `most` of these tokens, at least one."""
        if len(ids) <= self.most:
            return ids
        return ids[-self.most :] if self.side == "left" else ids[: self.most]


class TokenFields(GrammarBody, frozen=True, kw_only=True):
    """The honoured fields of `TOKEN_FIELDS`, and those of grammars."""

    logit_bias: Annotated[dict[str, Bias], Meta(max_length=MOST_BIASED)] | None = None
    min_tokens: Annotated[int, Meta(ge=0, le=(1 << 31) - 1)] = 0
    bad_words: Annotated[list[BadWord], Meta(max_length=MOST_WORDS)] | None = None
    allowed_token_ids: Annotated[list[TokenId], Meta(min_length=1)] | None = None
    skip_special_tokens: bool = True
    no_stop_trim: bool = False
    prompt_logprobs: TopLogprobs | None = None
    logprob_token_ids: (
        Annotated[list[TokenId], Meta(min_length=1, max_length=MOST_NAMED)] | None
    ) = None
    return_token_ids: bool = False
    return_tokens_as_token_ids: bool = False
    truncate_prompt_tokens: Annotated[int, Meta(ge=-1)] | None = None
    truncation_side: Side | None = None

    def check_token_fields(self, *, is_streamed: bool, has_logprobs: bool, name: str) -> None:
        """Raises `BadRequest` for fields that contradict others; `name` is the field that asks for
        logprobs."""
        if self.prompt_logprobs is not None and is_streamed:
            raise BadRequest(
                "prompt_logprobs are not streamed: use stream: false", param="prompt_logprobs"
            )
        if self.logprob_token_ids and not has_logprobs:
            raise BadRequest(f"logprob_token_ids needs {name}", param="logprob_token_ids")

    def truncation(self, max_model_len: int, answer_tokens: int) -> Truncation | None:
        """How its prompts are cut, if an answer of `answer_tokens` is to fit beside them; None if
        they are not."""
        most, side = self.truncate_prompt_tokens, self.truncation_side or "left"
        if most is None:
            return None
        if most == 0 or most > max_model_len:
            raise BadRequest(
                f"truncate_prompt_tokens is -1, or 1 to {max_model_len}, the model's length",
                param="truncate_prompt_tokens",
            )
        if most == -1:
            most = max(1, max_model_len - answer_tokens)
        return Truncation(most, side)

"""The bodies of /tokenize and /detokenize: vLLM's, and SGLang's lists."""

from __future__ import annotations

from typing import Any, ClassVar

from ..http.bad_request import BadRequest
from . import tokenize_fields
from .body import convert_body
from .field_table import Table
from .model_body import ModelBody
from .openai_bodies import ChatBody
from .value_types import TokenId

MOST_TOKENS = 131_072
"""Most tokens of a body to make text of: 40 ms, in which no stream goes on."""


class TokenizeBody(ModelBody, frozen=True, kw_only=True):
    """POST /tokenize"""

    table: ClassVar[Table] = tokenize_fields.TOKENIZE

    prompt: str | list[str] | None = None
    messages: list[Any] | None = None
    add_special_tokens: bool | None = None
    return_token_strs: bool = False
    add_generation_prompt: bool | None = None
    continue_final_message: bool = False
    chat_template_kwargs: dict[str, Any] | None = None
    chat_template: str | None = None
    documents: list[dict[str, Any]] | None = None
    tools: list[dict[str, Any]] | None = None

    def check(self) -> None:
        """Raises `BadRequest` unless there is one thing to tokenise."""
        if (self.prompt is None) == (self.messages is None):
            raise BadRequest("give either prompt or messages", param="prompt")

    def chat(self) -> ChatBody:
        """The chat whose prompt is wanted. Raises `BadRequest` naming the field."""
        names = (
            *("messages", "add_special_tokens", "add_generation_prompt", "continue_final_message"),
            *("chat_template", "chat_template_kwargs", "documents", "tools"),
        )
        return convert_body({name: getattr(self, name) for name in names}, ChatBody)


class DetokenizeBody(ModelBody, frozen=True, kw_only=True):
    """POST /detokenize"""

    table: ClassVar[Table] = tokenize_fields.DETOKENIZE

    tokens: list[TokenId | list[TokenId]]
    skip_special_tokens: bool | None = None

    def lists(self) -> list[list[int]]:
        """The lists of tokens. Raises `BadRequest` on a mixture, and on very many."""
        are_lists = [isinstance(each, list) for each in self.tokens]
        if any(are_lists) and not all(are_lists):
            raise BadRequest("tokens mixes ids and lists of them", param="tokens")
        found: list[Any] = self.tokens if any(are_lists) else [self.tokens]
        if (count := sum(map(len, found))) > MOST_TOKENS:
            raise BadRequest(
                f"tokens has {count} ids; at most {MOST_TOKENS} are taken at once", param="tokens"
            )
        return found

    @property
    def is_batch(self) -> bool:
        return bool(self.tokens) and isinstance(self.tokens[0], list)

"""`FillMiddle`: the prompt of a model that fills in the text between a beginning and an end."""

from __future__ import annotations

from typing import NamedTuple

from .tokenizer import Tokenizer


class Marks(NamedTuple):
    """The tokens before the beginning, before the end, and before the middle that is to come."""

    prefix: str
    suffix: str
    middle: str


MARKS = (
    Marks("<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"),  # Qwen, CodeGemma, Granite 4
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>"),  # StarCoder, Granite
    Marks("<fim-prefix>", "<fim-suffix>", "<fim-middle>"),  # SantaCoder
    Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek  # noqa: RUF001
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>"),  # CodeLlama
)
MISSING = (
    "suffix needs a model with tokens for it, such as <|fim_prefix|>, <|fim_suffix|> and "
    "<|fim_middle|>; this model's vocabulary has none of these sets"
)


class FillMiddle:
    """The tokens of one vocabulary."""

    def __init__(self, tokenizer: Tokenizer, prefix: int, suffix: int, middle: int) -> None:
        self._tokenizer = tokenizer
        self._prefix, self._suffix, self._middle = prefix, suffix, middle

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> FillMiddle | None:
        """None if the vocabulary has no such tokens."""
        for marks in MARKS:
            ids = [token_id for mark in marks if (token_id := tokenizer.token_id(mark)) is not None]
            if len(ids) == len(marks):
                return cls(tokenizer, *ids)
        return None

    def encode(self, beginning: str, end: str, add_special_tokens: bool) -> list[int]:
        """Token ids of the prompt: both texts after their marks, then the mark of the middle. Only
        a BOS is added, in front. Raises `TextError` as `Tokenizer.encode` does."""
        tokenizer = self._tokenizer
        bos = tokenizer.token_id(tokenizer.special_tokens.get("bos_token", ""))
        first = tokenizer.encode("", add_special_tokens)[:1] if add_special_tokens else []
        head = first if first == [bos] else []
        ids = [*head, self._prefix, *tokenizer.encode(beginning, False)]
        return [*ids, self._suffix, *tokenizer.encode(end, False), self._middle]

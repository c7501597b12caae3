"""`longest_token`: the most text that one token can stand for. A text longer than that many bytes
times the model's length cannot fit, whatever its tokens are.

Knows no model and no request.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import tokenizers

from .byte_alphabet import byte_of_character

KEEPS_ALL = frozenset(
    {"Prepend", "NFC", "ByteLevel", "Digits", "Split", "Metaspace", "Punctuation"}
)
"""Normalizers and pre-tokenizers that drop nothing (`Split` unless its behaviour is Removed)."""
USUAL_BYTES = frozenset({*b"\t\n", *range(0x20, 0x7F), *range(0x80, 0xC0), *range(0xC2, 0xF1)})
"""Bytes of UTF-8 text. Vocabularies that were learned lack some others, such as control characters,
and drop them; a text of these alone is not worth tokenising."""
MOST_SHRINKING = 3
"""NFC composes three Korean letters of 3 bytes each to one."""


def longest_token(tokenizer: tokenizers.Tokenizer) -> int | None:
    """Most bytes of text for which the tokenizer gives one token; None if there is no such number,
    because it may drop characters, or fuse those that it does not know."""
    added = tokenizer.get_added_tokens_decoder().values()
    if any(token.lstrip or token.rstrip for token in added):  # these take any number of spaces
        return None
    parts = [*_parts(tokenizer.normalizer), *_parts(tokenizer.pre_tokenizer)]
    if not _knows_every_byte(tokenizer) or not all(map(_keeps_all, parts)):
        return None
    words = tokenizer.get_vocab(with_added_tokens=True)
    longest = max((len(word.encode()) for word in words), default=1)
    shrinking = MOST_SHRINKING if any(part["type"] == "NFC" for part in parts) else 1
    return longest * shrinking


def _knows_every_byte(tokenizer: tokenizers.Tokenizer) -> bool:
    model = tokenizer.model
    if not isinstance(model, (tokenizers.models.BPE, tokenizers.models.Unigram)):
        return False  # WordPiece and WordLevel make one token of any unknown word
    if isinstance(tokenizer.decoder, tokenizers.decoders.ByteLevel):
        letters = byte_of_character().items()
        known = {byte for letter, byte in letters if tokenizer.token_to_id(letter) is not None}
        return known >= USUAL_BYTES
    names = (f"<0x{byte:02X}>" for byte in USUAL_BYTES)
    falls_back = getattr(model, "byte_fallback", False) is True
    return falls_back and all(tokenizer.token_to_id(name) is not None for name in names)


def _parts(stage: Any) -> Iterator[dict[str, Any]]:
    """The parts of a normalizer or pre-tokenizer, as JSON describes them."""
    if stage is None:
        return
    found = msgspec.json.decode(stage.__getstate__(), type=dict[str, Any])
    yield from found.get("normalizers", found.get("pretokenizers", [found]))


def _keeps_all(part: dict[str, Any]) -> bool:
    if part["type"] == "Replace":
        old, new = part["pattern"].get("String"), part["content"]
        return old is not None and len(new.encode()) >= len(old.encode())
    return part["type"] in KEEPS_ALL and part.get("behavior") != "Removed"

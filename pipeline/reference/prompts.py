"""The prompts of a comparison with a reference, chosen to expose differences in tokenizers,
templates and positions.

Knows no library: the caller measures a prompt's length.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from .reference import ChatTurn, Prompt

TEXT = "The capital of Spain is Madrid, and the capital of Norway is"
UNICODE = (
    "  Füße, naïve café — “déjà vu”…\n\n\tif x != 10_000:\r\n    return 3.14159\n"
    "日本語の文章。 한국어 Ελληνικά русский עברית العربية हिन्दी 👩‍👩‍👧 "
    "e\u0301 \u00a0\ufb01 12345678 I'LL don't "
)
CHAT = (
    ChatTurn("user", "Hello! What is 2 + 2?\n"),
    ChatTurn("assistant", " It is 4. "),
    ChatTurn("user", "And <b>twice</b> that & “more”? 谢谢"),
)
SYSTEM_CHAT = (
    ChatTurn("system", "You answer in one short sentence."),
    ChatTurn("user", "Tell me about the sea."),
)
SENTENCE = "On day {} the ship was {} miles from {}. "
PLACES = ("Oslo", "Lima", "Porto", "Kobe", "Accra")
BEYOND = 40
"""Tokens by which the long prompt exceeds the position at which the arithmetic changes."""
USUAL_LONG = 300
"""Tokens of the long prompt if a model has no such position: several pages of KV."""
MOST_SPECIAL = 24


def fixed_prompts(special_tokens: Sequence[str]) -> Iterator[Prompt]:
    """A text, the tokenizer's own added tokens in a text, unusual characters, and two chats."""
    yield Prompt(name="text", text=TEXT)
    yield Prompt(name="unicode", text=UNICODE)
    if special_tokens:
        chosen = [*special_tokens]
        if len(chosen) > MOST_SPECIAL:
            chosen = chosen[: MOST_SPECIAL // 2] + chosen[-MOST_SPECIAL // 2 :]
        pieces = (f"word {token}{token} and" for token in chosen)
        yield Prompt(name="special", text=" ".join(pieces))
    yield Prompt(name="chat", turns=CHAT)
    yield Prompt(name="system chat", turns=SYSTEM_CHAT)


def long_prompt(length: int, count: Callable[[str], int]) -> Prompt:
    """A text of `length` tokens or slightly fewer; `count` returns a text's number of tokens."""
    each = max(1, count("".join(_sentences(8))) // 8)
    size = length // each + 1
    while count("".join(_sentences(size))) < length:
        size += max(1, size // 8)
    text = "".join(_sentences(size))
    # Binary search for the longest prefix that fits.
    low, high = 0, len(text)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(text[:middle]) <= length else (low, middle)
    return Prompt(name="long", text=text[:low])


def _sentences(size: int) -> Iterator[str]:
    for day in range(size):
        yield SENTENCE.format(day, 7 * day % 1000, PLACES[day % len(PLACES)])


def long_length(positions: Sequence[int], most: int) -> tuple[int, str]:
    """(tokens of the long prompt, a note if it is too short). It exceeds all `positions` at which
    the arithmetic changes (a window's end, the length before rope scaling), within `most`."""
    reached = [at for at in positions if at + BEYOND <= most]
    missed = [at for at in positions if at + BEYOND > most]
    length = max([at + BEYOND for at in reached], default=min(USUAL_LONG, most))
    if not missed:
        return length, ""
    word = ", ".join(str(at) for at in missed)
    return length, f"no prompt goes beyond position {word}: the long one has {length} tokens"

"""`Tokenizer` (text to token ids and back) and `TextStream` (ids to text, one at a time).

`tokenizer_files` reads a directory's files; `chat_template` renders chats.
Knows no torch, no socket and no request.
"""

from __future__ import annotations

import codecs
import functools
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from .byte_alphabet import byte_of_character
from .chat_template import MOST_CHARACTERS, ChatTemplate, TextError
from .chat_template_files import TemplateFileError, read_model_template
from .longest_token import longest_token
from .tokenizer_files import read_tokenizer

BYTE_TOKEN = re.compile("<0x([0-9A-Fa-f]{2})>")
"""SentencePiece's name of a byte that no piece has."""

__all__ = ["ChatTemplate", "TextError", "TextStream", "Tokenizer"]

HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""The decoded form of an incomplete UTF-8 sequence."""


def make_byte_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level tokenizer for a model that has none: a token per byte, then words that random
    weights may choose but no text encodes to (" aaaa", " aaab", …)."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    space = next(character for character, byte in byte_of_character().items() if byte == 0x20)
    tokens = list(byte_of_character())[:vocab_size]
    for number in range(vocab_size - len(tokens)):
        word = ""
        for place in range(4):
            word = letters[number // len(letters) ** place % len(letters)] + word
        tokens.append(space + word)
    vocab = {token: index for index, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, []))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    return tokenizer


class Tokenizer:
    """The tokenizer and the chat template of one model directory."""

    def __init__(self, directory: str | Path) -> None:
        """Raises `OperatorError` if the directory has no readable tokenizer."""
        self.directory = Path(directory)
        loaded = read_tokenizer(self.directory)
        self._tokenizer = loaded.tokenizer
        self.cleans_up = loaded.cleans_up
        # As the library skips them: a token that was once special stays special.
        self._special_ids = frozenset(
            token_id
            for token_id in self._tokenizer.get_added_tokens_decoder()
            if not self._tokenizer.decode([token_id], skip_special_tokens=True)
        )
        self.is_byte_level = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)
        self._bytes: dict[int, bytes] = {}
        self.special_tokens = loaded.special_tokens
        """bos_token, eos_token, …, as text: variables of chat templates."""
        self.config: Mapping[str, Any] = loaded.config
        """tokenizer_config.json."""
        self.warnings: tuple[str, ...] = loaded.warnings
        """Warnings to the operator about the files; the model starts anyway."""
        self.chat_template = self._read_chat_template(loaded.config)

    def _read_chat_template(self, config: Mapping[str, Any]) -> ChatTemplate | None:
        """The model's template. If it cannot be used, `warnings` has the reason, and only chats are
        refused."""
        try:
            template = read_model_template(self.directory, config, self.special_tokens)
        except TemplateFileError as error:
            self.warnings += (f"chats are refused: {error}",)
            return None
        if template is not None:
            try:
                template.render([{"role": "user", "content": "hello"}])
            except TextError as error:
                self.warnings += (f"chats are refused: {error}",)
        return template

    @property
    def vocab_size(self) -> int:
        """Token ids are below this, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    @functools.cached_property
    def longest_token(self) -> int | None:
        """Most bytes of text in one token; None if there is no such bound."""
        return longest_token(self._tokenizer)

    def token_id(self, text: str) -> int | None:
        """The id of the token with this text; None if there is none."""
        return self._tokenizer.token_to_id(text)

    def added_tokens(self) -> list[str]:
        """The tokens added to the vocabulary, including special ones, as text."""
        return [token.content for token in self._tokenizer.get_added_tokens_decoder().values()]

    # -- text to ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` adds a BOS if the model uses one. Other threads
        run meanwhile.

        Raises `TextError` for text that is not Unicode (a lone surrogate).
        """
        try:
            # Of the library's calls only those for a batch release the interpreter's lock.
            (encoding,) = self._tokenizer.encode_batch_fast(
                [text], add_special_tokens=add_special_tokens
            )
            return encoding.ids
        except TypeError as error:  # the library's error for a lone surrogate
            raise TextError("the text is not valid Unicode") from error

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        chat_template: ChatTemplate | None = None,
    ) -> list[int]:
        """Token ids of a conversation in the model's chat format, ready for the answer.

        `chat_template`, an adapter's own, replaces the model's. Raises `TextError` as `render_chat`
        does.
        """
        text = self.render_chat(
            messages,
            add_generation_prompt,
            tools=tools,
            documents=documents,
            template_kwargs=template_kwargs,
            continue_final_message=continue_final_message,
            chat_template=chat_template,
        )
        return self.encode(text, add_special_tokens=False)

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = True,
        *,
        tools: Sequence[Any] | None = None,
        documents: Sequence[Any] | None = None,
        template_kwargs: Mapping[str, Any] | None = None,
        continue_final_message: bool = False,
        chat_template: ChatTemplate | None = None,
        most_characters: int = MOST_CHARACTERS,
    ) -> str:
        """The conversation as text; see `ChatTemplate.render`. Raises `TextError` if there is no
        template, or if it does not compile or fails."""
        template = chat_template or self.chat_template
        if template is None:
            raise TextError("the model has no chat template; use plain completions")
        return template.render(
            messages,
            add_generation_prompt,
            tools=tools,
            documents=documents,
            template_kwargs=template_kwargs,
            continue_final_message=continue_final_message,
            most_characters=most_characters,
        )

    # -- ids to text

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """The text of token ids, as by transformers' `decode`; unknown ids are skipped."""
        text = self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)
        return clean_up(text) if self.cleans_up else text

    def token_name(self, token_id: int) -> str:
        """One token as the vocabulary has it (`Ġthe`); "" for an unknown id."""
        return self._tokenizer.id_to_token(token_id) or ""

    def token_text(self, token_id: int) -> str:
        """One token as it is inside a text (for logprobs); half a character is U+FFFD."""
        return self.token_bytes(token_id).decode("utf-8", "replace")

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes of a token in the middle of a text; cached.

        Those of a special token are its name; those of an unknown id are b"".
        """
        found = self._bytes.get(token_id)
        if found is None:
            token = self._tokenizer.id_to_token(token_id) if token_id >= 0 else None
            found = b"" if token is None else self._bytes_of(token_id, token)
            self._bytes[token_id] = found
        return found

    def _bytes_of(self, token_id: int, token: str) -> bytes:
        if self.is_byte_level:
            try:
                return bytes(byte_of_character()[character] for character in token)
            except KeyError:  # an added token, whose text is unencoded
                return token.encode()
        if token_id in self._added_ids:
            return token.encode()
        if self._falls_back_to_bytes and (byte := BYTE_TOKEN.fullmatch(token)):
            return bytes([int(byte[1], 16)])
        # Decoded after another token, since the decoder may drop a text's first space.
        before = self._tokenizer.decode([self._anchor], skip_special_tokens=False)
        text = self._tokenizer.decode([self._anchor, token_id], skip_special_tokens=False)
        return text.removeprefix(before).encode()

    @functools.cached_property
    def _added_ids(self) -> frozenset[int]:
        return frozenset(self._tokenizer.get_added_tokens_decoder())

    @functools.cached_property
    def _falls_back_to_bytes(self) -> bool:
        return getattr(self._tokenizer.model, "byte_fallback", False) is True

    @functools.cached_property
    def _anchor(self) -> int:
        """An ordinary token that decodes to a text by itself."""
        for token_id in self._tokenizer.encode("a", add_special_tokens=False).ids[::-1]:
            if self._tokenizer.decode([token_id]):
                return token_id
        return next((i for i in range(self.vocab_size) if self._tokenizer.decode([i]).isalnum()), 0)

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def stream(self, skip_special_tokens: bool = True, shown: Collection[int] = ()) -> TextStream:
        """A new `TextStream` for the output of one request."""
        return TextStream(self, skip_special_tokens, shown)


class _Decoding(Protocol):
    """One way to turn ids into text piece by piece."""

    def push(self, token_id: int) -> str: ...
    def flush(self) -> str: ...


class TextStream:
    """The text of one request as its tokens come: pushes + flush == decode of all tokens.

    The cost of a token does not grow with the output, unless the tokenizer cleans up. Half a
    character is held back until its rest arrives, or until `flush`. `shown` are special tokens that
    are not skipped.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        skip_special_tokens: bool = True,
        shown: Collection[int] = (),
    ) -> None:
        self._tokenizer = tokenizer
        self._skip, self._shown = skip_special_tokens, shown
        self._decoding: _Decoding
        if tokenizer.cleans_up:
            self._decoding = _CleanDecoding(tokenizer)
        elif tokenizer.is_byte_level:
            self._decoding = _ByteDecoding(tokenizer)
        else:
            self._decoding = _WindowDecoding(tokenizer)

    def push(self, token_id: int) -> str:
        """The text that this token completes; often a word, sometimes nothing."""
        if self._skip and self._tokenizer.is_special(token_id) and token_id not in self._shown:
            return ""
        return self._decoding.push(token_id)

    def flush(self) -> str:
        """The held-back text, at the end of the output."""
        return self._decoding.flush()


class _ByteDecoding:
    """Byte-level vocabularies: a token is bytes, and UTF-8 is decoded as they come."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._token_bytes = tokenizer.token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token_id: int) -> str:
        return self._utf8.decode(self._token_bytes(token_id))

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)


class _WindowDecoding:
    """Any other vocabulary: the text of a short window of tokens, less the text of its prefix.

    `_ids[:_read]` has been returned as text. `_ids` is decoded again with each token, and the
    window advances when its text ends in a whole character. A prefix is kept because some decoders
    treat the first token of a text differently (SentencePiece drops its space). If bytes that are
    not UTF-8 follow whole characters, the number of U+FFFD may differ from `decode`, which sees
    them together.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._read = 0

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return self._new_text(final=False)

    def flush(self) -> str:
        return self._new_text(final=True)

    def _new_text(self, final: bool) -> str:
        prefix = self._tokenizer.decode(self._ids[: self._read], skip_special_tokens=False)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False)
        if len(text) <= len(prefix) or (text.endswith(HALF_CHARACTER) and not final):
            return ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return text[len(prefix) :]


class _CleanDecoding:
    """A vocabulary with cleaned-up text (word pieces): spaces that later tokens may still remove
    are held back. The whole text is decoded with each token."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._num_sent = 0

    def push(self, token_id: int) -> str:
        self._ids.append(token_id)
        return self._new_text(held=LONGEST_CLEANED)

    def flush(self) -> str:
        return self._new_text(held=0)

    def _new_text(self, held: int) -> str:
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False)
        whole = text.rstrip(HALF_CHARACTER) if held else text
        new = text[self._num_sent : max(self._num_sent, len(whole) - held)]
        self._num_sent += len(new)
        return new


LONGEST_CLEANED = 8
"""Characters at a text's end that the next ones may change: " n ' t" becomes "n't"."""


def clean_up(text: str) -> str:
    """The text without the spaces that word pieces leave before punctuation, as in transformers."""
    for ending in (" .", " ?", " !", " ,"):
        text = text.replace(ending, ending[1:])
    text = text.replace(" ' ", "'")
    for ending in (" n't", " 'm", " 's", " 've", " 're"):
        text = text.replace(ending, ending[1:])
    return text

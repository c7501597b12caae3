"""`Tokenizer` (text to token ids and back) and `TextStream` (ids to text, one at a time).

Reads a model directory: tokenizer.json, tokenizer_config.json and the chat template. Knows no
torch, no socket and no request.
"""

from __future__ import annotations

import codecs
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import tokenizers

from .chat_template import ChatTemplate, TextError
from .config import OperatorError

__all__ = ["ChatTemplate", "TextError", "TextStream", "Tokenizer"]

HALF_CHARACTER = "\N{REPLACEMENT CHARACTER}"
"""How an incomplete UTF-8 sequence decodes."""


@functools.cache
def byte_of_character() -> dict[str, int]:
    """The alphabet of byte-level BPE: each byte is written as one printable character.

    Printable Latin-1 bytes are themselves; the 68 others, in order, are U+0100 and onwards.
    """
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + index): byte for index, byte in enumerate(others)}


def make_byte_tokenizer(vocab_size: int) -> tokenizers.Tokenizer:
    """A byte-level tokenizer for a model that has none: a token a byte, then words that texts
    never encode to but random weights may choose (" aaaa", " aaab", …)."""
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
        """Raises `OperatorError` where the directory has no readable tokenizer."""
        self.directory = Path(directory)
        path = self.directory / "tokenizer.json"
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise OperatorError(
                f"{path}: {error.strerror}", "a model directory holds a tokenizer.json"
            ) from error
        except Exception as error:  # the library raises nothing narrower for a bad file
            raise OperatorError(f"{path} is not a tokenizer: {error}") from error
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special_ids = frozenset(
            token_id
            for token_id, token in self._tokenizer.get_added_tokens_decoder().items()
            if token.special
        )
        self.is_byte_level = isinstance(self._tokenizer.decoder, tokenizers.decoders.ByteLevel)
        self._bytes: dict[int, bytes] = {}
        self._config = _read_json(self.directory / "tokenizer_config.json")
        self.warnings: tuple[str, ...] = ()
        self.chat_template = _chat_template(self.directory, self._config, self._special_tokens)

    @property
    def vocab_size(self) -> int:
        """Token ids are below this, added tokens included."""
        return self._tokenizer.get_vocab_size(with_added_tokens=True)

    # -- text to ids

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids of `text`; `add_special_tokens` puts a BOS where the model wants one.

        Raises `TextError` for text that is not Unicode (a lone surrogate).
        """
        try:
            return self._tokenizer.encode(text, add_special_tokens=add_special_tokens).ids
        except TypeError as error:  # what the library says of a lone surrogate
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

        `chat_template` is used instead of the model's where it is given (an adapter's own).
        Raises `TextError` as `render_chat` does.
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
    ) -> str:
        """The conversation as text; see `ChatTemplate.render`. Raises `TextError` where there is
        no template, or where it does not compile or fails."""
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
        )

    @functools.cached_property
    def _special_tokens(self) -> dict[str, str]:
        """bos_token, eos_token, …: what templates may name, as text."""
        tokens = {
            name: token["content"] if isinstance(token, dict) else token
            for name, token in self._config.items()
            if name.endswith("_token")
        }
        return {name: token for name, token in tokens.items() if isinstance(token, str)}

    # -- ids to text

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=skip_special_tokens)

    def token_text(self, token_id: int) -> str:
        """One token as it stands in a text (for logprobs); half a character shows as U+FFFD."""
        if self.is_byte_level:
            return self.token_bytes(token_id).decode("utf-8", "replace")
        return (self._tokenizer.id_to_token(token_id) or "").replace(
            "\N{LOWER ONE EIGHTH BLOCK}", " "
        )

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that a token of a byte-level vocabulary stands for; kept once asked for."""
        found = self._bytes.get(token_id)
        if found is None:
            token = self._tokenizer.id_to_token(token_id) or ""
            try:
                found = bytes(byte_of_character()[character] for character in token)
            except KeyError:  # an added token, written as itself
                found = token.encode()
            self._bytes[token_id] = found
        return found

    def is_special(self, token_id: int) -> bool:
        return token_id in self._special_ids

    def stream(self, skip_special_tokens: bool = True) -> TextStream:
        """A new `TextStream` for the output of one request."""
        return TextStream(self, skip_special_tokens)


class _Decoding(Protocol):
    """One way to turn ids into text piece by piece."""

    def push(self, token_id: int) -> str: ...
    def flush(self) -> str: ...


class TextStream:
    """The text of one request as its tokens come: pushes + flush == decode of all of them.

    A token costs the same at any length of the output. Half a character is held back until the
    rest has come, or until `flush`.
    """

    def __init__(self, tokenizer: Tokenizer, skip_special_tokens: bool = True) -> None:
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._decoding: _Decoding = (
            _ByteDecoding(tokenizer) if tokenizer.is_byte_level else _WindowDecoding(tokenizer)
        )

    def push(self, token_id: int) -> str:
        """The text that this token completes; often a word, sometimes nothing."""
        if self._skip and self._tokenizer.is_special(token_id):
            return ""
        return self._decoding.push(token_id)

    def flush(self) -> str:
        """What was held back, at the end of the output."""
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

    `_ids[:_read]` has been said; `_ids[:]` is decoded anew with each token, and the window moves
    on as soon as it ends in a whole character. A prefix is kept because some decoders treat the
    first token of a text differently (SentencePiece drops its space). Where bytes that are not
    UTF-8 follow whole characters, it may say other U+FFFD than `decode`, which sees them first.
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
        said = self._tokenizer.decode(self._ids[: self._read], skip_special_tokens=False)
        text = self._tokenizer.decode(self._ids, skip_special_tokens=False)
        if len(text) <= len(said) or (text.endswith(HALF_CHARACTER) and not final):
            return ""
        self._ids = self._ids[self._read :]
        self._read = len(self._ids)
        return text[len(said) :]


# --- the chat template --------------------------------------------------------------------------


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, or an empty one where there is no such file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise OperatorError(f"{path} is not readable: {error}") from error
    if not isinstance(found, dict):
        raise OperatorError(f"{path} is not a JSON object")
    return found


def _chat_template(
    directory: Path, config: dict[str, Any], variables: Mapping[str, str]
) -> ChatTemplate | None:
    """The template of chat_template.jinja, else of tokenizer_config.json; None without one."""
    source: Any = config.get("chat_template")
    path = directory / "chat_template.jinja"
    if path.exists():
        source = path.read_text(encoding="utf-8")
    if not source:
        return None
    if isinstance(source, list):
        source = {entry["name"]: entry["template"] for entry in source}
    sources = source if isinstance(source, dict) else {"default": source}
    return ChatTemplate(sources, variables, str(directory))

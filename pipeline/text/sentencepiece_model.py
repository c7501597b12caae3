"""`read_sentencepiece`: the tokenizer of a tokenizer.model (SentencePiece, byte-pair encoding).

Reads only the protobuf fields that determine token ids. Knows no other file.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import tokenizers
from tokenizers import AddedToken, models, normalizers

from ..errors import OperatorError

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Kinds of pieces that are not ordinary text; user-defined ones are matched in texts."""
BYTE_PAIRS = 2
"""trainer_spec.model_type; 1 is Unigram, 3 words, 4 characters."""
KINDS = {1: "Unigram", 3: "words", 4: "characters"}


class ScoredPiece(NamedTuple):
    text: str
    score: float
    kind: int


class SentencePieceFile(NamedTuple):
    """The fields of a tokenizer.model."""

    pieces: list[ScoredPiece]
    model_type: int
    charsmap: bytes
    byte_fallback: bool
    add_dummy_prefix: bool
    remove_extra_whitespaces: bool
    suffix: bool
    """A space is written after a word, not before it."""


class SentencePieceTokenizer(NamedTuple):
    """A tokenizer without a pre-tokenizer, which its class sets."""

    tokenizer: tokenizers.Tokenizer
    normalizer: normalizers.Normalizer | None
    add_dummy_prefix: bool
    """Whether a space is put before a text."""
    unknown: str | None
    """The token for characters that no piece has; None: their bytes."""


def read_sentencepiece(path: Path) -> SentencePieceTokenizer:
    """The tokenizer of a tokenizer.model. Raises `OperatorError` if the file is not SentencePiece's
    or of a kind that is not supported."""
    file = _parse(path)
    if file.model_type != BYTE_PAIRS or file.suffix:
        kind = KINDS.get(file.model_type, f"kind {file.model_type}")
        what = "spaces after words" if file.suffix else kind
        raise OperatorError(
            f"{path}: SentencePiece with {what} is not supported without a tokenizer.json",
            # transformers 5 reads a Unigram model as byte pairs: the file it saves gives other ids.
            "take the tokenizer.json of a repository that has one, and compare its ids with "
            "those of the sentencepiece library",
        )
    vocab = {piece.text: token_id for token_id, piece in enumerate(file.pieces)}
    tokenizer = tokenizers.Tokenizer(
        models.BPE(vocab, _merges(file.pieces, vocab), fuse_unk=True, byte_fallback=True)
    )
    tokenizer.add_tokens(
        [
            AddedToken(piece.text, normalized=False, special=piece.kind == CONTROL)
            for piece in file.pieces
            if piece.kind in (CONTROL, USER_DEFINED)
        ]
    )
    stages: list[normalizers.Normalizer] = []
    if file.charsmap:
        stages.append(normalizers.Precompiled(file.charsmap))
    if file.remove_extra_whitespaces:
        stages += [normalizers.Strip(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    unknown = [piece.text for piece in file.pieces if piece.kind == UNKNOWN]
    return SentencePieceTokenizer(
        tokenizer,
        normalizers.Sequence(stages) if stages else None,
        file.add_dummy_prefix,
        None if file.byte_fallback or not unknown else unknown[0],
    )


def _merges(pieces: list[ScoredPiece], vocab: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that forms a piece; SentencePiece joins the best-scored pair first."""
    found = []
    for token_id, piece in enumerate(pieces):
        text = piece.text
        for cut in range(1, len(text)):
            left, right = text[:cut], text[cut:]
            if left in vocab and right in vocab:
                order = (-piece.score, token_id, len(left), len(right))
                found.append((order, left, right))
    found.sort()
    return [(left, right) for _, left, right in found]


# --- protobuf -----------------------------------------------------------------------------------


def _parse(path: Path) -> SentencePieceFile:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise OperatorError(f"cannot read {path}: {error.strerror}") from error
    try:
        return _model(content)
    except (ValueError, IndexError, struct.error) as error:
        raise OperatorError(
            f"{path} is not a SentencePiece model",
            "if it is a tiktoken vocabulary, convert it with transformers' AutoTokenizer and "
            "save_pretrained",
        ) from error


def _model(content: bytes) -> SentencePieceFile:
    """A ModelProto: 1 pieces, 2 trainer_spec, 3 normalizer_spec."""
    pieces: list[ScoredPiece] = []
    model_type, suffix, byte_fallback = 1, False, False
    charsmap, dummy_prefix, extra_spaces = b"", True, True
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(value))
        elif number == 2 and isinstance(value, bytes):
            for inner, entry in _fields(value):
                if inner == 3 and isinstance(entry, int):
                    model_type = entry
                elif inner == 24:
                    suffix = bool(entry)
                elif inner == 35:
                    byte_fallback = bool(entry)
        elif number == 3 and isinstance(value, bytes):
            for inner, entry in _fields(value):
                if inner == 2 and isinstance(entry, bytes):
                    charsmap = entry
                elif inner == 3:
                    dummy_prefix = bool(entry)
                elif inner == 4:
                    extra_spaces = bool(entry)
    if not pieces:
        raise ValueError("no pieces")
    return SentencePieceFile(
        pieces, model_type, charsmap, byte_fallback, dummy_prefix, extra_spaces, suffix
    )


def _piece(content: bytes) -> ScoredPiece:
    """A SentencePiece: 1 piece, 2 score, 3 type."""
    text, score, kind = "", 0.0, 1
    for number, value in _fields(content):
        if number == 1 and isinstance(value, bytes):
            text = value.decode()
        elif number == 2 and isinstance(value, bytes):
            (score,) = struct.unpack("<f", value)
        elif number == 3 and isinstance(value, int):
            kind = value
    return ScoredPiece(text, score, kind)


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(number, value) of each field; a value is an integer or bytes. Raises `ValueError` or
    `IndexError` if the bytes are not protobuf."""
    at = 0
    while at < len(content):
        key, at = _varint(content, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(content, at)
            yield number, value
            continue
        length = {1: 8, 5: 4}.get(wire)
        if wire == 2:
            length, at = _varint(content, at)
        if length is None or at + length > len(content) or number == 0:
            raise ValueError("not protobuf")
        yield number, content[at : at + length]
        at += length


def _varint(content: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("not protobuf")

"""`Piece`: a part of an answer: content, reasoning, or a part of a tool call."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias

import msgspec

PieceKind: TypeAlias = Literal["content", "reasoning", "call", "arguments"]


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Text of one kind. A call begins with a "call" piece, whose text is the function's name; its
    "arguments" pieces follow, which joined are JSON as far as the model has written it."""

    kind: PieceKind
    text: str
    call: int = 0
    """The number of the call in the answer, from 0; for "call" and "arguments"."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """The same pieces, neighbours of one kind and call joined, and without empty ones."""
    found: list[Piece] = []
    texts: list[str] = []
    for piece in pieces:
        if not piece.text and piece.kind != "call":
            continue
        last = found[-1] if found else None
        if last and piece.kind != "call" and (last.kind, last.call) == (piece.kind, piece.call):
            texts.append(piece.text)
            continue
        if len(texts) > 1:
            found[-1] = Piece(found[-1].kind, "".join(texts), found[-1].call)
        found.append(piece)
        texts = [piece.text]
    if len(texts) > 1:
        found[-1] = Piece(found[-1].kind, "".join(texts), found[-1].call)
    return found

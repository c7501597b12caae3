"""Hostile frames for the ring's inboxes, by seed and number: random bytes, messages of another
inbox, broken messages, and late ones, which name what has ended. Each of the first three must be
refused and counted; a late one is taken and changes nothing. Knows no pipeline."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

import msgspec
from msgspec import inspect

from loraconsole.pipeline.messages import (
    Abort,
    AdapterRead,
    AdapterReply,
    AnswerHeard,
    Batch,
    CloseStream,
    Message,
    PlaceAdapter,
    Refused,
    StopFound,
    StreamTokens,
    TextDeltas,
    ToDetokenizer,
    Tokens,
    ToRouter,
    ToServer,
    ToSupervisor,
    ToWorker,
)
from loraconsole.pipeline.runtime.sockets import UNREADABLE

ACCEPTS: dict[str, Any] = {
    "router": ToRouter,
    "server": ToServer,
    "detokenizer": ToDetokenizer,
    "worker-0": ToWorker,
    "supervisor": ToSupervisor,
}
LATE: dict[str, tuple[type[Message], ...]] = {
    "router": (Abort, StopFound, AnswerHeard, Tokens, AdapterRead),
    "server": (TextDeltas, Refused, AdapterReply),
    "detokenizer": (StreamTokens, CloseStream),
    "worker-0": (Batch, PlaceAdapter),
    "supervisor": (),
}
"""Messages that may arrive after what they are about has ended; their ids are unknown here."""
OLD_EPOCH = -1
"""No router has it."""
KINDS: tuple[type[Message], ...] = tuple(
    sorted(
        {kind for union in ACCEPTS.values() for kind in get_args(union)}, key=lambda k: k.__name__
    )
)


@dataclass(frozen=True)
class Frame:
    """Bytes for one inbox, and whether it must refuse them."""

    inbox: str
    data: bytes
    is_refused: bool


class Values:
    """Random values of msgspec types."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def message(self, kind: type[Message]) -> Message:
        return msgspec.convert(self._value(inspect.type_info(kind)), kind)

    def plain(self, kind: type[Message]) -> dict[str, Any]:
        """The message as a dict with its tag."""
        value = self._value(inspect.type_info(kind))
        assert isinstance(value, dict)
        return value

    def _value(self, info: inspect.Type) -> Any:
        rng = self._rng
        match info:
            case inspect.StructType():
                values = {field.name: self._value(field.type) for field in info.fields}
                if info.array_like:
                    return list(values.values())
                return {info.tag_field: info.tag, **values} if info.tag_field else values
            case inspect.VarTupleType():
                return [self._value(info.item_type) for _ in range(rng.randint(0, 3))]
            case inspect.TupleType():
                return [self._value(item) for item in info.item_types]
            case inspect.UnionType():
                return self._value(rng.choice(info.types))
            case inspect.EnumType():
                return rng.choice(list(info.cls)).value
            case inspect.LiteralType():
                return rng.choice(info.values)
            case inspect.NoneType():
                return None
            case inspect.BoolType():
                return rng.random() < 0.5
            case inspect.IntType():
                return rng.choice((0, 1, 3, 1 << 20))
            case inspect.FloatType():
                return rng.choice((0.0, 0.5, 1.5))  # a late message is no message of the future
            case inspect.StrType():
                return rng.choice(("", "unknown", "äöü", "x" * 300)) + str(rng.randrange(1 << 30))
            case inspect.BytesType():
                return rng.randbytes(8)
        raise NotImplementedError(info)


WRONG: tuple[Any, ...] = (None, -1, 1 << 64 - 1, "text", b"\xff", 1.5, [], {}, True, [[[[]]]])


def _nested(depth: int) -> bytes:
    """An array in an array in an array."""
    return b"\x91" * depth + b"\x90"


def _broken(rng: random.Random, kind: type[Message]) -> bytes:
    """A message with one thing wrong: a value, a missing or unknown field, the tag, a byte."""
    message = Values(rng).plain(kind)
    fields = [name for name in message if name != "type"]
    how = rng.randrange(6)
    if how == 0 and fields:
        message[rng.choice(fields)] = rng.choice(WRONG)
    elif how == 1 and fields:
        del message[rng.choice(fields)]
    elif how == 2:
        message["type"] = rng.choice((*WRONG, "Unknown", kind.__name__.lower()))
    data = msgspec.msgpack.encode(message)
    if how == 3:
        return data[: rng.randrange(len(data))]
    if how == 4:
        place = rng.randrange(len(data))
        return data[:place] + rng.randbytes(rng.randint(1, 8)) + data[place:]
    if how == 5:
        changed = bytearray(data)
        for _ in range(rng.randint(1, 8)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
    return data


def _late(rng: random.Random, inbox: str) -> Message | None:
    kinds = LATE[inbox]
    if not kinds:
        return None
    kind = rng.choice(kinds)
    message = Values(rng).message(kind)
    changes: dict[str, Any] = {}
    if "epoch" in kind.__struct_fields__:
        changes["epoch"] = OLD_EPOCH
    if kind is AdapterRead:
        changes |= {"order": -1, "rank": 0}
    if kind is Tokens:
        changes["rank"] = 0
    return msgspec.structs.replace(message, **changes)


def _bytes(rng: random.Random, inbox: str) -> bytes:
    how = rng.randrange(10)
    if how == 0:
        return rng.randbytes(rng.choice((0, 1, 2, 17, 400, 70_000)))
    if how == 1:
        return _nested(rng.choice((3, 100, 5_000)))
    if how == 2:
        foreign = [kind for kind in KINDS if kind not in get_args(ACCEPTS[inbox])]
        return msgspec.msgpack.encode(Values(rng).message(rng.choice(foreign)))
    return _broken(rng, rng.choice(get_args(ACCEPTS[inbox])))


def decoder_of(inbox: str) -> Callable[[bytes], object]:
    return msgspec.msgpack.Decoder(ACCEPTS[inbox]).decode


DECODERS = {inbox: decoder_of(inbox) for inbox in ACCEPTS}


def make_frame(seed: int, number: int) -> Frame:
    """Frame `number`. A change of bytes that leaves a valid message is made again: an order of the
    pipeline's own is not hostile, and would be carried out."""
    rng = random.Random(f"frames {seed} {number}")
    inbox = rng.choice(tuple(ACCEPTS))
    if rng.random() < 0.1 and (late := _late(rng, inbox)):
        return Frame(inbox, msgspec.msgpack.encode(late), False)
    while True:
        data = _bytes(rng, inbox)
        try:
            DECODERS[inbox](data)
        except UNREADABLE:
            return Frame(inbox, data, True)

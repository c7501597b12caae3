"""Every message survives the wire, and the hot ones stay small."""

from __future__ import annotations

import inspect

import msgspec
import pytest

from loraconsole.pipeline import messages
from loraconsole.pipeline.messages import Admission, Batch, BatchRow, Message, SamplingParams

KINDS = [
    kind
    for _, kind in inspect.getmembers(messages, inspect.isclass)
    if issubclass(kind, Message) and kind is not Message
]


def example(kind: type) -> object:
    """A value of a message type, made from its field types."""
    return msgspec.convert(_example(msgspec.inspect.type_info(kind)), kind)


def _example(info: msgspec.inspect.Type) -> object:
    match info:
        case msgspec.inspect.StructType():
            values = {field.name: _example(field.type) for field in info.fields}
            if info.array_like:
                return list(values.values())
            return {info.tag_field: info.tag, **values} if info.tag_field else values
        case msgspec.inspect.VarTupleType():
            return [_example(info.item_type)]
        case msgspec.inspect.TupleType():
            return [_example(item) for item in info.item_types]
        case msgspec.inspect.UnionType():
            return _example(
                next(t for t in info.types if not isinstance(t, msgspec.inspect.NoneType))
            )
        case msgspec.inspect.EnumType():
            return next(iter(info.cls)).value
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 3
        case msgspec.inspect.FloatType():
            return 1.5
        case msgspec.inspect.StrType():
            return "äöü"
        case msgspec.inspect.BytesType():
            return b"\0\1\xff"
    raise NotImplementedError(info)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_each_message_survives_the_wire(kind: type) -> None:
    message = example(kind)
    frame = msgspec.msgpack.encode(message)
    assert msgspec.msgpack.decode(frame, type=kind) == message


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_message_can_be_changed_after_birth(kind: type) -> None:
    message = example(kind)
    for name in kind.__struct_fields__:
        with pytest.raises(AttributeError):
            setattr(message, name, None)


def test_a_decode_step_of_64_rows_stays_under_a_kilobyte() -> None:
    batch = Batch(1 << 60, 1000, (), (), tuple(BatchRow(1000 + i, 1) for i in range(64)))
    assert len(msgspec.msgpack.encode(batch)) < 1000


def test_an_admission_carries_what_a_worker_must_know() -> None:
    admission = Admission(7, (1, 2, 3), 2, SamplingParams(seed=5, stop=("x",)), "sql")
    batch = Batch(1, 2, (3,), (admission,), (BatchRow(7, 3, (0,)),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(batch), type=Batch) == batch

"""Random Protocol Buffers message types, and messages of them, made by Google's library."""

from __future__ import annotations

from typing import Any

from google.protobuf import descriptor_pb2, duration_pb2, timestamp_pb2, wrappers_pb2
from hypothesis import strategies as st

from merganser.schema.protobuf import Message

F = descriptor_pb2.FieldDescriptorProto
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
SCALARS: dict[int, st.SearchStrategy[Any]] = {
    F.TYPE_DOUBLE: st.floats(),
    F.TYPE_FLOAT: st.floats(width=32),
    F.TYPE_INT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_UINT64: st.integers(0, 2**64 - 1),
    F.TYPE_INT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_FIXED64: st.integers(0, 2**64 - 1),
    F.TYPE_FIXED32: st.integers(0, 2**32 - 1),
    F.TYPE_BOOL: st.booleans(),
    F.TYPE_STRING: TEXT,
    F.TYPE_BYTES: st.binary(max_size=12),
    F.TYPE_UINT32: st.integers(0, 2**32 - 1),
    F.TYPE_SFIXED32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_SFIXED64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_SINT32: st.integers(-(2**31), 2**31 - 1),
    F.TYPE_SINT64: st.integers(-(2**63), 2**63 - 1),
    F.TYPE_ENUM: st.sampled_from([0, 3, -2, 77]),  # 77 has no name
}
KEYS = [F.TYPE_STRING, F.TYPE_INT32, F.TYPE_INT64, F.TYPE_BOOL, F.TYPE_SINT64, F.TYPE_FIXED32]
MICROS = st.integers(0, 999_999).map(lambda micros: micros * 1000)
KNOWN = {
    ".google.protobuf.Timestamp": st.builds(
        timestamp_pb2.Timestamp, seconds=st.integers(-62135596800, 253402300799), nanos=MICROS
    ),
    ".google.protobuf.Duration": st.one_of(
        st.builds(duration_pb2.Duration, seconds=st.integers(0, 9 * 10**9), nanos=MICROS),
        st.builds(duration_pb2.Duration, seconds=st.integers(-9 * 10**9, 0), nanos=MICROS.map(lambda nanos: -nanos)),
    ),
    ".google.protobuf.StringValue": st.builds(wrappers_pb2.StringValue, value=TEXT),
    ".google.protobuf.Int64Value": st.builds(wrappers_pb2.Int64Value, value=st.integers(-(2**63), 2**63 - 1)),
    ".google.protobuf.BoolValue": st.builds(wrappers_pb2.BoolValue, value=st.booleans()),
}
FILES = [timestamp_pb2, duration_pb2, wrappers_pb2]


@st.composite
def message_types(draw: st.DrawFn) -> Message:
    """A message ``t.M``, with a message ``t.I`` that it may contain."""
    file = descriptor_pb2.FileDescriptorProto(name="t.proto", package="t", syntax="proto3")
    file.dependency.extend(f.DESCRIPTOR.name for f in FILES)
    kind = file.enum_type.add(name="E")
    for name, number in (("ZERO", 0), ("THREE", 3), ("MINUS", -2)):
        kind.value.add(name=name, number=number)
    inner = file.message_type.add(name="I")
    _fields(draw, inner, draw(st.integers(1, 3)), [])
    outer = file.message_type.add(name="M")
    _fields(draw, outer, draw(st.integers(1, 7)), [".t.I", *KNOWN])
    made = descriptor_pb2.FileDescriptorSet()
    for known in FILES:
        known.DESCRIPTOR.CopyToProto(made.file.add())
    made.file.append(file)
    return Message("t.M", made.SerializeToString())


def _fields(draw: st.DrawFn, message: Any, count: int, messages: list[str]) -> None:
    numbers = draw(st.lists(st.integers(1, 40) | st.integers(1, 2**29 - 1).filter(lambda n: not 19000 <= n < 20000),
                            min_size=count, max_size=count, unique=True))  # fmt: skip
    for i, number in enumerate(numbers):
        shape = draw(st.sampled_from(["plain", "plain", "optional", "repeated", "map", "oneof"]))
        field = message.field.add(name=f"f{i}", number=number, label=F.LABEL_OPTIONAL)
        if shape == "map":
            entry = message.nested_type.add(name=f"F{i}Entry")
            entry.options.map_entry = True
            entry.field.add(name="key", number=1, label=F.LABEL_OPTIONAL, type=draw(st.sampled_from(KEYS)))
            _type(draw, entry.field.add(name="value", number=2, label=F.LABEL_OPTIONAL), messages[:1])
            field.label, field.type = F.LABEL_REPEATED, F.TYPE_MESSAGE
            field.type_name = f".t.{message.name}.F{i}Entry"
            continue
        _type(draw, field, messages)
        if shape == "repeated":
            field.label = F.LABEL_REPEATED
            if field.type not in (F.TYPE_STRING, F.TYPE_BYTES, F.TYPE_MESSAGE) and draw(st.booleans()):
                field.options.packed = False
        elif shape == "oneof":
            if not message.oneof_decl:
                message.oneof_decl.add(name="pick")
            field.oneof_index = 0
    for field in message.field:
        plain = field.label == F.LABEL_OPTIONAL and not field.HasField("oneof_index") and field.type != F.TYPE_MESSAGE
        if plain and draw(st.booleans()):
            field.proto3_optional = True
            field.oneof_index = len(message.oneof_decl)
            message.oneof_decl.add(name=f"_{field.name}")


def _type(draw: st.DrawFn, field: Any, messages: list[str]) -> None:
    if messages and draw(st.integers(0, 2)) == 0:
        field.type, field.type_name = F.TYPE_MESSAGE, draw(st.sampled_from(messages))
    else:
        field.type = draw(st.sampled_from(list(SCALARS)))
        if field.type == F.TYPE_ENUM:
            field.type_name = ".t.E"


@st.composite
def messages(draw: st.DrawFn, of: Message) -> Any:
    made = of.kind()
    _fill(draw, made)
    return made


def _fill(draw: st.DrawFn, made: Any) -> None:
    for field in made.DESCRIPTOR.fields:
        if not draw(st.booleans()):
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
            for k in draw(st.lists(SCALARS[key.type], max_size=3)):
                if value.message_type is not None:
                    _fill(draw, getattr(made, field.name)[k])
                else:
                    getattr(made, field.name)[k] = draw(SCALARS[value.type])
        elif field.is_repeated:
            for _ in range(draw(st.integers(0, 3))):
                if field.message_type is None:
                    getattr(made, field.name).append(draw(SCALARS[field.type]))
                else:
                    _one(draw, field, getattr(made, field.name).add())
        elif field.message_type is not None:
            getattr(made, field.name).SetInParent()
            _one(draw, field, getattr(made, field.name))
        else:
            setattr(made, field.name, draw(SCALARS[field.type]))


def _one(draw: st.DrawFn, field: Any, made: Any) -> None:
    known = KNOWN.get(f".{field.message_type.full_name}")
    if known is None:
        _fill(draw, made)
    else:
        made.ParseFromString(draw(known).SerializeToString())

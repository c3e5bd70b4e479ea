"""Rows as Protocol Buffers messages, many at once, byte by byte as Google's library writes them (protobuf.dev, "Encoding").

A NULL is an absent field, and so only where a field can be absent: a list, a map, or a plain field without ``optional`` is
read back as empty or zero, which would be another value.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from merganser.codecs.cursor import Flags
from merganser.codecs.encoding.pieces import (
    Trouble,
    Values,
    as_array,
    elements,
    encoded_long,
    fixed,
    gathered,
    joined,
    lengths,
    nothing,
    scattered,
    sized,
    split,
    text_bytes,
    varints,
)
from merganser.schema.protobuf import DURATION, FREE, TIMESTAMP, WRAPPERS, Message, is_json, is_map, nullable

VARINT, FIXED64, LENGTH, GROUP, END, FIXED32 = 0, 1, 2, 3, 4, 5
"""Wire types."""

NEVER = "which Protocol Buffers cannot say here: an absent one is read as {zero}; coalesce() it, or make the field optional"
LEAST, MOST = -62_135_596_800, 253_402_300_799
"""Seconds of a Timestamp: the years 1 to 9999."""


def messages(message: Message, table: pa.Table, trouble: Trouble) -> pa.BinaryArray:
    """A message for each row; of a row that is in trouble some bytes. ``table`` has the columns that the message declares."""
    rows = np.arange(len(table))
    columns = {f.name: Values(as_array(table, f.name), rows, f.name, trouble) for f in message.descriptor.fields}
    return _fields(message.descriptor, columns, len(table))


def _fields(descriptor: Descriptor, parts: dict[str, Values], count: int) -> pa.BinaryArray:
    members: dict[str, Flags] = {}
    made = []
    for field in sorted(descriptor.fields, key=lambda f: f.number):
        values = parts[field.name]
        made.append(_field(field, values))
        if field.containing_oneof is not None:
            name = field.containing_oneof.name
            there = values.there()
            twice = members.get(name, np.zeros(count, np.bool_)) & there
            values.refuse(twice, "wrong type", f"and another member of the oneof {name}, which takes one")
            members[name] = members.get(name, np.zeros(count, np.bool_)) | there
    return joined(*made) if made else nothing(count)


def _field(field: FieldDescriptor, values: Values) -> pa.BinaryArray:
    if is_map(field):
        entries, count = elements(values.required(NEVER.format(zero="an empty map")))
        return gathered(_tagged(field, LENGTH, sized(_entry(field, entries))), count)
    if field.is_repeated:
        items, count = elements(values.required(NEVER.format(zero="an empty list")))
        bare = _one(field, items.required("and a repeated field has no absent elements"))
        if not field.is_packed:
            return gathered(_whole(field, bare), count)
        some = np.flatnonzero(count)
        return scattered([(some, _tagged(field, LENGTH, sized(gathered(bare, count[count > 0]))))], len(values))
    if nullable(field):
        there = values.there()
        rows = np.flatnonzero(there)
        mine = values if len(rows) == len(values) else values.take(rows)
        return scattered([(rows, _whole(field, _one(field, mine)))], len(values))
    if field.is_required:
        return _whole(field, _one(field, values.required("and the field is required")))
    values = values.required(NEVER.format(zero="zero"))
    return _without_zeros(field, values)


def _without_zeros(field: FieldDescriptor, values: Values) -> pa.BinaryArray:
    """A field without presence is not written where it is zero."""
    rows = np.flatnonzero(_not_zero(field, values.array))
    mine = values if len(rows) == len(values) else values.take(rows)
    return scattered([(rows, _whole(field, _one(field, mine)))], len(values))


def _not_zero(field: FieldDescriptor, array: pa.Array) -> Flags:
    if pa.types.is_string(array.type) and field.type == FieldDescriptor.TYPE_ENUM:
        zero = field.enum_type.values_by_number.get(0)
        found: Flags = pc.not_equal(array, zero.name if zero is not None else "0").to_numpy(zero_copy_only=False)
        return found
    if pa.types.is_string(array.type) or pa.types.is_binary(array.type):
        return lengths(array) > 0
    numbers = array.to_numpy(zero_copy_only=False)
    # A zero below zero is no zero: it is another value.
    some: Flags = numbers.view(f"i{numbers.itemsize}") != 0 if pa.types.is_floating(array.type) else numbers != 0
    return some


def _entry(field: FieldDescriptor, entries: Values) -> pa.BinaryArray:
    """Entries of a map: the key and the value are always written."""
    key, value = split(entries)
    fields = field.message_type.fields_by_name
    value = Values(value.array, value.rows, entries.path, value.trouble).required("and a value of a map cannot be absent")
    return joined(_whole(fields["key"], _one(fields["key"], key)), _whole(fields["value"], _one(fields["value"], value)))


def _whole(field: FieldDescriptor, bare: pa.BinaryArray) -> pa.BinaryArray:
    if field.type == FieldDescriptor.TYPE_GROUP:
        return joined(_tag(field, GROUP), bare, _tag(field, END))
    if field.message_type is not None:
        return _tagged(field, LENGTH, sized(bare))
    return _tagged(field, WIRES.get(field.type, VARINT), bare)


def _tagged(field: FieldDescriptor, wire: int, parts: pa.BinaryArray) -> pa.BinaryArray:
    return joined(_tag(field, wire), parts)


def _tag(field: FieldDescriptor, wire: int) -> bytes:
    return encoded_long(field.number << 3 | wire, zigzag=False)


# -- one value ----------------------------------------------------------------------------------------------------------


def _one(field: FieldDescriptor, values: Values) -> pa.BinaryArray:
    """Values without tag; messages without their length."""
    descriptor = field.message_type
    if not len(values):
        return nothing(0)
    if descriptor is None:
        return _enum(field, values) if field.type == FieldDescriptor.TYPE_ENUM else SCALARS[field.type](values)
    if descriptor.full_name in (TIMESTAMP, DURATION):
        return _moment(descriptor, values)
    if descriptor.full_name in WRAPPERS:
        return _without_zeros(descriptor.fields_by_name["value"], values)
    if is_json(descriptor):
        return _json(descriptor, values)
    return _fields(descriptor, {f.name: part for f, part in zip(descriptor.fields, split(values))}, len(values))


def _moment(descriptor: Descriptor, values: Values) -> pa.BinaryArray:
    if descriptor.full_name == TIMESTAMP:
        second = 1_000_000_000 if values.array.type.unit == "ns" else 1_000_000
        seconds, rest = np.divmod(values.numbers(), second)
        nanos = rest * (1_000_000_000 // second)
        values.refuse((seconds < LEAST) | (seconds > MOST), "out of range", "and a Timestamp is of the years 1 to 9999")
    else:
        parts = np.frombuffer(values.array.buffers()[1], np.int32).reshape(-1, 4)[values.array.offset :][: len(values)]
        whole = np.ascontiguousarray(parts[:, 2:]).view(np.int64)[:, 0]
        seconds = parts[:, 1].astype(np.int64) * 86_400 + whole // 1_000_000_000
        nanos = whole % 1_000_000_000
        values.refuse(parts[:, 0] != 0, "out of range", "and a Duration has no months, whose lengths differ")
        mixed = (seconds < 0) & (nanos > 0)  # both have one sign
        seconds, nanos = seconds + mixed, nanos - mixed * 1_000_000_000
    fields = descriptor.fields_by_name
    return joined(
        _without_zeros(fields["seconds"], values.of(pa.array(seconds))),
        _without_zeros(fields["nanos"], values.of(pa.array(nanos.astype(np.int32)))),
    )


def _enum(field: FieldDescriptor, values: Values) -> pa.BinaryArray:
    """By name; a number that has none as its digits, as it is read."""
    kind = field.enum_type
    place = pc.index_in(values.array, pa.array([v.name for v in kind.values], pa.utf8()))
    at = place.fill_null(0).to_numpy()
    numbers = np.array([v.number for v in kind.values], np.int64)[at]
    unnamed = np.flatnonzero(place.is_null().to_numpy(zero_copy_only=False))
    wrong = np.zeros(len(values), np.bool_)
    for i in unnamed.tolist():
        text = values.array[i].as_py()
        free = not kind.is_closed and text.removeprefix("-").isdecimal() and -(1 << 31) <= int(text) < 1 << 31
        wrong[i] = not free or int(text) in kind.values_by_number
        numbers[i] = 0 if wrong[i] else int(text)
    values.refuse(wrong, "wrong type", f"and the values are {', '.join(v.name for v in kind.values)}")
    return varints(numbers.view(np.uint64))


def _json(descriptor: Descriptor, values: Values) -> pa.BinaryArray:
    kind = message_factory.GetMessageClass(descriptor)
    made = []
    for at, text in enumerate(values.array.to_pylist()):
        message: Any = kind()
        try:
            json_format.Parse(text or "null", message)
            if descriptor.full_name in FREE and json_format.MessageToDict(message) != json.loads(text or "null"):
                raise json_format.ParseError("it has numbers that are no DOUBLE, or a key twice")
            if not message.IsInitialized():
                raise json_format.ParseError("a required field is missing")
        except (json_format.ParseError, ValueError, RecursionError) as error:
            why = f"{values.path}: found {text[:60]}, which is no {descriptor.full_name}: {error}"
            values.trouble.of.setdefault(int(values.rows[at]), ("wrong type", why))
        made.append(message.SerializePartialToString(deterministic=True))
    return pa.array(made, pa.binary())


def _signed(values: Values) -> pa.BinaryArray:
    return varints(values.array.to_numpy().astype(np.int64).view(np.uint64))


def _unsigned(values: Values) -> pa.BinaryArray:
    return varints(values.array.to_numpy().astype(np.uint64))


def _zigzag(values: Values) -> pa.BinaryArray:
    number = values.array.to_numpy().astype(np.int64)
    return varints(((number << 1) ^ (number >> 63)).view(np.uint64))


def _fixed(values: Values) -> pa.BinaryArray:
    return fixed(np.ascontiguousarray(values.array.to_numpy()))


def _flag(values: Values) -> pa.BinaryArray:
    return varints(values.array.cast(pa.uint8()).to_numpy().astype(np.uint64))


def _text(values: Values) -> pa.BinaryArray:
    return sized(text_bytes(values))


F = FieldDescriptor
SCALARS: dict[int, Callable[[Values], pa.BinaryArray]] = {
    F.TYPE_DOUBLE: _fixed, F.TYPE_FLOAT: _fixed, F.TYPE_INT64: _signed, F.TYPE_UINT64: _unsigned, F.TYPE_INT32: _signed,
    F.TYPE_UINT32: _unsigned, F.TYPE_SINT32: _zigzag, F.TYPE_SINT64: _zigzag, F.TYPE_BOOL: _flag, F.TYPE_FIXED64: _fixed,
    F.TYPE_SFIXED64: _fixed, F.TYPE_FIXED32: _fixed, F.TYPE_SFIXED32: _fixed, F.TYPE_STRING: _text, F.TYPE_BYTES: _text,
}  # fmt: skip
WIRES: dict[int, int] = {
    F.TYPE_DOUBLE: FIXED64, F.TYPE_FIXED64: FIXED64, F.TYPE_SFIXED64: FIXED64, F.TYPE_FLOAT: FIXED32, F.TYPE_FIXED32: FIXED32,
    F.TYPE_SFIXED32: FIXED32, F.TYPE_STRING: LENGTH, F.TYPE_BYTES: LENGTH,
}  # fmt: skip
"""Wire types other than VARINT."""

"""Protocol Buffers messages one by one, by Google's library: what they are, and what is wrong with those that are none."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa
from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import DecodeError

from merganser.codecs.binary import MAX_ELEMENTS, Broken
from merganser.schema.protobuf import DURATION, TIMESTAMP, WRAPPERS, Message, is_json, is_map, nullable

LEAST, MOST = -62_135_596_800, 253_402_300_799
"""Seconds of a Timestamp: the years 1 to 9999."""

LONGEST = 9_223_372_036
"""Seconds of a Duration that an INTERVAL can be: 292 years."""

FRACTION = 999_999_999


def is_fine(kind: pa.DataType | None) -> bool:
    """Whether a type holds nanoseconds."""
    return kind is not None and pa.types.is_timestamp(kind) and kind.unit == "ns"


def parsed(message: Message, raw: bytes, kind: pa.StructType) -> dict[str, Any]:
    """The values of a message by field, as ``binary.array`` takes them for this type. Raises Broken."""
    try:
        made = message.kind.FromString(raw)
    except DecodeError as error:
        said = str(error)
        if "UTF-8" in said:
            raise Broken("not utf-8", said) from None
        raise Broken("not protobuf", f"the bytes are no {message.name}: {said}") from None
    except ValueError as error:  # a message that is too large
        raise Broken("not protobuf", str(error)) from None
    if not made.IsInitialized():
        raise Broken("missing field", f"{', '.join(made.FindInitializationErrors())} is required")
    if len(raw) > MAX_ELEMENTS and (count := _elements(made)) > MAX_ELEMENTS:
        raise Broken("too many elements", f"{count:,} elements; at most {MAX_ELEMENTS:,} are taken of one record")
    return _fields(made, message.descriptor, kind)


def _elements(made: Any) -> int:
    """How many elements its repeated fields have, those of messages within it too; counting ends where they are too many."""
    count = 0
    for field, value in made.ListFields():
        if is_map(field):
            count += len(value)
            inner: Any = value.values() if field.message_type.fields_by_name["value"].message_type else ()
        else:
            count += len(value) if field.is_repeated else 0
            inner = () if field.message_type is None else value if field.is_repeated else (value,)
        if count > MAX_ELEMENTS:
            break
        count += sum(map(_elements, inner))
    return count


def _fields(made: Any, descriptor: Descriptor, kind: pa.StructType) -> dict[str, Any]:
    return {f.name: _value(made, f, kind.field(f.name).type) for f in descriptor.fields}


def _value(made: Any, field: FieldDescriptor, kind: pa.DataType) -> Any:
    if is_map(field):
        key, value = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        found = getattr(made, field.name)
        one, other = kind.key_type, kind.item_type
        return [(_one(k, key, one), _one(found[k], value, other)) for k in sorted(found)]  # the library's own order is any
    if field.is_repeated:
        return [_one(v, field, kind.value_type) for v in getattr(made, field.name)]
    if (nullable(field) or field.message_type is not None) and not made.HasField(field.name):
        return None
    try:
        return _one(getattr(made, field.name), field, kind)
    except UnicodeDecodeError as error:
        raise Broken("not utf-8", f"field {field.name}: {error}") from None


def _one(value: Any, field: FieldDescriptor, kind: pa.DataType) -> Any:
    if field.type == FieldDescriptor.TYPE_ENUM:
        known = field.enum_type.values_by_number.get(value)
        return known.name if known is not None else str(value)
    descriptor = field.message_type
    if descriptor is None:
        return value
    if descriptor.full_name in (TIMESTAMP, DURATION) and not pa.types.is_struct(kind):
        return _moment(value, field, kind)
    if descriptor.full_name in WRAPPERS:
        return value.value
    if is_json(descriptor):
        try:
            tree = json_format.MessageToDict(value, preserving_proto_field_name=True)
        except (json_format.Error, ValueError, TypeError) as error:
            raise Broken("wrong type", f"field {field.name} has no form in JSON: {error}") from None
        return json.dumps(_whole(tree), ensure_ascii=False)
    return _fields(value, descriptor, kind)


def _whole(tree: Any) -> Any:
    """Numbers without a fraction as such: JSON of these messages knows DOUBLEs only, and ``1.0`` is ``1``."""
    if isinstance(tree, dict):
        return {key: _whole(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [_whole(value) for value in tree]
    return int(tree) if isinstance(tree, float) and tree.is_integer() and abs(tree) < 1 << 53 else tree


def _moment(value: Any, field: FieldDescriptor, kind: pa.DataType) -> Any:
    """A Timestamp as the number that Arrow has for it, a Duration as an INTERVAL."""
    seconds, nanos = int(value.seconds), int(value.nanos)
    duration, fine = pa.types.is_interval(kind), is_fine(kind)
    least, most = (-LONGEST, LONGEST) if duration else (-LONGEST, LONGEST - 1) if fine else (LEAST, MOST)
    signed = seconds * nanos >= 0 if duration else nanos >= 0
    said = f"field {field.name}: {seconds} seconds and {nanos} nanoseconds are"
    if not (least <= seconds <= most and abs(nanos) <= FRACTION and signed):
        years = "1678 and 2261" if fine else "1 and 9999"
        what = "Duration of at most 292 years" if duration else f"Timestamp between the years {years}"
        raise Broken("out of range", f"{said} no {what}")
    if nanos % 1000 and not fine:
        finer, remedy = ("INTERVAL", "") if duration else ("TIMESTAMPTZ", "TIMESTAMPTZ_NS, or ")
        remedy += "STRUCT(seconds BIGINT, nanos INTEGER)"
        raise Broken("out of range", f"{said} finer than {finer}; types= of the source may declare it {remedy}")
    whole = seconds * 1_000_000_000 + nanos
    return pa.MonthDayNano([0, 0, whole]) if duration else whole if fine else whole // 1000

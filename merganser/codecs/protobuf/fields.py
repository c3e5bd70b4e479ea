"""Protocol Buffers messages, many side by side: the fields in the order of their numbers, as all writers write them.

What is legal but done by no writer (fields out of order or twice, groups, a oneof with two members) is marked, and read by
Google's library instead, as is all that is not legal; so that a message never has another value than it has there.
Format: protobuf.dev, "Encoding".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from merganser.codecs.cursor import Cursor, Flags, Ints
from merganser.codecs.protobuf.elements import FIXED32, FIXED64, LENGTH, NUMBERS, VARINT, Element, Enum
from merganser.codecs.protobuf.reference import FRACTION, LEAST, LONGEST, MOST, is_fine
from merganser.schema import arrow_type
from merganser.schema.protobuf import DURATION, TIMESTAMP, WRAPPERS, is_json, is_map, nullable

ROUNDS = 1024
"""Elements of a repeated field up to which they are read side by side."""

NONE = -1
"""The tag of a message that has come to its end."""


@dataclass
class Inner:
    """A message within a message."""

    node: Body
    zero: Any = None
    wire: int = LENGTH

    @property
    def type(self) -> pa.DataType:
        return self.node.type

    def read(self, c: Cursor) -> pa.Array:
        start, size = c.span(c.varint().view(np.int64))
        inner = Cursor(c.data, start.copy(), start + size, c.ok.copy())
        values = self.node.read(inner)
        c.refuse(~inner.ok)
        return values


class Body(Protocol):
    """Reads whole messages, from where the cursor stands to its end."""

    @property
    def type(self) -> pa.DataType: ...

    def read(self, c: Cursor) -> pa.Array: ...


# -- messages -----------------------------------------------------------------------------------------------------------


@dataclass
class Field:
    """A field of a message. ``map``: its element is an entry of two fields."""

    name: str
    number: int
    element: Element
    repeated: bool
    presence: bool
    required: bool
    oneof: str | None
    map: bool = False

    @property
    def tag(self) -> int:
        return self.number << 3 | self.element.wire

    @property
    def type(self) -> pa.DataType:
        if self.map:
            key, value = self.element.type
            return pa.map_(key.type, value.type)
        return pa.list_(pa.field("l", self.element.type)) if self.repeated else self.element.type


class Record:
    """A message as a struct, one field after the other."""

    def __init__(self, descriptor: Descriptor, wanted: pa.DataType | None = None) -> None:
        """``wanted``: the struct that it is declared to be, where that may matter (``body``)."""
        self.names = [f.name for f in descriptor.fields]
        made = [_field(f, _part(wanted, f.name)) for f in descriptor.fields]
        self.fields = sorted(made, key=lambda f: f.number)
        self._known = np.array([f.number for f in self.fields])
        self.closed = False
        """Whether a field that the schema does not have is left to the reference library."""
        self.type = pa.struct([pa.field(f.name, f.type) for f in made])

    def read(self, c: Cursor) -> pa.Array:
        return pa.StructArray.from_arrays(self.columns(c), fields=list(self.type))

    def columns(self, c: Cursor) -> list[pa.Array]:
        tags = _next(c)
        found: dict[str, pa.Array] = {}
        oneofs: dict[str, Ints] = {}
        for field in self.fields:
            self._skip_unknown(c, tags, field.number)
            if field.repeated:
                found[field.name] = _repeated(c, tags, field)
                continue
            found[field.name], there = _single(c, tags, field)
            if field.required:
                c.refuse(~there)
            if field.oneof:
                oneofs[field.oneof] = oneofs.get(field.oneof, np.zeros(len(c), np.int64)) + there
        self._skip_unknown(c, tags, 1 << 29)
        c.refuse(tags != NONE)
        for members in oneofs.values():
            c.refuse(members > 1)
        return [found[name] for name in self.names]

    def _skip_unknown(self, c: Cursor, tags: Ints, below: int) -> None:
        """Read past fields that the schema does not have, before the field of number ``below``."""
        while len(rows := np.flatnonzero((tags >> 3 < below) & (tags != NONE))):
            sub = c.some(rows)
            tag = tags[rows]
            # Out of order, twice, or of another type than declared.
            sub.refuse(np.isin(tag >> 3, self._known) | self.closed)
            for wire, step in SKIPS.items():
                some = np.flatnonzero((tag & 7 == wire) & sub.ok)
                if len(some):
                    inner = sub.some(some)
                    step(inner)
                    sub.join(some, inner)
            sub.refuse((tag & 7 == 3) | (tag & 7 == 4) | (tag & 7 > 5))
            tags[rows] = _next(sub)
            c.join(rows, sub)


SKIPS: dict[int, Callable[[Cursor], Any]] = {
    VARINT: lambda c: c.skip_varint(),
    FIXED64: lambda c: c.skip(8),
    LENGTH: lambda c: c.span(c.varint().view(np.int64)),
    FIXED32: lambda c: c.skip(4),
}


def _next(c: Cursor) -> Ints:
    """The next tag of each message; NONE at its end."""
    there = c.at < c.end
    count = np.count_nonzero(there)
    if count == len(c):
        tags = c.varint().view(np.int64)
        c.refuse((tags < 8) | (tags >= 1 << 32))
        return np.where(c.ok, tags, NONE) if not c.ok.all() else tags
    tags = np.full(len(c), NONE)
    if count:
        rows = np.flatnonzero(there)
        sub = c.some(rows)
        tags[rows] = _next(sub)
        c.join(rows, sub)
    return tags


def _single(c: Cursor, tags: Ints, field: Field) -> tuple[pa.Array, Flags]:
    """The values of a field that stands once, and which messages have it."""
    there = tags == field.tag
    rows = np.flatnonzero(there)
    if len(rows) == len(c) and len(rows):
        values = field.element.read(c)
        tags[:] = _next(c)
        return values, there
    kind, zero = field.element.type, field.element.zero
    if not len(rows):
        values = pa.nulls(len(c), kind)
        return (values if field.presence else pc.fill_null(values, pa.scalar(zero, kind))), there
    sub = c.some(rows)
    values = field.element.read(sub)
    tags[rows] = _next(sub)
    c.join(rows, sub)
    place = np.full(len(c), -1, np.int64)
    place[rows] = np.arange(len(rows))
    values = values.take(pa.array(place, mask=~there))
    return (values if field.presence else pc.fill_null(values, pa.scalar(zero, kind))), there


def _repeated(c: Cursor, tags: Ints, field: Field) -> pa.Array:
    """The values of a repeated field: an element a round, or all of a message at once where they are packed."""
    pieces: list[tuple[Ints, pa.Array]] = []
    packed = field.number << 3 | LENGTH if field.element.wire != LENGTH else None
    for round_ in range(ROUNDS + 1):
        rows = np.flatnonzero((tags == field.tag) | (tags == (packed or field.tag)))
        if not len(rows):
            break
        sub = c.some(rows)
        if round_ == ROUNDS:
            sub.refuse(np.ones(len(sub), np.bool_))
            tags[rows] = NONE
        elif packed is None:
            pieces.append((rows, field.element.read(sub)))
        else:
            plain = np.flatnonzero(tags[rows] == field.tag)
            if len(plain):
                one = sub.some(plain)
                pieces.append((rows[plain], field.element.read(one)))
                sub.join(plain, one)
            many = np.flatnonzero(tags[rows] == packed)
            if len(many):
                several = sub.some(many)
                pieces += _packed(several, rows[many], field.element)
                sub.join(many, several)
        if round_ < ROUNDS:
            tags[rows] = _next(sub)
        c.join(rows, sub)
    return _lists(c, pieces, field)


def _packed(c: Cursor, rows: Ints, element: Element) -> list[tuple[Ints, pa.Array]]:
    start, size = c.span(c.varint().view(np.int64))
    inner = Cursor(c.data, start.copy(), start + size, c.ok.copy())
    pieces = []
    for _ in range(ROUNDS):
        open_ = np.flatnonzero((inner.at < inner.end) & inner.ok)
        if not len(open_):
            break
        sub = inner.some(open_)
        pieces.append((rows[open_], element.read(sub)))
        inner.join(open_, sub)
    c.refuse(~inner.ok | (inner.at < inner.end))
    return pieces


def _lists(c: Cursor, pieces: Sequence[tuple[Ints, pa.Array]], field: Field) -> pa.Array:
    row = np.concatenate([np.zeros(0, np.int64), *(rows for rows, _ in pieces)])
    offsets = np.zeros(len(c) + 1, np.int32)
    np.cumsum(np.bincount(row, minlength=len(c)), out=offsets[1:])
    order = np.argsort(row, kind="stable")
    values = pa.concat_arrays([pa.nulls(0, field.element.type), *(values for _, values in pieces)]).take(pa.array(order))
    if not field.map:
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=field.type)
    keys = values.field(0)
    c.refuse(_repeats(row[order], keys, len(c)))
    return pa.MapArray.from_arrays(pa.array(offsets), keys, values.field(1))


def _repeats(row: Ints, keys: pa.Array, count: int) -> Flags:
    """Which messages have a map with a key twice; the last one is what counts then."""
    codes = keys.dictionary_encode()
    pairs = np.sort(row * max(1, len(codes.dictionary)) + codes.indices.to_numpy())
    twice = pairs[1:][pairs[1:] == pairs[:-1]]
    found = np.zeros(count, np.bool_)
    if len(twice):
        found[twice // len(codes.dictionary)] = True
    return found


# -- messages with a meaning --------------------------------------------------------------------------------------------


class Moment:
    """A Timestamp, in microseconds or (``fine``) nanoseconds, and a Duration, in microseconds; what is finer is refused."""

    def __init__(self, descriptor: Descriptor, fine: bool) -> None:
        self._parts = Record(descriptor)
        self._duration, self._fine = descriptor.full_name == DURATION, fine
        self.type = arrow_type("INTERVAL" if self._duration else "TIMESTAMPTZ_NS" if fine else "TIMESTAMPTZ")

    def read(self, c: Cursor) -> pa.Array:
        seconds, nanos = (column.to_numpy() for column in self._parts.columns(c))
        nanos = nanos.astype(np.int64)
        if self._duration:
            c.refuse((abs(seconds) > LONGEST) | (abs(nanos) > FRACTION) | (seconds * nanos < 0))
        else:
            least, most = (-LONGEST, LONGEST - 1) if self._fine else (LEAST, MOST)
            c.refuse((seconds < least) | (seconds > most) | (nanos < 0) | (nanos > FRACTION))
        if self._fine:
            return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(seconds * 1_000_000_000 + nanos)])
        micros = nanos // 1000
        c.refuse(micros * 1000 != nanos)
        micros += seconds * 1_000_000
        if not self._duration:
            return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(micros)])
        halves = np.zeros((len(c), 2), np.int64)
        halves[:, 1] = micros * 1000
        return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(halves)])


class Wrapper:
    """``google.protobuf.Int64Value`` and its like: the value itself, where absent is NULL."""

    def __init__(self, descriptor: Descriptor) -> None:
        self._parts = Record(descriptor)
        self.type = self._parts.fields[0].type

    def read(self, c: Cursor) -> pa.Array:
        return self._parts.columns(c)[0]


class Unread:
    """What is read by Google's library alone: messages that are JSON, and groups."""

    def __init__(self, kind: pa.DataType) -> None:
        self.type = kind

    def read(self, c: Cursor) -> pa.Array:
        c.refuse(np.ones(len(c), np.bool_))
        return pa.nulls(len(c), self.type)


class Group:
    """A group, which begins with a wire type that nothing else has."""

    wire = 3
    zero = None

    def __init__(self, kind: pa.DataType) -> None:
        self.type = kind

    def read(self, c: Cursor) -> pa.Array:
        c.refuse(np.ones(len(c), np.bool_))
        return pa.nulls(len(c), self.type)


# -- from descriptors ---------------------------------------------------------------------------------------------------


def _part(wanted: pa.DataType | None, name: str) -> pa.DataType | None:
    """The type of a field of a struct, if it has that."""
    if wanted is None or not pa.types.is_struct(wanted) or wanted.get_field_index(name) < 0:
        return None
    return wanted.field(name).type


def _field(field: FieldDescriptor, wanted: pa.DataType | None) -> Field:
    oneof = field.containing_oneof.name if field.containing_oneof is not None else None
    presence = nullable(field) or field.is_required
    return Field(
        field.name, field.number, _element(field, wanted), field.is_repeated, presence, field.is_required, oneof, is_map(field)
    )


def _element(field: FieldDescriptor, wanted: pa.DataType | None) -> Element:
    if field.type == FieldDescriptor.TYPE_ENUM:
        return Enum(field)
    if field.message_type is None:
        return NUMBERS[field.type]()
    if field.type == FieldDescriptor.TYPE_GROUP:
        return Group(Record(field.message_type).type)
    if is_map(field):
        return Inner(Entry(field.message_type, wanted))
    if field.is_repeated:
        wanted = wanted.value_type if wanted is not None and pa.types.is_list(wanted) else None
    return Inner(body(field.message_type, wanted))


def body(descriptor: Descriptor, wanted: pa.DataType | None) -> Body:
    """The reader of a message within another. A Timestamp or Duration that is declared as a STRUCT is its two fields."""
    if descriptor.full_name in (TIMESTAMP, DURATION) and not (wanted is not None and pa.types.is_struct(wanted)):
        return Moment(descriptor, descriptor.full_name == TIMESTAMP and is_fine(wanted))
    if descriptor.full_name in WRAPPERS:
        return Wrapper(descriptor)
    return Unread(pa.utf8()) if is_json(descriptor) else Record(descriptor, wanted)


class Entry:
    """An entry of a map: an absent key or value is its type's zero, an absent message an empty one.

    One with an unknown field is for the reference library, which keeps it out of the map.
    """

    def __init__(self, descriptor: Descriptor, wanted: pa.DataType | None) -> None:
        value = wanted.item_type if wanted is not None and pa.types.is_map(wanted) else None
        self._parts = Record(descriptor, None if value is None else pa.struct([pa.field("value", value)]))
        self._parts.closed = True
        for part in self._parts.fields:
            part.presence = part.oneof is not None or part.element.zero is None
        self.type = self._parts.type

    def read(self, c: Cursor) -> pa.Array:
        columns = self._parts.columns(c)
        if columns[1].null_count and self._parts.fields[1].element.zero is None:
            c.refuse(columns[1].is_null().to_numpy(zero_copy_only=False))
        return pa.StructArray.from_arrays(columns, fields=list(self.type))

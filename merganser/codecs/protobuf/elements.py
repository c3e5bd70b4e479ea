"""Values of Protocol Buffers fields: numbers, texts, enums. Many side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from google.protobuf.descriptor import FieldDescriptor

from merganser.codecs.cursor import Cursor, slices

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class Element(Protocol):
    """Reads one value of each message."""

    wire: int

    @property
    def type(self) -> pa.DataType: ...

    @property
    def zero(self) -> Any:
        """What an absent field without presence is; None for a message."""
        ...

    def read(self, c: Cursor) -> pa.Array: ...


@dataclass
class Varint:
    type: pa.DataType
    of: Callable[[Any], Any]
    """Makes the values of unsigned 64-bit numbers."""
    zero: Any = 0
    wire: int = VARINT

    def read(self, c: Cursor) -> pa.Array:
        return pa.array(self.of(c.varint()), self.type)


@dataclass
class Fixed:
    type: pa.DataType
    wire: int
    zero: Any = 0

    def read(self, c: Cursor) -> pa.Array:
        words = c.words()
        c.skip(8 if self.wire == FIXED64 else 4)
        words = words if self.wire == FIXED64 else words.astype(np.uint32)
        return pa.array(words.view(self.type.to_pandas_dtype()))


@dataclass
class Text:
    type: pa.DataType
    wire: int = LENGTH

    @property
    def zero(self) -> Any:
        return "" if pa.types.is_string(self.type) else b""

    def read(self, c: Cursor) -> pa.Array:
        values = slices(c.data, *c.span(c.varint().view(np.int64)))
        if not pa.types.is_string(self.type):
            return values
        try:
            return values.cast(pa.utf8())
        except pa.ArrowInvalid:
            c.refuse(np.ones(len(c), np.bool_))
            return pa.array([""] * len(c), pa.utf8())


class Enum:
    wire = VARINT
    type = pa.utf8()

    def __init__(self, field: FieldDescriptor) -> None:
        by_number = {v.number: v.name for v in reversed(field.enum_type.values)}
        self._numbers = np.array(sorted(by_number), np.int32)
        self._names = pa.array([by_number[n] for n in self._numbers.tolist()])
        self.zero = field.enum_type.values[0].name

    def read(self, c: Cursor) -> pa.Array:
        value = c.varint().astype(np.uint32).view(np.int32)
        at = np.minimum(np.searchsorted(self._numbers, value), len(self._numbers) - 1)
        c.refuse(self._numbers[at] != value)
        return self._names.take(pa.array(at))


def _signed(bits: int) -> Callable[[Any], Any]:
    kind = np.uint32 if bits == 32 else np.uint64
    return lambda value: value.astype(kind, copy=False).view(np.int32 if bits == 32 else np.int64)


def _zigzag(bits: int) -> Callable[[Any], Any]:
    kind: Any = np.uint32 if bits == 32 else np.uint64
    signed: Any = np.int32 if bits == 32 else np.int64

    def of(value: Any) -> Any:
        value = value.astype(kind, copy=False)
        return (value >> kind(1)).view(signed) ^ -(value & kind(1)).view(signed)

    return of


NUMBERS: dict[int, Callable[[], Element]] = {
    FieldDescriptor.TYPE_DOUBLE: lambda: Fixed(pa.float64(), FIXED64, 0.0),
    FieldDescriptor.TYPE_FLOAT: lambda: Fixed(pa.float32(), FIXED32, 0.0),
    FieldDescriptor.TYPE_INT64: lambda: Varint(pa.int64(), _signed(64)),
    FieldDescriptor.TYPE_UINT64: lambda: Varint(pa.uint64(), lambda value: value),
    FieldDescriptor.TYPE_INT32: lambda: Varint(pa.int32(), _signed(32)),
    FieldDescriptor.TYPE_UINT32: lambda: Varint(pa.uint32(), lambda value: value.astype(np.uint32)),
    FieldDescriptor.TYPE_SINT32: lambda: Varint(pa.int32(), _zigzag(32)),
    FieldDescriptor.TYPE_SINT64: lambda: Varint(pa.int64(), _zigzag(64)),
    FieldDescriptor.TYPE_BOOL: lambda: Varint(pa.bool_(), lambda value: value != 0, False),
    FieldDescriptor.TYPE_FIXED64: lambda: Fixed(pa.uint64(), FIXED64),
    FieldDescriptor.TYPE_SFIXED64: lambda: Fixed(pa.int64(), FIXED64),
    FieldDescriptor.TYPE_FIXED32: lambda: Fixed(pa.uint32(), FIXED32),
    FieldDescriptor.TYPE_SFIXED32: lambda: Fixed(pa.int32(), FIXED32),
    FieldDescriptor.TYPE_STRING: lambda: Text(pa.utf8()),
    FieldDescriptor.TYPE_BYTES: lambda: Text(pa.binary()),
}

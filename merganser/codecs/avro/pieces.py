"""Avro values of one piece: numbers, texts, bytes, and what logical types make of them."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs.avro.node import Scan
from merganser.codecs.binary import Broken
from merganser.codecs.cursor import Cursor, Flags, Ints, slices

CANONICAL_UUID = r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"


@dataclass
class Null:
    """Nothing, in a column that can only be NULL: a VARCHAR, as such a one is declared."""

    type: pa.DataType = field(default_factory=pa.utf8)

    def read(self, c: Cursor) -> pa.Array:
        return pa.nulls(len(c), self.type)

    def skip(self, c: Cursor) -> None:
        pass

    def one(self, s: Scan) -> Any:
        return None


@dataclass
class Boolean:
    type: pa.DataType = field(default_factory=pa.bool_)

    def read(self, c: Cursor) -> pa.Array:
        octet = c.octet()
        c.refuse(octet > 1)
        return pa.array(octet == 1)

    def skip(self, c: Cursor) -> None:
        c.refuse(c.octet() > 1)

    def one(self, s: Scan) -> Any:
        octet = s.take(1)[0]
        if octet > 1:
            raise Broken("not avro", f"byte {s.at - 1}: a boolean of {octet}")
        return octet == 1


@dataclass
class Number:
    """``int`` and ``long``, and what logical types make of them: ``factor`` times the number, within ``low`` and ``high``.

    ``part``: what a number is one of, instead: only multiples of it are taken, and divided.
    """

    type: pa.DataType
    low: int
    high: int
    factor: int = 1
    part: int = 1

    def read(self, c: Cursor) -> pa.Array:
        value = c.zigzag()
        if self.low > -(1 << 63) or self.high < (1 << 63) - 1:
            c.refuse((value < self.low) | (value > self.high))
        if not c.ok.all():
            value = np.where(c.ok, value, max(0, self.low))
        if self.factor != 1:
            value = value * self.factor
        if self.part != 1:
            fine, value = value, value // self.part
            c.refuse(value * self.part != fine)
        if pa.types.is_floating(self.type):
            return pa.array(value.astype(self.type.to_pandas_dtype()))
        kind = np.int32 if self.type.bit_width == 32 else np.int64
        return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(value.astype(kind, copy=False))])

    def skip(self, c: Cursor) -> None:
        c.skip_varint()

    def one(self, s: Scan) -> Any:
        value = s.varint()
        if not self.low <= value <= self.high:
            raise Broken("out of range", f"{value} is no {self.type}")
        if value % self.part:
            raise Broken("out of range", f"{value} nanoseconds are finer than {self.type}; one of timestamp-nanos holds them")
        return float(value) if pa.types.is_floating(self.type) else value * self.factor // self.part


@dataclass
class Float:
    """``float`` and ``double``: four or eight bytes, little end first. NaN and the infinities are values as any."""

    size: int
    type: pa.DataType

    def read(self, c: Cursor) -> pa.Array:
        words = c.words()
        c.skip(self.size)
        if self.size == 8:
            values: npt.NDArray[Any] = words.view(np.float64)
        else:
            values = words.astype(np.uint32).view(np.float32)
        return pa.array(values.astype(self.type.to_pandas_dtype(), copy=False))

    def skip(self, c: Cursor) -> None:
        c.skip(self.size)

    def one(self, s: Scan) -> Any:
        return struct.unpack("<d" if self.size == 8 else "<f", s.take(self.size))[0]


@dataclass
class Bytes:
    """``bytes`` (``size`` None), ``fixed``, and either as text (``text``)."""

    size: int | None
    text: bool = False

    @property
    def type(self) -> pa.DataType:
        return pa.utf8() if self.text else pa.binary()

    def span(self, c: Cursor) -> tuple[Ints, Ints]:
        return c.span(c.zigzag() if self.size is None else np.full(len(c), self.size))

    def read(self, c: Cursor) -> pa.Array:
        values = slices(c.data, *self.span(c))
        return _text(c, values) if self.text else values

    def skip(self, c: Cursor) -> None:
        self.span(c)

    def one(self, s: Scan) -> Any:
        raw = s.take(s.varint() if self.size is None else self.size)
        if not self.text:
            return raw
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise Broken("not utf-8", f"byte {s.at - len(raw) + error.start} (0x{raw[error.start]:02x}) is not UTF-8") from None


def _text(c: Cursor, values: pa.Array) -> pa.Array:
    try:
        return values.cast(pa.utf8())
    except pa.ArrowInvalid:
        wrong = np.array([not _is_utf8(value) for value in values.to_pylist()])
    c.refuse(wrong)
    return pc.if_else(pa.array(wrong), b"", values).cast(pa.utf8())


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass
class Mapped:
    """Values of another node that are looked at once more: ``valid`` says which are good, ``value`` makes one of one."""

    of: Bytes
    valid: Callable[[pa.Array], pa.Array] | None
    value: Callable[[Any], Any]
    type: pa.DataType

    def read(self, c: Cursor) -> pa.Array:
        if self.valid is None:  # one by one
            self.of.skip(c)
            c.refuse(np.ones(len(c), np.bool_))
            return pa.nulls(len(c), self.type)
        values = self.of.read(c)
        c.refuse(~self.valid(values).to_numpy(zero_copy_only=False))
        return values

    def skip(self, c: Cursor) -> None:
        self.of.skip(c)

    def one(self, s: Scan) -> Any:
        raw = self.of.one(s)
        try:
            return self.value(raw)
        except ValueError:
            raise Broken("wrong type", f"{raw!r} is no {'UUID' if self.value in (_uuid, _uuid_of_bytes) else self.type}") from None


def _uuid(text: str) -> str:
    return str(UUID(text))


def _uuid_of_bytes(raw: bytes) -> str:
    return str(UUID(bytes=raw))


def uuid_text() -> Mapped:
    return Mapped(Bytes(None, text=True), lambda a: pc.match_substring_regex(a, CANONICAL_UUID), _uuid, pa.utf8())


@dataclass
class FixedUuid:
    """A UUID in sixteen bytes, as text."""

    type: pa.DataType = field(default_factory=pa.utf8)

    def read(self, c: Cursor) -> pa.Array:
        start, size = c.span(np.full(len(c), 16))
        octets = c.data.octets[(start[:, None] + np.arange(16)[None, :]) * (size[:, None] > 0)]
        digits = np.frombuffer(b"0123456789abcdef", np.uint8)
        text = np.full((len(c), 36), ord("-"), np.uint8)
        text[:, _HEX_PLACES[0::2]] = digits[octets >> 4]
        text[:, _HEX_PLACES[1::2]] = digits[octets & 15]
        offsets = np.arange(0, 36 * (len(c) + 1), 36, dtype=np.int32)
        return pa.Array.from_buffers(pa.utf8(), len(c), [None, pa.py_buffer(offsets), pa.py_buffer(text)])

    def skip(self, c: Cursor) -> None:
        c.skip(16)

    def one(self, s: Scan) -> Any:
        return _uuid_of_bytes(s.take(16))


_HEX_PLACES = [i for i in range(36) if i not in (8, 13, 18, 23)]


@dataclass
class DecimalBytes:
    """A decimal: a two's complement number, big end first, in ``bytes`` (``size`` None) or ``fixed``."""

    size: int | None
    precision: int
    scale: int

    @property
    def type(self) -> pa.DataType:
        return pa.decimal128(self.precision, self.scale)

    def read(self, c: Cursor) -> pa.Array:
        start, size = c.span(c.zigzag() if self.size is None else np.full(len(c), self.size))
        c.refuse((size > 16) | (size == 0))
        long = size > 8
        low = _big_end(c, start + np.where(long, size - 8, 0), np.where(long, 8, size), signed=False)
        high = np.where(long, _big_end(c, start, np.where(long, size - 8, 0), signed=True), 0)
        negative = _big_end(c, start, np.minimum(size, 8), signed=True) < 0
        # A short number is extended by its sign: below, and in the upper half.
        low = np.where(~long & negative, _big_end(c, start, np.where(long, 0, size), signed=True), low)
        high = np.where(long, high, np.where(negative, -1, 0))
        limit = 10**self.precision - 1
        c.refuse(_beyond(high, low.view(np.uint64), limit))
        words = np.zeros((len(c), 2), np.int64)
        words[:, 0], words[:, 1] = np.where(c.ok, low, 0), np.where(c.ok, high, 0)
        return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(words)])

    def skip(self, c: Cursor) -> None:
        c.span(c.zigzag() if self.size is None else np.full(len(c), self.size))

    def one(self, s: Scan) -> Any:
        raw = s.take(s.varint() if self.size is None else self.size)
        number = int.from_bytes(raw, "big", signed=True)
        if abs(number) >= 10**self.precision:
            raise Broken("out of range", f"{Decimal(number).scaleb(-self.scale)} is no DECIMAL({self.precision},{self.scale})")
        return Decimal(number).scaleb(-self.scale, _WIDE)


_WIDE = Context(prec=80)


def _big_end(c: Cursor, start: Ints, size: Ints, *, signed: bool) -> Ints:
    """Numbers of up to eight bytes, big end first; 0 where ``size`` is 0."""
    word = c.data.words[start].byteswap()
    shift = (np.uint64(64) - (size * 8).astype(np.uint64)) & np.uint64(63)
    value: Ints = (word.view(np.int64) >> shift.view(np.int64)) if signed else (word >> shift).view(np.int64)
    return np.where(size > 0, value, 0)


def _beyond(high: Ints, low: npt.NDArray[np.uint64], limit: int) -> Flags:
    """Whether a number of two words is outside of -limit … limit."""
    top, bottom = limit >> 64, np.uint64(limit & ((1 << 64) - 1))
    least = -limit
    top_least, bottom_least = least >> 64, np.uint64(least & ((1 << 64) - 1))
    beyond: Flags = (
        (high > top) | ((high == top) & (low > bottom)) | (high < top_least) | ((high == top_least) & (low < bottom_least))
    )
    return beyond


@dataclass
class Duration:
    """Twelve bytes: months, days, milliseconds, each an unsigned number."""

    type: pa.DataType = field(default_factory=pa.month_day_nano_interval)

    def read(self, c: Cursor) -> pa.Array:
        start, size = c.span(np.full(len(c), 12))
        first = c.data.words[np.where(size > 0, start, 0)]
        millis = (c.data.words[np.where(size > 0, start + 4, 0)] >> np.uint64(32)).astype(np.int64)
        halves = np.zeros((len(c), 2), np.uint64)
        halves[:, 0], halves[:, 1] = first, (millis * 1_000_000).view(np.uint64)
        c.refuse(((first & np.uint64(1 << 31)) | (first >> np.uint64(63))) != 0)
        return pa.Array.from_buffers(self.type, len(c), [None, pa.py_buffer(halves)])

    def skip(self, c: Cursor) -> None:
        c.skip(12)

    def one(self, s: Scan) -> Any:
        months, days, millis = struct.unpack("<III", s.take(12))
        if max(months, days) >= 1 << 31:
            raise Broken("out of range", f"{months} months and {days} days are no INTERVAL")
        return pa.MonthDayNano([months, days, millis * 1_000_000])


@dataclass
class Enum:
    """``symbols``: what each of the writer's is to the reader, None for one that it does not know."""

    symbols: Sequence[str | None]
    writers: Sequence[str]
    type: pa.DataType = field(default_factory=pa.utf8)

    def read(self, c: Cursor) -> pa.Array:
        index = c.zigzag()
        c.refuse(index.view(np.uint64) >= len(self.symbols))
        index = np.where(c.ok, index, 0)
        if None in self.symbols:
            c.refuse(np.array([s is None for s in self.symbols])[index])
        return pa.array([s or "" for s in self.symbols]).take(pa.array(index))

    def skip(self, c: Cursor) -> None:
        c.skip_varint()

    def one(self, s: Scan) -> Any:
        index = s.varint()
        if not 0 <= index < len(self.symbols):
            raise Broken("not avro", f"symbol {index} of an enum of {len(self.symbols)}")
        found = self.symbols[index]
        if found is None:
            raise Broken("wrong type", f"symbol {self.writers[index]!r} is not one of the reader's schema, which has no default")
        return found

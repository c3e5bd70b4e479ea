"""Encoding many values at once: each node makes a binary array with the bytes of every value, and arrays are joined row by row.

There is no loop over rows: a record is its fields joined, a list the bytes of its elements, which stand next to each other
already, under other offsets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs.binary import array
from merganser.codecs.cursor import Flags, Ints


@dataclass
class Trouble:
    """Rows that cannot be encoded: of each the first thing that is wrong, where it is and what."""

    of: dict[int, tuple[str, str]] = field(default_factory=dict)

    def note(self, rows: Ints, wrong: Flags, reason: str, detail: Callable[[int], str]) -> None:
        """``wrong`` of the values that stand in ``rows``; ``detail`` is asked about the first ones of each row, by place."""
        for at in np.flatnonzero(wrong).tolist():
            row = int(rows[at])
            if row not in self.of:
                self.of[row] = reason, detail(at)


@dataclass(frozen=True, slots=True)
class Values:
    """Values to encode, the row that each stands in, and where in the row they are, for messages."""

    array: pa.Array
    rows: Ints
    path: str
    trouble: Trouble

    def __len__(self) -> int:
        return len(self.array)

    def of(self, array: pa.Array, path: str | None = None) -> Values:
        """Other values in the same rows."""
        return Values(array, self.rows, self.path if path is None else path, self.trouble)

    def take(self, at: Ints, array: pa.Array | None = None) -> Values:
        return Values((self.array if array is None else array).take(pa.array(at)), self.rows[at], self.path, self.trouble)

    def there(self) -> Flags:
        """Which are not NULL."""
        found: Flags = self.array.is_valid().to_numpy(zero_copy_only=False)
        return found

    def numbers(self) -> Ints:
        """Integers, dates and times as numbers."""
        kind = pa.int32() if self.array.type.bit_width == 32 and not pa.types.is_unsigned_integer(self.array.type) else pa.int64()
        array = self.array.view(kind) if pa.types.is_temporal(self.array.type) else self.array
        found: Ints = array.to_numpy().astype(np.int64)
        return found

    def refuse(self, wrong: Flags, reason: str, why: str) -> None:
        """Note values that cannot be: "``path``: found ``value``, ``why``"."""
        if wrong.any():
            self.trouble.note(self.rows, wrong, reason, lambda at: f"{self.path}: found {shown(self.array[at].as_py())}, {why}")

    def required(self, why: str) -> Values:
        """The same without NULL, whose rows are noted, and are empty values then."""
        if not self.array.null_count:
            return self
        wrong = ~self.there()
        self.trouble.note(self.rows, wrong, "missing field", lambda at: f"{self.path}: it is NULL, {why}")
        zero = filler(self.array.type)
        place = np.where(wrong, len(self.array), np.arange(len(self.array)))
        return self.of(pa.concat_arrays([self.array, array([zero], self.array.type)]).take(pa.array(place)))


def as_array(table: pa.Table, name: str) -> pa.Array:
    """A column as one array."""
    found = table[name]
    return pa.concat_arrays(found.chunks) if found.num_chunks else pa.array([], found.type)


def shown(value: Any) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= 60 else text[:57] + "...") if isinstance(value, str) else text[:60]


def filler(kind: pa.DataType) -> Any:
    """Some value of a type, as ``array`` takes it, to stand where a NULL was refused."""
    if pa.types.is_struct(kind):
        return {f.name: filler(f.type) for f in kind}
    if pa.types.is_union(kind):
        return 0, filler(kind.field(0).type)
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        return []
    if pa.types.is_string(kind):
        return ""
    if pa.types.is_binary(kind):
        return b""
    if pa.types.is_boolean(kind):
        return False
    if pa.types.is_interval(kind):
        return pa.MonthDayNano([0, 0, 0])
    if pa.types.is_null(kind):
        return None
    return pa.scalar(0, pa.int64() if not pa.types.is_date32(kind) else pa.int32()).cast(kind).as_py()


def whole(data: npt.NDArray[np.uint8], length: Ints | int, count: int) -> pa.BinaryArray:
    """A binary array of pieces that stand next to each other. Raises OverflowError past what its offsets can say (2 GiB)."""
    if len(data) > (1 << 31) - 1:
        raise OverflowError
    offsets = np.zeros(count + 1, np.int32)
    np.cumsum(np.broadcast_to(length, count), out=offsets[1:])
    data = np.ascontiguousarray(data)
    return pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def joined(*parts: pa.Array | bytes) -> pa.BinaryArray:
    """Binary arrays (or the same bytes for all), row by row one behind the other."""
    if len(parts) == 1 and isinstance(parts[0], pa.Array):
        return parts[0]
    arrays = [pa.scalar(p, pa.binary()) if isinstance(p, bytes) else p for p in parts]
    made = pc.binary_join_element_wise(*arrays, pa.scalar(b"", pa.binary()))
    return made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made


def nothing(count: int) -> pa.BinaryArray:
    return whole(np.zeros(0, np.uint8), 0, count)


def lengths(array: pa.BinaryArray) -> Ints:
    found: Ints = pc.binary_length(array).to_numpy().astype(np.int64)
    return found


def varints(value: npt.NDArray[np.uint64]) -> pa.BinaryArray:
    """Base-128 numbers, as Avro and Protocol Buffers have them."""
    count = len(value)
    most = int(value.max(initial=0))
    if most < 128:
        return whole(value.astype(np.uint8), 1, count)
    width = -(-most.bit_length() // 7)
    length = np.ones(count, np.int64)
    matrix = np.empty((count, width), np.uint8)
    for k in range(width):
        part = (value >> np.uint64(7 * k)).astype(np.uint8) & np.uint8(127)
        if k < width - 1:
            more = value >= np.uint64(1 << 7 * (k + 1))
            length += more
            part |= more.view(np.uint8) << np.uint8(7)
        matrix[:, k] = part
    return whole(matrix[np.arange(width) < length[:, None]], length, count)


def zigzags(value: Ints) -> pa.BinaryArray:
    return varints(((value << 1) ^ (value >> 63)).view(np.uint64))


def encoded_long(value: int, *, zigzag: bool = True) -> bytes:
    """One number as a varint."""
    number = np.array([value])
    made: bytes = (zigzags(number) if zigzag else varints(number.view(np.uint64)))[0].as_py()
    return made


def fixed(value: npt.NDArray[Any]) -> pa.BinaryArray:
    """Numbers as they are in memory, little end first."""
    return whole(value.view(np.uint8), value.dtype.itemsize, len(value))


def sized(parts: pa.BinaryArray) -> pa.BinaryArray:
    """Bytes with their length in front, as Protocol Buffers have it."""
    return joined(varints(lengths(parts).view(np.uint64)), parts)


def gathered(parts: pa.BinaryArray, count: Ints) -> pa.BinaryArray:
    """The bytes of ``count`` parts after the other, as one: what lists are made of their elements."""
    _, offsets, data = parts.buffers()
    if offsets is None or not len(parts):
        return nothing(len(count))
    bounds = np.frombuffer(offsets, np.int32)[parts.offset : parts.offset + len(parts) + 1]
    ends = np.zeros(len(count) + 1, np.int64)
    np.cumsum(count, out=ends[1:])
    return pa.Array.from_buffers(
        pa.binary(), len(count), [None, pa.py_buffer(np.ascontiguousarray(bounds[ends])), data or pa.py_buffer(b"")]
    )


def scattered(parts: Sequence[tuple[Ints, pa.BinaryArray]], count: int) -> pa.BinaryArray:
    """Parts at their places; nothing elsewhere."""
    if len(parts) == 1 and len(parts[0][0]) == count:
        return parts[0][1]
    place = np.zeros(count, np.int64)
    at = 1
    for rows, _ in parts:
        place[rows] = np.arange(at, at + len(rows))
        at += len(rows)
    return pa.concat_arrays([nothing(1), *(values for _, values in parts)]).take(pa.array(place))


def elements(values: Values) -> tuple[Values, Ints]:
    """The elements of lists, or the entries of maps (structs), none of them NULL; and how many each has."""
    array = values.array
    if pa.types.is_map(array.type):
        array = array.cast(pa.list_(pa.struct([pa.field("key", array.type.key_type), pa.field("value", array.type.item_type)])))
    count = pc.list_value_length(array).to_numpy().astype(np.int64)
    flat = array.flatten()
    return Values(flat, np.repeat(values.rows, count), values.path, values.trouble), count


def split(values: Values) -> list[Values]:
    """The fields of structs, none of them NULL."""
    names = [f"{values.path}.{f.name}" if values.path else f.name for f in values.array.type]
    # Not flatten(), which ends the process where a UNION is in one that can be NULL.
    return [values.of(values.array.field(i), name) for i, name in enumerate(names)]


def text_bytes(values: Values) -> pa.BinaryArray:
    """Texts and bytes as bytes."""
    array = values.array
    return array.view(pa.binary()) if pa.types.is_string(array.type) else array

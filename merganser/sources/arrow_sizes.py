"""What a record batch of an Arrow file becomes when it is read and cast, found out before it is.

A compressed buffer says in its first eight bytes how many it becomes. And without any compression some bytes can stand for
gigabytes: texts by their numbers in a dictionary, views of one text or list, runs.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Times = npt.NDArray[np.float64]
"""How often each value of an array is used."""


class Blocks:
    """Where the batches of a file are, read from its footer. Raises ValueError for what cannot be understood."""

    def __init__(self, data: memoryview, schema: pa.Schema) -> None:
        self._data, self._schema = data, schema
        end = len(data) - 10
        footer = _Table.root(data, end - _read("<i", data, end))
        self._dictionaries, self._batches = footer.vector(2, 24), footer.vector(3, 24)

    @cached_property
    def dictionaries(self) -> int:
        """Bytes that the compressed buffers of all dictionaries become."""
        return sum(sum(self._buffers(block, 2)) for block in self._dictionaries)

    def batch(self, number: int) -> tuple[int, list[tuple[str, int]]]:
        """Rows of a batch, and what the compressed buffers of each column become; of no column where that is not known."""
        sizes = self._buffers(self._batches[number], 3)
        names = [field.name for field in self._schema for _ in range(_buffers(field.type))]
        columns: dict[str, int] = {}
        for name, size in zip(names if len(names) == len(sizes) else itertools.repeat(""), sizes):
            columns[name] = columns.get(name, 0) + size
        return self._header(self._batches[number], 3).number(0, "<q"), list(columns.items())

    def _header(self, block: bytes, kind: int) -> _Table:
        """The record batch in a message, or in a message's dictionary."""
        (offset,) = struct.unpack_from("<q", block)
        marked = _read("<i", self._data, offset) == -1
        header = _Table.root(self._data, offset + (8 if marked else 4)).table(2)
        return header if kind == 3 else header.table(1)

    def _buffers(self, block: bytes, kind: int) -> list[int]:
        """What each buffer of a batch becomes, 0 where it is not compressed."""
        batch = self._header(block, kind)
        found = batch.vector(2, 16)
        if not batch.at(3):
            return [0] * len(found)
        offset, head = struct.unpack_from("<qi", block)
        sizes = []
        for buffer in found:
            at, length = struct.unpack("<qq", buffer)
            sizes.append(max(0, _read("<q", self._data, offset + head + at)) if length >= 8 else 0)
        return sizes


def _read(form: str, data: memoryview, at: int) -> int:
    """A number in a file. Raises ValueError where it has none."""
    if not 0 <= at <= len(data) - struct.calcsize(form):
        raise ValueError(f"its metadata are damaged: they point at byte {at} of {len(data)}")
    return int(struct.unpack_from(form, data, at)[0])


class _Table:
    """A table of Flatbuffers."""

    def __init__(self, data: memoryview, place: int) -> None:
        self._data, self._place = data, place
        self._fields = place - _read("<i", data, place)

    @classmethod
    def root(cls, data: memoryview, begin: int) -> _Table:
        return cls(data, begin + _read("<I", data, begin))

    def at(self, field: int) -> int:
        """Where a field is; 0: it is left out."""
        there = 4 + 2 * field < _read("<H", self._data, self._fields)
        offset = _read("<H", self._data, self._fields + 4 + 2 * field) if there else 0
        return self._place + offset if offset else 0

    def number(self, field: int, form: str) -> int:
        at = self.at(field)
        return _read(form, self._data, at) if at else 0

    def table(self, field: int) -> _Table:
        at = self.at(field)
        return _Table(self._data, at + _read("<I", self._data, at))

    def vector(self, field: int, size: int) -> Sequence[bytes]:
        """The structs of a vector."""
        at = self.at(field)
        if not at:
            return []
        at += _read("<I", self._data, at)
        count = _read("<I", self._data, at)
        if at + 4 + count * size > len(self._data):
            raise ValueError(f"a list of {count} leaves the file")
        return [bytes(self._data[at + 4 + i * size : at + 4 + (i + 1) * size]) for i in range(count)]


def _buffers(kind: pa.DataType) -> int:
    """How many buffers an array of a type has."""
    if pa.types.is_null(kind):
        return 0
    if pa.types.is_nested(kind):
        own = 1 if pa.types.is_struct(kind) or pa.types.is_fixed_size_list(kind) else 2
        return own + sum(_buffers(kind.field(i).type) for i in range(kind.num_fields))
    return len(pa.array([], kind).buffers())


def grown(column: pa.ChunkedArray) -> int:
    """Bytes of a column once nothing in it is shared: no dictionary, no views."""
    return int(sum(_grown(part) for part in column.chunks)) if _shares(column.type) else int(column.nbytes)


def _grown(array: pa.Array, times: Times | None = None) -> float:
    """Bytes of an array. ``times``: how often each value is used, if not once."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    times = np.ones(len(array)) if times is None else times
    if pa.types.is_dictionary(kind):
        there = array.indices.is_valid().to_numpy(zero_copy_only=False)
        indices = array.indices.drop_null().to_numpy()
        return _grown(array.dictionary, np.bincount(indices, times[there], len(array.dictionary)).astype(np.float64))
    if pa.types.is_struct(kind):
        return sum(_grown(array.field(i), times) for i in range(kind.num_fields))
    if pa.types.is_fixed_size_list(kind):
        return _grown(array.values, np.repeat(times, kind.list_size))
    if hasattr(array, "offsets"):
        sizes = pc.list_value_length(array).fill_null(0).to_numpy() if not pa.types.is_map(kind) else np.diff(array.offsets)
        begin = np.where(sizes > 0, array.offsets.to_numpy()[: len(array)], 0)
        values = pa.StructArray.from_arrays([array.keys, array.items], ["k", "v"]) if pa.types.is_map(kind) else array.values
        steps = np.bincount(begin, times, len(values) + 1) - np.bincount(begin + sizes, times, len(values) + 1)
        return 4 * float(times.sum()) + _grown(values, np.cumsum(steps)[: len(values)])
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        lengths = np.frombuffer(array.buffers()[1], np.int32)[::4][array.offset :][: len(array)]
        return float(times @ (lengths * array.is_valid().to_numpy(zero_copy_only=False))) + 4 * float(times.sum())
    if any(each(kind) for each in TEXTS):
        return float(times @ pc.binary_length(array).fill_null(0).to_numpy()) + 4 * float(times.sum())
    return float(times.sum()) * bits(kind) / 8


TEXTS = (pa.types.is_string, pa.types.is_binary, pa.types.is_large_string, pa.types.is_large_binary)

SHARING = (pa.types.is_dictionary, pa.types.is_string_view, pa.types.is_binary_view, pa.types.is_list_view,
           pa.types.is_large_list_view)  # fmt: skip


def _shares(kind: pa.DataType) -> bool:
    """Whether values of a type may be shared, and are not any more once they are cast."""
    return any(each(kind) for each in SHARING) or any(_shares(kind.field(i).type) for i in range(kind.num_fields))


def bits(kind: pa.DataType) -> int:
    """Bits that a value takes at least."""
    try:
        return int(kind.bit_width)
    except ValueError:
        return 32

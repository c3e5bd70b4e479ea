"""What a row group of a Parquet file becomes when it is read, asked of its pages before it is.

A few bytes can stand for gigabytes: a run of indices for one long text of a dictionary again and again, a list of a billion
nulls, a text by "as the one before it". What the metadata of the file says of sizes is not asked: it counts a dictionary once.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

WIDTHS = {"BOOLEAN": 0.125, "INT32": 4, "INT64": 8, "INT96": 12, "FLOAT": 4, "DOUBLE": 8, "BYTE_ARRAY": 4}
DECIMAL = 16
LEVELS = 4
"""Bytes that are taken, while it is read, to say to which list a value belongs."""

DATA, DICTIONARY, DATA_V2 = 0, 2, 3
"""Types of pages."""
INDEXED = (2, 8)
"""Encodings of data pages by the numbers of values in the dictionary."""
PREFIXED = 7
"""The encoding DELTA_BYTE_ARRAY: how much is as in the text before, and the rest."""

HEADER = 1 << 12
"""Bytes that are read of a page's header at first: there may be long statistics in it."""
MAX_HEADER = 64 << 20
SLICE = 256 << 20
"""Bytes that are measured at a time, at most, of texts by what they share with the one before."""


@dataclass
class _Chunk:
    """The pages of a column in a row group."""

    values: int = 0
    data: int = 0
    """Bytes of the data pages once decompressed."""
    dictionary: int = 0
    indexed: int = 0
    """Values by their numbers in the dictionary."""
    prefixed: int = 0
    """Values by what they share with the one before, and the bytes of the largest such page."""
    largest: int = 0


class Sizes:
    """Of the row groups of one file."""

    def __init__(self, name: str, file: pyarrow.parquet.ParquetFile) -> None:
        self._name, self._file = name, file
        self._columns = [file.schema.column(i) for i in range(len(file.schema))]
        self._raw = Path(name).open("rb")  # noqa: SIM115 # closed by close()

    def close(self) -> None:
        self._raw.close()

    def becomes(self, group: int, most: int) -> Iterator[tuple[str, int]]:
        """Each column's path and the bytes it becomes, at least that where it is more than ``most``. Raises ValueError, OSError."""
        for column, chunk in zip(self._columns, self._pages(group)):
            values = chunk.values * (_width(column) + LEVELS * (column.max_repetition_level > 0))
            if column.physical_type == "BYTE_ARRAY":
                size = chunk.dictionary + chunk.data + values
                if size <= most < size + chunk.indexed * chunk.dictionary:
                    size += _indexed(self._name, self._file, group, column.path, chunk, most - size)
                if size <= most < chunk.prefixed * chunk.largest:
                    size = max(size, _prefixed(self._file, group, column, chunk, most))
            else:
                size = chunk.dictionary + max(chunk.data, values)
            yield column.path, int(size)

    def _pages(self, group: int) -> list[_Chunk]:
        """Of each column. Not asked of pyarrow 26, which ends the process at some damaged metadata of columns."""
        try:
            return [_gone_through(self._raw, *where) for where in self._groups[group]]
        except (IndexError, KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"the metadata of its columns are damaged ({error!r})") from None

    @cached_property
    def _groups(self) -> list[list[tuple[int, int, int]]]:
        """Where each column of each row group begins and ends, and how many values it has."""
        self._raw.seek(-8, 2)
        length = struct.unpack("<I", self._raw.read(4))[0]
        self._raw.seek(-8 - length, 2)
        footer, _ = _Thrift(self._raw.read(length)).struct()
        return [[_where(column[3]) for column in group[1]] for group in footer[4]]


def _where(meta: dict[int, Any]) -> tuple[int, int, int]:
    start = meta[9]
    if 0 < meta.get(11, 0) < start:
        start = meta[11]
    return start, start + meta[7], meta[5]


def _width(column: Any) -> float:
    """Bytes that a value takes at least."""
    if column.logical_type.type == "DECIMAL":
        return DECIMAL
    return WIDTHS.get(column.physical_type) or column.length


def _indexed(name: str, file: pyarrow.parquet.ParquetFile, group: int, path: str, chunk: _Chunk, most: int) -> int:
    """Bytes of the texts that are in the dictionary: as if all were its longest, or, where these are too many, counted."""
    own = pyarrow.parquet.ParquetFile(name, metadata=file.metadata, read_dictionary=[path], pre_buffer=False)
    with own:
        first = next(own.iter_batches(1, [group], [path], use_threads=False), None)
        if first is None:
            return 0
        size = chunk.indexed * _longest(_texts(first.column(0)))
        if size > most:
            column = own.read_row_group(group, [path], use_threads=False).column(0)
            size = sum(_length(_texts(part)) for part in column.chunks)
    return size


def _texts(array: pa.Array) -> pa.DictionaryArray:
    """The one array of texts in a column, however deep."""
    while not pa.types.is_dictionary(array.type):
        if pa.types.is_struct(array.type):
            array = array.field(0)
        else:
            array = array.values if hasattr(array, "values") else array.storage
    return array


def _longest(texts: pa.DictionaryArray) -> int:
    return pc.max(pc.binary_length(texts.dictionary)).as_py() or 0


def _length(texts: pa.DictionaryArray) -> int:
    return pc.sum(pc.binary_length(texts.dictionary).cast(pa.int64()).take(texts.indices)).as_py() or 0


def _prefixed(file: pyarrow.parquet.ParquetFile, group: int, column: Any, chunk: _Chunk, most: int) -> int:
    """Bytes of texts by what they share with the one before, up to ``most`` and a slice more."""
    if column.max_repetition_level:
        raise ValueError(f"what column {column.path!r} becomes cannot be known: it has lists of texts that are DELTA_BYTE_ARRAY;"
                         " write it with another encoding")  # fmt: skip
    size = 0
    for batch in file.iter_batches(max(1, SLICE // chunk.largest), [group], [column.path], use_threads=False):
        size += batch.nbytes
        if size > most:
            break
    return size


def _gone_through(raw: BinaryIO, start: int, end: int, values: int) -> _Chunk:
    """What the headers of a chunk's pages say."""
    chunk = _Chunk()
    while start < end and chunk.values < values:
        raw.seek(start)
        head = raw.read(HEADER)
        try:
            page, length = _Thrift(head).struct()
        except IndexError:
            page, length = _Thrift(head + raw.read(MAX_HEADER)).struct()
        kind, size = page[1], page[2]
        if size < 0 or page[3] < 0:
            raise ValueError(f"the page at byte {start} says that it has {min(size, page[3])} bytes")
        if kind == DICTIONARY:
            chunk.dictionary += size
        elif kind in (DATA, DATA_V2):
            said = page[5 if kind == DATA else 8]
            count, encoding = said[1], said[2 if kind == DATA else 4]
            if count < 0:
                raise ValueError(f"the page at byte {start} says that it has {count} values")
            chunk.values += count
            chunk.data += size
            if encoding in INDEXED:
                chunk.indexed += count
            elif encoding == PREFIXED:
                chunk.prefixed, chunk.largest = chunk.prefixed + count, max(chunk.largest, size)
        start += length + page[3]
    return chunk


class _Thrift:
    """Reads Thrift's compact protocol: a struct as values by the ids of its fields. Raises IndexError past the end."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def struct(self, depth: int = 0) -> tuple[dict[int, Any], int]:
        """A struct, and where it ends."""
        if depth > 32:
            raise ValueError("its metadata are nested too deeply")
        fields: dict[int, Any] = {}
        number = 0
        while octet := self._octet():
            kind = octet & 15
            number = number + (octet >> 4) if octet >> 4 else self._whole()
            if kind in (5, 6):  # most are whole numbers
                fields[number] = self._whole()
            else:
                fields[number] = kind == 1 if kind in (1, 2) else self._value(kind, depth)
        return fields, self._at

    def _value(self, kind: int, depth: int) -> Any:
        if kind in (1, 2, 3):
            return self._octet()
        if kind in (4, 5, 6):
            return self._whole()
        if kind == 7:
            return self._bytes(8)
        if kind == 8:
            return self._bytes(self._number())
        if kind in (9, 10):
            head = self._octet()
            count = head >> 4 if head >> 4 < 15 else self._number()
            return [self._value(head & 15, depth) for _ in range(count)]
        if kind == 11:
            count = self._number()
            kinds = self._octet() if count else 0
            return [(self._value(kinds >> 4, depth), self._value(kinds & 15, depth)) for _ in range(count)]
        if kind == 12:
            return self.struct(depth + 1)[0]
        raise ValueError(f"there is no type {kind} in metadata")

    def _octet(self) -> int:
        octet = self._data[self._at]
        self._at += 1
        return octet

    def _bytes(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._data):
            raise IndexError("it ends too early")
        return self._data[self._at - size : self._at]

    def _number(self) -> int:
        value = self._octet()
        if value < 128:
            return value
        value &= 127
        for shift in range(7, 70, 7):
            octet = self._octet()
            value |= (octet & 127) << shift
            if octet < 128:
                return value
        raise ValueError("there is a number of more than ten bytes in metadata")

    def _whole(self) -> int:
        value = self._number()
        return (value >> 1) ^ -(value & 1)

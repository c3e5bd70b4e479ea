"""JSON objects to Arrow columns, by the kernel: as far as it is sure of them (``kernel/objects.zig``)."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from merganser.codecs.values import DIGITS
from merganser.kernel import Kernel, kernel
from merganser.schema import Schema
from merganser.schema.types import parse

KINDS = ("text", "uuid", "json", "boolean", "integer", "double", "float", "decimal", "timestamp", "date", "time")
TEXTS = KINDS[:3]
DESCRIPTION = np.dtype({
    "names": ["name", "name_length", "kind", "width", "scale", "required", "least", "most", "values", "valid", "nulls", "seen"],
    "formats": ["u4", "u4", "u4", "u4", "u4", "u4", "i8", "u8", "u4", "u4", "u4", "u4"],
    "offsets": [0, 4, 8, 12, 16, 20, 24, 32, 40, 44, 48, 52],
    "itemsize": 56,
})  # fmt: skip
"""``Column`` of ``objects.zig``."""

NO_COLUMN = 0xFFFF
"""The doubt about a record that is about no particular column."""

MOST = 256 << 20
"""Bytes that the columns of some records may take there, else they are decoded in turns."""

INTEGERS = {"TINYINT": 8, "SMALLINT": 16, "INTEGER": 32, "BIGINT": 64}
OTHERS = {"VARCHAR": ("text", 8), "UUID": ("uuid", 8), "BOOLEAN": ("boolean", 0), "DOUBLE": ("double", 8), "FLOAT": ("float", 4),
          "DATE": ("date", 4)}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Form:
    """How the kernel reads a column: see ``Column`` of ``objects.zig``. A ``width`` of 0 stands for a bit a value."""

    kind: str
    width: int
    scale: int = 0
    least: int = 0
    most: int = 0

    @classmethod
    def of(cls, kind: str, exact: bool = False) -> Form:
        """The form of a column's type: ``json``, a value as it was written, for all that the kernel does not know.

        ``exact``: whether all digits of all numbers in JSON count.
        """
        if kind in OTHERS:
            return cls(*OTHERS[kind])
        if kind in DIGITS and kind != "TIME WITH TIME ZONE":
            return cls("timestamp" if kind.startswith("TIMESTAMP") else "time", 8, DIGITS[kind])
        if bits := INTEGERS.get(kind):
            return cls("integer", bits // 8, 0, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)
        if bits := INTEGERS.get(kind.removeprefix("U")):
            return cls("integer", bits // 8, 0, 0, (1 << bits) - 1)
        if kind.startswith("DECIMAL(") and kind.endswith(")"):
            digits, scale = parse(kind).digits
            return cls("decimal", 16, scale, 10**digits >> 64, 10**digits & (1 << 64) - 1)
        return cls("json", 8, int(exact))

    def size(self, count: int) -> int:
        """Bytes that the kernel needs for some values."""
        return self.width * count if self.width else (count + 7) // 8


class Objects:
    """Decodes JSON objects, with the columns of a schema, as far as the kernel is sure of them. For one thread."""

    def __init__(self, schema: Schema, as_json: Collection[str] = ()) -> None:
        """``as_json``: columns that are wanted as their values were written, besides those whose types the kernel does not know."""
        self._forms = [Form.of("" if c.name in as_json else c.type, exact="DECIMAL(" in c.type) for c in schema.columns]
        self._fields = [
            pa.field(field.name, pa.utf8()) if form.kind == "json" else field
            for form, field in zip(self._forms, schema.arrow_schema())
        ]
        self._columns = np.zeros(len(self._forms), DESCRIPTION)
        self._names = [c.name.encode() for c in schema.columns]
        for at, form, name, column in zip(self._columns, self._forms, self._names, schema.columns):
            at["name_length"], at["kind"], at["width"], at["scale"] = len(name), KINDS.index(form.kind), form.width, form.scale
            at["required"], at["least"], at["most"] = column.required, form.least, form.most

    def decode(self, data: memoryview, starts: npt.NDArray[np.int32]) -> tuple[pa.Table, npt.NDArray[np.uint16]]:
        """The columns of records, and what is in doubt about each.

        ``starts``: where in the bytes each record begins, and the end of the last. Of the doubts 0 is none, else the number of the
        column from 1, or ``NO_COLUMN``; in the row of a record in doubt stands anything.
        """
        count = len(starts) - 1
        turn = max(1, MOST // (1 + sum(form.width + 1 for form in self._forms)))
        if count <= turn:
            with kernel() as run:
                return self._decode(run, data, starts)
        parts = [self.decode(data, starts[a : b + 1]) for a, b in pairwise([*range(0, count, turn), count])]
        return pa.concat_tables([table for table, _ in parts]), np.concatenate([doubts for _, doubts in parts])

    def _decode(self, run: Kernel, data: memoryview, starts: npt.NDArray[np.int32]) -> tuple[pa.Table, npt.NDArray[np.uint16]]:
        count, first, last = len(starts) - 1, int(starts[0]), int(starts[-1])
        bits = (count + 7) // 8
        memory = run.memory
        memory.clear()
        columns, octets, begins = (memory.take(n) for n in (self._columns.nbytes, last - first, starts.nbytes))
        names = [memory.take(len(name)) for name in self._names]
        values = [memory.take(form.size(count)) for form in self._forms]
        valid = [memory.take(bits) for _ in self._forms]
        doubts, offsets, texts = memory.take(2 * count), memory.take(4 * (count + 1)), memory.take(last - first)
        self._columns["name"], self._columns["values"], self._columns["valid"] = names, values, valid
        memory.grow()
        memory.write(columns, self._columns)
        memory.write(octets, data[first:last])
        memory.write(begins, starts - np.int32(first))
        for place, name in zip(names, self._names):
            memory.write(place, name)
        if run.last is not self:  # whose records have other keys
            run.last = self
            run.call("forget")
        run.call("decode", columns, len(self._forms), octets, begins, count, doubts)
        memory.read(columns, self._columns)
        arrays = []
        for i, (field, form) in enumerate(zip(self._fields, self._forms)):
            nulls = int(self._columns["nulls"][i])
            buffers = [memory.copy(valid[i], bits) if nulls else None]
            if form.kind in TEXTS:
                size = run.call("gather", columns + i * DESCRIPTION.itemsize, octets, count, offsets, texts)
                buffers += [memory.copy(offsets, 4 * (count + 1)), memory.copy(texts, size)]
            else:
                buffers.append(memory.copy(values[i], form.size(count)))
            arrays.append(pa.Array.from_buffers(field.type, count, buffers, nulls))
        found = np.empty(count, np.uint16)
        memory.read(doubts, found)
        return pa.table(arrays, schema=pa.schema(self._fields)), found

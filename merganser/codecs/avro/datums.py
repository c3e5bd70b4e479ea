"""Single Avro datums of a known writer, as the columns of a source."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from merganser.codecs.avro.node import Scan
from merganser.codecs.avro.resolution import Resolver, Unresolvable
from merganser.codecs.binary import Broken, Failure, accepted, completed
from merganser.codecs.columnar import absent
from merganser.codecs.cursor import Bytes, Cursor, Ints
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.schema.avro import AvroSchema

SLICE = 1 << 15
"""Datums that are read at a time: few enough that what is made of them on the way stays in the processor's cache."""


class DatumReader:
    """Reads datums of one writer schema as the columns of a source, whose schema may be another one."""

    def __init__(self, schema: Schema, writer: AvroSchema, where: str) -> None:
        """``where``: the file or topic, for messages. Raises SourceError if the schemas do not go together."""
        self._schema, self._where = schema, where
        own = isinstance(schema.written, AvroSchema)
        reader = schema.written if own else _projected(writer, schema, where)
        try:
            self._root = Resolver(writer, reader).root()
        except Unresolvable as error:
            raise SourceError(
                f"{where} was written with a schema that cannot be read as the declared one, at {error.path or '/'}:"
                f" {error.detail}. `merganser schema check` compares two schemas"
            ) from None

    def read(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        """The rows, the number of the datum of each, and the datums that are none."""
        tables, numbers, failures = [], [], []
        for first in range(0, max(len(start), 1), SLICE):
            rows, own, failed = self._slice(data, start[first : first + SLICE], end[first : first + SLICE])
            tables.append(rows)
            numbers.append(own + first)
            failures += [(first + number, reason, detail) for number, reason, detail in failed]
        return pa.concat_tables(tables), np.concatenate(numbers), failures

    def _slice(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        cursor = Cursor(data, start.copy(), end)
        columns = self._root.columns(cursor)
        ok = cursor.ok & (cursor.at == end)
        table = pa.table(columns, schema=pa.schema(list(self._root.type)))
        return accepted(*completed(table, ok, self._one, data, start, end), self._schema, self._where)

    def _one(self, datum: bytes) -> Any:
        scan = Scan(datum)
        value = self._root.one(scan)
        if scan.at < len(datum):
            left = len(datum) - scan.at
            raise Broken("trailing bytes", f"{left} bytes are left behind the last field, at byte {scan.at}")
        return value


def _projected(writer: AvroSchema, schema: Schema, where: str) -> AvroSchema:
    """The writer's schema with the declared columns only."""
    tree = writer.resolve(writer.tree)
    if writer.kind(tree) != "record":
        raise SourceError(f"{where} holds Avro values of type {writer.kind(tree)}; the records of a source must be records")
    there = {f["name"]: f for f in tree["fields"]}
    if missing := absent(schema, list(there)):
        raise SourceError(f"{where}{missing}")
    # Named types that stand first in a field that is left out have to be written out again: resolve by the writer's names.
    return _Projected(json.dumps(tree | {"fields": [there[name] for name in schema.names() if name in there]}), writer)


@dataclass(frozen=True)
class _Projected(AvroSchema):
    """A part of a schema: names are those of the whole."""

    of: AvroSchema

    @property
    def names(self) -> dict[str, object]:
        return self.of.names | {self.tree["name"]: self.tree}

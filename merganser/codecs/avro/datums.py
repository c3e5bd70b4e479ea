"""Single Avro datums of a known writer, as the columns of a source."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from merganser.codecs.avro.nested import column
from merganser.codecs.avro.node import Broken, Scan
from merganser.codecs.avro.resolution import Resolver, Unresolvable
from merganser.codecs.columnar import fitted, nulls
from merganser.codecs.cursor import Bytes, Cursor, Flags, Ints
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.schema.avro import AvroSchema

Failure = tuple[int, str, str]
"""Number of a datum among those given, reason, detail."""


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
        cursor = Cursor(data, start.copy(), end)
        columns = self._root.columns(cursor)
        ok = cursor.ok & (cursor.at == end)
        table = pa.table(columns, names=list(self._root.names))
        numbers = np.arange(len(start))
        failures: list[Failure] = []
        if not ok.all():
            table, numbers, failures = self._singly(data, start, end, table, ok)
        rows = fitted(table, self._schema, self._where)
        missing = nulls(rows, self._schema)
        if missing:
            good = np.ones(len(rows), np.bool_)
            good[list(missing)] = False
            failures += [(int(numbers[i]), "missing field", detail) for i, detail in missing.items()]
            rows, numbers = rows.filter(pa.array(good)), numbers[good]
        return rows, numbers, sorted(failures)

    def _singly(
        self, data: Bytes, start: Ints, end: Ints, table: pa.Table, ok: Flags
    ) -> tuple[pa.Table, Ints, list[Failure]]:
        """Read those that were marked by themselves, and put their rows among the others."""
        taken, values = [], []
        failures: list[Failure] = []
        for i in np.flatnonzero(~ok).tolist():
            scan = Scan(data.octets[start[i] : end[i]].tobytes())
            try:
                value = self._root.one(scan)
                if scan.at < len(scan.data):
                    left = len(scan.data) - scan.at
                    raise Broken("trailing bytes", f"{left} bytes are left behind the last field, at byte {scan.at}")
            except Broken as error:
                failures.append((i, error.reason, error.detail))
            else:
                taken.append(i)
                values.append(value)
        good = np.flatnonzero(ok)
        table = table.filter(pa.array(ok))
        if not taken:
            return table, good, failures
        more = column(values, self._root.type)
        own = pa.table([more.field(i) for i in range(more.type.num_fields)], schema=table.schema)
        numbers = np.concatenate([good, np.array(taken)])
        order = np.argsort(numbers, kind="stable")
        return pa.concat_tables([table, own]).take(pa.array(order)), numbers[order], failures


def _projected(writer: AvroSchema, schema: Schema, where: str) -> AvroSchema:
    """The writer's schema with the declared columns only."""
    tree = writer.resolve(writer.tree)
    if writer.kind(tree) != "record":
        raise SourceError(f"{where} holds Avro values of type {writer.kind(tree)}; the records of a source must be records")
    there = {f["name"]: f for f in tree["fields"]}
    missing = [name for name in schema.names() if name not in there]
    if missing:
        raise SourceError(f"{where} has no column {', '.join(missing)}; it has {', '.join(there)}")
    # Named types that stand first in a field that is left out have to be written out again: resolve by the writer's names.
    return _Projected(json.dumps(tree | {"fields": [there[name] for name in schema.names()]}), writer)


@dataclass(frozen=True)
class _Projected(AvroSchema):
    """A part of a schema: names are those of the whole."""

    of: AvroSchema

    @property
    def names(self) -> dict[str, object]:
        return self.of.names | {self.tree["name"]: self.tree}

"""Events that are rows of Arrow tables already, by partition: what a preview reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import pyarrow as pa

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.columnar import ColumnarCodec
from merganser.schema import Schema
from merganser.sources import Connector
from merganser.sources.turns import Turns, Whole


@dataclass(frozen=True, eq=False)
class Rows(Whole):
    """The connector to tables."""

    in_order: ClassVar[bool] = False

    tables: Mapping[str, pa.Table] = field(repr=False)

    def describe(self) -> str:
        return f"rows ({sum(map(len, self.tables.values()))})"

    def check(self) -> None:
        pass

    def partitions(self) -> list[str]:
        return list(self.tables)

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        return Turns(lambda partition, position: _RowsReader(self.tables[partition], source, partition))

    def replayed(self, begin: str) -> Rows:
        return self

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {}

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        return ColumnarCodec(schema)

    def total_bytes(self) -> int | None:
        return sum(int(table.nbytes) for table in self.tables.values())


class _RowsReader:
    """Gives a table as one chunk."""

    immutable = True

    def __init__(self, table: pa.Table, source: str, partition: str) -> None:
        self._table, self._source, self._partition = table, source, partition
        self.finished = not len(table)

    def read(self, max_bytes: int) -> Chunk | None:
        if self.finished:
            return None
        self.finished = True
        place = Place(f"rows:{self._partition}", None, 1)
        rows = len(self._table)
        return Chunk(self._source, self._partition, 0, rows, place, self._table, {"seq": rows}, self._table.nbytes)

    def close(self) -> None:
        pass


def first(connector: Connector, source: str, codec: Codec, schema: Schema, count: int) -> tuple[Rows, int]:
    """The first ``count`` records of a source that can be decoded, and how many could not on the way."""
    reader = connector.open(source, follow=False)
    left = set(connector.partitions())
    for partition in left:
        reader.add(partition, None)
    found: dict[str, list[pa.Table]] = {}
    bad = 0
    while count > 0 and left:
        chunk = reader.read(1 << 16)
        left -= {name for name, _ in reader.finished()}
        if chunk is None:
            continue
        decoded = codec.decode(chunk)
        rows = decoded.table.slice(0, count).select(schema.names())
        bad += len(decoded.rejects) + len(chunk.rejects)
        count -= len(rows)
        found.setdefault(chunk.partition, []).append(rows)
    reader.close()
    return Rows({partition: pa.concat_tables(tables) for partition, tables in found.items()}), bad

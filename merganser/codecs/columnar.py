"""Parquet and Arrow tables to the declared columns. These formats have types of their own, so a file fits or does not."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.errors import SourceError
from merganser.schema import Schema


class ColumnarCodec:
    """Picks and casts columns. A file that does not fit is a SourceError; a NULL in a required column a reject."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._arrow = schema.arrow_schema()

    def decode(self, chunk: Chunk) -> Decoded:
        table: pa.Table = chunk.payload
        columns = [self._column(table, name, chunk.place.file) for name in self._schema.names()]
        rows = pa.table(columns, schema=self._arrow).append_column(
            SEQ, pa.array(np.arange(chunk.seq, chunk.seq + len(table)))
        )
        bad = np.zeros(len(rows), np.bool_)
        why: dict[int, str] = {}
        for column in self._schema.columns:
            if column.required and rows[column.name].null_count:
                nulls = pc.is_null(rows[column.name]).to_numpy()
                for i in np.flatnonzero(nulls & ~bad).tolist():
                    why[i] = f"column {column.name!r} ({column.type} NOT NULL) is null"
                bad |= nulls
        if not why:
            return Decoded(rows, [])
        rejects = [
            Reject(chunk.seq + i, at, raw, "missing field", why[i])
            for i, (at, raw) in zip(sorted(why), self.locate(chunk, [chunk.seq + i for i in sorted(why)]))
        ]
        return Decoded(rows.filter(pa.array(~bad)), rejects)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        found = []
        for seq in seqs:
            i = seq - chunk.seq
            row = chunk.payload.slice(i, 1).to_pylist()[0]
            line = None if chunk.place.line is None else chunk.place.line + i
            found.append((Place(chunk.place.file, None, line), json.dumps(row, default=str).encode()))
        return found

    def _column(self, table: pa.Table, name: str, file: str) -> pa.ChunkedArray:
        if name not in table.column_names:
            raise SourceError(f"{file} has no column {name!r}; it has {', '.join(table.column_names)}")
        column, wanted = table[name], self._arrow.field(name).type
        if column.type == wanted:
            return column
        try:
            return column.cast(wanted)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(
                f"{file}: column {name!r} is {column.type}, which cannot be read as {self._schema[name].type} without loss:"
                f" {str(error).splitlines()[0]}"
            ) from None

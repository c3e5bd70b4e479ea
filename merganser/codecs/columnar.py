"""Parquet and Arrow tables to the declared columns. These formats have types of their own, so a file fits or does not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.errors import SourceError
from merganser.schema import Schema


def fitted(table: pa.Table, schema: Schema, where: str) -> pa.Table:
    """The declared columns of a table that has types of its own, cast without loss. Raises SourceError."""
    if missing := absent(schema, table.column_names):
        raise SourceError(f"{where}{missing}")
    wanted = schema.arrow_schema()
    columns = []
    for name in schema.names():
        if name not in table.column_names:
            columns.append(pa.nulls(len(table), wanted.field(name).type))
            continue
        column, kind = table[name], wanted.field(name).type
        try:
            columns.append(column if column.type == kind else column.cast(kind))
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise SourceError(
                f"{where}: column {name!r} is {column.type}, which cannot be read as {schema[name].type} without loss:"
                f" {str(error).splitlines()[0]}"
            ) from None
    return pa.table(columns, schema=wanted)


def absent(schema: Schema, there: Sequence[str]) -> str:
    """What to say of columns that must be there and are not; empty if there are none."""
    missing = [c for c in schema.columns if c.name not in there and not c.optional]
    if not missing:
        return ""
    others = "" if all(c.required for c in missing) else ". One that is not in everything is declared 'TYPE DEFAULT NULL'"
    return f" has no column {', '.join(c.name for c in missing)}; it has {', '.join(there)}{others}"


def nulls(rows: pa.Table, schema: Schema) -> dict[int, str]:
    """The rows with a NULL where none may be, and what to say of them."""
    why: dict[int, str] = {}
    for column in schema.columns:
        if column.required and rows[column.name].null_count:
            for i in np.flatnonzero(pc.is_null(rows[column.name]).to_numpy()).tolist():
                why.setdefault(i, f"column {column.name!r} ({column.type} NOT NULL) is null")
    return why


class ColumnarCodec:
    """Picks and casts columns. A file that does not fit is a SourceError; a NULL in a required column a reject."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def decode(self, chunk: Chunk) -> Decoded:
        rows = fitted(chunk.payload, self._schema, chunk.place.file)
        rows = rows.append_column(SEQ, pa.array(np.arange(chunk.seq, chunk.seq + len(rows))))
        why = nulls(rows, self._schema)
        if not why:
            return Decoded(rows, [])
        good = np.ones(len(rows), np.bool_)
        good[list(why)] = False
        bad = sorted(why)
        rejects = [
            Reject(chunk.seq + i, at, raw, "missing field", why[i])
            for i, (at, raw) in zip(bad, self.locate(chunk, [chunk.seq + i for i in bad]))
        ]
        return Decoded(rows.filter(pa.array(good)), rejects)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        found = []
        for seq in seqs:
            i = seq - chunk.seq
            row = {name: _said(chunk.payload[at][i]) for at, name in enumerate(chunk.payload.column_names)}
            line = None if chunk.place.line is None else chunk.place.line + i
            found.append((Place(chunk.place.file, None, line), json.dumps(row).encode()))
        return found


def _said(value: pa.Scalar) -> Any:
    """A value as JSON from which it is read as what it was; but for NaN and infinities, which JSON does not have."""
    kind = value.type
    if not value.is_valid:
        return None
    if isinstance(value, pa.ExtensionScalar):
        return str(value.as_py()) if isinstance(value, pa.UuidScalar) else _said(value.value)
    if isinstance(value, pa.DictionaryScalar):
        return _said(value.value)
    if pa.types.is_map(kind):
        return {_key(_said(entry[0])): _said(entry[1]) for entry in value.values}
    if pa.types.is_struct(kind):
        return {kind.field(i).name: _said(value[i]) for i in range(kind.num_fields)}
    if hasattr(value, "values"):
        return [_said(each) for each in value.values]
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return value.as_py()
    if pa.types.is_floating(kind):
        return value.as_py() if math.isfinite(value.as_py()) else str(value.as_py())
    if pa.types.is_decimal(kind):
        return format(value.as_py(), "f")
    if pa.types.is_interval(kind):
        months, days, nanoseconds = value.as_py()
        return f"{months} months {days} days {nanoseconds // 1000} microseconds"
    if pa.types.is_duration(kind):
        return f"{value.cast(pa.duration('us'), safe=False).value} microseconds"
    if pa.types.is_temporal(kind):  # not by way of Python, which knows no nanoseconds
        return value.cast(pa.string()).as_py()
    found = value.as_py()
    return base64.b64encode(found).decode() if isinstance(found, bytes) else str(found)


def _key(said: Any) -> str:
    return said if isinstance(said, str) else json.dumps(said)

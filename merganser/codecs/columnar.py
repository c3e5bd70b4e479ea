"""Parquet and Arrow tables to the declared columns. These formats have types of their own, so a file fits or does not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.cursor import Flags
from merganser.codecs.explaining import finer_types
from merganser.codecs.values import cut
from merganser.errors import SourceError
from merganser.schema import Column, Schema

Why = dict[int, tuple[str, str]]
"""Reason and detail of the rows that are refused, by their numbers."""


def fitted(table: pa.Table, schema: Schema, where: str) -> tuple[pa.Table, Why]:
    """The declared columns of a table that has types of its own, cast without loss; and why, for rows whose values no type
    of the column can be, which are NULL there. Raises SourceError if no value of a column could be.
    """
    if missing := absent(schema, table.column_names):
        raise SourceError(f"{where}{missing}")
    wanted = schema.arrow_schema()
    columns = []
    why: Why = {}
    for name in schema.names():
        if name not in table.column_names:
            columns.append(pa.nulls(len(table), wanted.field(name).type))
            continue
        column, kind = table[name], wanted.field(name).type
        try:
            made, lost = cast(column, kind)
        except pa.ArrowNotImplementedError as error:
            raise SourceError(
                f"{where}: column {name!r} is {column.type}, which cannot be read as {schema[name].type} without loss:"
                f" {str(error).splitlines()[0]}"
            ) from None
        columns.append(made)
        for row in lost:
            why.setdefault(row, _lost(schema[name], column[row]))
    return pa.table(columns, schema=wanted), why


def cast(column: pa.ChunkedArray, kind: pa.DataType) -> tuple[pa.ChunkedArray, list[int]]:
    """A column as one of another type, and the rows whose values that type cannot hold, which are NULL in it.

    Raises ArrowNotImplementedError if it can hold none.
    """
    if column.type == kind and not _interval_within(kind):
        return column, []
    changed = np.concatenate([np.zeros(0, np.bool_), *(_changed_within(chunk, kind) for chunk in column.chunks)])
    if lost := sorted({*_unfit(column, kind, 0), *np.flatnonzero(changed).tolist()}):
        at = np.arange(len(column))
        column = column.take(pa.array(at, mask=np.isin(at, lost)))
    return column if column.type == kind else column.cast(kind), lost


def _interval_within(kind: pa.DataType) -> bool:
    """Whether a type is INTERVAL or has one in it."""
    return pa.types.is_interval(kind) or any(_interval_within(kind.field(i).type) for i in range(kind.num_fields))


def _unfit(column: pa.ChunkedArray, kind: pa.DataType, first: int) -> list[int]:
    """The rows that cannot be cast: those of the halves, where the whole cannot. ``first``: the number of its first row."""
    if (changed := _changed(column, kind)) is not None:
        return (first + np.flatnonzero(changed)).tolist()
    if column.type == kind:  # Arrow casts nothing with a UNION in it, to itself neither
        return []
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        if len(column) == 1:
            return [first]
        half = len(column) // 2
        halves = column.take(pa.array(np.arange(half))), column.take(pa.array(np.arange(half, len(column))))  # slices cast it all
        return _unfit(halves[0], kind, first) + _unfit(halves[1], kind, first + half)
    return []


def _changed(column: pa.ChunkedArray, kind: pa.DataType) -> Flags | None:
    """Which values are others in another type, where that can be asked of all at once; casts round some without a word."""
    own = column.type
    if pa.types.is_interval(own) and own == kind:  # DuckDB's has microseconds
        return np.concatenate([np.zeros(0, np.bool_), *(_nanoseconds(chunk) % 1000 != 0 for chunk in column.chunks)])
    if (pa.types.is_temporal(own) and pa.types.is_temporal(kind)) or (pa.types.is_floating(own) and pa.types.is_decimal(kind)):
        try:
            back = column.cast(kind, safe=False).cast(own, safe=False)
        except pa.ArrowInvalid:  # a DECIMAL that is too small for a number
            return None
        changed: Flags = pc.fill_null(pc.not_equal(back, column), False).to_numpy()
        return changed
    return None


def _changed_within(values: pa.Array, kind: pa.DataType) -> Flags:
    """Which lists, STRUCTs and MAPs have a value in them that is another one in another type."""
    own, found = values.type, np.zeros(len(values), np.bool_)
    if pa.types.is_struct(own) and pa.types.is_struct(kind):
        for i, name in enumerate(own.names):
            if kind.get_field_index(name) >= 0:
                found |= _changed_at(values.field(i), kind.field(name).type)  # not flatten(), which aborts with a UNION in it
        found &= values.is_valid().to_numpy(zero_copy_only=False)
    elif pa.types.is_nested(own) and pa.types.is_nested(kind) and _listed(own) and _listed(kind):
        lists = values.cast(pa.list_(_entry(own)))  # MAPs, and lists of other kinds, too
        lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
        found[np.repeat(np.arange(len(lists)), lengths)[_changed_at(lists.flatten(), _entry(kind))]] = True
    elif pa.types.is_union(own) and own == kind:
        codes = pa.concat_arrays([values]).type_codes.to_numpy()  # those of a slice begin where those of the whole do
        for i, code in enumerate(own.type_codes):
            found |= _changed_at(values.field(i), kind.field(i).type) & (codes == code)
    return found


def _listed(kind: pa.DataType) -> bool:
    return pa.types.is_map(kind) or hasattr(kind, "value_type")


def _entry(kind: pa.DataType) -> pa.DataType:
    """The type of what is in a list or MAP."""
    return pa.struct([("key", kind.key_type), ("value", kind.item_type)]) if pa.types.is_map(kind) else kind.value_type


def _changed_at(values: pa.Array, kind: pa.DataType) -> Flags:
    changed = _changed(pa.chunked_array([values]), kind)
    return _changed_within(values, kind) if changed is None else changed


def _nanoseconds(intervals: pa.Array) -> npt.NDArray[np.int64]:
    """Those of some INTERVALs; of NULLs 0."""
    if not len(intervals):  # of which the buffer can be any
        return np.zeros(0, np.int64)
    _, data = intervals.buffers()
    parts = np.frombuffer(data, np.int64, 2 * len(intervals), 16 * intervals.offset)[1::2]
    return np.where(intervals.is_valid().to_numpy(zero_copy_only=False), parts, 0)


def _lost(column: Column, value: pa.Scalar) -> tuple[str, str]:
    """Why a type does not hold a value, and what to do."""
    found = json.dumps(_said(value))
    reason = "wrong type" if pa.types.is_string(value.type) or pa.types.is_large_string(value.type) else "out of range"
    finer = finer_types(column.type) if getattr(value.type, "unit", None) == "ns" else ""
    return reason, f"column {column.name!r}: {value.type} {cut(found)} is no {column.type} without loss{finer}"


def absent(schema: Schema, there: Sequence[str]) -> str:
    """What to say of columns that must be there and are not; empty if there are none."""
    missing = [c for c in schema.columns if c.name not in there and not c.optional]
    if not missing:
        return ""
    others = "" if all(c.required for c in missing) else ". One that is not in everything is declared 'TYPE DEFAULT NULL'"
    return f" has no column {', '.join(c.name for c in missing)}; it has {', '.join(there)}{others}"


def nulls(rows: pa.Table, schema: Schema) -> Why:
    """The rows with a NULL where none may be, and what to say of them."""
    why: Why = {}
    for column in schema.columns:
        if column.required and rows[column.name].null_count:
            for i in np.flatnonzero(pc.is_null(rows[column.name]).to_numpy()).tolist():
                why.setdefault(i, ("missing field", f"column {column.name!r} ({column.type} NOT NULL) is null"))
    return why


class ColumnarCodec:
    """Picks and casts columns. A file whose types do not fit is a SourceError; a value that does not, or a NULL in a required
    column, a reject.
    """

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def decode(self, chunk: Chunk) -> Decoded:
        rows, why = fitted(chunk.payload, self._schema, chunk.place.file)
        rows = rows.append_column(SEQ, pa.array(np.arange(chunk.seq, chunk.seq + len(rows))))
        why = nulls(rows, self._schema) | why
        if not why:
            return Decoded(rows, [])
        good = np.ones(len(rows), np.bool_)
        good[list(why)] = False
        bad = sorted(why)
        rejects = [
            Reject(chunk.seq + i, at, raw, *why[i])
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

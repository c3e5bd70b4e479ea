"""JSON objects to Arrow: by the kernel, as far as it is sure of a record, and else by DuckDB.

A value is what the text of it says by the rules of ``values``, however deep it stands within others, whether it is in quotes or
not; one that its column's type cannot hold is refused. Anything can be a VARCHAR or JSON, as its JSON text.

Columns whose types the kernel does not know it gives as JSON, for DuckDB to cast. Records that it doubts are looked at column by
column. The verdict on a record does not depend on its neighbours, whichever way it came.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.explaining import explain
from merganser.codecs.filling import Object, filled, mendable, text
from merganser.codecs.messages import Messages
from merganser.codecs.objects import NO_COLUMN, Form, Objects
from merganser.codecs.values import is_json, line_ends, ordinals, place, rule, utf8_error
from merganser.errors import FlowError
from merganser.schema import Column, Schema
from merganser.schema.types import parse
from merganser.scratch import REFUSED, Query
from merganser.sql import literal, quote


@dataclass(frozen=True, slots=True)
class Lines:
    """Some whole lines, and where each begins (int32), with the length of all as a last entry."""

    data: memoryview
    starts: npt.NDArray[np.int32]

    @classmethod
    def of(cls, data: bytes | memoryview, ends: npt.NDArray[np.int64] | None = None) -> Lines:
        """Lines of bytes; ``ends``: where the line ends stand, if that is known. The last line may have none."""
        if ends is None:
            ends = line_ends(data)
        unfinished = len(data) > 0 and data[-1] != 10
        starts = np.empty(len(ends) + 1 + unfinished, np.int32)
        starts[0] = 0
        starts[1 : len(ends) + 1] = ends + 1
        if unfinished:
            starts[-1] = len(data)
        return cls(memoryview(data), starts)

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, i: int) -> bytes:
        """A line without its end."""
        return bytes(self.data[self.starts[i] : self.starts[i + 1]]).rstrip(b"\r\n")

    def records(self) -> tuple[memoryview, npt.NDArray[np.int32]]:
        """All bytes, and where in them each record begins, with the end of the last."""
        return self.data, self.starts

    def ordinals(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        return ordinals(chunk, len(self))

    def place(self, chunk: Chunk, i: int, seq: int) -> Place:
        return place(chunk, int(self.starts[i]), i, seq)


class JsonCodec:
    """Decodes the JSON objects of a chunk, one a line or message. For one thread."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        sql = self._slow_sql()
        self._slow = Query(sql, "_lines")
        kinds = {c.name: parse(c.type) for c in schema.columns if "STRUCT(" in c.type or "DECIMAL(" in c.type}
        self._mended = {name: kind for name, kind in kinds.items() if mendable(kind)}
        self._alone: dict[str, JsonCodec] = {}
        self._empty = _no_rows(schema, sql)
        self._read_as_json({c.name for c in schema.columns if Form.of(c.type).kind == "json"})

    # -- the codec ------------------------------------------------------------------------------------------------

    def decode(self, chunk: Chunk) -> Decoded:
        payload: Lines | Messages = chunk.payload
        assert len(payload) + len(chunk.rejects) == chunk.records
        seqs = payload.ordinals(chunk)
        table, doubts = self._objects.decode(*payload.records())
        if self._as_json:
            table = self._cast(table, doubts)
        doubted = np.flatnonzero(doubts)
        if not len(doubted):
            return Decoded(table.append_column(SEQ, pa.array(seqs)), [])
        looked, bad = self._look([payload[i] for i in doubted.tolist()])
        rejects = [self._reject(payload[i], int(seqs[i]), payload.place(chunk, i, int(seqs[i]))) for i in doubted[bad].tolist()]
        rows = np.arange(len(table))
        rows[doubted] = len(table) + np.arange(len(doubted))
        kept = np.delete(np.arange(len(table)), doubted[bad])
        table = pa.concat_tables([table, looked]).take(pa.array(rows[kept]))
        self._learn(doubts)
        return Decoded(table.append_column(SEQ, pa.array(seqs[kept])), rejects)

    def _learn(self, doubts: npt.NDArray[np.uint16]) -> None:
        """Have columns that are often in doubt cast by DuckDB: those whose values have an unusual notation."""
        counts = np.bincount(doubts, minlength=len(self._schema.columns) + 1)
        often = {c.name for c, count in zip(self._schema.columns, counts[1:].tolist()) if count > max(FEW, len(doubts) // 50)}
        if often - self._as_json:
            self._read_as_json(self._as_json | often)

    def _read_as_json(self, names: set[str]) -> None:
        """Let the kernel give some columns as their JSON, for DuckDB to cast."""
        self._as_json = names
        self._objects = Objects(self._schema, names)
        self._casts = [Query(self._casts_sql(surely), "_read") for surely in (True, False)] if names else []

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        payload: Lines | Messages = chunk.payload
        numbers = payload.ordinals(chunk)
        found = []
        for seq in seqs:
            i = int(np.searchsorted(numbers, seq))
            found.append((payload.place(chunk, i, seq), payload[i]))
        return found

    # -- queries --------------------------------------------------------------------------------------------------

    def _casts_sql(self, surely: bool) -> str:
        """The columns that come as JSON as their types; what is no value of one is NULL, or an error (``surely``: quicker)."""
        items = []
        for c in self._schema.columns:
            if c.name in self._as_json:
                how = rule(c.type, json=True)
                value = how.held(f"TRY(json_transform_strict({quote(c.name)}, {literal(json.dumps(how.decoded))}))")
                items.append(f"{value if surely else f'TRY({value})'} AS {quote(c.name)}")
        return f"SELECT {', '.join(items)} FROM _read"

    def _slow_sql(self) -> str:
        """Every column by itself: ``_bad`` is true for a record that is no object, or has a bad column."""
        items, bad = [], ["_type IS DISTINCT FROM 'OBJECT'", "len(_keys) <> len(list_distinct(_keys))"]
        known = ", ".join(literal(c.name) for c in self._schema.columns)
        for c in self._schema.columns:
            how, name = rule(c.type, json=True), quote(c.name)
            raw = f"json_extract(_json, {literal(_path(c.name))})"
            spec = literal(json.dumps({c.name: how.decoded}))
            text = f"struct_extract(TRY(json_transform_strict(_line, {spec})), {literal(c.name)})"
            present = f"{raw} IS NOT NULL AND json_type({raw}) <> 'NULL'"
            items.append(f"CASE WHEN {present} THEN TRY({how.held(f'({text})')}) END AS {name}")
            bad.append(f"({present} AND {name} IS NULL)")
            if c.required:
                bad.append(f"{name} IS NULL")
        return (
            f"SELECT {', '.join(items)}, ({' OR '.join(bad)}) AS _bad FROM ("
            " SELECT *, json_type(_json) AS _type, CASE WHEN json_type(_json) = 'OBJECT'"
            f" THEN list_filter(json_keys(_json), lambda k: k IN ({known})) END AS _keys FROM ("
            "  SELECT _line, CASE WHEN json_valid(_line) THEN _line::JSON END AS _json FROM _lines))"
        )

    def _cast(self, table: pa.Table, doubts: npt.NDArray[np.uint16]) -> pa.Table:
        """Put columns that came as JSON as their types into a table, and into the doubts what has none."""
        read = table.select([name for name in table.column_names if name in self._as_json])
        made = self._tried(read)
        for i, name in enumerate(table.column_names):
            if name in self._as_json:
                column = pa.nulls(len(table), self._empty.schema.field(name).type) if made is None else made[name]
                doubts[pc.and_(pc.is_null(column), pc.is_valid(read[name])).to_numpy() & (doubts == 0)] = NO_COLUMN
                table = table.set_column(i, self._empty.schema.field(name), column)
        return table

    def _tried(self, read: pa.Table) -> pa.Table | None:
        for query in self._casts:
            try:
                return query.run(read)
            except REFUSED:
                continue
        return None

    def _one_by_one(self, lines: pa.Array) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """All columns (whatever stands in bad records), and the numbers of the bad records."""
        try:
            table = self._slow.run(_table(lines))
        except REFUSED:
            if len(lines) == 1:
                return pa.Table.from_pylist([{}], schema=self._empty.schema), np.zeros(1, np.int64)
            half = len(lines) // 2
            (a, bad_a), (b, bad_b) = (self._one_by_one(part) for part in (lines[:half], lines[half:]))
            return pa.concat_tables([a, b]), np.concatenate([bad_a, half + bad_b])
        return table.drop_columns(["_bad"]), np.flatnonzero(table["_bad"].fill_null(True).to_numpy())

    def _look(self, raws: Sequence[bytes]) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """All columns of records (whatever stands in bad ones), and the numbers of the bad ones."""
        # What DuckDB takes for JSON, but is none, is emptied.
        texts = ["" if utf8_error(raw) or (COMMA.search(raw) and not is_json(raw)) else raw.decode() for raw in raws]
        lines = pa.array(texts, pa.utf8())
        if self._mended:
            for i in np.flatnonzero(pc.match_substring_regex(lines, LONG).to_numpy(zero_copy_only=False)).tolist():
                texts[i] = filled(texts[i], self._mended)
            lines = pa.array(texts, pa.utf8())
        table, bad = self._one_by_one(lines)
        if not self._mended or not len(bad):
            return table, bad
        again, still = self._one_by_one(pa.array([filled(texts[i], self._mended) for i in bad.tolist()], pa.utf8()))
        place = np.arange(len(lines))
        place[bad] = len(lines) + np.arange(len(bad))
        return pa.concat_tables([table, again]).take(pa.array(place)), bad[still]

    # -- what to say of a bad record --------------------------------------------------------------------------------

    def _reject(self, raw: bytes, seq: int, at: Place) -> Reject:
        wrong = utf8_error(raw)
        reason, detail = ("not utf-8", wrong) if wrong else explain(raw, self._schema, self._fits)
        return Reject(seq, at, raw, reason, detail)

    def _fits(self, column: Column, value: object) -> bool:
        if column.name not in self._alone:
            self._alone[column.name] = JsonCodec(Schema((Column(column.name, column.type),)))
        alone = self._alone[column.name]
        return not len(alone._look([text(Object([(column.name, value)])).encode()])[1])


@cache
def _no_rows(schema: Schema, sql: str) -> pa.Table:
    """An empty table. Raises FlowError if there is no way from JSON to a column's type; ``sql`` reads all of them."""
    try:
        Query(sql, "_lines").run(_table(pa.array([], pa.string())))
        return schema.arrow_schema().empty_table()
    except (duckdb.Error, pa.ArrowNotImplementedError) as error:  # the second of a UNION
        raise FlowError(f"JSON cannot be read into this schema: {str(error).splitlines()[0]}") from None


def _table(lines: pa.Array) -> pa.Table:
    return pa.table({"_line": lines})


def _path(name: str) -> str:
    """The JSON path of a key of a record."""
    return '$."' + name.replace('"', '\\"') + '"'


LONG = r"[0-9.]{16}|[:,\[\s]-?[0-9.]+[eE]"
"""What is in a record with a number of which DuckDB may not keep every digit, and in some others."""

FEW = 100
"""Values of a column that DuckDB casts by looking at their whole records, before it is given them alone."""

COMMA = re.compile(rb",\s*[}\]]")
"""A comma before a closing bracket, which DuckDB takes, and no one else."""

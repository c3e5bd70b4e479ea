"""JSON Lines to Arrow: a vectorised search for line ends, then one DuckDB query over the lines.

A value is what the text of it says by the rules of ``values``, however deep it stands within others, whether it is in quotes or
not; one that its column's type cannot hold is refused. Anything can be a VARCHAR or JSON, as its JSON text.

A chunk in which every record has every key needs one strict query. If that fails, a lenient one takes the records that
lack nullable keys, and what it doubts is looked at column by column. The verdict on a record does not depend on its
neighbours, whichever query it came by.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.explaining import explain
from merganser.codecs.filling import Object, filled, mendable, text
from merganser.codecs.messages import Messages
from merganser.codecs.quick import path, quick
from merganser.codecs.values import after_comma, is_json, line_ends, ordinals, place, rule, utf8_error
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

    def arrow(self) -> pa.Array:
        """The lines as an Arrow string array over the bytes themselves, line ends included."""
        return pa.Array.from_buffers(pa.utf8(), len(self), [None, pa.py_buffer(self.starts), pa.py_buffer(self.data)])

    def text(self) -> tuple[pa.Array, bool]:
        """The lines as strings, those that are not UTF-8 emptied; and whether there are such."""
        if np.frombuffer(self.data, np.uint8).max(initial=0) <= 127:
            return self.arrow(), False
        whole = bytes(self.data)
        if not utf8_error(whole):
            return self.arrow(), False
        pieces = [whole[a:b] for a, b in itertools.pairwise(self.starts)]
        return pa.array([b"" if utf8_error(piece) else piece for piece in pieces], pa.binary()).cast(pa.utf8()), True

    def trailing_commas(self) -> npt.NDArray[np.int64]:
        """The numbers of the lines that are no JSON, for a comma before a closing bracket."""
        found = after_comma(np.frombuffer(self.data, np.uint8))
        if not len(found):
            return found
        rows = np.unique(np.searchsorted(self.starts, found, side="right") - 1)
        return rows[[not is_json(self[i]) for i in rows.tolist()]]

    def ordinals(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        return ordinals(chunk, len(self))

    def place(self, chunk: Chunk, i: int, seq: int) -> Place:
        return place(chunk, int(self.starts[i]), i, seq)


class JsonCodec:
    """Decodes the JSON objects of a chunk, one a line or message. For one thread."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self.beside({})
        self._middle, self._slow = Query(self._middle_sql(), "_lines"), Query(self._slow_sql(), "_lines")
        self._names = list(schema.names())
        kinds = {c.name: parse(c.type) for c in schema.columns if "STRUCT(" in c.type or "DECIMAL(" in c.type}
        self._mended = {name: kind for name, kind in kinds.items() if mendable(kind)}
        self._lenient = False
        self._alone: dict[str, JsonCodec] = {}
        try:
            self._empty = schema.arrow_schema().empty_table()
            self._fast.run(_table(pa.array([], pa.string())))
        except (duckdb.Error, pa.ArrowNotImplementedError) as error:  # the second of a UNION
            raise FlowError(f"JSON cannot be read into this schema: {str(error).splitlines()[0]}") from None

    # -- the codec ------------------------------------------------------------------------------------------------

    def beside(self, columns: Mapping[str, str]) -> None:
        """Compute further columns of what is decoded in the same query, by their SQL over the schema's.

        They are there where all records of a chunk are as the strict query would have them, and else, or if they cannot be
        computed for each, not.
        """
        self._beside = dict(columns)
        self._fast = Query(self._fast_sql(), "_lines")

    def decode(self, chunk: Chunk) -> Decoded:
        payload: Lines | Messages = chunk.payload
        assert len(payload) + len(chunk.rejects) == chunk.records
        seqs = payload.ordinals(chunk)
        lines, broken = payload.text()
        commas = payload.trailing_commas()
        if not broken and not len(commas) and not self._lenient:
            table = self._try_fast(lines)
            if table is None and self._beside:
                beside = self._beside
                self.beside({})
                table = self._try_fast(lines)
                if table is None:  # it is not they that fail
                    self.beside(beside)
            if table is not None:
                return Decoded(table.append_column(SEQ, pa.array(seqs)), [])
        if len(commas):  # which DuckDB takes, and no one else
            spoilt = np.zeros(len(lines), np.bool_)
            spoilt[commas] = True
            lines = pc.if_else(pa.array(spoilt), "", lines)
        table, rows = self._leniently(lines)
        # Where nearly all records lack a key, the strict query fails on every chunk: do not try it again.
        self._lenient = self._lenient or len(rows) > len(lines) // 2
        rejects = [
            self._reject(payload[i], int(seqs[i]), payload.place(chunk, i, int(seqs[i])))
            for i in np.setdiff1d(np.arange(len(lines)), rows).tolist()
        ]
        return Decoded(table.append_column(SEQ, pa.array(seqs[rows])), rejects)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        payload: Lines | Messages = chunk.payload
        numbers = payload.ordinals(chunk)
        found = []
        for seq in seqs:
            i = int(np.searchsorted(numbers, seq))
            found.append((payload.place(chunk, i, seq), payload[i]))
        return found

    # -- queries --------------------------------------------------------------------------------------------------

    def _fast_sql(self) -> str:
        """``_ok`` is true where every column is there, and as its type's rule has it."""
        items, checks, spec = [], ["_read IS NOT NULL"], {}
        for c in self._schema.columns:
            how = quick(c)
            spec[c.name] = how.decoded
            items.append(f"{how.value} AS {quote(c.name)}")
            if how.sure:
                checks.append(f"({how.sure}) IS NOT FALSE")
            if c.required:
                checks.append(f"_read.{quote(c.name)} IS NOT NULL")
        sql = (
            f"SELECT {', '.join(items)}, ({' AND '.join(checks)}) AS _ok"
            f" FROM (SELECT _line, json_transform_strict(_line, {literal(json.dumps(spec))}) AS _read FROM _lines)"
        )
        return f"SELECT *{''.join(f', {column} AS {name}' for name, column in self._beside.items())} FROM ({sql})"

    def _middle_sql(self) -> str:
        """``_ok`` is true where every column is as the strict query would have it, or absent and nullable."""
        # Where there are as many keys as values, none stands there twice: a quick way not to compare them.
        there = " + ".join(f"(_read.{quote(c.name)} IS NOT NULL)::INTEGER" for c in self._schema.columns)
        once = f"CASE WHEN len(_keys) = {there} THEN true ELSE len(_keys) = len(list_distinct(_keys)) END"
        items, checks, spec = [], ["len(_keys) > 0", once], {}  # what is no object has no keys
        for c in self._schema.columns:
            how, name, text = rule(c.type, json=True), quote(c.name), f"_read.{quote(c.name)}"
            plain = how.decoded in ("VARCHAR", "JSON")  # NULL for nothing but what is absent or null
            spec[c.name] = how.decoded if plain else "JSON"
            items.append(f"{f'TRY({how.held(text)})' if plain else f'NULL::{c.type}'} AS {name}")
            checks.append(f"{name} IS NOT NULL" if c.required else f"({name} IS NOT NULL OR {text} IS NULL)")
        return (
            f"SELECT {', '.join(items)}, coalesce({' AND '.join(checks)}, false) AS _ok"
            f" FROM (SELECT TRY(json_transform(_line, {literal(json.dumps(spec))})) AS _read, TRY(json_keys(_line)) AS _keys"
            " FROM _lines)"
        )

    def _slow_sql(self) -> str:
        """Every column by itself: ``_bad`` is true for a record that is no object, or has a bad column."""
        items, bad = [], ["_type IS DISTINCT FROM 'OBJECT'", "len(_keys) <> len(list_distinct(_keys))"]
        known = ", ".join(literal(c.name) for c in self._schema.columns)
        for c in self._schema.columns:
            how, name = rule(c.type, json=True), quote(c.name)
            raw = f"json_extract(_json, {literal(path(c.name))})"
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

    def _try_fast(self, lines: pa.Array) -> pa.Table | None:
        """All columns, or None if any record has to be looked at more closely."""
        try:
            table = self._fast.run(_table(lines))
        except (duckdb.InvalidInputException, duckdb.ConversionException, duckdb.OutOfRangeException, UnicodeDecodeError):
            return None
        if len(table) != len(lines) or not _all(table["_ok"]):
            return None
        return table.select([*self._names, *self._beside])

    def _leniently(self, lines: pa.Array) -> tuple[pa.Table, npt.NDArray[np.int64]]:
        """The rows that are good, and the numbers of their lines."""
        try:
            table = self._middle.run(_table(lines))
            sure = table["_ok"].to_numpy()
            table = table.drop_columns(["_ok"]).filter(pa.array(sure))
        except REFUSED:
            table, sure = self._empty, np.zeros(len(lines), np.bool_)
        doubted = np.flatnonzero(~sure)
        if not len(doubted):
            return table, np.flatnonzero(sure)
        looked, bad = self._one_by_one(lines.take(pa.array(doubted)))
        good = np.ones(len(doubted), np.bool_)
        good[bad] = False
        rows = np.concatenate([np.flatnonzero(sure), doubted[good]])
        order = np.argsort(rows, kind="stable")
        whole = pa.concat_tables([table, looked.filter(pa.array(good))])
        return whole.take(pa.array(order)), rows[order]

    def _one_by_one(self, lines: pa.Array, fill: bool = True) -> tuple[pa.Table, list[int]]:
        """All columns (whatever stands in bad records), and the numbers of the bad records.

        ``fill``: keys that a STRUCT lacks are NULL in it, and a DECIMAL has all digits of a number; the query wants it written so.
        """
        try:
            table = self._slow.run(_table(lines))
        except REFUSED:
            if len(lines) == 1:
                return pa.Table.from_pylist([{}], schema=self._empty.schema), [0]
            half = len(lines) // 2
            (a, bad_a), (b, bad_b) = (self._one_by_one(part, fill) for part in (lines[:half], lines[half:]))
            return pa.concat_tables([a, b]), bad_a + [half + i for i in bad_b]
        bad = np.flatnonzero(table["_bad"].fill_null(True).to_numpy()).tolist()
        table = table.drop_columns(["_bad"])
        if not bad or not self._mended or not fill:
            return table, bad
        whole = {i: more for i in bad if (more := filled(lines[i].as_py() or "", self._mended)) is not None}
        if not whole:
            return table, bad
        own, still = self._one_by_one(pa.array(list(whole.values())), fill=False)
        place = np.arange(len(lines))
        place[list(whole)] = len(lines) + np.arange(len(whole))
        mended = set(whole) - {list(whole)[i] for i in still}
        return pa.concat_tables([table, own]).take(pa.array(place)), [i for i in bad if i not in mended]

    # -- what to say of a bad record --------------------------------------------------------------------------------

    def _reject(self, raw: bytes, seq: int, at: Place) -> Reject:
        wrong = utf8_error(raw)
        reason, detail = ("not utf-8", wrong) if wrong else explain(raw, self._schema, self._fits)
        return Reject(seq, at, raw, reason, detail)

    def _fits(self, column: Column, value: object) -> bool:
        if column.name not in self._alone:
            self._alone[column.name] = JsonCodec(Schema((Column(column.name, column.type),)))
        return not self._alone[column.name]._one_by_one(pa.array([text(Object([(column.name, value)]))]))[1]


def _table(lines: pa.Array) -> pa.Table:
    return pa.table({"_line": lines})


def _all(flags: pa.ChunkedArray) -> bool:
    """Whether all are true, none false or NULL."""
    return not flags.null_count and pc.all(flags).as_py() is not False

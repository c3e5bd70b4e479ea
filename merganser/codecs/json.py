"""JSON Lines to Arrow: a vectorised search for line ends, then one DuckDB query over the lines.

Values are DuckDB's casts of JSON values, with these stricter rules, since a cast must not change a value unseen: a number
takes no boolean, however deep within others; an integer column takes no fraction, a floating-point one nothing infinite,
and a TIMESTAMP text with a zone is that instant in UTC. Numbers and booleans in quotes are taken for what they say;
anything can be a VARCHAR or JSON, as its JSON text. A DECIMAL is rounded to its scale.

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
from merganser.codecs.booleans import doubted, no_boolean, path
from merganser.codecs.filling import filled, lacking
from merganser.codecs.messages import Messages
from merganser.codecs.values import LARGE, SMALL, after_comma, is_json, line_ends, numeric, ordinals, place, rule, shown, utf8_error
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
        kinds = {c.name: parse(c.type) for c in schema.columns if "STRUCT(" in c.type}
        self._structs = kinds if lacking(kinds) else {}
        self._lenient = False
        self._empty = schema.arrow_schema().empty_table()
        self._careful = False
        try:
            self._fast[True].run(_table(pa.array([], pa.string())))
        except duckdb.Error as error:
            raise FlowError(f"JSON cannot be read into this schema: {str(error).splitlines()[0]}") from None

    # -- the codec ------------------------------------------------------------------------------------------------

    def beside(self, columns: Mapping[str, str]) -> None:
        """Compute further columns of what is decoded in the same query, by their SQL over the schema's.

        They are there where all records of a chunk are as the strict query would have them, and else, or if they cannot be
        computed for each, not.
        """
        self._beside = dict(columns)
        self._fast = {careful: Query(self._fast_sql(careful), "_lines") for careful in (False, True)}

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

    def _fast_sql(self, careful: bool) -> str:
        items, checks = [], ["s IS NOT NULL"]
        for c in self._schema.columns:
            how, field = rule(c, careful), f"s.{quote(c.name)}"
            items.append(f"{how.value.replace('{}', field)} AS {quote(c.name)}")
            if how.check:
                checks.append(f"{how.check.replace('{}', field)} IS NOT FALSE")
            if careful and (unlike := no_boolean(c, field)):
                checks.append(unlike)
            if c.required:
                checks.append(f"{field} IS NOT NULL")
        spec = {c.name: rule(c, careful).decoded for c in self._schema.columns}
        # A boolean is 0 or 1 to DuckDB: records in which a number is one of these are read again, integers as text, which
        # tells them apart; other numbers only where there is a boolean at all.
        flags = [] if careful else [flag for c in self._schema.columns if (flag := doubted(c))]
        sql = (
            f"SELECT {', '.join(items)}, ({' AND '.join(checks)}) AS _ok, ({' OR '.join(flags) or 'false'}) AS _flags"
            f" FROM (SELECT l, json_transform_strict(l, {literal(json.dumps(spec))}) AS s FROM _lines)"
        )
        return f"SELECT *{''.join(f', {column} AS {name}' for name, column in self._beside.items())} FROM ({sql})"

    def _middle_sql(self) -> str:
        """``_ok`` is true where every column is as the strict query would have it, or absent and nullable."""
        items, checks = [], ["s IS NOT NULL", "len(_keys) = len(list_distinct(_keys))"]
        spec: dict[str, str] = {}
        for c in self._schema.columns:
            how, field, name = rule(c), f"s.{quote(c.name)}", quote(c.name)
            if c.type.endswith("]") or "(" in c.type.removeprefix("DECIMAL("):  # a lenient cast loses what is in there
                items.append(f"NULL::{c.type} AS {name}")
                checks.append(f"coalesce(json_type(l, {literal(path(c.name))}), 'NULL') = 'NULL'")
                continue
            spec[c.name] = how.decoded
            items.append(f"TRY({how.value.replace('{}', field)}) AS {name}")
            if how.check:
                checks.append(f"TRY({how.check.replace('{}', field)}) IS NOT FALSE")
            if unlike := no_boolean(c, field):
                checks.append(unlike)
            if c.required:
                checks.append(f"{name} IS NOT NULL")
            else:
                checks.append(f"({name} IS NOT NULL OR coalesce(json_type(l, {literal(path(c.name))}), 'NULL') = 'NULL')")
        return (
            f"SELECT {', '.join(items)}, coalesce({' AND '.join(checks)}, false) AS _ok"
            f" FROM (SELECT l, TRY(json_transform(l, {literal(json.dumps(spec))})) AS s, TRY(json_keys(l)) AS _keys"
            " FROM _lines)"
        )

    def _slow_sql(self) -> str:
        """Every column by itself: ``_bad`` is true for a record that is no object, or has a bad column."""
        items, bad = [], ["_type IS DISTINCT FROM 'OBJECT'", "len(_keys) <> len(list_distinct(_keys))"]
        known = ", ".join(literal(c.name) for c in self._schema.columns)
        for c in self._schema.columns:
            how, name = rule(c), quote(c.name)
            raw = f"json_extract(j, {literal(path(c.name))})"
            # From the line itself: a number that was taken out of it before has lost digits.
            spec = literal(json.dumps({c.name: how.decoded}))
            cast = f"struct_extract(TRY(json_transform_strict(l, {spec})), {literal(c.name)})"
            value = f"TRY(({how.value.replace('{}', f'({cast})')})::{c.type})"
            present = f"{raw} IS NOT NULL AND json_type({raw}) <> 'NULL'"
            items.append(f"CASE WHEN {present} THEN {value} END AS {name}")
            bad.append(f"({present} AND {name} IS NULL)")
            if how.check:
                bad.append(f"({present} AND {how.check.replace('{}', f'({cast})')} IS FALSE)")
            if unlike := no_boolean(c, name):
                bad.append(f"({present} AND NOT {unlike})")
            if c.required:
                bad.append(f"{name} IS NULL")
        return (
            f"SELECT {', '.join(items)}, ({' OR '.join(bad)}) AS _bad FROM ("
            " SELECT *, json_type(j) AS _type, CASE WHEN json_type(j) = 'OBJECT'"
            f" THEN list_filter(json_keys(j), lambda k: k IN ({known})) END AS _keys FROM ("
            "  SELECT l, CASE WHEN json_valid(l) THEN l::JSON END AS j FROM _lines))"
        )

    def _try_fast(self, lines: pa.Array) -> pa.Table | None:
        """All columns, or None if any record has to be looked at more closely."""
        try:
            table = self._fast[self._careful].run(_table(lines))
            flags = table["_flags"]
            if pc.any(flags).as_py():
                doubted = lines.filter(flags.combine_chunks())
                if not _all(self._fast[True].run(_table(doubted))["_ok"]):
                    return None
                # Where they are many, do not read them twice.
                self._careful = len(doubted) > len(lines) // 4
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

        ``fill``: keys that a STRUCT lacks are NULL in it; the query wants all of them.
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
        if not bad or not self._structs or not fill:
            return table, bad
        whole = {i: text for i in bad if (text := filled(lines[i].as_py() or "", self._structs)) is not None}
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
        reason, detail = ("not utf-8", wrong) if wrong else self._explain(raw)
        return Reject(seq, at, raw, reason, detail)

    def _explain(self, raw: bytes) -> tuple[str, str]:
        """Reason and detail for a record that the queries refused."""
        if not raw.strip():
            return "empty line", "the record is empty; a JSON object was expected"
        try:
            pairs = json.loads(raw, object_pairs_hook=_Pairs, parse_constant=_no_constant)
        except _NotFinite as error:
            return "not finite", str(error)
        except ValueError as error:
            return "not json", f"{error}; a JSON object was expected"
        except RecursionError:
            return "nested too deeply", "the record has more brackets within each other than can be told apart"
        if not isinstance(pairs, _Pairs):
            return "not an object", f"the record is {_kind(pairs)}; a JSON object was expected"
        if not _is_text(pairs):
            return "lone surrogate", "there is half a character in it (\\ud800 to \\udfff alone), which is no text"
        keys = [key for key, _ in pairs]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            return "duplicate key", f"key {twice[0]!r} stands in the object more than once"
        values = dict(pairs)
        for column in self._schema.columns:
            value = values.get(column.name)
            if value is None:
                if column.required:
                    found = "null" if column.name in values else "absent"
                    return "missing field", f"column {column.name!r} ({column.type} NOT NULL) is {found}"
            elif not self._fits(column, value):
                fraction = isinstance(value, float) and column.type in (*SMALL, *LARGE)
                reason = "out of range" if numeric(column.type) and _kind(value) == "a number" and not fraction else "wrong type"
                return reason, f"column {column.name!r}: expected {column.type}, found {_kind(value)} {shown(value)}"
        if (key := _twice(pairs)) is not None:
            return "duplicate key", f"key {key!r} stands more than once in an object within the record"
        return "wrong type", "the record does not fit the schema"

    def _fits(self, column: Column, value: object) -> bool:
        one = JsonCodec(Schema((Column(column.name, column.type),)))
        text = json.dumps({column.name: _plain(value)})
        return not one._one_by_one(pa.array([text]))[1]


class _Pairs(list[tuple[str, object]]):
    """An object with its keys as they came, repeated ones too."""


def _table(lines: pa.Array) -> pa.Table:
    return pa.table({"l": lines})


def _all(flags: pa.ChunkedArray) -> bool:
    """Whether all are true, none false or NULL."""
    return not flags.null_count and pc.all(flags).as_py() is not False


def _plain(value: object) -> object:
    """A value with its objects as dicts."""
    if isinstance(value, _Pairs):
        return {key: _plain(inner) for key, inner in value}
    return [_plain(inner) for inner in value] if isinstance(value, list) else value


def _twice(value: object) -> str | None:
    """A key that stands in an object twice, however deep."""
    if not isinstance(value, list):
        return None
    keys = [key for key, _ in value] if isinstance(value, _Pairs) else []
    inner = (v for _, v in value) if isinstance(value, _Pairs) else iter(value)
    return next((key for key in keys if keys.count(key) > 1), None) or next(filter(None, map(_twice, inner)), None)


def _is_text(value: object) -> bool:
    """Whether all texts in a value are such: JSON can say half of a pair of surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class _NotFinite(ValueError):
    """A number that JSON does not have."""


def _no_constant(name: str) -> None:
    raise _NotFinite(f"{name} is no JSON value; null, or a text in a VARCHAR, says that there is no number")


def _kind(value: object) -> str:
    names = {dict: "an object", _Pairs: "an object", list: "an array", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")

"""CSV to Arrow: pyarrow's reader for the fields, as text, then one DuckDB query that casts them.

As RFC 4180 with a header: fields in quotes may hold commas, line ends and doubled quotes; an empty field without
quotes is NULL. A record that the fast path cannot take is looked at by itself.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.columnar import absent
from merganser.codecs.explaining import unfit
from merganser.codecs.values import ordinals, place, rule, shown, utf8_error
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.scratch import Query
from merganser.sql import quote


@dataclass(frozen=True, slots=True)
class CsvPayload:
    """Some whole records, and the names in the header of their file."""

    header: tuple[str, ...]
    data: bytes


def header_of(line: bytes, file: str) -> tuple[str, ...]:
    """The names in a header line. Raises SourceError if it is none."""
    wrong = utf8_error(line)
    if wrong:
        raise SourceError(f"the header of {file} cannot be read: {wrong}")
    names = tuple(next(csv.reader(io.StringIO(line.decode().removeprefix("\ufeff")), strict=True), ()))
    if len(set(names)) < len(names):
        raise SourceError(f"the header of {file} has a name twice: {', '.join(names)}")
    return names


def boundaries(data: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    """True at the line ends that end a record: those outside of quotes. ``data`` begins at a record."""
    ends: npt.NDArray[np.bool_] = data == 10
    quotes = data == 34
    if quotes.any():
        ends &= ~np.bitwise_xor.accumulate(quotes)
    return ends


def stray_quotes(data: npt.NDArray[np.uint8]) -> bool:
    """Whether anything but the end of a field stands behind the quote that closes it, which pyarrow takes into the field."""
    quotes = np.flatnonzero(data == 34)
    if not len(quotes):
        return False
    opening, closing = quotes[: len(quotes) // 2 * 2 : 2], quotes[1::2]
    before = np.where(opening > 0, data[opening - 1], 44)
    behind = np.where(closing + 1 < len(data), data[np.minimum(closing + 1, len(data) - 1)], 10)
    stray = np.isin(before, (10, 34, 44)) & ~np.isin(behind, (10, 13, 34, 44))
    return bool(stray.any())


class CsvCodec:
    """Decodes the records of a chunk. For one thread."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema
        self._names = list(schema.names())
        self._query = Query(self._cast_sql(), "_texts")

    def decode(self, chunk: Chunk) -> Decoded:
        payload: CsvPayload = chunk.payload
        if missing := absent(self._schema, payload.header):
            raise SourceError(f"{chunk.place.file}{missing}")
        count = chunk.records - len(chunk.rejects)
        texts = self._fields(payload, count)
        if texts is None:
            return self._one_by_one(chunk)
        rows = self._cast(texts)
        ok = pc.or_(rows["_bad"].fill_null(True), self._blank(texts, payload))
        seqs = ordinals(chunk, count)
        if not pc.any(ok).as_py():
            return Decoded(rows.select(self._names).append_column(SEQ, pa.array(seqs)), [])
        good = ~ok.to_numpy()
        records, starts, lines = records_with_places(payload.data)
        rejects = [
            self._reject(payload.header, records[i], int(seqs[i]), place(chunk, int(starts[i]), lines[i], int(seqs[i])))
            for i in np.flatnonzero(~good).tolist()
        ]
        return Decoded(rows.select(self._names).filter(pa.array(good)).append_column(SEQ, pa.array(seqs[good])), rejects)

    def _blank(self, texts: pa.Table, payload: CsvPayload) -> pa.Array:
        """Which records are empty lines where several fields were expected: to pyarrow all their fields are empty."""
        blank = np.ones(len(texts), np.bool_)
        for column in texts.columns:
            blank &= column.is_null().to_numpy()
        if blank.any() and len(payload.header) > 1:
            records, _, _ = records_with_places(payload.data)
            blank[[i for i in np.flatnonzero(blank).tolist() if records[i].strip()]] = False
            return pa.array(blank)
        return pa.array(np.zeros(len(texts), np.bool_))

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        records, starts, lines = records_with_places(chunk.payload.data)
        numbers = ordinals(chunk, len(records))
        found = []
        for seq in seqs:
            i = int(np.searchsorted(numbers, seq))
            found.append((place(chunk, int(starts[i]), lines[i], seq), records[i]))
        return found

    def _cast_sql(self) -> str:
        items, bad = [], []
        for c in self._schema.columns:
            how, text = rule(c.type), f"t.{quote(c.name)}"
            decoded = text if how.decoded == "VARCHAR" else f"TRY_CAST({text} AS {how.decoded})"
            value = f"TRY({how.held(decoded)})"
            items.append(f"{value} AS {quote(c.name)}")
            bad.append(f"({text} IS NOT NULL AND {value} IS NULL)")
            if c.required:
                bad.append(f"{text} IS NULL")
        return f"SELECT {', '.join(items)}, ({' OR '.join(bad)}) AS _bad FROM _texts t"

    def _cast(self, texts: pa.Table) -> pa.Table:
        return self._query.run(texts)

    def _fields(self, payload: CsvPayload, count: int) -> pa.Table | None:
        """The declared columns as text; None unless every record has as many fields as the header."""
        if stray_quotes(np.frombuffer(payload.data, np.uint8)):
            return None
        if not count:
            return pa.table({name: pa.array([], pa.string()) for name in self._names})
        try:
            table = pyarrow.csv.read_csv(
                pa.BufferReader(payload.data),
                read_options=pyarrow.csv.ReadOptions(
                    column_names=list(payload.header), use_threads=False, block_size=max(len(payload.data) + 1, 1 << 16)
                ),
                parse_options=pyarrow.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                convert_options=pyarrow.csv.ConvertOptions(
                    column_types=dict.fromkeys((*payload.header, *self._names), pa.string()),
                    include_columns=self._names,
                    include_missing_columns=True,
                    null_values=[""],
                    strings_can_be_null=True,
                    quoted_strings_can_be_null=False,
                ),
            )
        except pa.ArrowInvalid:
            return None
        return table if len(table) == count else None

    def _one_by_one(self, chunk: Chunk) -> Decoded:
        payload: CsvPayload = chunk.payload
        records, starts, lines = records_with_places(payload.data)
        numbers = ordinals(chunk, len(records))
        tables, rejects, seqs = [], [], []
        for i, record in enumerate(records):
            seq = int(numbers[i])
            texts = None if utf8_error(record) else self._fields(CsvPayload(payload.header, record + b"\n"), 1)
            row = None if texts is None or (not record.strip() and len(payload.header) > 1) else self._cast(texts)
            if row is None or row["_bad"][0].as_py() is not False:
                rejects.append(self._reject(payload.header, record, seq, place(chunk, int(starts[i]), lines[i], seq)))
            else:
                tables.append(row.select(self._names))
                seqs.append(seq)
        whole = pa.concat_tables(tables) if tables else self._schema.arrow_schema().empty_table()
        return Decoded(whole.append_column(SEQ, pa.array(seqs, pa.int64())), rejects)

    def _reject(self, header: tuple[str, ...], record: bytes, seq: int, at: Place) -> Reject:
        reason, detail = self._explain(header, record)
        return Reject(seq, at, record, reason, detail)

    def _explain(self, header: tuple[str, ...], record: bytes) -> tuple[str, str]:
        wrong = utf8_error(record)
        if wrong:
            return "not utf-8", wrong
        if not record.strip():
            return "empty line", f"the line is empty; {len(header)} fields were expected"
        try:
            fields = next(csv.reader(io.StringIO(record.decode(), newline=""), strict=True), [])
        except csv.Error as error:
            return "not csv", f"{error}; {len(header)} fields were expected"
        if len(fields) != len(header):
            return "wrong number of fields", f"{len(fields)} fields; the header has {len(header)}: {', '.join(header)}"
        texts = self._fields(CsvPayload(header, record + b"\n"), 1)
        if texts is None:
            return "not csv", "the quotes of the record do not match"
        for column in self._schema.columns:
            text = texts[column.name][0].as_py()
            if text is None:
                if column.required:
                    return "missing field", f"column {column.name!r} ({column.type} NOT NULL) is empty"
            elif CsvCodec(Schema((column,)))._cast(texts.select([column.name]))["_bad"][0].as_py() is not False:
                reason, hint = unfit(column.type, text)
                return reason, f"column {column.name!r}: expected {column.type}, found {shown(text)}{hint}"
        return "wrong type", "the record does not fit the schema"


def records_of(data: bytes) -> list[bytes]:
    """Each record without its line end."""
    return records_with_places(data)[0]


def records_with_places(data: bytes) -> tuple[list[bytes], npt.NDArray[np.int64], list[int]]:
    """Each record without its line end, where it begins, and how many lines before it."""
    array = np.frombuffer(data, np.uint8)
    ends = np.flatnonzero(boundaries(array)) + 1
    if len(data) and (not len(ends) or ends[-1] != len(data)):
        ends = np.append(ends, len(data))
    starts = np.concatenate([[0], ends[:-1]]).astype(np.int64) if len(ends) else np.zeros(0, np.int64)
    before = np.concatenate([[0], np.cumsum(array == 10)])
    records = [data[a:b].rstrip(b"\r\n") for a, b in zip(starts, ends)]
    return records, starts, [int(before[s]) for s in starts]



"""Messages: records that come one by one with an offset, a timestamp, a key and headers, as from Kafka.

A payload codec (JSON, Avro, …) sees ``Messages`` in ``Chunk.payload`` and turns ``values`` into rows; it never sees a null
value. ``MessageCodec`` stands around it: it makes rows of tombstones, and adds the columns that come from a message itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place, Reject
from merganser.codecs.explaining import unfit
from merganser.codecs.values import rule, utf8_error
from merganser.schema import Schema
from merganser.scratch import Query

HEADERS = pa.list_(pa.struct([("name", pa.utf8()), ("value", pa.binary())]))

ORIGINS = {
    "key": "VARCHAR",
    "timestamp": "TIMESTAMP",
    "topic": "VARCHAR",
    "partition": "INTEGER",
    "offset": "BIGINT",
    "headers": "STRUCT(name VARCHAR, value BLOB)[]",
    "schema.id": "INTEGER",
    "schema.version": "INTEGER",
}
"""What a column can be taken from in a message, and the type it has then; ``header.NAME`` (a BLOB) besides. The type of a
key or a header may be declared: its bytes are then the text of that type's values."""

Taking = Callable[[str, pa.BinaryArray, pa.StringArray], tuple[pa.Array, dict[int, tuple[str, str]]]]
"""Takes ``schema.id`` and ``schema.version`` from values and their topics; with what is wrong with some of them."""


@dataclass(frozen=True, slots=True)
class Messages:
    """Some messages, one record each, whatever bytes it has: arrays of one length.

    ``values``: binary, null for a tombstone. ``offsets``: the ordinals. ``timestamps``: of the records, milliseconds since
    1970. ``keys`` (binary) and ``headers`` (``HEADERS``) are None unless a column is taken from them.
    """

    values: pa.BinaryArray
    offsets: npt.NDArray[np.int64]
    timestamps: npt.NDArray[np.int64]
    keys: pa.BinaryArray | None = None
    headers: pa.ListArray | None = None
    base: int = 0
    """What was added to Kafka's offsets to make ordinals: not 0 after a topic was made anew, and its offsets began again."""
    parts: tuple[Chunk, ...] = ()
    """The chunks that these are the messages of, where they are of several (``gathered``). Ordinals then count from 0."""

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, i: int) -> bytes:
        """A message's value; a tombstone's is empty."""
        return self.values[i].as_py() or b""

    def envelope(self, seq: int) -> dict[str, Any]:
        """``key`` and ``headers`` of the message with this ordinal, as far as they were read."""
        i = int(np.searchsorted(self.offsets, seq))
        headers = [] if self.headers is None else self.headers[i].as_py() or []
        key = None if self.keys is None else self.keys[i].as_py()
        return {"key": key, "headers": tuple((h["name"], h["value"]) for h in headers)}

    def take(self, rows: npt.NDArray[np.int64]) -> Messages:
        at = pa.array(rows)
        keys, headers = (None if a is None else a.take(at) for a in (self.keys, self.headers))
        values, offsets, timestamps = self.values.take(at), self.offsets[rows], self.timestamps[rows]
        return replace(self, values=values, offsets=offsets, timestamps=timestamps, keys=keys, headers=headers)

    def slice(self, start: int, end: int) -> Messages:
        count = end - start
        keys, headers = (None if a is None else a.slice(start, count) for a in (self.keys, self.headers))
        values, offsets, timestamps = self.values.slice(start, count), self.offsets[start:end], self.timestamps[start:end]
        return replace(self, values=values, offsets=offsets, timestamps=timestamps, keys=keys, headers=headers)

    def text(self) -> tuple[pa.Array, bool]:
        """The values as strings, those that are not UTF-8 emptied; and whether there are such."""
        try:
            return self.values.cast(pa.utf8()), False
        except pa.ArrowInvalid:
            values = [b"" if value and utf8_error(value) else value for value in self.values.to_pylist()]
            return pa.array(values, pa.binary()).cast(pa.utf8()), True

    def records(self) -> tuple[memoryview, npt.NDArray[np.int32]]:
        """The values' bytes, and where in them each value begins, with the end of the last."""
        _, offsets, data = self.values.buffers()
        if offsets is None or data is None:
            return memoryview(b""), np.zeros(len(self) + 1, np.int32)
        return memoryview(data), np.frombuffer(offsets, np.int32)[self.values.offset : self.values.offset + len(self) + 1]

    def ordinals(self, chunk: Chunk) -> npt.NDArray[np.int64]:
        return self.offsets

    def place(self, chunk: Chunk, i: int, seq: int) -> Place:
        """Its topic and partition; ``line`` is the offset."""
        if not self.parts:
            return Place(chunk.place.file, None, seq - self.base)
        for part in self.parts:
            if seq < part.records:
                break
            seq -= part.records
        messages: Messages = part.payload
        return messages.place(part, seq, int(messages.offsets[seq]))

    def numbers(self) -> npt.NDArray[np.int64]:
        """Kafka's offsets."""
        if not self.parts:
            return self.offsets - self.base
        return np.concatenate([part.payload.numbers() for part in self.parts])[self.offsets]

    def of_partitions(self, chunk: Chunk, topic: bool, kind: pa.DataType) -> pa.Array:
        """The topic of each, or the number of its partition."""
        parts = self.parts or (chunk,)
        names = [part.place.file.rsplit("/", 1)[0 if topic else 1] for part in parts]
        which = np.repeat(np.arange(len(parts)), [part.records for part in parts])[self.offsets if self.parts else slice(None)]
        return pa.array(names).cast(kind).take(pa.array(which))


def joined(batches: Sequence[Messages]) -> Messages:
    """Messages one after another."""
    if len(batches) == 1:
        return batches[0]
    keys, headers = (
        None if arrays[0] is None else pa.concat_arrays(arrays)
        for arrays in ([some.keys for some in batches], [some.headers for some in batches])
    )
    return Messages(
        pa.concat_arrays([some.values for some in batches]), np.concatenate([some.offsets for some in batches]),
        np.concatenate([some.timestamps for some in batches]), keys, headers,
    )  # fmt: skip


def gathered(chunks: Sequence[Chunk]) -> Chunk:
    """The messages of some chunks of a source, whatever their partitions, as one chunk: to be decoded at once."""
    messages = joined([chunk.payload for chunk in chunks])
    payload = replace(messages, offsets=np.arange(len(messages)), base=0, parts=tuple(chunks))
    nbytes = sum(chunk.nbytes for chunk in chunks)
    return Chunk(chunks[0].source, "", 0, len(messages), Place("", None, None), payload, {}, nbytes)


class MessageCodec:
    """The rows of messages: of their payloads by another codec, and columns that are taken from the messages.

    A tombstone (a null value) is a row whose other columns are NULL. ``columns``: (name, what it is taken from);
    ``named``: takes those that depend on the schema that a value names.
    ``time``: the column of the event time; for a tombstone, which has none, it is the record's timestamp.
    """

    def __init__(
        self,
        schema: Schema,
        columns: Sequence[tuple[str, str]],
        time: str | None,
        payload: Callable[[Schema], Codec],
        named: Taking | None = None,
    ) -> None:
        self._schema, self._columns, self._time, self._named = schema, columns, time, named
        taken = {name for name, _ in columns}
        rest = tuple(c for c in schema.columns if c.name not in taken)
        self._payload = payload(replace(schema, columns=rest)) if rest else None  # values that nobody asks for stay as they are
        self._arrow = schema.arrow_schema()
        kinds = {schema[name].type for name, _ in columns} - {"BLOB", "VARCHAR"}
        self._casts = {kind: Query(f"SELECT {_cast(kind)} AS v FROM _texts", "_texts") for kind in kinds}

    def decode(self, chunk: Chunk) -> Decoded:
        messages: Messages = chunk.payload
        table, rejects = self._decode_payloads(chunk, messages)
        if not self._columns:
            return Decoded(table, rejects)
        at = np.searchsorted(messages.offsets, table[SEQ].to_numpy())
        bad: dict[int, tuple[str, str]] = {}
        for name, origin in self._columns:
            column = self._taken(chunk, messages, name, origin, bad)
            table = table.append_column(name, column if len(at) == len(messages) else column.take(pa.array(at)))
        for name, _ in self._columns:
            if self._schema[name].required and table[name].null_count:
                for row in np.flatnonzero(pc.is_null(table[name]).to_numpy()).tolist():
                    bad.setdefault(int(at[row]), ("missing field", f"column {name!r} ({self._schema[name].type} NOT NULL) is null"))
        table = table.select([*self._schema.names(), SEQ])
        if bad:
            good = ~np.isin(at, list(bad))
            known = {r.seq for r in rejects}
            for i, (reason, detail) in sorted(bad.items()):
                seq = int(messages.offsets[i])
                if seq not in known:
                    rejects.append(Reject(seq, messages.place(chunk, i, seq), messages[i], reason, detail))
            table = table.filter(pa.array(good))
        return Decoded(table, sorted(rejects, key=lambda r: r.seq))

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        messages: Messages = chunk.payload
        rows = np.searchsorted(messages.offsets, seqs).tolist()
        return [(messages.place(chunk, i, seq), messages[i]) for i, seq in zip(rows, seqs)]

    def _decode_payloads(self, chunk: Chunk, messages: Messages) -> tuple[pa.Table, list[Reject]]:
        if self._payload is None:
            return pa.table({SEQ: pa.array(messages.offsets)}), []
        if not messages.values.null_count:
            decoded = self._payload.decode(chunk)
            return decoded.table, list(decoded.rejects)
        nulls = messages.values.is_null().to_numpy(zero_copy_only=False)
        there, gone = np.flatnonzero(~nulls), np.flatnonzero(nulls)
        decoded = self._payload.decode(replace(chunk, payload=messages.take(there), records=len(there)))
        table = pa.concat_tables([decoded.table, self._tombstones(messages.take(gone), decoded.table.schema)])
        return table.take(pa.array(np.argsort(table[SEQ].to_numpy(), kind="stable"))), list(decoded.rejects)

    def _tombstones(self, messages: Messages, schema: pa.Schema) -> pa.Table:
        columns = {field.name: pa.nulls(len(messages), field.type) for field in schema}
        columns[SEQ] = pa.array(messages.offsets)
        if self._time in columns:
            moments = pa.array(messages.timestamps).cast(pa.timestamp("ms"))
            kind = schema.field(self._time).type
            columns[self._time] = pc.assume_timezone(moments, "UTC").cast(kind) if getattr(kind, "tz", None) else moments.cast(kind)
        return pa.table(columns, schema=schema)

    def _taken(
        self, chunk: Chunk, messages: Messages, name: str, origin: str, bad: dict[int, tuple[str, str]]
    ) -> pa.Array:
        """One column for all messages; ``bad`` gets those whose bytes are no text of the column's type."""
        kind = self._arrow.field(name).type
        if origin == "offset":
            return pa.array(messages.numbers()).cast(kind)
        if origin == "timestamp":
            moments = pa.array(messages.timestamps).cast(pa.timestamp("ms"))
            return pc.assume_timezone(moments, "UTC").cast(kind) if getattr(kind, "tz", None) else moments.cast(kind)
        if origin in ("topic", "partition"):
            return messages.of_partitions(chunk, origin == "topic", kind)
        if origin == "headers":
            assert messages.headers is not None
            return messages.headers.cast(kind)
        if origin.startswith("schema."):
            assert self._named is not None
            found, wrong = self._named(origin, messages.values, messages.of_partitions(chunk, True, pa.utf8()))
            bad.update(wrong)
            return found.cast(kind)
        values = messages.keys if origin == "key" else header(messages.headers, origin.removeprefix("header."))
        assert values is not None
        return self._parsed(values, name, origin, bad)

    def _parsed(self, values: pa.BinaryArray, name: str, origin: str, bad: dict[int, tuple[str, str]]) -> pa.Array:
        """Bytes as values of a column's type: those of a BLOB as they are, else the text of a value."""
        kind = self._schema[name].type
        if kind == "BLOB":
            return values
        texts, broken = Messages(values, np.empty(0, np.int64), np.empty(0, np.int64)).text()
        if broken:
            for i, value in enumerate(values.to_pylist()):
                if value and (wrong := utf8_error(value)):
                    bad.setdefault(i, ("not utf-8", f"{origin} for column {name!r}: {wrong}"))
        if kind == "VARCHAR":
            return texts
        column = self._casts[kind].run(pa.table({"t": texts}))["v"].combine_chunks()
        for i in np.flatnonzero(pc.and_(pc.is_null(column), pc.is_valid(texts)).to_numpy(zero_copy_only=False)).tolist():
            reason, hint = unfit(kind, texts[i].as_py())
            bad.setdefault(i, (reason, f"{origin} for column {name!r}: expected {kind}, found {texts[i].as_py()!r}{hint}"))
        return column.cast(self._arrow.field(name).type)


def _cast(kind: str) -> str:
    """SQL for the value of a text ``t``; NULL where it is none of this type."""
    how = rule(kind)
    return f"TRY({how.held('t' if how.decoded == 'VARCHAR' else f'TRY_CAST(t AS {how.decoded})')})"


def header(headers: pa.ListArray | None, name: str) -> pa.BinaryArray:
    """The last value of a header in each message, null where there is none (as Kafka's ``lastHeader``)."""
    assert headers is not None
    flat = headers.flatten()
    rows = pc.list_parent_indices(headers).to_numpy()
    hits = np.flatnonzero(pc.equal(flat.field("name"), name).to_numpy(zero_copy_only=False))
    values: list[bytes | None] = [None] * len(headers)
    for hit in hits.tolist():
        values[rows[hit]] = flat.field("value")[hit].as_py()
    return pa.array(values, pa.binary())

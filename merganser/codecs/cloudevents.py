"""CloudEvents 1.0: events in envelopes, of attributes and ``data``.

- Structured mode: a JSON object of the attributes, with the event in ``data`` or, as bytes, in ``data_base64``.
- Binary mode: a Kafka message whose headers (``ce_id``, …) are the attributes, and whose value is the event in the source's format.

A batch (a JSON array of events in one record) is refused: positions, the books and dead letters know records, and some events of
one record could be late, duplicates or bad, and others not.

Attributes become columns with ``ce_`` in front, as they are called in Kafka's headers; those of ``data`` keep their names.
``ce_key``, of source and id, names an event once and for all.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place, Reject
from merganser.codecs.framing import codec as values
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.messages import Messages, header
from merganser.errors import FlowError, on_users_line
from merganser.schema import Column, Schema

ATTRIBUTES = (
    Column("specversion", "VARCHAR", True),
    Column("id", "VARCHAR", True),
    Column("source", "VARCHAR", True),
    Column("type", "VARCHAR", True),
    Column("subject", "VARCHAR"),
    Column("time", "TIMESTAMP WITH TIME ZONE"),
    Column("datacontenttype", "VARCHAR"),
    Column("dataschema", "VARCHAR"),
    Column("traceparent", "VARCHAR"),
    Column("tracestate", "VARCHAR"),
)
"""What CloudEvents 1.0 and its extension for distributed tracing define."""

KEY, TIME = "ce_key", "ce_time"
"""The columns that are an event's id and its time unless others are declared."""

BAD, BATCH = "not a cloudevent", "batch of cloudevents"


@dataclass(frozen=True)
class CloudEvents:
    """That events come in an envelope: the columns of their data, and all attributes."""

    data: Schema
    attributes: tuple[Column, ...] = ATTRIBUTES

    @property
    def object(self) -> Schema:
        """The JSON object of structured mode."""
        return Schema((*self.attributes, Column("data", "JSON"), Column("data_base64", "VARCHAR")))

    def typed(self, types: Mapping[str, str]) -> CloudEvents:
        attributes = {a.name: kind for a in self.attributes if (kind := types.get(f"ce_{a.name}"))}
        data = {name: kind for name, kind in types.items() if name in self.data}
        return CloudEvents(self.data.typed(data), Schema(self.attributes).typed(attributes).columns)

    @property
    def envelope(self) -> tuple[str, ...]:
        """The columns that are not the data's."""
        return (*(f"ce_{a.name}" for a in self.attributes), KEY)


@on_users_line
def cloudevents(data: Mapping[str, str] | str | Path, *, extensions: Mapping[str, str] | None = None) -> Schema:
    """The schema of CloudEvents 1.0 whose ``data`` has this schema: a mapping, or a schema file.

    Columns: ``ce_id``, ``ce_source``, ``ce_type``, ``ce_subject``, ``ce_time``, ``ce_traceparent``, …, ``ce_key`` (source and
    id, the default ``id``), and those of the data. ``ce_time`` is the default event time. ``extensions``: further attributes
    with their types, ``{"partitionkey": "VARCHAR"}``.
    """
    inner = Schema.declare(data)
    more = Schema.declare(extensions).columns if extensions else ()
    for column in more:
        if not re.fullmatch(r"[a-z0-9]+", column.name) or column.name in ("data", "data_base64", *(a.name for a in ATTRIBUTES)):
            raise FlowError(f"cloudevents(extensions={{{column.name!r}: …}}): the name of an extension is letters a-z and digits,"
                            " and none of an attribute there is")  # fmt: skip
    attributes = (*ATTRIBUTES, *more)
    taken = {f"ce_{a.name}" for a in attributes} | {KEY}
    clash = [c.name for c in inner.columns if c.name in taken]
    if clash:
        raise FlowError(f"cloudevents(): {', '.join(clash)} is a column of the envelope; call that of the data otherwise")
    envelope = [replace(a, name=f"ce_{a.name}") for a in attributes]
    return Schema((*envelope, Column(KEY, "VARCHAR", True), *inner.columns), CloudEvents(inner, attributes))


class StructuredCodec:
    """Takes events out of their envelopes. ``codec``: of the envelopes, which may have further columns."""

    def __init__(self, codec: Codec, schema: Schema) -> None:
        assert isinstance(schema.written, CloudEvents)
        self._codec, self._schema, self._names = codec, schema, schema.written.attributes
        data = schema.written.data
        self._data, self._columns = JsonCodec(data), data.names()
        notation = {"AvroSchema": "avro", "Message": "protobuf"}.get(type(data.written).__name__)
        self._bytes = values(notation, None)(data) if notation else None
        """Of data that are bytes and not JSON."""

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._codec.locate(chunk, seqs)

    def decode(self, chunk: Chunk) -> Decoded:
        decoded = self._codec.decode(chunk)
        table = decoded.table
        wrong = _other_versions(table["specversion"])
        there = pc.is_valid(table["specversion"]).to_numpy()  # all but tombstones
        texts, raws = table["data"].to_pylist(), _decoded(table, wrong)
        rows = [i for i in np.flatnonzero(there).tolist() if i not in raws]
        parts = [self._part(chunk, table, rows, self._as_json(chunk, [texts[i] or "{}" for i in rows]), wrong)]
        if raws:
            rows = list(raws)
            parts.append(self._part(chunk, table, rows, self._as_bytes(chunk, list(raws.values())), wrong))
        found = pa.concat_tables(parts)
        place = np.full(len(table), -1, np.int64)
        place[found[SEQ].to_numpy()] = np.arange(len(found))
        at = pa.array(place, mask=place < 0)
        columns = {f"ce_{a.name}": table[a.name] for a in self._names}
        columns[KEY] = pc.binary_join_element_wise(table["source"], table["id"], "#")
        columns |= {name: table[name] for name in table.column_names if name not in columns}
        columns |= {name: found[name].take(at) for name in self._columns}
        kinds = self._schema.arrow_schema()
        made = pa.table([columns[f.name] for f in kinds], schema=kinds).append_column(SEQ, table[SEQ])
        return without(made, wrong, [_batch(r) for r in decoded.rejects], lambda seqs: self._codec.locate(chunk, seqs))

    def _part(self, chunk: Chunk, table: pa.Table, rows: list[int], data: Decoded, wrong: dict[int, tuple[str, str]]) -> pa.Table:
        """The data of some rows, numbered as these; ``wrong`` gets what is none."""
        for reject in data.rejects:
            wrong.setdefault(rows[reject.seq], (reject.reason, f"data: {reject.detail}"))
        numbers = np.array(rows, np.int64)[data.table[SEQ].to_numpy()]
        return data.table.select([*self._columns, SEQ]).set_column(len(self._columns), SEQ, pa.array(numbers, pa.int64()))

    def _as_json(self, chunk: Chunk, texts: list[str]) -> Decoded:
        lines = Lines.of("".join(text.replace("\n", " ") + "\n" for text in texts).encode())
        return self._data.decode(replace(chunk, seq=0, records=len(texts), payload=lines, rejects=(), until=None))

    def _as_bytes(self, chunk: Chunk, raws: list[tuple[bytes, bool]]) -> Decoded:
        """Data that came as bytes: JSON, or what the schema of the data is written in."""
        if self._bytes is None or all(json for _, json in raws):
            return self._as_json(chunk, [raw.decode("utf-8", "surrogateescape") for raw, _ in raws])
        messages = Messages(pa.array([raw for raw, _ in raws], pa.binary()), np.arange(len(raws)), np.zeros(len(raws), np.int64))
        return self._bytes.decode(replace(chunk, seq=0, records=len(raws), payload=messages, rejects=(), until=len(raws)))


class KafkaCodec:
    """Events in messages of either mode, as the content type of each says."""

    def __init__(self, structured: Codec, binary: Codec) -> None:
        """``binary``: of messages whose attributes are columns already, all but the key."""
        self._structured, self._binary = structured, binary

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._structured.locate(chunk, seqs)

    def decode(self, chunk: Chunk) -> Decoded:
        messages: Messages = chunk.payload
        kinds = header(messages.headers, "content-type").to_pylist()
        whole = np.array([kind is not None and kind.lower().startswith(b"application/cloudevents") for kind in kinds], np.bool_)
        which = ~whole & pc.is_valid(header(messages.headers, "ce_specversion")).to_numpy(zero_copy_only=False)
        parts: list[Decoded] = []
        for rows, decode in ((np.flatnonzero(which), self._headed), (np.flatnonzero(~which), self._structured.decode)):
            if len(rows) or not parts:
                parts.append(decode(replace(chunk, payload=messages.take(rows), records=len(rows))))
        if len(parts) == 1:
            return parts[0]
        table = pa.concat_tables([parts[0].table, parts[1].table.select(parts[0].table.column_names)])
        table = table.take(pa.array(np.argsort(table[SEQ].to_numpy(), kind="stable")))
        return Decoded(table, sorted([*parts[0].rejects, *parts[1].rejects], key=lambda r: r.seq))

    def _headed(self, chunk: Chunk) -> Decoded:
        decoded = self._binary.decode(chunk)
        table = decoded.table
        key = pc.binary_join_element_wise(table["ce_source"], table["ce_id"], "#")
        table = table.set_column(table.column_names.index(KEY), KEY, key)
        wrong = _other_versions(table["ce_specversion"])
        return without(table, wrong, decoded.rejects, lambda seqs: self._binary.locate(chunk, seqs))


def headers(schema: Schema) -> tuple[tuple[str, str], ...]:
    """Of binary mode: each attribute's column and the header that it is in."""
    assert isinstance(schema.written, CloudEvents)
    named = {"datacontenttype": "content-type"}
    return tuple((f"ce_{a.name}", f"header.{named.get(a.name, f'ce_{a.name}')}") for a in schema.written.attributes)


def _other_versions(versions: pa.ChunkedArray) -> dict[int, tuple[str, str]]:
    """By row: what is wrong with events of another version than 1.0."""
    other = pc.fill_null(pc.not_equal(versions, "1.0"), False).to_numpy()
    said = {i: versions[i].as_py() for i in np.flatnonzero(other).tolist()}
    return {i: (BAD, f"specversion is {version!r}; 1.0 is the one that is known") for i, version in said.items()}


def _batch(reject: Reject) -> Reject:
    """A record that is no object, with what to do if it is an array of events."""
    if reject.reason != "not an object" or not reject.raw.lstrip().startswith(b"["):
        return reject
    detail = (
        f"the record is a batch of {len(json.loads(reject.raw))} events; one record is one event here: write each by itself"
        """ (a line or message each; of a file: jq -c 'if type == "array" then .[] else . end')"""
    )
    return replace(reject, reason=BATCH, detail=detail)


def _decoded(table: pa.Table, wrong: dict[int, tuple[str, str]]) -> dict[int, tuple[bytes, bool]]:
    """By row: data that are bytes, and whether these are JSON by their content type."""
    found: dict[int, tuple[bytes, bool]] = {}
    if table["data_base64"].null_count == len(table):
        return found
    for i in np.flatnonzero(pc.is_valid(table["data_base64"]).to_numpy()).tolist():
        kind = (table["datacontenttype"][i].as_py() or "json").lower()
        try:
            found[i] = base64.b64decode(table["data_base64"][i].as_py(), validate=True), "json" in kind
        except ValueError as error:
            wrong.setdefault(i, (BAD, f"data_base64 is not base64: {error}"))
            continue
        if table["data"][i].as_py() is not None:
            wrong.setdefault(i, (BAD, "it has both data and data_base64"))
    return found


def without(
    table: pa.Table,
    wrong: Mapping[int, tuple[str, str]],
    rejects: list[Reject],
    locate: Callable[[list[int]], list[tuple[Place, bytes]]],
) -> Decoded:
    """The rows but those that are wrong, which become rejects."""
    if not wrong:
        return Decoded(table, rejects)
    bad = sorted(wrong)
    good: npt.NDArray[np.bool_] = np.ones(len(table), np.bool_)
    good[bad] = False
    seqs = [table[SEQ][i].as_py() for i in bad]
    more = [Reject(seq, where, raw, *wrong[i]) for i, seq, (where, raw) in zip(bad, seqs, locate(seqs))]
    return Decoded(table.filter(pa.array(good)), sorted([*rejects, *more], key=lambda r: r.seq))

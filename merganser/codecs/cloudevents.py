"""CloudEvents 1.0 in structured mode: a JSON object of attributes with the event in ``data``.

Attributes become columns with ``ce_`` in front, as they are called in Kafka's headers; those of ``data`` keep their names.
``ce_key``, of source and id, names an event once and for all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place, Reject
from merganser.codecs.json import JsonCodec, Lines
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


@dataclass(frozen=True)
class CloudEvents:
    """That events come in an envelope: the columns of their data."""

    data: Schema

    @property
    def envelope(self) -> tuple[str, ...]:
        """The columns that are not the data's."""
        return (*(f"ce_{a.name}" for a in ATTRIBUTES), KEY)


@on_users_line
def cloudevents(data: Mapping[str, str] | str | Path) -> Schema:
    """The schema of CloudEvents 1.0 (structured mode, JSON) whose ``data`` has this schema: a mapping, or a schema file.

    Columns: ``ce_id``, ``ce_source``, ``ce_type``, ``ce_subject``, ``ce_time``, ``ce_traceparent``, …, ``ce_key`` (source and
    id, the default ``id``), and those of the data. ``ce_time`` is the default event time.
    """
    inner = Schema.declare(data)
    taken = {f"ce_{a.name}" for a in ATTRIBUTES} | {KEY}
    clash = [c.name for c in inner.columns if c.name in taken]
    if clash:
        raise FlowError(f"cloudevents(): {', '.join(clash)} is a column of the envelope; call that of the data otherwise")
    envelope = [replace(a, name=f"ce_{a.name}") for a in ATTRIBUTES]
    return Schema((*envelope, Column(KEY, "VARCHAR", True), *inner.columns), CloudEvents(inner))


ENVELOPE = Schema((*ATTRIBUTES, Column("data", "JSON")))
"""The schema of the JSON object."""


class CloudEventsCodec:
    """Takes events out of their envelopes. ``codec``: of the envelopes."""

    def __init__(self, codec: Codec, schema: Schema) -> None:
        assert isinstance(schema.written, CloudEvents)
        self._codec, self._schema = codec, schema
        self._data = JsonCodec(schema.written.data)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._codec.locate(chunk, seqs)

    def decode(self, chunk: Chunk) -> Decoded:
        decoded = self._codec.decode(chunk)
        table = decoded.table
        wrong: dict[int, tuple[str, str]] = {}
        for i in np.flatnonzero(pc.not_equal(table["specversion"], "1.0").to_numpy(zero_copy_only=False)).tolist():
            said = table["specversion"][i].as_py()
            wrong[i] = "not a cloudevent", f"specversion is {said!r}; 1.0 is the one that is known"
        texts = table["data"].fill_null("{}").to_pylist()
        lines = Lines.of("".join(text.replace("\n", " ") + "\n" for text in texts).encode())
        data = self._data.decode(replace(chunk, seq=0, records=len(texts), payload=lines, rejects=(), until=None))
        for reject in data.rejects:
            wrong.setdefault(reject.seq, (reject.reason, f"data: {reject.detail}"))
        columns = {f"ce_{a.name}": table[a.name] for a in ATTRIBUTES}
        columns[KEY] = pc.binary_join_element_wise(table["source"], table["id"], "#")
        taken = data.table[SEQ].to_numpy()
        place = np.full(len(table), -1, np.int64)
        place[taken] = np.arange(len(taken))
        at = pa.array(place, mask=place < 0)
        columns |= {name: data.table[name].take(at) for name in data.table.column_names if name != SEQ}
        columns |= {name: table[name] for name in self._schema.names() if name not in columns}
        kinds = self._schema.arrow_schema()
        rows = pa.table([columns[f.name] for f in kinds], schema=kinds).append_column(SEQ, table[SEQ])
        if not wrong:
            return Decoded(rows, decoded.rejects)
        bad = sorted(wrong)
        good = np.ones(len(rows), np.bool_)
        good[bad] = False
        seqs = [rows[SEQ][i].as_py() for i in bad]
        rejects = [Reject(seq, where, raw, *wrong[i]) for i, seq, (where, raw) in zip(bad, seqs, self._codec.locate(chunk, seqs))]
        return Decoded(rows.filter(pa.array(good)), sorted([*decoded.rejects, *rejects], key=lambda r: r.seq))

"""Records that were bad and came back: other bytes in their place, at their place in the log."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place
from merganser.codecs.avro import Block, Blocks
from merganser.codecs.binary import Delimited
from merganser.codecs.csv import CsvPayload
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.messages import Messages
from merganser.codecs.stored_events import StoredEvents
from merganser.schema import Column, Schema
from merganser.scratch import scratch


@dataclass(frozen=True, slots=True)
class Mended:
    """What stands for a record now, and where the record stands."""

    raw: bytes
    place: Place


Mends = Mapping[tuple[str, int], Mended]
"""By partition and ordinal."""


class MendingCodec:
    """A codec that takes mended bytes for those in the log. A mended record may still be bad: then it is a reject again."""

    def __init__(self, codec: Codec, schema: Schema, mends: Mends) -> None:
        self._codec, self._schema, self._mends = codec, schema, mends

    def decode(self, chunk: Chunk) -> Decoded:
        """As ``Codec.decode``; the rejects are all of the chunk's then, those of the reader too."""
        decoded = self._codec.decode(chunk)
        rejects = [*chunk.rejects, *decoded.rejects]
        found = [seq for partition, seq in self._mends if partition == chunk.partition and chunk.seq <= seq < chunk.end]
        if not found:
            return Decoded(decoded.table, rejects, decoded.passed)
        here = pc.is_in(decoded.table[SEQ], pa.array(found, pa.int64()))
        tables = [decoded.table.filter(pc.invert(here))]
        known = set(decoded.table[SEQ].filter(here).to_pylist()) | {r.seq for r in rejects}
        rejects = [r for r in rejects if r.seq not in found]
        for seq in sorted(known & set(found)):
            mended = self._mends[chunk.partition, seq]
            alone = self._alone(chunk, seq, mended)
            tables.append(alone.table)
            rejects += [replace(r, seq=seq, place=mended.place, raw=mended.raw) for r in alone.rejects]
        names = [*self._schema.names(), SEQ]
        table = pa.concat_tables([each.select(names) for each in tables])
        return Decoded(table.take(pa.array(np.argsort(table[SEQ].to_numpy(), kind="stable"))), rejects, decoded.passed)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        others = [seq for seq in seqs if (chunk.partition, seq) not in self._mends]
        found = dict(zip(others, self._codec.locate(chunk, others)))
        for seq in seqs:
            if (mended := self._mends.get((chunk.partition, seq))) is not None:
                found[seq] = mended.place, mended.raw
        return [found[seq] for seq in seqs]

    def _alone(self, chunk: Chunk, seq: int, mended: Mended) -> Decoded:
        """What a record is by itself. One of a columnar format is mended as a JSON object."""
        payload, raw = chunk.payload, mended.raw
        one = replace(chunk, seq=seq, records=1, place=mended.place, nbytes=len(raw), rejects=(), until=seq + 1)
        if isinstance(payload, pa.Table):
            read = self._as_written(payload).decode(replace(one, payload=Lines.of(raw.replace(b"\n", b" ") + b"\n")))
            return self._codec.decode(replace(one, payload=read.table.drop_columns([SEQ]))) if len(read.table) else read
        return self._codec.decode(replace(one, payload=_payload(payload, seq, raw)))

    def _as_written(self, table: pa.Table) -> JsonCodec:
        """A codec for records with a table's columns, those of older versions and envelopes too, and all that are declared."""
        there = scratch().from_arrow(table.schema.empty_table())
        kinds = ("VARCHAR" if str(kind).startswith("ENUM") else str(kind) for kind in there.types)
        columns = {name: Column(name, kind) for name, kind in zip(there.columns, kinds)}
        return JsonCodec(Schema(tuple((columns | {c.name: replace(c, required=False) for c in self._schema.columns}).values())))


def _payload(
    payload: Lines | CsvPayload | Delimited | Blocks | Messages | StoredEvents, seq: int, raw: bytes
) -> Lines | CsvPayload | Delimited | Blocks | Messages | StoredEvents:
    """A payload of one record, of the kind that it stood in."""
    if isinstance(payload, Lines):
        return Lines.of(raw.replace(b"\n", b" ") + b"\n")
    if isinstance(payload, CsvPayload):
        return CsvPayload(payload.header, raw.rstrip(b"\r\n") + b"\n")
    if isinstance(payload, Delimited):
        return Delimited(raw, np.array([0]), np.array([len(raw)]))
    if isinstance(payload, Blocks):
        return Blocks(payload.writer, (Block(raw, 1, payload.blocks[0].byte if payload.blocks else 0),))
    at = np.flatnonzero(payload.offsets == seq)
    return replace(payload.take(at), values=pa.array([raw], pa.binary()))

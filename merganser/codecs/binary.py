"""What the codecs of binary records have in common: rows by cursors, and by one record at a time for those they cannot take."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Decoded, Place, Reject
from merganser.codecs.columnar import fitted, nulls
from merganser.codecs.cursor import Bytes, Flags, Ints
from merganser.codecs.messages import Messages
from merganser.codecs.values import ordinals, place
from merganser.schema import Schema

Failure = tuple[int, str, str]
"""Number of a record among those given, reason, detail."""


MAX_ELEMENTS = 1 << 20
"""Elements of lists and maps that a record may have: read one by one, each takes a hundred times its bytes of memory."""


class Broken(Exception):
    """A record that is no value of its schema: a reason code and a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason, self.detail = reason, detail


class RecordReader(Protocol):
    """Reads binary records of one kind, given where each begins and ends."""

    def read(self, data: Bytes, start: Ints, end: Ints) -> tuple[pa.Table, Ints, list[Failure]]:
        """The rows, the number of the record of each, and the records that are none."""
        ...


@dataclass(frozen=True, slots=True)
class Delimited:
    """The payload of a chunk of a file whose records have their lengths in front of them."""

    data: bytes
    start: Ints
    end: Ints

    def __len__(self) -> int:
        return len(self.start)

    def __getitem__(self, i: int) -> bytes:
        return self.data[self.start[i] : self.end[i]]

    def ordinals(self, chunk: Chunk) -> Ints:
        return ordinals(chunk, len(self))

    def place(self, chunk: Chunk, i: int, seq: int) -> Place:
        return place(chunk, int(self.start[i]), i, seq)


class BinaryCodec:
    """Decodes chunks of ``Delimited`` records or ``Messages``. For one thread."""

    def __init__(self, reader: RecordReader) -> None:
        self._reader = reader

    def decode(self, chunk: Chunk) -> Decoded:
        payload: Delimited | Messages = chunk.payload
        seqs = payload.ordinals(chunk)
        rows, numbers, failures = self._reader.read(*_spans(payload))
        rejects = [
            Reject(int(seqs[i]), payload.place(chunk, i, int(seqs[i])), payload[i], reason, detail)
            for i, reason, detail in failures
        ]
        return Decoded(rows.append_column(SEQ, pa.array(seqs[numbers])), rejects)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        payload: Delimited | Messages = chunk.payload
        at = np.searchsorted(payload.ordinals(chunk), seqs).tolist()
        return [(payload.place(chunk, i, seq), payload[i]) for i, seq in zip(at, seqs)]


def _spans(payload: Delimited | Messages) -> tuple[Bytes, Ints, Ints]:
    """The bytes of all records, and where each begins and ends."""
    if isinstance(payload, Delimited):
        return Bytes(payload.data), payload.start, payload.end
    values = payload.values
    _, offsets, data = values.buffers()
    if offsets is None or not len(values):
        return Bytes(b""), np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    bounds = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1].astype(np.int64)
    whole = memoryview(data)[bounds[0] : bounds[-1]] if data is not None else b""
    bounds = bounds - bounds[0]
    return Bytes(whole), bounds[:-1], bounds[1:]


def completed(
    table: pa.Table, ok: Flags, one: Callable[[bytes], Any], data: Bytes, start: Ints, end: Ints
) -> tuple[pa.Table, Ints, list[Failure]]:
    """The rows of a table that are ok, and what ``one`` makes of the other records, in their order.

    Returns the rows, the number of the record of each, and those that ``one`` refused.
    """
    if ok.all():
        return table, np.arange(len(ok)), []
    taken, values = [], []
    failures: list[Failure] = []
    for i in np.flatnonzero(~ok).tolist():
        try:
            values.append(one(data.octets[start[i] : end[i]].tobytes()))
        except Broken as error:
            failures.append((i, error.reason, error.detail))
        else:
            taken.append(i)
    good = np.flatnonzero(ok)
    table = table.filter(pa.array(ok))
    if not taken:
        return table, good, failures
    own = pa.table([array([v[f.name] for v in values], f.type) for f in table.schema], schema=table.schema)
    numbers = np.concatenate([good, np.array(taken)])
    order = np.argsort(numbers, kind="stable")
    return pa.concat_tables([table, own]).take(pa.array(order)), numbers[order], failures


def accepted(
    table: pa.Table, numbers: Ints, failures: list[Failure], schema: Schema, where: str
) -> tuple[pa.Table, Ints, list[Failure]]:
    """The declared columns of the rows whose values they can be, and that have one wherever one is required."""
    rows, why = fitted(table, schema, where)
    why = nulls(rows, schema) | why
    if not why:
        return rows, numbers, failures
    good = np.ones(len(rows), np.bool_)
    good[list(why)] = False
    failures = sorted([*failures, *((int(numbers[i]), reason, detail) for i, (reason, detail) in why.items())])
    return rows.filter(pa.array(good)), numbers[good], failures


class Entries(list[tuple[Any, Any]]):
    """A map as decoders give it one by one, which is told from a list when it is empty too."""


def jsonable(value: Any) -> Any:
    """A value as JSON has it: bytes as hexadecimal digits, decimals as text."""
    if isinstance(value, dict):
        return {key: jsonable(v) for key, v in value.items()}
    if isinstance(value, Entries):
        return {key: jsonable(v) for key, v in value}
    if isinstance(value, list):
        return [jsonable(v) for v in value]
    if isinstance(value, tuple) and not isinstance(value, pa.MonthDayNano):
        return jsonable(value[1])
    if isinstance(value, bytes):
        return value.hex()
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """An array of values as decoders give them one by one: those of unions are (place, value), maps are lists of (key, value)."""
    if pa.types.is_union(kind):
        tags = np.array([0 if v is None else v[0] for v in values], np.int8)
        children = [
            array([v[1] if v is not None and v[0] == i else None for v in values], f.type) for i, f in enumerate(kind)
        ]
        return pa.UnionArray.from_sparse(pa.array(tags), children, [f.name for f in kind])
    if pa.types.is_struct(kind) and kind.num_fields:
        mask = pa.array([v is None for v in values], pa.bool_())
        fields = [array([None if v is None else v[f.name] for v in values], f.type) for f in kind]
        return pa.StructArray.from_arrays(fields, fields=list(kind), mask=mask)
    if pa.types.is_list(kind) or pa.types.is_map(kind):
        offsets = np.zeros(len(values) + 1, np.int32)
        np.cumsum([0 if v is None else len(v) for v in values], out=offsets[1:])
        flat = [x for v in values if v is not None for x in v]
        mask = pa.array([v is None for v in values], pa.bool_())
        if pa.types.is_map(kind):
            keys, items = [k for k, _ in flat], [x for _, x in flat]
            made = pa.MapArray.from_arrays(pa.array(offsets), array(keys, kind.key_type), array(items, kind.item_type))
            return pc.if_else(mask, pa.nulls(len(values), made.type), made) if any(v is None for v in values) else made
        return pa.ListArray.from_arrays(pa.array(offsets), array(flat, kind.value_type), type=kind, mask=mask)
    return pa.array(values, kind)

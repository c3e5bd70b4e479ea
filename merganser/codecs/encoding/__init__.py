"""Encoding: the rows of a ``write`` as bytes, the counterpart of the codecs.

The contract of an encoder, checked by ``tests/codecs/test_encoding.py``:

- What a reader of the format makes of the bytes is what the row was, value by value.
- A row that the format or its schema cannot hold is not encoded and not changed, but named with a reason.
- The bytes depend on the row and the encoding alone; so a row that waits in the outbox is sent as it was committed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.ipc

from merganser.codecs.cursor import Ints
from merganser.codecs.encoding import fitting, text
from merganser.codecs.encoding.fitting import DETAIL, REASON
from merganser.codecs.encoding.pieces import Trouble, as_array, encoded_long, joined
from merganser.codecs.framing import HEAD
from merganser.registry import Registry
from merganser.schema import Schema
from merganser.schema.references import Reference

MAX_BATCH = 64 << 20
"""Bytes of rows that are encoded together at most, far below what an Arrow array can hold."""

COLUMNAR = ("parquet", "arrow")


@dataclass(frozen=True)
class Encoding:
    """How rows become bytes: a format, and the columns that are written. Part of the plan.

    ``notation``: the text of the schema in the format's own notation, where it has one. ``registry`` and ``subject``: who knows
    that schema's id, which stands in front of each message.
    """

    format: str
    target: Schema
    notation: str | None = None
    registry: Registry | None = field(default=None, compare=False)
    subject: str | None = None
    references: tuple[Reference, ...] = field(default=(), compare=False)
    """What the schema refers to, which the registry has to know before."""
    given: bool = False
    """Whether the schema was declared, not derived from the columns."""

    @property
    def columnar(self) -> bool:
        """Whether many rows are encoded as one piece."""
        return self.format in COLUMNAR

    def legible(self) -> Encoding:
        """The same rows as JSON, for tests that look at them."""
        return Encoding("json", self.target, given=self.given)

    def describe(self) -> str:
        """For plans: nothing of plain JSON, else the format and what tells its schema from another."""
        if self.format == "json" and not self.given and self.registry is None:
            return ""
        told = hashlib.blake2b((self.notation or self.target.describe()).encode(), digest_size=4).hexdigest()
        return f"{self.format} {told}" + (f" as {self.subject}" if self.subject else "")


@dataclass(frozen=True, slots=True)
class Encoded:
    """Pieces of bytes, the number of rows in each, and the rows that have none: by number, with reason and detail."""

    pieces: pa.BinaryArray
    counts: Ints
    refused: Mapping[int, tuple[str, str]]


class Encoder(Protocol):
    """Encodes the rows of one ``write``. For one thread."""

    def encode(self, rows: pa.Table) -> Encoded:
        """``rows``: what the query of ``select`` gives."""
        ...


def select(encoding: Encoding, columns: Mapping[str, str]) -> str:
    """SQL for what an encoder takes, over the columns of a stream."""
    target = encoding.target.columns
    made, wrong = fitting.items(columns, target)
    if encoding.format in ("json", "csv"):
        casts = {c.name: item.rpartition(" AS ")[0] for c, item in zip(target, made)}
        if encoding.format == "json":
            made = [text.json_item(target, casts)]
        else:
            item, more = text.csv_item(target, casts)
            made, wrong = [item], [*wrong, *more]
    return ", ".join([*made, fitting.verdict(wrong)])


def encoder(encoding: Encoding) -> Encoder:
    """An encoder. Raises SourceError or UsageError where a registry has to be asked and cannot be."""
    if encoding.columnar:
        return _Columns(encoding.target)
    make: Callable[[pa.Table, Trouble], pa.BinaryArray]
    if encoding.format in ("json", "csv"):
        make = _texts if encoding.format == "json" else lambda rows, _: as_array(rows, text.VALUE)
    elif encoding.format in ("avro", "avro-single-object"):
        from merganser.codecs.encoding.avro import datums

        schema = encoding.target.written
        make = lambda rows, trouble: datums(schema, rows, trouble)  # noqa: E731 # one of several
    else:
        from merganser.codecs.encoding.protobuf import messages

        message = encoding.target.written
        make = lambda rows, trouble: messages(message, rows, trouble)  # noqa: E731 # the same
    return _Rows(make, _frame(encoding))


def _frame(encoding: Encoding) -> bytes:
    """What stands in front of each message."""
    if encoding.format == "avro-single-object":
        fingerprint: int = encoding.target.written.fingerprint
        return b"\xc3\x01" + fingerprint.to_bytes(8, "little")
    if encoding.registry is None or encoding.subject is None or encoding.notation is None:
        return b""
    kind = "protobuf" if encoding.format == "protobuf" else "avro" if encoding.format == "avro" else "json"
    number = encoding.registry.id_of(encoding.subject, kind, encoding.notation, encoding.references)
    head = b"\0" + number.to_bytes(HEAD - 1, "big")
    if kind != "protobuf":
        return head
    from merganser.schema.protobuf import index_of

    path = index_of(encoding.target.written)
    if path == [0]:
        return head + b"\0"
    return head + b"".join(map(encoded_long, [len(path), *path]))


@dataclass
class _Rows:
    """Encodes row by row; ``make``: the bytes of each row of a table."""

    make: Callable[[pa.Table, Trouble], pa.BinaryArray]
    frame: bytes

    def encode(self, rows: pa.Table) -> Encoded:
        trouble = _doubted(rows)
        rows = rows.drop_columns([REASON, DETAIL])
        step = max(1, len(rows) * MAX_BATCH // max(1, rows.nbytes))
        made = []
        for begin in range(0, len(rows), step):
            part = Trouble()
            # What the query refused already is NULL here and there, which is no news.
            values = self.make(rows.slice(begin, step), part)
            made.append(joined(self.frame, values) if self.frame else values)
            for row, why in part.of.items():
                trouble.of.setdefault(begin + row, why)
        pieces = pa.concat_arrays(made) if made else pa.array([], pa.binary())
        if trouble.of:
            good = np.ones(len(pieces), np.bool_)
            good[list(trouble.of)] = False
            pieces = pieces.filter(pa.array(good))
        return Encoded(pieces, np.ones(len(pieces), np.int64), trouble.of)


def _doubted(rows: pa.Table) -> Trouble:
    """The rows that the query refused."""
    trouble = Trouble()
    found = np.flatnonzero(rows[REASON].is_valid().to_numpy())
    if len(found):
        some = rows.select([REASON, DETAIL]).take(pa.array(found))
        trouble.of = dict(zip(found.tolist(), zip(some[REASON].to_pylist(), some[DETAIL].to_pylist())))
    return trouble


def _texts(rows: pa.Table, trouble: Trouble) -> pa.BinaryArray:
    values = as_array(rows, text.VALUE)
    text.json_trouble(values, trouble)
    return values


@dataclass
class _Columns:
    """Encodes all rows as one piece, an Arrow IPC stream: what Parquet and Arrow files are made of."""

    target: Schema

    def encode(self, rows: pa.Table) -> Encoded:
        refused = _doubted(rows).of
        rows = rows.drop_columns([REASON, DETAIL])
        if refused:
            good = np.ones(len(rows), np.bool_)
            good[list(refused)] = False
            rows = rows.filter(pa.array(good))
        pieces, counts = [], []
        step = max(1, len(rows) * MAX_BATCH // max(1, rows.nbytes))
        for begin in range(0, len(rows), step):
            part = rows.slice(begin, step)
            out = pa.BufferOutputStream()
            with pyarrow.ipc.new_stream(out, part.schema) as stream:
                stream.write_table(part.combine_chunks())
            pieces.append(out.getvalue().to_pybytes())
            counts.append(len(part))
        return Encoded(pa.array(pieces, pa.binary()), np.array(counts, np.int64), refused)

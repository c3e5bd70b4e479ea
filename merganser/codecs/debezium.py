"""Debezium's change events in JSON: what was done to a row of a database's table, with the row before and after it.

An insert, an update or a snapshot's row (``op`` c, u, r) is the row after it; a delete (``d``) has the row's key, and NULL in all
other columns, as the tombstone behind it: so ``latest`` is the table. The envelope may be bare or in Kafka Connect's ``schema``
and ``payload``. Where there is a schema, it says what numbers and texts stand for (days, microseconds, bytes), else the declared
type does.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import SEQ, Chunk, Codec, Decoded, Place, Reject
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.messages import Messages
from merganser.errors import FlowError, on_users_line
from merganser.schema import Column, Schema
from merganser.scratch import Query

OP, TIME = "dbz_op", "dbz_ts"
"""Columns of each event: what was done (c, u, d, r), and when it was, by the database's clock."""

MESSAGE_KEY = "_dbz_key"
"""The column that a message's key is in on its way here."""

ENVELOPE = Schema.of([
    ("op", "VARCHAR", False), ("before", "JSON", False), ("after", "JSON", False), ("source", "JSON", False),
    ("ts_ms", "BIGINT", False), ("payload", "JSON", False), ("schema", "JSON", False),
])  # fmt: skip

UNWRAP = (
    "SELECT if(w, payload::JSON->>'op', op) AS op, if(w, payload::JSON->'before', before) AS before,"
    " if(w, payload::JSON->'after', after) AS after, if(w, schema, NULL) AS schema,"
    " TRY(make_timestamp(1000 * coalesce(nullif(TRY_CAST(if(w, payload::JSON->'source', source)::JSON->>'ts_ms' AS BIGINT), 0),"
    " if(w, TRY_CAST(payload::JSON->>'ts_ms' AS BIGINT), ts_ms)))) AS ts"
    " FROM (SELECT *, coalesce(json_type(payload::JSON) = 'OBJECT', false) AS w FROM _envelopes)"
)
"""The envelopes, out of what Kafka Connect puts around them."""

EPOCH = datetime(1970, 1, 1)
DECIMALS = ("precise", "string", "double")


@dataclass(frozen=True)
class Debezium:
    """That events are changes of a table's rows: the table's columns, those of its key, and how decimals are written."""

    row: Schema
    key: tuple[str, ...]
    decimals: str

    def typed(self, types: Mapping[str, str]) -> Debezium:
        return replace(self, row=self.row.typed({name: kind for name, kind in types.items() if name in self.row}))

    envelope = (OP, TIME)
    """The columns that are not the row's."""

    deleted = f"coalesce({OP}, 'd') = 'd'"
    """SQL: whether an event, or the tombstone behind it, says that its row is gone."""


@on_users_line
def debezium(
    row: Mapping[str, str] | str | Path, *, key: str | Sequence[str], decimals: str = "precise"
) -> Schema:
    """The schema of Debezium's change events (JSON) of a table with these columns: a mapping, or a schema file.

    - ``key``: the column(s) of the table's primary key, which a delete has.
    - ``decimals``: the connector's ``decimal.handling.mode``, for events without a schema: ``"precise"`` (base64; declare the
      column's own scale), ``"string"`` or ``"double"``.

    Columns: the row's, ``dbz_op`` and ``dbz_ts`` (the default event time). Columns besides the key are NULL in a delete.
    """
    declared = Schema.declare(row)
    keys = (key,) if isinstance(key, str) else tuple(key)
    for name in keys:
        if name not in declared:
            raise FlowError(f"debezium(key={name!r}): there is no such column; there are {', '.join(declared.names())}")
    if not keys:
        raise FlowError("debezium(key=…) names no column")
    if decimals not in DECIMALS:
        raise FlowError(f"debezium(decimals={decimals!r}): there are {', '.join(map(repr, DECIMALS))}")
    taken = [name for name in (OP, TIME) if name in declared]
    if taken:
        raise FlowError(f"debezium(): {taken[0]} is a column of every change; call that of the row otherwise")
    columns = [c if c.name in keys else replace(c, required=False) for c in declared.columns]
    more = (Column(OP, "VARCHAR"), Column(TIME, "TIMESTAMP WITH TIME ZONE"))
    return Schema((*columns, *more), Debezium(declared, keys, decimals))


class DebeziumCodec:
    """Takes rows out of change events. ``codec``: of the envelopes. ``timed``: whether a tombstone has an event time."""

    def __init__(self, codec: Codec, schema: Schema, *, timed: bool) -> None:
        assert isinstance(schema.written, Debezium)
        self._codec, self._schema, self._timed, self._as = codec, schema, timed, schema.written
        row, keys = self._as.row, set(self._as.key)
        self._rows = JsonCodec(row)
        self._keys = JsonCodec(Schema(tuple(replace(c, required=True) for c in row.columns if c.name in keys)))
        self._unwrap = Query(UNWRAP, "_envelopes")
        self._meanings: dict[str | None, dict[str, Meaning]] = {}
        self._special = any(by_type(c.type, self._as.decimals) for c in row.columns)

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return self._codec.locate(chunk, seqs)

    def decode(self, chunk: Chunk) -> Decoded:
        found = self._codec.decode(chunk)
        envelopes, passed = found.table, 0
        gone = _tombstones(chunk, envelopes[SEQ].to_numpy())
        if gone.any() and not self._timed:  # the delete before it said the same, and when
            passed = int(gone.sum())
            envelopes, gone = envelopes.filter(pa.array(~gone)), gone[~gone]
        opened = self._unwrap.run(envelopes.select(list(ENVELOPE.names()))).append_column(SEQ, envelopes[SEQ])
        wrong: dict[int, tuple[str, str]] = {}
        texts, deleted = self._texts(opened, envelopes, gone, wrong)
        rows = self._decoded(chunk, texts, deleted, opened[SEQ].to_numpy(), wrong)
        rows = rows.append_column(OP, opened["op"]).append_column(TIME, pc.assume_timezone(opened["ts"], "UTC"))
        for name in self._schema.names():
            if name not in rows.column_names:
                rows = rows.append_column(name, envelopes[name])
        rows = rows.select(self._schema.names()).cast(self._schema.arrow_schema()).append_column(SEQ, opened[SEQ])
        if not wrong:
            return Decoded(rows, found.rejects, passed)
        bad = sorted(wrong)
        good = np.ones(len(rows), np.bool_)
        good[bad] = False
        seqs = [rows[SEQ][i].as_py() for i in bad]
        rejects = [Reject(seq, where, raw, *wrong[i]) for i, seq, (where, raw) in zip(bad, seqs, self._codec.locate(chunk, seqs))]
        return Decoded(rows.filter(pa.array(good)), sorted([*found.rejects, *rejects], key=lambda r: r.seq), passed)

    def _texts(
        self, opened: pa.Table, envelopes: pa.Table, gone: npt.NDArray[np.bool_], wrong: dict[int, tuple[str, str]]
    ) -> tuple[list[str], npt.NDArray[np.bool_]]:
        """The row of each event as JSON, values as the JSON codec reads them; and which are deleted."""
        ops, after = opened["op"].to_pylist(), opened["after"].to_pylist()
        deleted = gone | np.fromiter((op == "d" for op in ops), np.bool_, len(ops))
        texts: list[str] = ["{}"] * len(ops)
        before = opened["before"].to_pylist() if deleted.any() else []
        keys = envelopes[MESSAGE_KEY].to_pylist() if deleted.any() and MESSAGE_KEY in envelopes.column_names else None
        for i, op in enumerate(ops):
            if deleted[i]:
                text = None if gone[i] else before[i]
                if text in (None, "null") and keys is not None:
                    text = _payload(keys[i])
                what = "a delete that has neither the row before it nor a message key that is a JSON object"
            else:
                text, what = after[i], f"op is {op!r} and there is no row after it"
            if (op not in ("c", "u", "r", "d") and not gone[i]) or text in (None, "null"):
                known = "this is no change of a row" if op in ("t", "m") else "Debezium's change events have op c, u, r or d"
                wrong[i] = "not debezium", what if op in ("c", "u", "r", "d") or gone[i] else f"op is {op!r}; {known}"
            else:
                texts[i] = str(text)
        if self._special or opened["schema"].null_count < len(opened):
            schemas = opened["schema"].to_pylist()
            for i, text in enumerate(texts):
                if i in wrong:
                    continue
                try:
                    texts[i] = self._rewritten(text, schemas[i])
                except (ValueError, TypeError, KeyError, ArithmeticError) as error:
                    wrong[i] = "wrong type", str(error)
        return texts, deleted

    def _rewritten(self, text: str, schema: str | None) -> str:
        """A row with the values in it that stand for others written out."""
        if schema not in self._meanings:
            self._meanings[schema] = meanings(schema, self._as)
        row = json.loads(text)
        if not isinstance(row, dict):
            raise ValueError(f"expected the row as a JSON object, found {text[:40]!r}")
        for name, meaning in self._meanings[schema].items():
            if (value := row.get(name)) is not None:
                try:
                    row[name] = meaning(value)
                except (ValueError, TypeError, KeyError, ArithmeticError) as error:
                    raise ValueError(f"column {name!r}: {value!r} cannot be read as {meaning.__name__}: {error}") from None
        return json.dumps(row)

    def _decoded(
        self, chunk: Chunk, texts: list[str], deleted: npt.NDArray[np.bool_], seqs: npt.NDArray[np.int64],
        wrong: dict[int, tuple[str, str]],
    ) -> pa.Table:  # fmt: skip
        """The rows that the texts say, one for each; those in ``wrong`` are NULL."""
        kinds = self._as.row.arrow_schema()
        parts: list[pa.Table] = []
        order: list[npt.NDArray[np.int64]] = []
        for codec, which in ((self._rows, ~deleted), (self._keys, deleted)):
            at = np.array([i for i in np.flatnonzero(which).tolist() if i not in wrong], np.int64)
            if not len(at):
                continue
            lines = Lines.of("".join(texts[i].replace("\n", " ") + "\n" for i in at.tolist()).encode())
            found = codec.decode(replace(chunk, seq=0, records=len(at), payload=lines, rejects=(), until=None))
            for reject in found.rejects:
                wrong[int(at[reject.seq])] = reject.reason, reject.detail
            order.append(at[found.table[SEQ].to_numpy()])
            count = len(found.table)
            there = found.table.column_names
            columns = [found.table[f.name] if f.name in there else pa.nulls(count, f.type) for f in kinds]
            parts.append(pa.table(columns, schema=kinds))
        whole = pa.concat_tables(parts) if parts else kinds.empty_table()
        place = np.full(len(seqs), -1, np.int64)
        place[np.concatenate(order) if order else np.zeros(0, np.int64)] = np.arange(len(whole))
        return whole.take(pa.array(place, mask=place < 0))


def _tombstones(chunk: Chunk, seqs: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Which records are messages without a value."""
    if not isinstance(chunk.payload, Messages) or not chunk.payload.values.null_count:
        return np.zeros(len(seqs), np.bool_)
    nulls = chunk.payload.values.is_null().to_numpy(zero_copy_only=False)
    found: npt.NDArray[np.bool_] = nulls[np.searchsorted(chunk.payload.ordinals(chunk), seqs)]
    return found


def _payload(key: bytes | None) -> str | None:
    """A message's key as the text of a JSON object, out of what Kafka Connect puts around it."""
    try:
        found = json.loads(key or b"null")
    except ValueError:
        return None
    if isinstance(found, dict) and "schema" in found and isinstance(found.get("payload"), dict):
        found = found["payload"]
    return json.dumps(found) if isinstance(found, dict) else None


# -- what values stand for ------------------------------------------------------------------------------------------------

Meaning = Callable[[Any], Any]
"""Makes of a value in a change event what the JSON codec reads; its name says what the value is taken for."""


def meanings(schema: str | None, written: Debezium) -> dict[str, Meaning]:
    """By column: what its values stand for, if not for themselves. ``schema``: Kafka Connect's, as JSON, if there is one."""
    if schema is None or schema == "null":
        found = {c.name: by_type(c.type, written.decimals) for c in written.row.columns}
        return {name: meaning for name, meaning in found.items() if meaning is not None}
    fields = {field.get("field"): field for field in json.loads(schema).get("fields", ())}
    row = fields.get("after") or fields.get("before") or {}
    return {f["field"]: meaning for f in row.get("fields", ()) if (meaning := by_schema(f)) is not None}


def by_type(kind: str, decimals: str) -> Meaning | None:
    """What values stand for in a column of this type, where no schema says it."""
    if kind.startswith("DECIMAL"):
        scale = int(kind.rstrip(")").partition(",")[2])
        return _decimal(scale) if decimals == "precise" else None
    return {
        "TIMESTAMP": _moment(10**3), "TIMESTAMP WITH TIME ZONE": _moment(10**3), "TIMESTAMP_MS": _moment(10**6),
        "TIMESTAMP_S": _moment(10**9), "TIMESTAMP_NS": _moment(1), "TIMESTAMPTZ_NS": _moment(1), "DATE": days,
        "TIME": _time(10**3), "TIME_NS": _time(1), "INTERVAL": _duration, "JSON": document,
    }.get(kind)  # fmt: skip


def by_schema(field: Mapping[str, Any]) -> Meaning | None:
    """What values of a field stand for, by its schema."""
    name = field.get("name")
    if name == "org.apache.kafka.connect.data.Decimal":
        return _decimal(int(field["parameters"]["scale"]))
    return MEANINGS.get(name)


def _decimal(scale: int) -> Meaning:
    def decimal(value: Any) -> Any:
        """An unscaled integer, big-endian, in base64; of a scale of its own in an object."""
        if isinstance(value, (int, float)):
            return value
        places = value["scale"] if isinstance(value, dict) else scale
        unscaled = base64.b64decode(value["value"] if isinstance(value, dict) else value, validate=True)
        if not unscaled:
            raise ValueError("there are no bytes")
        number = int.from_bytes(unscaled, "big", signed=True)
        return str(Decimal((int(number < 0), tuple(map(int, str(abs(number)))), -places)))

    return decimal


def _moment(nanoseconds: int) -> Meaning:
    def timestamp(value: Any) -> Any:
        if not isinstance(value, int):
            return value
        seconds, rest = divmod(value * nanoseconds, 10**9)
        return f"{EPOCH + timedelta(seconds=seconds)}.{rest:09d}" if rest % 1000 else str(
            EPOCH + timedelta(seconds=seconds, microseconds=rest // 1000)
        )

    return timestamp


def _time(nanoseconds: int) -> Meaning:
    def time(value: Any) -> Any:
        if not isinstance(value, int):
            return value
        if not 0 <= value * nanoseconds <= 86_400 * 10**9:
            raise ValueError("it is no time of a day")
        if value * nanoseconds == 86_400 * 10**9:
            return "24:00:00"
        seconds, rest = divmod(value * nanoseconds, 10**9)
        return f"{(EPOCH + timedelta(seconds=seconds)).time()}.{rest:09d}"

    return time


def days(value: Any) -> Any:
    return str(date(1970, 1, 1) + timedelta(days=value)) if isinstance(value, int) else value


def _duration(value: Any) -> Any:
    return f"{value} microseconds" if isinstance(value, int) else value


def document(value: Any) -> Any:
    """JSON that comes as a text."""
    return json.loads(value) if isinstance(value, str) else value


MEANINGS: dict[Any, Meaning] = {
    "org.apache.kafka.connect.data.Timestamp": _moment(10**6),
    "org.apache.kafka.connect.data.Date": days,
    "org.apache.kafka.connect.data.Time": _time(10**6),
    "io.debezium.data.Json": document,
    "io.debezium.data.VariableScaleDecimal": _decimal(0),
    "io.debezium.time.Timestamp": _moment(10**6),
    "io.debezium.time.MicroTimestamp": _moment(10**3),
    "io.debezium.time.NanoTimestamp": _moment(1),
    "io.debezium.time.Date": days,
    "io.debezium.time.Time": _time(10**6),
    "io.debezium.time.MicroTime": _time(10**3),
    "io.debezium.time.NanoTime": _time(1),
    "io.debezium.time.MicroDuration": _duration,
}
"""By the name of a field's schema. Others are what they say: texts, numbers, ISO times, bytes in base64."""

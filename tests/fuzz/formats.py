"""What is fuzzed: for each format valid records, a decoder over many of them, and the reference for one."""

from __future__ import annotations

import base64
import csv
import datetime as dt
import io
import json
import math
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.avro import DatumReader
from merganser.codecs.binary import BinaryCodec, Broken, Delimited, array
from merganser.codecs.csv import CsvCodec, CsvPayload
from merganser.codecs.framing import ConfluentReader
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.protobuf import MessageReader
from merganser.codecs.protobuf.reference import parsed
from merganser.registry import DeniedError, Registry
from merganser.schema import Schema
from merganser.schema.avro import declared, parse
from merganser.schema.notations import Notated
from merganser.schema.protobuf import compiled_text
from merganser.schema.protobuf import declared as declared_message
from tests.codecs.avro_data import same

AVRO = {
    "type": "record", "name": "R", "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 12, "scale": 2}},
        {"name": "n", "type": ["null", "int"]},
        {"name": "u", "type": ["null", "long", "string"]},
        {"name": "tags", "type": {"type": "map", "values": "double"}},
        {"name": "lines", "type": {"type": "array", "items": {"type": "record", "name": "L", "fields": [
            {"name": "sku", "type": "string"}, {"name": "ok", "type": "boolean"}, {"name": "none", "type": "null"}]}}},
        {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B", "C"]}},
        {"name": "nulls", "type": {"type": "array", "items": "null"}},
    ],
}  # fmt: skip
PROTO = """
syntax = "proto3"; import "google/protobuf/timestamp.proto"; import "google/protobuf/wrappers.proto";
message M {
  message L { string sku = 1; bool ok = 2; }
  string id = 1; google.protobuf.Timestamp at = 2; sint64 n = 3; double x = 4; repeated int32 many = 5;
  map<string, int64> tags = 6;
  repeated L lines = 7; oneof pick { string a = 8; int32 b = 9; } optional bytes raw = 10; google.protobuf.StringValue w = 11;
  K k = 12;
  enum K { A = 0; B = 1; }
}
"""


@dataclass(frozen=True)
class Format:
    """``decode``: records to what became of each, a row or None for a reject. ``agrees``: whether a row is the reference's."""

    valid: Sequence[bytes]
    codec: Codec
    payload: Callable[[list[bytes]], Any]
    agrees: Callable[[bytes, dict[str, Any]], bool]

    def decode(self, raws: list[bytes]) -> list[dict[str, Any] | None]:
        payload = self.payload(raws)
        chunk = Chunk("s", "p", 0, len(raws), Place("f", 0, 1), payload, {}, 1)
        decoded = self.codec.decode(chunk)
        rows: list[dict[str, Any] | None] = [None] * len(raws)
        for seq, row in zip(decoded.table["_seq"].to_pylist(), _rows(decoded.table.drop_columns("_seq"))):
            rows[seq] = row
        for reject in decoded.rejects:
            assert rows[reject.seq] is None and reject.raw == raws[reject.seq] and reject.reason and reject.detail
        assert len(decoded.table) + len(decoded.rejects) == len(raws)
        return rows


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    """As ``to_pylist``, with times as numbers: Python's end at the year 9999."""
    columns = [c.cast(pa.int64()) if pa.types.is_timestamp(c.type) else c for c in table.columns]
    return pa.table(columns, names=table.column_names).to_pylist()


def _delimited(raws: list[bytes]) -> Delimited:
    end = np.cumsum([len(r) for r in raws], dtype=np.int64)
    return Delimited(b"".join(raws), end - np.array([len(r) for r in raws], np.int64), end)


def avro() -> Format:
    parsed_schema = fastavro.parse_schema(AVRO)
    plain = fastavro.parse_schema(json.loads(json.dumps(AVRO).replace('"logicalType": "timestamp-micros"', '"x": 1')))
    valid = []
    for i in range(50):
        row = {
            "id": f"id-{i}", "at": dt.datetime(2026, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=i * 1e3),
            "price": Decimal(i * 7919) / 100, "n": None if i % 3 else i, "u": [None, i << 40, "text"][i % 3],
            "tags": {f"k{j}": j / 3 for j in range(i % 4)}, "kind": "ABC"[i % 3], "nulls": [None] * (i % 3),
            "lines": [{"sku": "s" * j, "ok": j % 2 == 0, "none": None} for j in range(i % 5)],
        }  # fmt: skip
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed_schema, row)
        valid.append(out.getvalue())
    schema = parse(AVRO, "fuzz")

    def agrees(raw: bytes, row: dict[str, Any]) -> bool:
        data = io.BytesIO(raw)
        theirs = fastavro.schemaless_reader(data, plain)
        return data.tell() == len(raw) and same(row, theirs)

    return Format(valid, BinaryCodec(DatumReader(declared(schema, "fuzz"), schema, "fuzz")), _delimited, agrees)


def protobuf() -> Format:
    message = compiled_text(PROTO, {}, "fuzz")
    valid = []
    for i in range(50):
        made = message.kind(id=f"id-{i}", n=-i, x=i / 7, many=range(i % 5), raw=bytes([i]), k=i % 2)
        made.at.seconds = 1_767_225_600 + i
        for j in range(i % 3):
            made.tags[f"k{j}"] = j
            made.lines.add(sku="x" * j, ok=True)
        if i % 2:
            made.a = "one"
        else:
            made.b = i
        made.w.value = "w"
        valid.append(made.SerializeToString())
    schema = declared_message(message, "fuzz")

    def agrees(raw: bytes, row: dict[str, Any]) -> bool:
        try:
            values = parsed(message, raw, pa.struct(list(schema.arrow_schema())))
        except Broken:
            return False
        table = pa.table([array([values[f.name]], f.type) for f in schema.arrow_schema()], schema=schema.arrow_schema())
        return _sorted(_rows(table)[0]) == _sorted(row)

    return Format(valid, BinaryCodec(MessageReader(schema, "fuzz", message)), _delimited, agrees)


def _sorted(value: Any) -> str:
    """As text, NaN and all, maps by key."""
    if isinstance(value, dict):
        return str({k: _sorted(v) for k, v in value.items()})
    if isinstance(value, list):
        items = [_sorted(v) for v in value]
        return str(sorted(items) if value and isinstance(value[0], tuple) else items)
    return repr(value)


def jsonl() -> Format:
    schema = Schema.declare({"id": "VARCHAR", "n": "BIGINT", "x": "DOUBLE", "b": "BOOLEAN", "tags": "VARCHAR[]"})
    valid = [
        json.dumps({"id": f"id-{i} ä\U0001f600", "n": i << (i % 60), "x": i / 7, "b": i % 2 == 0, "tags": ["t"] * (i % 3)}).encode()
        for i in range(50)
    ]

    def payload(raws: list[bytes]) -> Lines:
        return Lines.of(b"".join(raw + b"\n" for raw in raws))

    def agrees(raw: bytes, row: dict[str, Any]) -> bool:
        pairs = json.loads(raw, object_pairs_hook=lambda p: p)
        theirs = dict(pairs)
        if len([key for key, _ in pairs if key in row]) > len(theirs.keys() & row.keys()):
            return False
        for name, native in (("id", str), ("n", int), ("x", (int, float)), ("b", bool)):
            value = theirs.get(name)
            if isinstance(value, bool) and native is not bool and name != "id":
                return False
            if value is None:
                if row[name] is not None:
                    return False
            elif isinstance(value, native) and not _near(row[name], float(value) if name == "x" else value):
                return False
        return True

    return Format(valid, JsonCodec(schema), payload, agrees)


def _near(ours: Any, theirs: Any) -> bool:
    """Equal; DuckDB and Python may read the last digit of a decimal fraction differently."""
    return bool(ours == theirs or (isinstance(theirs, float) and math.isclose(ours, theirs, rel_tol=1e-15)))


class _Known(Registry):
    """A registry that knows one id."""

    def by_id(self, number: int, *, patience: float = 0) -> Notated:
        if number != 7:
            raise DeniedError("no such schema")
        return Notated("avro", parse(AVRO, "fuzz"))


def framed() -> Format:
    bare = avro()
    codec = BinaryCodec(ConfluentReader(declared(parse(AVRO, "fuzz"), "fuzz"), _Known("http://none"), "avro", "fuzz"))

    def agrees(raw: bytes, row: dict[str, Any]) -> bool:
        return raw[:5] == b"\0\0\0\0\7" and bare.agrees(raw[5:], row)

    return Format([b"\0\0\0\0\7" + raw for raw in bare.valid], codec, _delimited, agrees)


def lines_of_csv() -> Format:
    kinds = {"id": "VARCHAR", "n": "BIGINT", "x": "DOUBLE", "raw": "BLOB"}
    valid = [f'"id-{i}, ""ä""",{i << (i % 60)},{i / 7},{"AP8=" * (i % 3)}'.encode() for i in range(50)]

    def payload(raws: list[bytes]) -> CsvPayload:
        return CsvPayload(tuple(kinds), b"".join(raw + b"\n" for raw in raws))

    def agrees(raw: bytes, row: dict[str, Any]) -> bool:
        id, n, x, data = next(csv.reader([raw.decode()], strict=True))
        return (
            (row["id"] or "") == id
            and (row["n"] is None if not n else row["n"] == Decimal(n))
            and (row["x"] is None if not x else _near(row["x"], float(x)))
            and (not row["raw"] if not data else row["raw"] == base64.b64decode(data))
        )

    return Format(valid, CsvCodec(Schema.declare(kinds)), payload, agrees)


FORMATS: dict[str, Callable[[], Format]] = {
    "avro": avro, "protobuf": protobuf, "json": jsonl, "framed avro": framed, "csv": lines_of_csv,
}  # fmt: skip
BOMBS = [
    b"\xff" * 10, b"\x80\x84\xaf\x5f", b"\x00", b"\xfe\xff\xff\xff\x0f", struct.pack("<d", math.nan), b"[" * 300, b"1e999",
    b'"\xed\xa0\x80"',
]  # fmt: skip
"""Pieces that do harm: long numbers, a hundred million elements, NaN, deep nesting, a lone surrogate."""

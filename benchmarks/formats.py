"""Decoding, in rows a second and core: an event of eight fields in each format and framing, next to the reference library
and to the fastest known readers (the dependency group ``bench``).

CPU seconds, the best of several turns taken one after the other, so that what else the machine does matters little.
"""

from __future__ import annotations

import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pyarrow.parquet

import merganser as mg
from benchmarks import readers
from benchmarks.generate import generate
from merganser.codecs import Chunk, Place
from merganser.codecs.avro import AvroCodec, DatumReader
from merganser.codecs.binary import BinaryCodec, Delimited
from merganser.codecs.encoding.avro import datums
from merganser.codecs.encoding.pieces import Trouble
from merganser.codecs.encoding.protobuf import messages
from merganser.codecs.framing import ConfluentReader
from merganser.codecs.json import JsonCodec, Lines
from merganser.codecs.protobuf import MessageReader
from merganser.registry import Registry
from merganser.schema import Schema
from merganser.schema.avro import declared, parse
from merganser.schema.notations import Notated
from merganser.schema.protobuf import compiled_text
from merganser.schema.protobuf import declared as declared_message
from merganser.sources.containers import ContainerFile

ROWS = 80_000
TURNS = 5

AVRO = {
    "type": "record", "name": "Order", "fields": [
        {"name": "id", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "customer", "type": "string"},
        {"name": "amount", "type": {"type": "bytes", "logicalType": "decimal", "precision": 18, "scale": 2}},
        {"name": "quantity", "type": "int"}, {"name": "note", "type": ["null", "string"]}, {"name": "paid", "type": "boolean"},
        {"name": "number", "type": "long"},
    ],
}  # fmt: skip
PROTO = """
syntax = "proto3"; import "google/protobuf/timestamp.proto";
message Order { string id = 1; google.protobuf.Timestamp at = 2; string customer = 3; double amount = 4; int32 quantity = 5;
  optional string note = 6; bool paid = 7; int64 number = 8; }
"""


class _Known(Registry):
    """A registry of one schema, so that no network is measured."""

    def by_id(self, number: int, *, patience: float = 0) -> Notated:
        return Notated("avro", parse(AVRO, "bench"))


def events() -> list[dict[str, Any]]:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    return [
        {"id": f"order-{i:08d}", "at": start + timedelta(milliseconds=i * 7), "customer": f"customer-{i % 9973}",
         "amount": Decimal(i * 37 % 1_000_000) / 100, "quantity": i % 50, "note": None if i % 3 else "leave it at the door",
         "paid": i % 2 == 0, "number": i}
        for i in range(ROWS)
    ]  # fmt: skip


def best(work: Callable[[], Any]) -> float:
    """Rows a CPU second."""
    work()
    seconds = []
    for _ in range(TURNS):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return ROWS / min(seconds)


def delimited(raws: list[bytes]) -> Delimited:
    end = np.cumsum([len(r) for r in raws], dtype=np.int64)
    return Delimited(b"".join(raws), end - np.array([len(r) for r in raws], np.int64), end)


def decoding(codec: Any, payload: Any) -> Callable[[], Any]:
    chunk = Chunk("s", "p", 0, ROWS, Place("f", 0, 1), payload, {}, 1)
    return lambda: codec.decode(chunk)


@dataclass
class Measured:
    """Rows a second of ours and, by name, of others: the reference library first. None for one that is not installed."""

    name: str
    mine: float
    others: dict[str, float | None]

    def __str__(self) -> str:
        others = (f"{name} {speed / 1e6:.2f}" if speed else f"{name} not installed" for name, speed in self.others.items())
        return f"{self.name:<32} {self.mine / 1e6:6.2f}   {', '.join(others)}"


def speeds(others: dict[str, readers.Reader | None], times: int = 1) -> dict[str, float | None]:
    return {name: best(reader) * times if reader else None for name, reader in others.items()}


def measured() -> Iterator[Measured]:
    rows = events()
    parsed, schema = fastavro.parse_schema(AVRO), parse(AVRO, "bench")
    yield from _datums(rows, parsed, schema)
    for interval in (16_000, 64_000, 256_000):
        yield _container_file(rows, parsed, declared(schema, "bench"), interval)
    message = compiled_text(PROTO, {}, "bench")
    yield _messages(rows, message)
    yield from _writing(rows, parsed, schema, message)
    yield _json(rows, declared(schema, "bench"))


def _datums(rows: list[dict[str, Any]], parsed: Any, schema: Any) -> Iterator[Measured]:
    bodies = []
    for row in rows:
        out = io.BytesIO()
        fastavro.schemaless_writer(out, parsed, row)
        bodies.append(out.getvalue())
    loop = best(lambda: [fastavro.schemaless_reader(io.BytesIO(d), parsed) for d in bodies])
    reader = DatumReader(declared(schema, "bench"), schema, "bench")
    yield Measured("Avro datums", best(decoding(BinaryCodec(reader), delimited(bodies))), {"fastavro": loop})
    framed = ConfluentReader(declared(schema, "bench"), _Known("http://none"), "avro", "bench")
    payload = delimited([b"\0\0\0\0\7" + d for d in bodies])
    yield Measured("Avro, Confluent framing", best(decoding(BinaryCodec(framed), payload)), {"fastavro": loop})


def _container_file(rows: list[dict[str, Any]], parsed: Any, schema: Schema, interval: int) -> Measured:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.avro"
        with path.open("wb") as file:
            fastavro.writer(file, parsed, rows * 4, sync_interval=interval)
        others: dict[str, readers.Reader | None] = {"fastavro": lambda: list(fastavro.reader(io.BytesIO(path.read_bytes())))}
        others |= readers.avro_files(path)
        return Measured(
            f"Avro files, blocks of {interval // 1000} kB", best(lambda: _container(path, schema)) * 4, speeds(others, 4)
        )


def _messages(rows: list[dict[str, Any]], message: Any) -> Measured:
    raws = []
    for row in rows:
        made = message.kind(**{k: v for k, v in row.items() if k not in ("at", "amount", "note")}, amount=float(row["amount"]))
        made.at.FromDatetime(row["at"])
        if row["note"]:
            made.note = row["note"]
        raws.append(made.SerializeToString())
    codec = BinaryCodec(MessageReader(declared_message(message, "bench"), "bench"))
    others: dict[str, readers.Reader | None] = {"upb, parsing only": lambda: [message.kind.FromString(raw) for raw in raws]}
    others |= readers.protobuf(message.kind, raws)
    return Measured("Protocol Buffers", best(decoding(codec, delimited(raws))), speeds(others))


def _json(rows: list[dict[str, Any]], schema: Schema) -> Measured:
    lines = [json.dumps(r | {"at": r["at"].isoformat(), "amount": str(r["amount"])}).encode() for r in rows]
    kinds = {c.name: c.type for c in schema.columns}
    data = b"\n".join(lines) + b"\n"
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "orders.jsonl"
        path.write_bytes(data)
        others: dict[str, readers.Reader | None] = {"json.loads": lambda: [json.loads(line) for line in lines]}
        others |= readers.json_lines(path, schema.arrow_schema(), kinds)
        # Finding the lines is a part of reading them.
        codec = JsonCodec(Schema.declare(kinds))
        return Measured("JSON", best(lambda: decoding(codec, Lines.of(data))()), speeds(others))


def _writing(rows: list[dict[str, Any]], parsed: Any, schema: Any, message: Any) -> Iterator[Measured]:
    """The reference of Protocol Buffers is Google's library, making the messages included."""
    table = pa.Table.from_pylist(rows, schema=declared(schema, "bench").arrow_schema())
    plain = [{**row, "amount": float(row["amount"])} for row in rows]
    numbers = pa.Table.from_pylist(plain, schema=declared_message(message, "bench").arrow_schema())

    def by_fastavro() -> None:
        for row in rows:
            fastavro.schemaless_writer(io.BytesIO(), parsed, row)

    yield Measured("writing Avro datums", best(lambda: datums(schema, table, Trouble())), {"fastavro": best(by_fastavro)})
    upb = best(lambda: [message.kind(**row).SerializeToString() for row in plain])
    yield Measured("writing Protocol Buffers", best(lambda: messages(message, numbers, Trouble())), {"upb": upb})


def _container(path: Path, schema: Schema) -> None:
    reader, codec, seq = ContainerFile(str(path), None), AvroCodec(schema), 0
    while (piece := reader.read(8 << 20, last=True)) is not None:
        codec.decode(Chunk("s", "p", seq, piece.records, Place("f", 0, 1), piece.payload, {}, 1))
        seq += piece.records
    reader.close()


EVENTS = 1_000_000
EVENT_AVRO = {
    "type": "record", "name": "Order", "fields": [
        {"name": "event_id", "type": "string"}, {"name": "placed_at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "customer_id", "type": "int"}, {"name": "amount", "type": "double"}, {"name": "currency", "type": "string"},
    ],
}  # fmt: skip
EVENT_PROTO = """
syntax = "proto3"; import "google/protobuf/timestamp.proto";
message Order { string event_id = 1; google.protobuf.Timestamp placed_at = 2; int32 customer_id = 3; double amount = 4;
  string currency = 5; }
"""


def files(out: Path) -> dict[str, tuple[Path, str]]:
    """By format: the events of the other benchmarks in a file, and its schema's; made if they are not there."""
    lines, parquet = generate(out, EVENTS)
    container, messages = out / f"orders-{EVENTS}.avro", out / f"orders-{EVENTS}.pb"
    (out / "order.avsc").write_text(json.dumps(EVENT_AVRO))
    (out / "order.proto").write_text(EVENT_PROTO)
    if not messages.exists():
        kind = compiled_text(EVENT_PROTO, {}, "bench").kind
        rows = pyarrow.parquet.read_table(parquet).to_pylist()
        with container.open("wb") as file:
            fastavro.writer(file, fastavro.parse_schema(EVENT_AVRO), rows)
        with messages.open("wb") as file:
            for row in rows:
                made = kind(**{k: v for k, v in row.items() if k != "placed_at"})
                made.placed_at.FromDatetime(row["placed_at"])
                raw = made.SerializeToString()
                file.write(bytes([len(raw)]) + raw)
    return {
        "JSON": (lines, ""), "Avro": (container, f"{out}/order.avsc"), "Protocol Buffers": (messages, f"{out}/order.proto#Order")
    }  # fmt: skip


def job(path: Path, schema: str) -> float:
    """J1 (deduplicate, one-minute windows per customer, count and sum) over a file: events a CPU second."""
    kinds = {"event_id": "VARCHAR", "placed_at": "TIMESTAMPTZ", "customer_id": "INTEGER", "amount": "DOUBLE", "currency": "VARCHAR"}
    orders = mg.source("o", mg.files(path), schema=schema or kinds, time="placed_at", lateness="10 seconds", id="event_id")
    flow = mg.Flow("J1")
    once = flow.read(orders).filter("amount > 0").deduplicate(within="10 minutes")
    windows = once.window(mg.tumbling("1 minute"), by="customer_id")
    windows.aggregate(n="count(*)", total="sum(amount)").materialize("v")
    with tempfile.TemporaryDirectory() as folder:
        began = time.process_time()
        mg.run([flow], Path(folder) / "s.duckdb")
        return EVENTS / (time.process_time() - began)


def main() -> None:
    pa.set_cpu_count(1)
    print(f"decoding, million rows a CPU second, one core, eight fields, {ROWS:,} rows at a time")
    for line in measured():
        print(f"  {line}", flush=True)
    print(f"J1 over {EVENTS / 1e6:g} million events of five fields, million events a CPU second, all threads")
    for name, (path, schema) in files(Path(__file__).parent / "data").items():
        print(f"  {name:<32} {max(job(path, schema) for _ in range(2)) / 1e6:6.2f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())

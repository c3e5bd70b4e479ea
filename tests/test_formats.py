"""Flows over events in binary formats: all their types reach the views, and verify agrees."""

from __future__ import annotations

import datetime as dt
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import fastavro

import merganser as mg
from merganser.verify import verify
from tests.flows import balanced, rows

V1 = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
        {"name": "amount", "type": "int"},
    ],
}
PRICE = {"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}
V2 = {
    "type": "record",
    "name": "Order",
    "fields": [
        {"name": "id", "type": "string"},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "total", "type": "long", "aliases": ["amount"]},
        {"name": "price", "type": ["null", PRICE], "default": None},
        {"name": "tags", "type": {"type": "map", "values": "string"}, "default": {}},
        {"name": "ref", "type": ["null", "long", "string"], "default": None},
    ],
}
START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def avro(path: Path, schema: Any, records: list[dict[str, Any]], **more: Any) -> None:
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema), records, **more)


def test_files_of_several_writers_are_read_by_one_schema(tmp_path: Path) -> None:
    """The new schema reads what the old one wrote: aliases, promotions, defaults; and the views go on without a rebuild."""
    (tmp_path / "order.avsc").write_text(json.dumps(V2))
    avro(tmp_path / "1.avro", V1, [{"id": f"a{i}", "at": START + dt.timedelta(seconds=i), "amount": i} for i in range(5)])
    events = mg.source("orders", mg.files(tmp_path / "*.avro"), schema=tmp_path / "order.avsc", time="at", lateness="1 minute")
    flow = mg.Flow("orders")
    flow.read(events).materialize("kept")
    flow.read(events).window(mg.tumbling("1 minute")).aggregate(n="count(*)", total="sum(total)").materialize("per_minute")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    new = {"id": "b", "at": START + dt.timedelta(seconds=9), "total": 7, "price": Decimal("1.25"), "tags": {"k": "v"}, "ref": "x"}
    avro(tmp_path / "2.avro", V2, [new, new | {"id": "c", "ref": 5, "price": None}], codec="deflate")
    mg.run([flow], store)
    assert rows(store, "SELECT id, total, price, tags, ref, union_tag(ref)::VARCHAR FROM kept ORDER BY id") == [
        *((f"a{i}", i, None, {}, None, None) for i in range(5)),
        ("b", 7, Decimal("1.25"), {"k": "v"}, "x", "string"),
        ("c", 7, None, {"k": "v"}, 5, "long"),
    ]
    assert rows(store, "SELECT n, total::BIGINT FROM per_minute") == [(7, 24)]
    balanced(store)
    assert all(check.ok for check in verify([flow], store))

"""Debezium: changes of a table in its envelopes, in every form they come in, to the rows of ``latest``."""

from __future__ import annotations

import base64
import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import balanced, rows
from tests.kafka.fixture import Kafka

MS = 1_767_225_600_000  # 2026-01-01


def change(op: str, before: Any, after: Any, ts: int = 0, **more: Any) -> dict[str, Any]:
    """A change event as Debezium's PostgreSQL connector writes it without a schema."""
    source = {
        "version": "2.7.0.Final", "connector": "postgresql", "name": "shop", "ts_ms": MS + ts, "db": "shop", "schema": "public",
        "snapshot": "true" if op == "r" else "false", "sequence": '["24023119","24023128"]', "table": "customers", "txId": 555,
        "lsn": 24023128, "xmin": None,
    }  # fmt: skip
    return {"before": before, "after": after, "source": source, "op": op, "ts_ms": MS + ts + 5, "transaction": None} | more


def connect(payload: dict[str, Any], fields: list[dict[str, Any]]) -> dict[str, Any]:
    """The same as Kafka Connect's JSON converter writes it with ``schemas.enable=true``."""
    row = {"type": "struct", "fields": fields, "optional": True, "name": "shop.public.customers.Value"}
    envelope = [row | {"field": "before"}, row | {"field": "after"}, {"type": "string", "optional": False, "field": "op"}]
    schema = {"type": "struct", "fields": envelope, "optional": False, "name": "shop.public.customers.Envelope", "version": 1}
    return {"schema": schema, "payload": payload}


CUSTOMER = {"id": "BIGINT NOT NULL", "name": "VARCHAR NOT NULL", "email": "VARCHAR"}
ID, NAME, EMAIL = (
    {"type": "int64", "optional": False, "field": "id"}, {"type": "string", "optional": False, "field": "name"},
    {"type": "string", "optional": True, "field": "email"},
)  # fmt: skip


def customer(id: int, name: str, email: str | None = None) -> dict[str, Any]:
    return {"id": id, "name": name, "email": email}


CHANGES = [
    change("r", None, customer(1, "Ada", "ada@example.org")),
    change("r", None, customer(2, "Bao")),
    change("c", None, customer(3, "Carla\n\"x\""), 10),
    change("u", {"id": 1, "name": "", "email": None}, customer(1, "Ada Lovelace"), 20),
    change("d", {"id": 2, "name": "", "email": None}, None, 30),  # REPLICA IDENTITY DEFAULT: the key, and nothing else that is true
    change("d", customer(3, "Carla", "c@example.org"), None, 40),  # REPLICA IDENTITY FULL
    change("c", None, customer(3, "Carla again"), 40),  # in the same millisecond: the order of the log counts
]
LEFT = [(1, "Ada Lovelace", None), (3, "Carla again", None)]


def _read(path: Path, records: list[Any], schema: Any, **more: Any) -> tuple[mg.Flow, Path]:
    (path / "changes.jsonl").write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    flow = mg.Flow("f")
    read = flow.read(mg.source("changes", mg.files(path / "changes.jsonl"), schema=schema, **more))
    read.materialize("changes")
    read.latest().materialize("table")
    mg.run([flow], path / "s.duckdb")
    balanced(path / "s.duckdb")
    assert [check.view for check in verify([flow], path / "s.duckdb") if not check.ok] == []
    return flow, path / "s.duckdb"


@pytest.mark.parametrize("wrapped", [False, True])
def test_changes_become_the_table(wrapped: bool, tmp_path: Path) -> None:
    records = [connect(c, [ID, NAME, EMAIL]) for c in CHANGES] if wrapped else CHANGES
    _, store = _read(tmp_path, records, mg.debezium(CUSTOMER, key="id"))
    assert rows(store, 'SELECT id, name, email FROM "table" ORDER BY id') == LEFT
    found = rows(store, "SELECT id, dbz_op, epoch_ms(dbz_ts), name FROM changes ORDER BY ALL")
    assert [f for f in found if f[1] == "d"] == [(2, "d", MS + 30, None), (3, "d", MS + 40, None)]
    assert len(found) == 7


def test_the_key_and_the_time_are_the_default_and_others_can_be_declared() -> None:
    made = mg.source("s", mg.memory([]), schema=mg.debezium(CUSTOMER, key="id"))
    assert (made.key, made.time) == ("id", "dbz_ts")
    several = mg.source("s", mg.memory([]), schema=mg.debezium(CUSTOMER, key=["id", "name"]), time="dbz_ts", id="email")
    assert (several.key, several.id) == (None, "email")


def unscaled(number: int) -> str:
    return base64.b64encode(number.to_bytes((number.bit_length() + 8) // 8, "big", signed=True)).decode()


DECIMAL = "org.apache.kafka.connect.data.Decimal"
BYTES = base64.b64encode(b"\x00\xffa").decode()
FORMS: list[tuple[str, Any, Any, Any]] = [
    # declared type, the value without a schema, the field's schema, what is read
    ("DECIMAL(12,2)", unscaled(1234), {"name": DECIMAL, "parameters": {"scale": "2"}}, "12.34"),
    ("DECIMAL(12,2)", unscaled(-5), {"name": DECIMAL, "parameters": {"scale": "2"}}, "-0.05"),
    ("DECIMAL(38,0)", unscaled(10**37), {"name": DECIMAL, "parameters": {"scale": "0"}}, str(10**37)),
    ("DECIMAL(12,3)", {"scale": 1, "value": unscaled(1234)}, {"name": "io.debezium.data.VariableScaleDecimal"}, "123.400"),
    ("TIMESTAMP", 1_767_225_600_123_456, {"name": "io.debezium.time.MicroTimestamp"}, "2026-01-01 00:00:00.123456"),
    ("TIMESTAMP", -1, {"name": "io.debezium.time.MicroTimestamp"}, "1969-12-31 23:59:59.999999"),
    ("TIMESTAMP_MS", MS + 7, {"name": "io.debezium.time.Timestamp"}, "2026-01-01 00:00:00.007"),
    ("TIMESTAMP_MS", MS + 7, {"name": "org.apache.kafka.connect.data.Timestamp"}, "2026-01-01 00:00:00.007"),
    ("TIMESTAMP_NS", 1_767_225_600_123_456_789, {"name": "io.debezium.time.NanoTimestamp"}, "2026-01-01 00:00:00.123456789"),
    ("TIMESTAMPTZ", "2026-01-01T01:00:00.5+01:00", {"name": "io.debezium.time.ZonedTimestamp"}, "2026-01-01 00:00:00.5+00"),
    ("TIMESTAMPTZ_NS", 1_767_225_600_123_456_789, {"name": "io.debezium.time.NanoTimestamp"}, "2026-01-01 00:00:00.123456789+00"),
    ("DATE", 20_454, {"name": "io.debezium.time.Date"}, "2026-01-01"),
    ("DATE", -1, {"name": "org.apache.kafka.connect.data.Date"}, "1969-12-31"),
    ("TIME", 3_661_000_001, {"name": "io.debezium.time.MicroTime"}, "01:01:01.000001"),
    ("TIME", "01:01:01", {"name": "io.debezium.time.IsoTime"}, "01:01:01"),
    ("TIME_NS", 3_661_000_000_001, {"name": "io.debezium.time.NanoTime"}, "01:01:01.000000001"),
    ("BLOB", BYTES, {"type": "bytes"}, "\\x00\\xFFa"),
    ("BLOB", BYTES, {"type": "bytes", "name": "io.debezium.data.Bits"}, "\\x00\\xFFa"),
    ("JSON", '{"a": [1, null]}', {"name": "io.debezium.data.Json"}, '{"a":[1,null]}'),
    ("UUID", "6f1c1a3e-0000-4000-8000-000000000000", {"name": "io.debezium.data.Uuid"}, "6f1c1a3e-0000-4000-8000-000000000000"),
    ("VARCHAR", "blue", {"name": "io.debezium.data.Enum"}, "blue"),
    ("DOUBLE", 0.1, {}, "0.1"),
    ("BOOLEAN", True, {}, "true"),
    ("VARCHAR[]", ["a", None], {"type": "array"}, "[a, NULL]"),
    ("INTERVAL", 90_000_000, {"name": "io.debezium.time.MicroDuration"}, "00:01:30"),
    ("STRUCT(x DOUBLE, y DOUBLE)", {"x": 1.5, "y": 2.5, "wkb": "AQE=", "srid": None}, {"name": "io.debezium.data.geometry.Point"},
     "{'x': 1.5, 'y': 2.5}"),
]  # fmt: skip


@pytest.mark.parametrize("wrapped", [False, True])
def test_values_of_every_form(wrapped: bool, tmp_path: Path) -> None:
    schema = {"id": "BIGINT"} | {f"c{i}": kind for i, (kind, *_) in enumerate(FORMS)}
    row = {"id": 1} | {f"c{i}": value for i, (_, value, _, _) in enumerate(FORMS)}
    none = {"id": 2} | dict.fromkeys(list(row)[1:])
    fields = [ID, *({"type": "string", "optional": True, "field": f"c{i}"} | form for i, (_, _, form, _) in enumerate(FORMS))]
    records = [change("c", None, row), change("c", None, none)]
    _, store = _read(tmp_path, [connect(r, fields) for r in records] if wrapped else records, mg.debezium(schema, key="id"))
    assert rows(store, "SELECT detail FROM merganser.dead_letters") == []
    [found] = rows(store, 'SELECT COLUMNS(\'^c\')::VARCHAR FROM "table" WHERE id = 1')
    assert list(found) == [said for *_, said in FORMS]
    [nulls] = rows(store, 'SELECT COLUMNS(\'^c\')::VARCHAR FROM "table" WHERE id = 2')  # a row, and no delete
    assert set(nulls) == {None}


@pytest.mark.parametrize(("decimals", "value"), [("string", "12.34"), ("double", 12.34), ("precise", unscaled(1234))])
def test_decimals_by_the_connectors_mode(decimals: str, value: Any, tmp_path: Path) -> None:
    schema = mg.debezium({"id": "BIGINT", "d": "DECIMAL(9,2)"}, key="id", decimals=decimals)
    _, store = _read(tmp_path, [change("c", None, {"id": 1, "d": value})], schema)
    assert rows(store, 'SELECT d FROM "table"') == [(Decimal("12.34"),)]


def test_with_a_schema_its_units_count_and_not_the_declared_type(tmp_path: Path) -> None:
    fields = [ID, {"type": "int64", "name": "io.debezium.time.Timestamp", "field": "t"}, {"type": "string", "field": "d"}]
    record = connect(change("c", None, {"id": 1, "t": MS, "d": "1234"}), fields)
    _, store = _read(tmp_path, [record], mg.debezium({"id": "BIGINT", "t": "TIMESTAMP", "d": "DECIMAL(9,2)"}, key="id"))
    assert rows(store, 'SELECT t::VARCHAR, d::VARCHAR FROM "table"') == [("2026-01-01 00:00:00", "1234.00")]


def test_a_time_of_day_with_nanoseconds_is_not_cut(tmp_path: Path) -> None:
    fields = [ID, {"type": "int64", "name": "io.debezium.time.NanoTime", "field": "t"}]
    records = [connect(change("c", None, {"id": n, "t": n}), fields) for n in (1_000, 1_001)]
    _, store = _read(tmp_path, records, mg.debezium({"id": "BIGINT", "t": "TIME"}, key="id"))
    assert rows(store, 'SELECT id FROM "table"') == [(1_000,)]
    [(reason, detail)] = rows(store, "SELECT reason, detail FROM merganser.dead_letters")
    assert reason == "out of range" and "finer than the type; TIME_NS holds nanoseconds" in detail


BAD: list[tuple[Any, str, str]] = [
    ({"id": 1, "name": "no envelope"}, "not debezium", "op is None"),
    (change("t", None, None), "not debezium", "op is 't'; this is no change of a row"),
    (change("c", None, None), "not debezium", "op is 'c' and there is no row after it"),
    (change("d", None, None), "not debezium", "neither the row before it nor a message key"),
    (change("c", None, {"id": 1}), "missing field", "name"),
    (change("c", None, {"id": "x", "name": "n"}), "wrong type", "id"),
    (change("d", {"name": "n"}, None), "missing field", "id"),
    (change("c", None, customer(1, "a") | {"d": "no base64"}), "wrong type", "column 'd': 'no base64' cannot be read as decimal"),
    (change("c", None, customer(1, "a") | {"t": 1 << 62}), "wrong type", "cannot be read as timestamp"),
    (change("c", None, [1]), "wrong type", "row as a JSON object"),
    (change("c", None, customer(1, "a"), 10**18), "no event time", ""),
    (change("c", None, customer(1, "a")) | {"source": "none", "ts_ms": "soon"}, "wrong type", "ts_ms"),
    ("{broken", "not json", ""),
    (change("c", None, customer(1, "a") | {"raw": "no base64"}), "wrong type", "raw"),
]


def test_what_is_no_change_is_a_dead_letter_and_spoils_no_other(tmp_path: Path) -> None:
    schema = mg.debezium(CUSTOMER | {"d": "DECIMAL(9,2)", "t": "TIMESTAMP", "raw": "BLOB"}, key="id")
    records = [record for bad, _, _ in BAD for record in (bad, change("c", None, customer(7, "good")))]
    _, store = _read(tmp_path, records, schema)
    found = rows(store, "SELECT seq, reason, detail FROM merganser.dead_letters ORDER BY seq")
    assert [(seq, reason) for seq, reason, _ in found] == [(2 * i, reason) for i, (_, reason, _) in enumerate(BAD)]
    for (_, _, detail), (_, _, said) in zip(found, BAD):
        assert said in detail
    assert rows(store, "SELECT count(*) FROM changes") == [(len(BAD),)]


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: mg.debezium({"id": "BIGINT"}, key="no"), "there is no such column; there are id"),
        (lambda: mg.debezium({"id": "BIGINT"}, key=()), "names no column"),
        (lambda: mg.debezium({"id": "BIGINT"}, key="id", decimals="exact"), "'precise', 'string', 'double'"),
        (lambda: mg.debezium({"dbz_op": "VARCHAR"}, key="dbz_op"), "dbz_op is a column of every change"),
    ],
)
def test_mistakes_are_told_on_the_users_line(make: Any, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        make()
    assert "test_debezium.py" in str(refused.value)


def _key(id: int, wrapped: bool) -> bytes:
    schema = {"type": "struct", "fields": [ID], "optional": False, "name": "shop.public.customers.Key"}
    return json.dumps({"schema": schema, "payload": {"id": id}} if wrapped else {"id": id}).encode()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_topic_with_tombstones(wrapped: bool, kafka: Kafka, tmp_path: Path) -> None:
    topic = kafka.topic(2)
    for i, each in enumerate(CHANGES):
        id = (each["after"] or each["before"])["id"]
        if each["op"] == "d" and i == 4:
            each = each | {"before": None}  # then the key says what was deleted
        kafka.send(topic, connect(each, [ID, NAME, EMAIL]) if wrapped else each, key=_key(id, wrapped), partition=id % 2)
        if each["op"] == "d":
            kafka.send(topic, None, key=_key(id, wrapped), partition=id % 2)
    kafka.send(topic, None, key=_key(1, wrapped), partition=1)  # what compaction leaves of a delete

    def flow(time: str | None) -> mg.Flow:
        made = mg.Flow("f")
        topics = mg.kafka(topic, brokers=kafka.plain, columns={"sent_at": "timestamp"})
        read = made.read(mg.source("changes", topics, schema=mg.debezium(CUSTOMER, key="id"), time=time))
        read.materialize("changes")
        read.latest().materialize("customers")
        return made

    for time, count, left in ((None, 7, LEFT), ("sent_at", 10, LEFT[1:])):
        store = tmp_path / f"{time}.duckdb"
        mg.run([flow(time)], store, chunk_bytes=300)
        assert rows(store, "SELECT detail FROM merganser.dead_letters") == []
        assert rows(store, "SELECT id, name, email FROM customers ORDER BY id") == left
        assert rows(store, "SELECT count(*), count(sent_at) FROM changes") == [(count, count)]
        assert [check.view for check in verify([flow(time)], store) if not check.ok] == []
        balanced(store)

"""Kafka messages in binary formats, against a real broker: framed by a registry, bare, mended and brought back."""

from __future__ import annotations

import hashlib
import io
import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import fastavro
import pytest

import merganser as mg
from merganser import dead_letters, engine
from merganser.dead_letters import Selection
from merganser.errors import FlowError
from merganser.registry import TIMEOUT
from merganser.schema.avro import parse
from merganser.schema.protobuf import compiled_text
from merganser.store import Store
from merganser.verify import verify
from tests.apicurio import Apicurio
from tests.flows import balanced, rows
from tests.kafka.fixture import Kafka
from tests.schema_registry import serving

V1: dict[str, Any] = {
    "type": "record", "name": "Order",
    "fields": [{"name": "id", "type": "string"}, {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}],
}  # fmt: skip
V2 = V1 | {"fields": [*V1["fields"], {"name": "note", "type": ["null", "string"], "default": None}]}


def framed(number: int, schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return b"\0" + number.to_bytes(4, "big") + out.getvalue()


def test_avro_by_a_registry_while_its_schema_evolves(kafka: Kafka, tmp_path: Path) -> None:
    """A new writer version needs no restart and no rebuild; a bad message comes back at its offset."""
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    (tmp_path / "order.avsc").write_text(json.dumps(V2))
    with serving() as served:
        first = served.add(f"{topic}-value", json.dumps(V1))
        connector = mg.kafka(
            topic, brokers=kafka.plain, format="avro", registry=mg.registry(served.url, cache=tmp_path / "cache"),
            key="customer", columns={"nr": "offset"},
        )  # fmt: skip
        orders = mg.source("orders", connector, schema=tmp_path / "order.avsc", time="at", lateness="1 minute")
        flow = mg.Flow("f")
        flow.read(orders).materialize("kept")
        good = [framed(first, V1, {"id": f"a{i}", "at": 1_767_225_600_000 + i}) for i in range(3)]
        kafka.send(topic, good[0], b"nothing", good[1], None, key=b"c1")
        mg.run([flow], store)
        second = served.add(f"{topic}-value", json.dumps(V2))
        kafka.send(topic, framed(second, V2, {"id": "b", "at": 1_767_225_600_009, "note": "new"}), good[2], key=b"c2")
        mg.run([flow], store)
        assert rows(store, "SELECT nr, customer, id, note FROM kept ORDER BY nr") == [
            (0, "c1", "a0", None), (2, "c1", "a1", None), (3, "c1", None, None), (4, "c2", "b", "new"), (5, "c2", "a2", None),
        ]  # fmt: skip
        balanced(store)
        assert all(check.ok for check in verify([flow], store))
        mended = framed(second, V2, {"id": "mended", "at": 1_767_225_600_001, "note": None})
        with Store(store) as opened:
            (letter,) = dead_letters.fix_by_sql(opened, Selection(), f"unhex('{mended.hex()}')")
            assert (letter.reason, letter.raw, letter.seq) == ("not framed", b"nothing", 1)
        done = engine.redrive([flow], Selection(), store)
        assert done is not None and done.applied == 1
        assert rows(store, "SELECT customer, id FROM kept WHERE nr = 1") == [("c1", "mended")]
        assert all(check.ok for check in verify([flow], store))


@pytest.mark.parametrize("hung", [False, True])
def test_a_run_that_waits_for_a_registry_ends_when_it_is_asked_to(kafka: Kafka, tmp_path: Path, hung: bool) -> None:
    """At the first signal, whether the registry is away or says nothing; what it waited with is read by the next run, once."""
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    (tmp_path / "order.avsc").write_text(json.dumps(V2))
    with serving() as served:
        number = served.add(f"{topic}-value", json.dumps(V1))
        reg = mg.registry(served.url, cache=tmp_path / "cache")
        connector = mg.kafka(topic, brokers=kafka.plain, format="avro", registry=reg)
        flow = mg.Flow("f")
        flow.read(mg.source("orders", connector, schema=tmp_path / "order.avsc", time="at")).materialize("kept")
        kafka.send(topic, *(framed(number, V1, {"id": f"a{i}", "at": i}) for i in range(3)))
        served.down, served.hung = not hung, threading.Event() if hung else None
        moments = []

        def interrupt() -> None:
            while len(served.asked) < 2 - hung:
                time.sleep(0.01)  # there is nothing to wait on but what was asked
            moments.append(time.monotonic())
            os.kill(os.getpid(), signal.SIGINT)

        thread = threading.Thread(target=interrupt)
        thread.start()
        report = mg.run([flow], store)
        thread.join()
        assert time.monotonic() - moments[0] < TIMEOUT / 2
        assert report.stopped and rows(store, "SELECT count(*) FROM kept") == [(0,)]
        if served.hung is not None:
            served.hung.set()
        served.down, served.hung = False, None
        mg.run([flow], store)
        assert rows(store, "SELECT id FROM kept ORDER BY id") == [("a0",), ("a1",), ("a2",)]
        balanced(store)


def test_bare_protobuf(kafka: Kafka, tmp_path: Path) -> None:
    text = 'syntax = "proto3"; message Order { string id = 1; int64 n = 2; }'
    (tmp_path / "order.proto").write_text(text)
    message = compiled_text(text, {}, "t")
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    kafka.send(topic, *(message.kind(id=f"o{i}", n=i).SerializeToString() for i in range(5)), b"\xff")
    orders = mg.source("orders", mg.kafka(topic, brokers=kafka.plain, format="protobuf"), schema=f"{tmp_path}/order.proto#Order")
    flow = mg.Flow("f")
    flow.read(orders).group_by().aggregate(n="count(*)", s="sum(n)::BIGINT").materialize("sums")
    mg.run([flow], store)
    assert rows(store, "SELECT n, s FROM sums") == [(5, 10)]
    assert rows(store, "SELECT reason, seq FROM merganser.dead_letters") == [("not protobuf", 5)]
    assert all(check.ok for check in verify([flow], store))


OLD = {"type": "record", "name": "Price", "fields": [{"name": "id", "type": "string"}, {"name": "euros", "type": "string"}]}
NEW = OLD | {"fields": [{"name": "id", "type": "string"}, {"name": "cents", "type": "long"}]}


PRICE = {"id": "VARCHAR NOT NULL", "cents": "BIGINT NOT NULL", "v": "INTEGER"}


def prices(connector: Any) -> mg.Source:
    made = mg.source("prices", connector, schema=PRICE, version="v")
    return made.upcast(1, sql={"cents": "euros::DECIMAL(9,2) * 100"}, columns={"euros": "VARCHAR"})


PRICES = [("a", 1, 150), ("b", 2, 225), ("c", 1, 300)]


def test_the_version_of_an_event_from_its_id_in_a_registry(kafka: Kafka, apicurio: Apicurio, tmp_path: Path) -> None:
    """What the id is a version of is asked for once, and kept; an id that is none is a dead letter."""
    topic, store = kafka.topic(), tmp_path / "s.duckdb"
    apicurio.add(f"other-{topic}", json.dumps(NEW))  # there it is version 1
    first, second = apicurio.add(f"{topic}-value", json.dumps(OLD)), apicurio.add(f"{topic}-value", json.dumps(NEW))
    elsewhere = V1 | {"name": topic.replace("-", "_")}
    stray = apicurio.add(f"{topic}-x", json.dumps(elsewhere))
    assert apicurio.add(f"{topic}-y", json.dumps(elsewhere)) == stray
    kafka.send(
        topic, framed(first, OLD, {"id": "a", "euros": "1.50"}), framed(second, NEW, {"id": "b", "cents": 225}),
        framed(first, OLD, {"id": "c", "euros": "3"}), framed(stray, elsewhere, {"id": "d", "at": 0}),
    )  # fmt: skip
    columns = {"v": "schema.version", "written_by": "schema.id"}
    for url in (apicurio.url, "http://127.0.0.1:9"):
        if url != apicurio.url:  # all of it is known by then
            cached = tmp_path / "cache"
            (known,) = cached.iterdir()
            known.rename(cached / hashlib.sha256(url.encode()).hexdigest()[:16])
            store = tmp_path / "again.duckdb"
        registry = mg.registry(url, cache=tmp_path / "cache")
        connector = mg.kafka(topic, brokers=kafka.plain, format="avro", registry=registry, columns=columns)
        flow = mg.Flow("f")
        flow.read(prices(connector)).materialize("kept")
        mg.run([flow], store)
        assert rows(store, "SELECT id, v, cents FROM kept ORDER BY id") == PRICES
        assert rows(store, "SELECT written_by FROM kept ORDER BY id") == [(first,), (second,), (first,)]
        assert rows(store, "SELECT seq, reason FROM merganser.dead_letters") == [(3, "unknown schema")]
        assert all(check.ok for check in verify([flow], store))


def test_the_version_of_an_event_from_a_folder_of_schemas_or_a_header(kafka: Kafka, tmp_path: Path) -> None:
    (tmp_path / "schemas/price").mkdir(parents=True)
    raws = []
    for number, (schema, value) in enumerate([(OLD, {"id": "a", "euros": "1.50"}), (NEW, {"id": "b", "cents": 225})], 1):
        text = json.dumps(schema)
        (tmp_path / f"schemas/price/v{number}.avsc").write_text(text)
        raws.append(b"\xc3\x01" + parse(text, "t").fingerprint.to_bytes(8, "little") + framed(0, schema, value)[5:])
    topic = kafka.topic()
    kafka.send(topic, *raws)
    columns = {"v": "schema.version"}
    by_folder = mg.kafka(
        topic, brokers=kafka.plain, format="avro-single-object", registry=mg.registry(tmp_path / "schemas"), columns=columns
    )
    headers = kafka.topic()
    for value, version in (({"id": "a", "euros": "1.50"}, b"1"), ({"id": "b", "cents": 225}, b"2"), ({"id": "x"}, b"two")):
        kafka.send(headers, value, headers=[("version", version)])
    by_header = mg.kafka(headers, brokers=kafka.plain, columns={"v": "header.version"})
    for name, connector in (("folder", by_folder), ("header", by_header)):
        flow, store = mg.Flow("f"), tmp_path / f"{name}.duckdb"
        flow.read(prices(connector)).materialize("kept")
        mg.run([flow], store)
        assert rows(store, "SELECT id, v, cents FROM kept ORDER BY id") == PRICES[:2]
    assert rows(tmp_path / "header.duckdb", "SELECT reason, detail FROM merganser.dead_letters") == [
        ("wrong type", "header.version for column 'v': expected INTEGER, found 'two'")
    ]  # fmt: skip


def test_mistakes_are_told_when_the_flow_is_made() -> None:
    with pytest.raises(FlowError, match="format='avor' is not known; there are json, avro, avro-single-object, protobuf"):
        mg.kafka("t", brokers="b", format="avor")
    with pytest.raises(FlowError, match="needs messages that name their schema"):
        mg.kafka("t", brokers="b", columns={"v": "schema.version"})

"""CloudEvents in Kafka messages, their trace context on its way to sinks, and dead letters that a topic gets."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

import merganser as mg
from merganser import dead_letters, engine
from merganser.dead_letters import Selection
from merganser.errors import FlowError, UsageError
from merganser.schema.protobuf import compiled_text
from merganser.store import Store
from merganser.verify import verify
from tests.flows import balanced, rows
from tests.kafka.fixture import Kafka

PARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def attributes(number: int, **more: Any) -> dict[str, Any]:
    made = {"specversion": "1.0", "id": f"e{number}", "source": "/shop", "type": "placed", "time": f"2026-01-01T00:00:0{number}Z"}
    return made | more


def headed(made: dict[str, Any], kind: str = "application/json") -> list[tuple[str, bytes]]:
    return [("content-type", kind.encode()), *((f"ce_{name}", str(value).encode()) for name, value in made.items())]


def events(connector: Any) -> mg.Source:
    extensions = {"partitionkey": "VARCHAR", "sequence": "INTEGER"}
    schema = mg.cloudevents({"customer": "VARCHAR NOT NULL", "n": "BIGINT"}, extensions=extensions)
    return mg.source("orders", connector, schema=schema, lateness="1 minute")


def test_both_modes_in_one_topic(kafka: Kafka, tmp_path: Path) -> None:
    topic, out, store = kafka.topic(), kafka.topic(), tmp_path / "s.duckdb"
    data, whole = {"customer": "a", "n": 1}, [("content-type", b"application/cloudevents+json; charset=UTF-8")]
    coded = base64.b64encode(json.dumps(data).encode()).decode()
    for value, headers in (
        (data, headed(attributes(0, traceparent=PARENT, tracestate="x=1", sequence=7))),
        (attributes(1, traceparent=PARENT[:-1] + "0", partitionkey="p", data=data), whole),
        (attributes(2, data_base64=coded), whole),
        (attributes(3, data=data), None),  # structured, of a producer that says nothing
        (None, headed(attributes(4))),  # an event without data
        (data, headed(attributes(0))),  # sent twice
        (data, headed(attributes(5, specversion="0.3"))),
        ({"n": 1}, headed(attributes(6))),
        (data, headed(attributes(7, sequence="many"))),
        (data, headed({"specversion": "1.0"})),
        (attributes(8, data_base64="%"), whole),
        ([attributes(8, data=data)], [("content-type", b"application/cloudevents-batch+json")]),
    ):  # fmt: skip
        kafka.send(topic, value, headers=headers, key=b"k1")
    flow = mg.Flow("f")
    stream = flow.read(events(mg.kafka(topic, brokers=kafka.plain, key="k", columns={"nr": "offset"}))).deduplicate()
    stream.materialize("kept")
    changed = stream.derive(twice="n * 2").select("customer", "twice").filter("twice > 0")
    changed.write(mg.kafka(out, brokers=kafka.plain), name="out")
    mg.run([flow], store)
    names = "nr, k, ce_id, ce_key, customer, n, ce_sequence, ce_partitionkey, ce_datacontenttype, second(ce_time)"
    assert rows(store, f"SELECT {names} FROM kept ORDER BY nr") == [
        (0, "k1", "e0", "/shop#e0", "a", 1, 7, None, "application/json", 0),
        (1, "k1", "e1", "/shop#e1", "a", 1, None, "p", None, 1),
        (2, "k1", "e2", "/shop#e2", "a", 1, None, None, None, 2),
        (3, "k1", "e3", "/shop#e3", "a", 1, None, None, None, 3),
        (4, "k1", "e4", "/shop#e4", None, None, None, None, "application/json", 4),
    ]
    assert rows(store, "SELECT line, reason FROM merganser.dead_letters ORDER BY line") == [
        (6, "not a cloudevent"), (7, "missing field"), (8, "wrong type"), (9, "missing field"), (10, "not a cloudevent"),
        (11, "batch of cloudevents"),
    ]  # fmt: skip
    balanced(store)
    assert all(check.ok for check in verify([flow], store))
    sent = [dict(message.headers() or ()) for message in kafka.read(out)]
    assert [(h.get("traceparent"), h.get("tracestate")) for h in sent] == [
        (PARENT.encode(), b"x=1"), (PARENT[:-1].encode() + b"0", None), (None, None), (None, None)
    ]  # fmt: skip


def test_binary_mode_with_data_in_protobuf(kafka: Kafka, tmp_path: Path) -> None:
    text = 'syntax = "proto3"; message Order { string customer = 1; int64 n = 2; }'
    (tmp_path / "order.proto").write_text(text)
    raw = compiled_text(text, {}, "t").kind(customer="a", n=5).SerializeToString()
    topic = kafka.topic()
    kafka.send(topic, raw, headers=headed(attributes(0), "application/protobuf"))
    whole = attributes(1, data_base64=base64.b64encode(raw).decode(), datacontenttype="application/protobuf")
    kafka.send(topic, whole, headers=[("content-type", b"application/cloudevents+json")])
    connector = mg.kafka(topic, brokers=kafka.plain, format="protobuf")
    flow = mg.Flow("f")
    flow.read(mg.source("orders", connector, schema=mg.cloudevents(f"{tmp_path}/order.proto#Order"))).materialize("kept")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT ce_id, customer, n FROM kept ORDER BY ce_id") == [("e0", "a", 5), ("e1", "a", 5)]


def test_dead_letters_go_to_a_topic_each_once(kafka: Kafka, tmp_path: Path) -> None:
    """With what the message had and why it was refused; nothing again after a restart, a rebuild, or when it comes back."""
    topic, letters, store = kafka.topic(), kafka.topic(), tmp_path / "s.duckdb"
    kafka.send(topic, {"id": "a", "n": 1})
    kafka.send(topic, b"{", None, b"\xff\x00", key=b"k", headers=[("mine", b"x"), ("empty", None)])
    kafka.send(topic, {"id": "b", "n": 0})
    connector = mg.kafka(topic, brokers=kafka.plain)
    schema = {"id": "VARCHAR", "n": "BIGINT"}
    orders = mg.source("orders", connector, schema=schema, dead_letters=mg.kafka(letters, brokers=kafka.plain))
    flow = mg.Flow("f")
    flow.read(orders).filter("n IS NOT NULL").derive(m="CASE WHEN n = 0 THEN error('zero') ELSE 1 END").materialize("kept")
    mg.run([flow], store)
    mg.run([flow], store)
    found = kafka.read(letters)
    told = [dict(m.headers() or ()) for m in found]
    assert [(m.key(), m.value()) for m in found] == [(b"k", b"{"), (b"k", b"\xff\x00"), (None, b'{"id": "b", "n": 0}')]
    assert told[0]["mine"] == b"x" and told[0]["empty"] is None
    names = ("topic", "partition", "offset", "connector.name", "stage", "exception.class.name")
    assert [[h[f"__connect.errors.{name}"] for name in names] for h in told] == [
        [topic.encode(), b"0", b"1", b"orders", b"VALUE_CONVERTER", b"not json"],
        [topic.encode(), b"0", b"3", b"orders", b"VALUE_CONVERTER", b"not utf-8"],
        [topic.encode(), b"0", b"4", b"orders", b"TRANSFORMATION", b"not computed"],
    ]
    assert b"zero" in told[2]["__connect.errors.exception.message"]
    assert [h["merganser-letter"].decode() for h in told] == [
        i for (i,) in rows(store, f"SELECT id FROM {dead_letters.LETTERS} ORDER BY seq")
    ]
    with Store(store) as opened:
        dead_letters.fix_by_sql(opened, Selection(where="seq = 1"), """'{"id": "c", "n": 2}'""")
    assert engine.redrive([flow], Selection(where="seq = 1"), store).applied == 1  # type: ignore[union-attr] # not stopped
    engine.rebuild([flow], ["kept"], store)
    assert rows(store, "SELECT id FROM kept ORDER BY id") == [("a",), ("c",)] and len(kafka.read(letters)) == 3
    kafka.send(topic, b"}")
    mg.run([flow], store)
    assert [m.value() for m in kafka.read(letters)][3:] == [b"}"]
    assert all(check.ok for check in verify([flow], store))


def test_dead_letters_of_files_name_their_place(kafka: Kafka, tmp_path: Path) -> None:
    letters = kafka.topic()
    (tmp_path / "o.jsonl").write_text('{"id": "a"}\n{\n')
    files = mg.files(tmp_path / "o.jsonl")
    orders = mg.source("orders", files, schema={"id": "VARCHAR"}, dead_letters=mg.kafka(letters, brokers=kafka.plain))
    flow = mg.Flow("f")
    flow.read(orders).materialize("kept")
    mg.run([flow], tmp_path / "s.duckdb")
    (message,) = kafka.read(letters)
    told = dict(message.headers() or ())
    assert message.value() == b"{" and told["__connect.errors.file"] == str(tmp_path / "o.jsonl").encode()
    assert (told["__connect.errors.line"], told["__connect.errors.byte"]) == (b"2", b"12")


def test_where_dead_letters_cannot_go(kafka: Kafka, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=r"must be a topic, mg\.kafka\('orders\.dlq'"):
        mg.source("orders", mg.memory([]), schema={"id": "VARCHAR"}, dead_letters=mg.files(tmp_path / "x.jsonl"))
    flow = mg.Flow("f")
    nowhere = mg.kafka("nowhere.dlq", brokers=kafka.plain)
    flow.read(mg.source("orders", mg.memory([]), schema={"id": "VARCHAR"}, dead_letters=nowhere)).materialize("kept")
    with pytest.raises(UsageError, match=r"there is no topic 'nowhere\.dlq'"):
        mg.run([flow], tmp_path / "s.duckdb")
    with pytest.raises(FlowError, match="the name of an extension is letters a-z and digits"):
        mg.cloudevents({"a": "VARCHAR"}, extensions={"my_key": "VARCHAR"})

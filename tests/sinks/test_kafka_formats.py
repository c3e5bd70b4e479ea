"""``write`` to Kafka in binary formats, against a real broker: framed by a registry, as one object, bare."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import event, rows, source
from tests.kafka.fixture import Kafka
from tests.schema_registry import serving

PROTO = 'syntax = "proto3"; message Other { int32 x = 1; message Row { string id = 1; optional int64 n = 2; } }'
AVRO = {"type": "record", "name": "Row", "fields": [{"name": "id", "type": "string"}, {"name": "n", "type": ["null", "int"]}]}


def written(kafka: Kafka, folder: Path, schema: Any, **more: Any) -> tuple[str, list[bytes]]:
    """The topic and the messages of a flow that writes three rows, which a source of ours reads back."""
    topic = kafka.topic(1)
    sink = mg.kafka(topic, brokers=kafka.plain, **more)
    flow = mg.Flow("f")
    stream = flow.read(source([event("a", 0, n=1), event("b", 1, n=None), event("c", 2, n=-(2**31))])).select("id", "n")
    stream.write(replace(sink, key="id"), name="out", schema=schema)
    mg.run([flow], folder / "s.duckdb")
    assert rows(folder / "s.duckdb", "FROM merganser.dead_letters") == []
    assert [(check.ok, check.rows) for check in verify([flow], folder / "s.duckdb")] == [(True, 3)]
    notation = flow.written[0].encoding.notation
    if schema is None and notation is not None and sink.format != "json":
        schema = folder / ("own.proto" if sink.format == "protobuf" else "own.avsc")
        schema.write_text(notation)
    back = mg.Flow("back")
    back.read(mg.source("back", sink, schema=schema or {"id": "VARCHAR", "n": "BIGINT"})).materialize("v")
    kafka.settle(topic)
    mg.run([back], folder / "t.duckdb")
    assert rows(folder / "t.duckdb", "SELECT id, n FROM v ORDER BY id") == [("a", 1), ("b", None), ("c", -(2**31))]
    messages = kafka.read(topic)
    assert [m.key() for m in messages] == [b"a", b"b", b"c"]
    return topic, [m.value() for m in messages]


@pytest.mark.parametrize("format", ["avro", "avro-single-object", "protobuf"])
def test_bare_records_of_a_schema_that_is_given_or_derived(kafka: Kafka, tmp_path: Path, format: str) -> None:
    schema = tmp_path / ("row.proto" if format == "protobuf" else "row.avsc")
    schema.write_text(PROTO if format == "protobuf" else json.dumps(AVRO))
    given = f"{schema}#Other.Row" if format == "protobuf" else schema
    for number, spec in enumerate((given, None)):
        (folder := tmp_path / str(number)).mkdir()
        _, values = written(kafka, folder, spec, format=format)
        if spec is not None and format == "avro":
            assert fastavro.schemaless_reader(io.BytesIO(values[0]), fastavro.parse_schema(AVRO)) == {"id": "a", "n": 1}
        if format == "avro-single-object":
            assert all(value[:2] == b"\xc3\x01" for value in values)


def test_a_registry_gives_the_id_that_stands_in_front(kafka: Kafka, tmp_path: Path) -> None:
    (tmp_path / "row.proto").write_text(PROTO)
    (tmp_path / "row.avsc").write_text(json.dumps(AVRO))
    with serving() as served:
        registry = mg.registry(served.url, cache=tmp_path / "cache")
        for number, (format, spec, head) in enumerate([
            ("avro", tmp_path / "row.avsc", b""), ("protobuf", f"{tmp_path}/row.proto#Row", b"\4\0\0"), ("json", None, b"{"),
        ]):  # fmt: skip
            (folder := tmp_path / str(number)).mkdir()
            topic, values = written(kafka, folder, spec, format=format, registry=registry)
            assert served.subjects[f"{topic}-value"] == [number + 1]
            assert all(value.startswith(b"\0\0\0\0" + bytes([number + 1]) + head) for value in values)
        asked = len(served.asked)
        served.down = True  # what is known needs no registry
        flow = mg.Flow("f")
        sink = mg.kafka(kafka.topic(1), brokers=kafka.plain, format="avro", registry=registry)
        stream = flow.read(source([event("d", 0)])).select("id", "n")
        stream.write(sink, name="out", schema=tmp_path / "row.avsc", subject=f"{topic}-x")
        with pytest.raises(mg.MerganserError, match="cannot be asked for the id of"):
            mg.run([flow], tmp_path / "down.duckdb")
        served.down = False
        mg.run([flow], tmp_path / "down.duckdb")
        served.down = True
        mg.run([flow], tmp_path / "again.duckdb")
        assert served.subjects[f"{topic}-x"] == [1] and len(served.asked) > asked


def test_a_schema_that_refers_to_others(kafka: Kafka, tmp_path: Path) -> None:
    """A registry has each by itself; in a file stands the whole."""
    (tmp_path / "ids.proto").write_text('syntax = "proto3"; package shop; message Unused {}')
    (tmp_path / "row.proto").write_text(PROTO.replace(";", '; import "ids.proto";', 1))
    tree = json.loads(json.dumps(AVRO))
    tree["fields"][0]["type"] = {"type": "array", "items": "shop.Id"}
    inner = {"type": "record", "name": "Id", "namespace": "shop", "fields": [{"name": "x", "type": "int"}]}
    (tmp_path / "shop.Id.avsc").write_text(json.dumps(inner))
    (tmp_path / "row.avsc").write_text(json.dumps(tree))
    with serving() as served:
        registry = mg.registry(served.url, cache=tmp_path / "cache")
        topic, _ = written(kafka, tmp_path, f"{tmp_path}/row.proto#Row", format="protobuf", registry=registry)
        assert served.subjects == {"ids.proto": [1], f"{topic}-value": [2]}
        assert served.schemas[2]["references"] == [{"name": "ids.proto", "subject": "ids.proto", "version": 1}]
        flow = mg.Flow("f")
        stream = flow.read(source([event("a", 0, n=1)])).select(id="[{'x': n}]", n="n")
        topic = kafka.topic(1)
        sinks = {"t": mg.kafka(topic, brokers=kafka.plain, format="avro", registry=registry), "o": mg.files(tmp_path / "o-*.avro")}
        for name, sink in sinks.items():
            stream.write(sink, name=name, schema=tmp_path / "row.avsc")
        mg.run([flow], tmp_path / "u.duckdb")
        assert served.subjects["shop.Id"] == [3] and served.schemas[4]["references"][0]["name"] == "shop.Id"
        (path,) = tmp_path.glob("o-*.avro")
        assert list(fastavro.reader(io.BytesIO(path.read_bytes()))) == [{"id": [{"x": 1}], "n": 1}]
        assert [m.value()[:5] for m in kafka.read(topic)] == [b"\0\0\0\0\4"]

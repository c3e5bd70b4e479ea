"""Messages that name their schema: each is read by its own, in the declared columns; registries that fail lose nothing."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pyarrow as pa
import pytest

from merganser.codecs import Chunk, Decoded, Place
from merganser.codecs.framing import codec
from merganser.codecs.messages import MessageCodec, Messages
from merganser.errors import SourceError, UsageError
from merganser.registry import DeniedError, Registry, registry
from merganser.schema import Schema
from merganser.schema.avro import declared, parse
from merganser.schema.protobuf import at_index, compiled_text
from merganser.schema.protobuf import declared as declared_message
from tests.schema_registry import Served, serving

V1 = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "string"}, {"name": "n", "type": "int"}]}
V2 = V1 | {"fields": [*V1["fields"], {"name": "note", "type": ["null", "string"], "default": None}]}  # type: ignore[misc]
READER = V1 | {"fields": [
    {"name": "id", "type": "string"}, {"name": "n", "type": "long"},
    {"name": "note", "type": ["null", "string"], "default": None},
]}  # fmt: skip


@pytest.fixture
def served() -> Iterator[Served]:
    with serving() as found:
        yield found


def datum(schema: Any, value: Any) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, fastavro.parse_schema(schema), value)
    return out.getvalue()


def framed(number: int, body: bytes) -> bytes:
    return b"\0" + number.to_bytes(4, "big") + body


def decode(format: str, reg: Registry | None, schema: Schema, raws: list[bytes | None]) -> Decoded:
    made = MessageCodec(schema, [], None, codec(format, reg))
    offsets = np.arange(10, 10 + len(raws))
    messages = Messages(pa.array(raws, pa.binary()), offsets, np.zeros(len(raws), np.int64))
    chunk = Chunk("s", "orders/0", 10, len(raws), Place("orders/0", None, None), messages, {}, 1, until=10 + len(raws))
    decoded = made.decode(chunk)
    assert len(decoded.table) + len(decoded.rejects) == len(raws)
    return decoded


def avro_schema() -> Schema:
    return declared(parse(READER, "reader"), "reader")


def test_avro_of_several_writers_in_one_topic(served: Served, tmp_path: Path) -> None:
    first, second = served.add("orders-value", json.dumps(V1)), served.add("orders-value", json.dumps(V2))
    reg = registry(served.url, cache=tmp_path)
    raws = [
        framed(first, datum(V1, {"id": "a", "n": 1})),
        framed(second, datum(V2, {"id": "b", "n": 2, "note": "x"})),
        None,
        framed(first, datum(V1, {"id": "c", "n": 3})),
        framed(99, b"\x02d\x08"),
        b"{}",
        framed(first, b"\x02e"),
        framed(second, datum(V2, {"id": "f", "n": 6, "note": None})),
    ]
    decoded = decode("avro", reg, avro_schema(), raws)
    assert decoded.table.to_pylist() == [
        {"id": "a", "n": 1, "note": None, "_seq": 10},
        {"id": "b", "n": 2, "note": "x", "_seq": 11},
        {"id": None, "n": None, "note": None, "_seq": 12},  # a tombstone
        {"id": "c", "n": 3, "note": None, "_seq": 13},
        {"id": "f", "n": 6, "note": None, "_seq": 17},
    ]
    assert [(r.seq, r.reason, r.raw) for r in decoded.rejects] == [
        (14, "unknown schema", raws[4]), (15, "not framed", raws[5]), (16, "cut off", raws[6])
    ]  # fmt: skip
    assert "Schema 99 not found" in decoded.rejects[0].detail


def test_what_was_fetched_once_needs_no_registry_again(served: Served, tmp_path: Path) -> None:
    number = served.add("orders-value", json.dumps(V1))
    raw = framed(number, datum(V1, {"id": "a", "n": 1}))
    decode("avro", registry(served.url, cache=tmp_path), avro_schema(), [raw])
    assert served.asked == [f"/schemas/ids/{number}"]
    served.down = True
    again = decode("avro", registry(served.url, cache=tmp_path), avro_schema(), [raw])
    assert again.table.num_rows == 1 and len(served.asked) == 1
    with pytest.raises(SourceError, match=r"cannot be asked for schema 7: it answers 503.*Nothing is lost"):
        registry(served.url, cache=tmp_path).by_id(7, patience=0.05)


def test_an_unknown_id_waits_until_the_registry_is_back(
    served: Served, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    number = served.add("orders-value", json.dumps(V1))
    served.down = True
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(registry(served.url, cache=tmp_path).by_id(number, patience=30)))
    thread.start()
    while len(served.asked) < 2:
        thread.join(0.01)
    assert not found and "waiting for the schema registry" in caplog.text
    served.down = False
    thread.join(30)
    assert found[0].notation == "avro"


def test_credentials_and_addresses_that_are_wrong(served: Served, tmp_path: Path) -> None:
    number = served.add("orders-value", json.dumps(V1))
    served.login = "me:secret"
    assert registry(served.url, user="me", password="secret", cache=tmp_path).by_id(number).notation == "avro"
    with pytest.raises(UsageError, match=r"cannot be reached: it refuses the credentials \(401\)"):
        registry(served.url, user="me", password="wrong", cache=tmp_path).subjects()
    with pytest.raises(UsageError, match="cannot be reached"):
        registry("http://127.0.0.1:9", cache=tmp_path).subjects()
    served.login = None
    with pytest.raises(UsageError, match="says: Subject 'nothing' not found"):
        registry(served.url, cache=tmp_path).versions("nothing")
    with pytest.raises(DeniedError, match="Schema 77 not found"):
        registry(served.url, cache=tmp_path).by_id(77)


PROTO = """
syntax = "proto3"; package shop; import "money.proto";
message Order { string id = 1; int64 n = 2; message Line { int32 x = 1; } }
message Other { int32 y = 1; Money m = 2; }
"""
MONEY = 'syntax = "proto3"; package shop; message Money { int64 units = 1; }'


def test_protobuf_with_references_and_message_indexes(served: Served, tmp_path: Path) -> None:
    served.add("money.proto", MONEY, "PROTOBUF")
    references = [{"name": "money.proto", "subject": "money.proto", "version": 1}]
    number = served.add("orders-value", PROTO, "PROTOBUF", references)
    order = compiled_text(PROTO, {"money.proto": MONEY}, "t")
    made = order.kind(id="a", n=5).SerializeToString()
    other = at_index(order, [1]).kind(y=5).SerializeToString()
    raws = [
        framed(number, b"\0" + made),  # short for the first message
        framed(number, b"\x02\0" + made),  # one index, 0
        framed(number, b"\x02\x02" + other),  # the second message
        framed(number, b"\x04\0"),  # two indexes, of which one is there
        framed(number, b"\x02\x0e" + made),  # the eighth message
        framed(number, b"\0\x0a\x05x"),
    ]
    decoded = decode("protobuf", registry(served.url, cache=tmp_path), declared_message(order, "t"), raws[:2] + raws[3:])
    assert decoded.table.to_pylist() == [{"id": "a", "n": 5, "_seq": 10}, {"id": "a", "n": 5, "_seq": 11}]
    assert [(r.seq, r.reason) for r in decoded.rejects] == [(12, "not framed"), (13, "not framed"), (14, "not protobuf")]
    with pytest.raises(SourceError, match=r"is message shop\.Other; the source is declared to be shop\.Order"):
        decode("protobuf", registry(served.url, cache=tmp_path), declared_message(order, "t"), [raws[2]])


def test_protobuf_of_several_writers_is_read_as_the_declared_message(served: Served, tmp_path: Path) -> None:
    """Fields that a writer did not have are zero or NULL, those that it alone has are passed over; what would change stops."""
    head = 'syntax = "proto3"; package shop; message Order { string id = 1; '
    old, new = f"{head} int32 n = 2; }}", f"{head} int64 n = 2; int32 x = 9; }}"
    now = f"{head} int64 n = 2; optional string z = 3; }}"
    ids = [served.add("orders-value", text, "PROTOBUF") for text in (old, new)]
    written = [compiled_text(text, {}, "t").kind(id="a", n=5).SerializeToString() for text in (old, new)]
    raws: list[bytes | None] = [framed(number, b"\0" + raw) for number, raw in zip(ids, written)]
    reg = registry(served.url, cache=tmp_path)
    decoded = decode("protobuf", reg, declared_message(compiled_text(now, {}, "t"), "t"), raws)
    assert decoded.table.select(["id", "n", "z"]).to_pylist() == [{"id": "a", "n": 5, "z": None}] * 2
    for text, why in (
        (f"{head} int32 n = 2; }}", "/2: n was int64, and is int32, which does not hold all of its values"),
        (f"{head} uint64 n = 2; }}", "/2: n was int64, and is uint64"),
        (f"{head} bool n = 2; }}", "/2: n was int64, and is bool"),
        (f"{head} sint64 n = 2; }}", "/2: n was written as number, and is read as zigzag number"),
    ):
        with pytest.raises(SourceError, match=f"schema {ids[1]} of the registry wrote what cannot be read .*: {why}"):
            decode("protobuf", reg, declared_message(compiled_text(text, {}, "t"), "t"), raws[1:])


def test_json_with_and_without_framing(served: Served, tmp_path: Path) -> None:
    schema = Schema.declare({"id": "VARCHAR", "n": "BIGINT"})
    raws = [framed(3, b'{"id": "a", "n": 1}'), b'{"id": "b", "n": 2}', framed(3, b"{")]
    decoded = decode("json", registry(served.url, cache=tmp_path), schema, raws)
    assert [r["id"] for r in decoded.table.to_pylist()] == ["a", "b"]
    assert [(r.reason, r.raw) for r in decoded.rejects] == [("not json", raws[2])]


def test_bare_and_single_object_avro(tmp_path: Path) -> None:
    body = datum(V1, {"id": "a", "n": 1})
    own = declared(parse(V1, "t"), "t")
    assert decode("avro", None, own, [body]).table["n"].to_pylist() == [1]
    (tmp_path / "order").mkdir()
    (tmp_path / "order/v1.avsc").write_text(json.dumps(V1))
    prefix = b"\xc3\x01" + parse(V1, "t").fingerprint.to_bytes(8, "little")
    raws = [prefix + body, b"\xc3\x01" + b"\0" * 8 + body, body]
    decoded = decode("avro-single-object", registry(tmp_path), avro_schema(), raws)
    assert decoded.table.to_pylist() == [{"id": "a", "n": 1, "note": None, "_seq": 10}]
    assert [r.reason for r in decoded.rejects] == ["unknown schema", "not framed"]
    with pytest.raises(SourceError, match="holds Avro without a schema"):
        decode("avro", None, Schema.declare({"id": "VARCHAR"}), [body])


def test_an_incompatible_writer_stops_with_the_difference(served: Served, tmp_path: Path) -> None:
    number = served.add("orders-value", json.dumps(V1 | {"fields": [{"name": "id", "type": "long"}]}))
    with pytest.raises(SourceError, match=rf"schema {number} of the registry .*at /id: written as long, read as string"):
        decode("avro", registry(served.url, cache=tmp_path), avro_schema(), [framed(number, b"\x02")])


def test_a_folder_has_versions(tmp_path: Path) -> None:
    path = tmp_path / "next.avsc"
    path.write_text(json.dumps(V1))
    reg = registry(tmp_path)
    assert reg.subjects() == [] and reg.register("order", path) == 1
    path.write_text(json.dumps(V2))
    assert reg.register("order", path) == 2
    assert reg.subjects() == ["order"] and reg.versions("order") == [1, 2]
    assert [f["name"] for f in reg.version("order", 2).written.tree["fields"]] == ["id", "n", "note"]
    with pytest.raises(UsageError, match=r"has no version 3; it has \[1, 2\]"):
        reg.version("order", 3)


def test_registering_over_http(served: Served, tmp_path: Path) -> None:
    path = tmp_path / "order.avsc"
    path.write_text(json.dumps(V1))
    reg = registry(served.url, cache=tmp_path)
    number = reg.register("orders-value", path)
    assert number == reg.register("orders-value", path) and reg.versions("orders-value") == [1]
    assert reg.subjects() == ["orders-value"] and reg.by_id(number).written.tree["name"] == "Order"

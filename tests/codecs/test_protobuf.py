"""Protocol Buffers are read as Google's library reads them, value by value; what is no message is a reject with its bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import merganser as mg
from merganser.codecs.binary import Broken, array
from merganser.codecs.cursor import Bytes, Cursor
from merganser.codecs.protobuf import MessageReader
from merganser.codecs.protobuf.fields import Record
from merganser.codecs.protobuf.reference import parsed
from merganser.errors import FlowError, SourceError
from merganser.schema import Schema
from merganser.schema.protobuf import Message, at_index, compiled_text, declared, load
from merganser.verify import verify
from tests.codecs.proto_data import message_types, messages
from tests.flows import rows

SLOW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])

PROTO = """
syntax = "proto3";
package shop;
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
import "google/protobuf/wrappers.proto";
import "google/protobuf/struct.proto";
import "google/protobuf/any.proto";
import "google/protobuf/empty.proto";
enum Color { RED = 0; BLUE = 5; }
message Order {
  message Item { string sku = 1; int32 n = 2; optional double price = 3; Item part = 4; }
  message Line { string sku = 1; int32 n = 2; }
  string id = 1; int64 ts = 2; sint64 z = 3; fixed64 f = 4; sfixed32 g = 5; double d = 6; float fl = 7; bool b = 8;
  bytes raw = 9; uint64 u = 10; uint32 w = 11; Color color = 12; repeated Line lines = 13; map<string, int64> tags = 14;
  map<int32, Line> things = 15; google.protobuf.Timestamp at = 16; google.protobuf.Duration took = 17;
  google.protobuf.StringValue name = 18; google.protobuf.Int64Value count = 19;
  oneof pick { string a = 20; int64 c = 21; Line line = 22; }
  repeated int32 numbers = 23; optional string note = 24; repeated string names = 25; Line one = 26;
  google.protobuf.Struct free = 27; google.protobuf.Any any = 28; google.protobuf.Empty empty = 29;
  repeated Color colors = 30; repeated google.protobuf.Timestamp times = 31; Item tree = 32;
}
message Small { int32 n = 1; string s = 2; }
"""


@pytest.fixture(scope="module")
def order() -> Message:
    return compiled_text(PROTO, {}, "test")


def read(
    message: Message, raws: list[bytes], types: dict[str, str] | None = None
) -> tuple[pa.Table, list[int], list[tuple[int, str, str]]]:
    end = np.cumsum([len(r) for r in raws], dtype=np.int64)
    start = end - np.array([len(r) for r in raws], np.int64)
    schema = declared(message, "test").typed(types or {})
    table, numbers, failures = MessageReader(schema, "test", message).read(Bytes(b"".join(raws)), start, end)
    assert len(numbers) + len(failures) == len(raws) and table.schema == schema.arrow_schema()
    table.validate(full=True)
    return table, numbers.tolist(), failures


def by_reference(message: Message, raw: bytes, schema: pa.Schema) -> dict[str, Any]:
    values = parsed(message, raw, pa.struct(list(schema)))
    return pa.table([array([values[f.name]], f.type) for f in schema], schema=schema).to_pylist()[0]


def comparable(value: Any) -> str:
    """As text, since NaN is a value too; the order of a map's entries says nothing."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{k}: {comparable(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list) and value and all(isinstance(v, tuple) for v in value):
        return "{" + ", ".join(sorted(comparable(v) for v in value)) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(comparable(v) for v in value) + "]"
    return repr(value)


@SLOW
@given(st.data())
def test_every_value_of_every_type_is_read_as_googles_library_reads_it(data: st.DataObject) -> None:
    message = data.draw(message_types())
    raws = [m.SerializeToString() for m in data.draw(st.lists(messages(message), min_size=1, max_size=5))]
    table, _, failures = read(message, raws)
    assert not failures
    expected = [by_reference(message, raw, table.schema) for raw in raws]
    assert comparable(table.to_pylist()) == comparable(expected)


@SLOW
@given(st.data())
def test_what_the_cursors_accept_is_what_googles_library_has(data: st.DataObject) -> None:
    """Mutated messages: side by side either marked, or of the same values as by the reference."""
    message = data.draw(message_types())
    raws = []
    for made in data.draw(st.lists(messages(message), min_size=2, max_size=5)):
        raw = bytearray(made.SerializeToString())
        for _ in range(data.draw(st.integers(0, 3))):
            if raw:
                raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
        raws += [bytes(raw), bytes(raw) + raws[-1] if raws else b"", bytes(raw[: len(raw) // 2])]
    end = np.cumsum([len(r) for r in raws], dtype=np.int64)
    record = Record(message.descriptor)
    cursor = Cursor(Bytes(b"".join(raws)), end - np.array([len(r) for r in raws], np.int64), end)
    table = pa.table(record.columns(cursor), schema=pa.schema(list(record.type)))
    for i in np.flatnonzero(cursor.ok).tolist():
        ours, theirs = table.slice(i, 1).to_pylist()[0], by_reference(message, raws[i], table.schema)
        assert comparable(ours) == comparable(theirs), raws[i].hex()


def test_what_is_written_as_usual_needs_no_look_at_single_messages(order: Message) -> None:
    """All types of which writers write columns are read side by side."""
    made = order.kind(id="x", ts=-5, color=5, note="", a="z")
    made.lines.add(sku="q", n=3)
    made.tags["k"] = 7
    made.things[1].sku = "u"
    made.at.seconds = 5
    made.numbers.extend([1, 2])
    made.times.add(seconds=1)
    raws = [made.SerializeToString(), b""]
    end = np.cumsum([len(r) for r in raws], dtype=np.int64)
    cursor = Cursor(Bytes(b"".join(raws)), end - np.array([len(r) for r in raws]), end)
    Record(order.descriptor).columns(cursor)
    assert cursor.ok.all()


def test_every_kind_of_field_has_its_column(order: Message) -> None:
    assert declared(order, "t").describe() == (
        "id VARCHAR NOT NULL, ts BIGINT NOT NULL, z BIGINT NOT NULL, f UBIGINT NOT NULL, g INTEGER NOT NULL, d DOUBLE NOT NULL,"
        " fl FLOAT NOT NULL, b BOOLEAN NOT NULL, raw BLOB NOT NULL, u UBIGINT NOT NULL, w UINTEGER NOT NULL,"
        " color VARCHAR NOT NULL, lines STRUCT(sku VARCHAR, n INTEGER)[] NOT NULL, tags MAP(VARCHAR, BIGINT) NOT NULL,"
        " things MAP(INTEGER, STRUCT(sku VARCHAR, n INTEGER)) NOT NULL, at TIMESTAMP WITH TIME ZONE, took INTERVAL, name VARCHAR,"
        " count BIGINT, a VARCHAR, c BIGINT, line STRUCT(sku VARCHAR, n INTEGER), numbers INTEGER[] NOT NULL, note VARCHAR,"
        " names VARCHAR[] NOT NULL, one STRUCT(sku VARCHAR, n INTEGER), free JSON,"
        " any STRUCT(type_url VARCHAR, \"value\" BLOB), empty JSON, colors VARCHAR[] NOT NULL,"
        " times TIMESTAMP WITH TIME ZONE[] NOT NULL, tree JSON"
    )
    made = order.kind(id="ä", ts=-5, z=-6, f=2**64 - 1, g=-7, d=0.5, fl=0.25, b=True, raw=b"\xff", u=8, w=9, color=5)
    made.at.FromJsonString("2026-01-02T03:04:05.123456Z")
    made.took.FromMilliseconds(-1500)
    made.name.value = ""
    made.free["k"] = [1, None]
    made.tree.part.sku = "p"
    made.empty.SetInParent()
    made.colors.extend([0, 5, 6])
    table, _, failures = read(order, [made.SerializeToString()])
    assert not failures
    row = table.to_pylist()[0]
    assert [row[n] for n in ("id", "ts", "z", "f", "g", "d", "fl", "b", "raw", "u", "w", "color")] == [
        "ä", -5, -6, 2**64 - 1, -7, 0.5, 0.25, True, b"\xff", 8, 9, "BLUE"
    ]  # fmt: skip
    assert row["at"].isoformat() == "2026-01-02T03:04:05.123456+00:00" and row["took"].nanoseconds == -1_500_000_000
    assert (row["name"], row["count"], row["free"], row["empty"]) == ("", None, '{"k": [1, null]}', "{}")
    assert row["tree"] == '{"part": {"sku": "p"}}' and row["colors"] == ["RED", "BLUE", "6"]


def test_fields_that_the_schema_does_not_have_are_passed_over(order: Message) -> None:
    small = at_index(order, [1])
    assert small.name == "shop.Small" and at_index(order, [0, 1]).name == "shop.Order.Line"
    text = PROTO.replace("message Small { int32 n = 1; string s = 2; }", """
      message Small { double x0 = 3; int32 n = 1; string s = 2; bytes y = 9; fixed32 z = 10; Order o = 11; int64 v = 12; }""")
    wide = at_index(compiled_text(text, {}, "wide"), [1])
    made = wide.kind(x0=1, n=5, s="x", y=b"12345", z=3, v=2**40)
    made.o.id = "q"
    table, _, _ = read(small, [made.SerializeToString(), b"", small.kind(n=-1).SerializeToString()])
    assert table.to_pylist() == [{"n": 5, "s": "x"}, {"n": 0, "s": ""}, {"n": -1, "s": ""}]


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"\x12\x01a\x08\x05", {"n": 5, "s": "a"}),  # fields in another order
        (b"\x08\x05\x08\x06", {"n": 6, "s": ""}),  # a field twice: the last one counts
        (b"\x88\x80\x00\x05", {"n": 5, "s": ""}),  # a tag of three bytes
        (b"\x0a\x01a", {"n": 0, "s": ""}),  # of another wire type than declared: an unknown field
        (b"\x1b\x08\x01\x1c\x08\x07", {"n": 7, "s": ""}),  # a group, in a field that is not known
        (b"\x08\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", {"n": -1, "s": ""}),
    ],
)
def test_unusual_messages_are_read_all_the_same(order: Message, raw: bytes, expected: dict[str, Any]) -> None:
    table, _, failures = read(at_index(order, [1]), [raw, b"\x08\x01", raw])
    assert not failures and table.to_pylist() == [expected, {"n": 1, "s": ""}, expected]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x08", "not protobuf"),
        (b"\x12\x05ab", "not protobuf"),
        (b"\x12\x02\xff\xfe", "not utf-8"),
        (b"\x00\x01", "not protobuf"),
        (b"\x0c", "not protobuf"),
        (b"\x0f", "not protobuf"),
        (b"\x08" + b"\xff" * 11, "not protobuf"),
        (b"\x1b" * 200, "not protobuf"),
        (b"\x12\xff\xff\xff\xff\x07", "not protobuf"),
    ],
)
def test_hostile_bytes_are_refused_with_a_reason(order: Message, raw: bytes, reason: str) -> None:
    table, numbers, failures = read(at_index(order, [1]), [raw, b"\x08\x01", raw])
    assert [(i, why) for i, why, _ in failures] == [(0, reason), (2, reason)]
    assert table.to_pylist() == [{"n": 1, "s": ""}] and numbers == [1]


def test_a_time_that_is_none_is_refused(order: Message) -> None:
    for seconds, nanos, field in ((2**60, 0, "at"), (0, -1, "at"), (0, 1_000_000_000, "at"), (2**50, 0, "took"), (1, -1, "took")):
        made = order.kind()
        getattr(made, field).seconds, getattr(made, field).nanos = seconds, nanos
        _, _, failures = read(order, [made.SerializeToString()])
        assert [why for _, why, _ in failures] == ["out of range"]
        with pytest.raises(Broken):
            parsed(order, made.SerializeToString(), pa.struct(list(declared(order, "t").arrow_schema())))


FINE = """
syntax = "proto3";
import "google/protobuf/timestamp.proto";
import "google/protobuf/duration.proto";
message Fine {
  message Inner { google.protobuf.Timestamp at = 1; }
  google.protobuf.Timestamp at = 1; google.protobuf.Duration took = 2; repeated google.protobuf.Timestamp each = 3;
  map<string, google.protobuf.Timestamp> named = 4; Inner inner = 5;
}
"""
PARTS = "STRUCT(seconds BIGINT, nanos INTEGER)"


def fine(message: Message, field: str, seconds: int, nanos: int) -> bytes:
    """A message with one Timestamp or Duration in it, at a place of each kind."""
    made = message.kind()
    places = {"each": lambda: made.each.add(), "named": lambda: made.named["k"], "inner": lambda: made.inner.at}
    part = places.get(field, lambda: getattr(made, field))()
    part.seconds, part.nanos = seconds, nanos
    raw: bytes = made.SerializeToString()
    return raw


@pytest.mark.parametrize("field", ["at", "took", "each", "named", "inner"])
def test_nanoseconds_are_kept_by_a_type_that_has_them_and_refused_by_one_that_has_not(field: str) -> None:
    """In whole nanoseconds, side by side and (with a field behind its place) one by one."""
    message = compiled_text(FINE, {}, "fine")
    shapes = {"each": "{}[]", "named": "MAP(VARCHAR, {})", "inner": 'STRUCT("at" {})'}
    kinds = ["INTERVAL", PARTS] if field == "took" else ["TIMESTAMPTZ", "TIMESTAMPTZ_NS", PARTS]
    moments = [(5, 0), (5, 1000), (5, 1), (-5, 0), (0, 999_999_999), (9_223_372_035, 999_999_999), (9_223_372_037, 0)]
    moments += [(-5, -1000), (-5, -1)] if field == "took" else [(-5, 999_999_000), (-5, 999_999_001), (-9_223_372_037, 0)]
    raws = [fine(message, field, *moment) for moment in moments]
    raws += [b"\x32\x01x" + raw for raw in raws]  # an unknown field out of its place, which is for the library alone
    for kind in kinds:
        table, numbers, failures = read(message, raws, {field: shapes.get(field, "{}").replace("{}", kind)})
        expected, refused = [], []
        for i, (seconds, nanos) in enumerate(moments * 2):
            whole = seconds * 10**9 + nanos
            small = abs(seconds) < 9_223_372_036
            if kind != PARTS and ((whole % 1000 and kind != "TIMESTAMPTZ_NS") or (not small and kind != "TIMESTAMPTZ")):
                refused.append(i)
            else:
                expected.append((seconds, nanos) if kind == PARTS else whole)
        assert numbers == [i for i in range(len(raws)) if i not in refused]
        assert held(table[field]) == expected
        assert [(i, why) for i, why, _ in failures] == [(i, "out of range") for i in refused]
        for i, _, detail in failures:
            if (moments * 2)[i][1] % 1000 and kind in ("TIMESTAMPTZ", "INTERVAL"):
                assert PARTS in detail and ("TIMESTAMPTZ_NS" in detail) == (field != "took")


def held(column: pa.ChunkedArray) -> list[Any]:
    """The times of a column, at whatever place in it, in nanoseconds, or as their parts."""
    values = column.combine_chunks()
    if pa.types.is_map(values.type):
        values = values.items
    elif pa.types.is_list(values.type):
        values = values.flatten()
    elif values.type.num_fields == 1:
        values = values.field(0)
    if pa.types.is_struct(values.type):
        return [(v["seconds"], v["nanos"]) for v in values.to_pylist()]
    if pa.types.is_interval(values.type):
        return [v.nanoseconds for v in values.to_pylist()]
    unit = 1 if values.type.unit == "ns" else 1000
    return [v * unit for v in values.cast(pa.int64()).to_pylist()]


def test_proto2_has_presence_and_required_fields() -> None:
    text = """syntax = "proto2"; message A {
        required int32 n = 1; optional int32 m = 2 [default = 7]; optional group G = 3 { optional int32 x = 1; } }"""
    message = compiled_text(text, {}, "two")
    assert declared(message, "t").describe() == "n INTEGER NOT NULL, m INTEGER, g STRUCT(x INTEGER)"
    made = message.kind(n=1)
    made.g.x = 5
    table, _, failures = read(message, [made.SerializeToString(), b"\x10\x01", b"\x08\x02"])
    assert table.to_pylist() == [{"n": 1, "m": None, "g": {"x": 5}}, {"n": 2, "m": None, "g": None}]
    assert [(i, why) for i, why, _ in failures] == [(1, "missing field")]


# -- schema files ---------------------------------------------------------------------------------------------------------


def test_messages_are_found_by_name_and_imports_beside_and_above(tmp_path: Path) -> None:
    (tmp_path / "common").mkdir()
    (tmp_path / "shop").mkdir()
    (tmp_path / "common/money.proto").write_text('syntax = "proto3"; package common; message Money { int64 units = 1; }')
    path = tmp_path / "shop/order.proto"
    path.write_text(
        'syntax = "proto3"; package shop; import "common/money.proto";'
        " message Order { string id = 1; common.Money total = 2; message Line { int32 n = 1; } } message Other { int32 x = 1; }"
    )
    assert load(path, None, "p").name == load(path, "Order", "p").name == load(path, "shop.Order", "p").name == "shop.Order"
    assert Schema.declare(f"{path}#Line").describe() == "n INTEGER NOT NULL"
    assert Schema.declare(path).describe() == "id VARCHAR NOT NULL, total STRUCT(units BIGINT)"
    with pytest.raises(FlowError, match=r"no message named 'Odrer'; the file has shop\.Order, shop\.Order\.Line, shop\.Other"):
        Schema.declare(f"{path}#Odrer")
    path.write_text('syntax = "proto3"; message A { strin x = 1; }')
    with pytest.raises(FlowError, match=r'order\.proto cannot be compiled: order\.proto:1:\d+: "strin" is not defined'):
        Schema.declare(path)
    path.write_text('syntax = "proto3"; message A { A a = 1; }')
    with pytest.raises(FlowError, match="message A contains itself"):
        Schema.declare(path)


# -- files ------------------------------------------------------------------------------------------------------------------


def delimited(raws: list[bytes]) -> bytes:
    out = bytearray()
    for raw in raws:
        size = len(raw)
        while size > 127:
            out.append(size & 127 | 128)
            size >>= 7
        out.append(size)
        out += raw
    return bytes(out)


def test_files_of_messages_reach_the_views(tmp_path: Path) -> None:
    (tmp_path / "order.proto").write_text(PROTO)
    message = load(tmp_path / "order.proto", "Order", "t")
    raws = []
    for i in range(300):
        made = message.kind(id=f"o{i}", ts=i, d=i / 2)
        made.at.seconds = 1_767_225_600 + i
        if i % 7 == 0:
            made.tags["k"] = i
        raws.append(b"\x0a\x02\xff\xfe" if i == 111 else made.SerializeToString() if i != 222 else b"x" * 5000)
    (tmp_path / "1.pb").write_bytes(delimited(raws[:200]))
    (tmp_path / "2.pb").write_bytes(delimited(raws[200:]))
    connector = mg.files(tmp_path / "*.pb", max_record_bytes=4000)
    events = mg.source("o", connector, schema=f"{tmp_path}/order.proto#Order", time="at", lateness="1 minute")
    flow = mg.Flow("f")
    flow.read(events).window(mg.tumbling("1 minute")).aggregate(n="count(*)", d="sum(d)").materialize("per_minute")
    flow.read(events).select("id", "at", "tags", "lines", "a").materialize("kept")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    assert rows(store, "SELECT sum(n)::INTEGER FROM per_minute") == [(298,)]
    found = rows(store, "SELECT tags, lines, a FROM kept WHERE id IN ('o7', 'o8') ORDER BY id")
    assert found == [({"k": 7}, [], None), ({}, [], None)]
    dead = rows(store, "SELECT seq, reason, raw, line, parse_filename(file) FROM merganser.dead_letters ORDER BY seq")
    assert dead == [(111, "not utf-8", b"\x0a\x02\xff\xfe", 112, "1.pb"), (222, "too long", b"x" * 4000, 23, "2.pb")]
    assert all(check.ok for check in verify([flow], store))


def test_a_file_that_ends_within_a_message_has_a_dead_letter_there(tmp_path: Path) -> None:
    (tmp_path / "order.proto").write_text(PROTO)
    whole = delimited([b"\x08\x01", b"\x08\x02"])
    (tmp_path / "1.pb").write_bytes(whole[:-1])
    events = mg.source("o", mg.files(tmp_path / "1.pb"), schema=f"{tmp_path}/order.proto#Small")
    flow = mg.Flow("f")
    flow.read(events).materialize("kept")
    mg.run([flow], tmp_path / "s.duckdb")
    mg.run([flow], tmp_path / "s.duckdb")
    letters = "SELECT reason, byte, line, raw, detail FROM merganser.dead_letters"
    assert rows(tmp_path / "s.duckdb", letters) == [
        ("cut off", 3, 2, b"\x02\x08", "the file ends within the message, behind 1 of its 2 bytes")
    ]
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM kept") == [(1,)]
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))
    (tmp_path / "1.pb").write_bytes(whole)
    with pytest.raises(SourceError, match="ended within a message when it was read, up to byte 5, and was gone on with"):
        mg.run([flow], tmp_path / "s.duckdb")

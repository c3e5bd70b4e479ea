"""Avro is read as fastavro reads it, value by value, whatever the schema; what is none is a reject with its bytes."""

from __future__ import annotations

import bz2
import io
import itertools
import lzma
import random
import re
import resource
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import cramjam
import fastavro
import numpy as np
import pyarrow as pa
import pytest
import zstandard
from hypothesis import HealthCheck, given, reject, settings
from hypothesis import strategies as st

from merganser.codecs import Chunk, Place, Reject, avro
from merganser.codecs.cursor import Bytes
from merganser.errors import SourceError
from merganser.schema import Schema
from merganser.schema.avro import declared, parse
from merganser.sources import containers
from merganser.sources.containers import ContainerFile
from tests.codecs.avro_data import records, same

INTEROP = Path(__file__).parent / "interop/avro"
SLOW = settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


@contextmanager
def writable() -> Iterator[None]:
    """Pass over an example in which fastavro does not find the branch of a union: it looks at the value, not at its name alone."""
    try:
        yield
    except ValueError as error:
        if "do not match" not in str(error):
            raise
        reject()



def write(tree: Any, values: list[Any]) -> list[bytes]:
    parsed = fastavro.parse_schema(tree)
    out = []
    for value in values:
        buffer = io.BytesIO()
        with writable():
            fastavro.schemaless_writer(buffer, parsed, value)
        out.append(buffer.getvalue())
    return out


def read(writer: Any, datums: list[bytes], reader: Any = None) -> tuple[pa.Table, list[int], list[tuple[int, str, str]]]:
    schema = reader if isinstance(reader, Schema) else declared(parse(reader or writer, "reader"), "reader")
    end = np.cumsum([len(d) for d in datums], dtype=np.int64)
    start = end - np.array([len(d) for d in datums], np.int64)
    table, numbers, failures = avro.DatumReader(schema, parse(writer, "writer"), "test").read(Bytes(b"".join(datums)), start, end)
    assert len(numbers) + len(failures) == len(datums)
    assert table.schema == schema.arrow_schema()
    table.validate(full=True)
    return table, numbers.tolist(), failures


@SLOW
@given(st.data())
def test_every_value_of_every_type_is_read_as_fastavro_reads_it(data: st.DataObject) -> None:
    tree, values = data.draw(records())
    rows = data.draw(st.lists(values, min_size=1, max_size=6))
    datums = write(tree, rows)
    expected = [fastavro.schemaless_reader(io.BytesIO(d), fastavro.parse_schema(tree)) for d in datums]
    table, _, failures = read(tree, datums)
    assert not failures
    assert all(map(same, table.to_pylist(), expected)), (table.to_pylist(), expected)


@SLOW
@given(st.data())
def test_one_by_one_and_side_by_side_are_the_same(data: st.DataObject) -> None:
    """What a broken neighbour does: each datum by itself, or all together with broken ones between."""
    tree, values = data.draw(records())
    good = write(tree, data.draw(st.lists(values, min_size=1, max_size=5)))
    mixed = [d for datum in good for d in (datum, datum + b"\0", datum[:-1])]
    table, numbers, failures = read(tree, mixed)
    rows = dict(zip(numbers, table.to_pylist()))
    broken = {i for i, _, _ in failures}
    for i, datum in enumerate(mixed):
        alone, _, wrong = read(tree, [datum])
        assert (i in broken) == bool(wrong)
        if not wrong:
            assert repr(alone.to_pylist()) == repr([rows[i]])  # not ==: NaN is a value too
    assert {3 * i for i in range(len(good))} <= set(numbers)


@SLOW
@given(st.data())
def test_a_container_file_of_any_codec_is_read_as_fastavro_reads_it(tmp_path_factory: Any, data: st.DataObject) -> None:
    tree, values = data.draw(records())
    rows = data.draw(st.lists(values, max_size=40))
    codec = data.draw(st.sampled_from(["null", "deflate", "bzip2", "xz", "snappy"]))
    buffer = io.BytesIO()
    interval = data.draw(st.integers(0, 60))
    with writable():
        fastavro.writer(buffer, fastavro.parse_schema(tree), rows, codec=codec, sync_interval=interval)
    expected = list(fastavro.reader(io.BytesIO(buffer.getvalue())))
    table, rejects = file(buffer.getvalue(), tmp_path_factory.getbasetemp())
    assert not rejects
    assert all(map(same, table.drop_columns("_seq").to_pylist(), expected)) and len(table) == len(expected)


def file(content: bytes | Path, folder: Path, schema: Schema | None = None) -> tuple[pa.Table, list[Reject]]:
    """All rows and rejects of a container file."""
    path = content if isinstance(content, Path) else folder / "made.avro"
    if isinstance(content, bytes):
        path.write_bytes(content)
    reader = ContainerFile(str(path), None)
    tables, rejects, seq, codec = [], [], 0, None
    try:
        while (piece := reader.read(1, last=True)) is not None:
            codec = codec or avro.AvroCodec(schema or declared(piece.payload.writer, str(path)))
            place = Place(str(path), piece.byte, piece.line)
            chunk = Chunk("s", "p", seq, piece.records, place, piece.payload, {}, piece.disk_bytes)
            decoded = codec.decode(chunk)
            own = [replace(r, seq=seq + r.seq) for r in piece.rejects]
            assert len(decoded.table) + len(decoded.rejects) + len(own) == piece.records
            found = decoded.table["_seq"].to_pylist()
            assert not found or [at.line for at, _ in codec.locate(chunk, found)] == [seq_ + 1 for seq_ in found]
            seq += piece.records
            tables.append(decoded.table)
            rejects += [*decoded.rejects, *own]
    finally:
        reader.close()
    return (pa.concat_tables(tables) if tables else pa.table({"_seq": pa.array([], pa.int64())})), rejects


# -- the files of the Avro project -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["weather", "weather-deflate", "weather-snappy", "weather-sorted", "schemas-simple-data",
                                  "schemas-withUnion-data"])  # fmt: skip
def test_the_files_of_the_avro_project_are_read_as_fastavro_reads_them(name: str) -> None:
    path = INTEROP / f"{name}.avro"
    table, rejects = file(path, path)
    with path.open("rb") as opened:
        expected = list(fastavro.reader(opened))
    assert not rejects and all(map(same, table.drop_columns("_seq").to_pylist(), expected)) and len(table) == len(expected) > 0


def test_zstandard_of_the_avro_project() -> None:
    plain, _ = file(INTEROP / "weather.avro", INTEROP)
    packed, _ = file(INTEROP / "weather-zstd.avro", INTEROP)
    assert packed.equals(plain)


def test_a_sync_marker_within_the_metadata_does_not_confuse() -> None:
    table, rejects = file(INTEROP / "syncInMeta.avro", INTEROP)
    assert len(table) == 6001 and not rejects and table["ID"].to_pylist()[:3] == [1, 2, 3]


def test_a_single_object_message_of_the_avro_project() -> None:
    schema = parse((INTEROP / "messageV1-test_schema.avsc").read_text(), "schema")
    message = (INTEROP / "messageV1-test_message.bin").read_bytes()
    assert message[:2] == b"\xc3\x01" and int.from_bytes(message[2:10], "little") == schema.fingerprint
    table, _, failures = read(schema.tree, [message[10:]])
    theirs = fastavro.schemaless_reader(io.BytesIO(message[10:]), fastavro.parse_schema(schema.tree))
    assert not failures and table.to_pylist() == [theirs]


def cases() -> list[tuple[str, int]]:
    """(schema, fingerprint) of the Avro project's schema cases, where they give one for that schema or the one before."""
    found = []
    for part in (INTEROP / "schema-tests.txt").read_text().split("<<INPUT")[1:]:
        parts = re.split(r"^<<(canonical|fingerprint)\s", part, flags=re.MULTILINE)
        text = re.sub(r"^INPUT$|^//.*$", "", parts[0], flags=re.MULTILINE).strip()
        print_ = dict(zip(parts[1::2], parts[2::2])).get("fingerprint")
        if print_ is not None:
            found.append((text, int(print_.split()[0])))
    return found


@pytest.mark.parametrize(("text", "fingerprint"), cases())
def test_the_fingerprints_of_the_avro_projects_schemas(text: str, fingerprint: int) -> None:
    assert parse(text, "case").fingerprint == fingerprint & ((1 << 64) - 1)


def test_the_interop_schema_is_read_whole() -> None:
    """It has every kind of type, and one that contains itself, which is a column of JSON."""
    tree = fastavro.schema.load_schema(str(INTEROP / "interop.avsc"))
    node = {"label": "root", "children": [{"label": "leaf", "children": []}]}
    row = {
        "intField": 12, "longField": 15234324, "stringField": "hey", "boolField": True, "floatField": 1234.0,
        "doubleField": -1234.0, "bytesField": b"12312adf", "nullField": None, "arrayField": [5.0, 0.0, 12.0],
        "mapField": {"a": {"label": "a"}, "bee": {"label": "cee"}}, "unionField": 12.0, "enumField": "C",
        "fixedField": b"1019181716151413", "recordField": node,
    }  # fmt: skip
    table, _, failures = read(tree, write(tree, [row, row | {"unionField": [b"x"]}, row | {"unionField": True}]))
    assert not failures
    (first, second, third) = table.to_pylist()
    assert first["recordField"] == '{"label": "root", "children": [{"label": "leaf", "children": []}]}'
    assert (first["unionField"], second["unionField"], third["unionField"]) == (12.0, [b"x"], True)
    for name in row.keys() - {"recordField", "unionField"}:
        assert same(first[name], row[name]), name


# -- schema resolution ------------------------------------------------------------------------------------------------------


def rec(*fields: Any, name: str = "R", **more: Any) -> dict[str, Any]:
    made = [f if isinstance(f, dict) else {"name": f[0], "type": f[1]} | ({"default": f[2]} if len(f) > 2 else {}) for f in fields]
    return {"type": "record", "name": name, "fields": made, **more}


RESOLUTIONS: list[tuple[Any, Any, Any]] = [
    (rec(("a", "int")), rec(("a", "long")), {"a": -5}),
    (rec(("a", "int")), rec(("a", "float")), {"a": 1 << 20}),
    (rec(("a", "int")), rec(("a", "double")), {"a": 7}),
    (rec(("a", "long")), rec(("a", "float")), {"a": 1 << 40}),
    (rec(("a", "long")), rec(("a", "double")), {"a": 1 << 40}),
    (rec(("a", "float")), rec(("a", "double")), {"a": 0.5}),
    (rec(("a", "string")), rec(("a", "bytes")), {"a": "ä"}),
    (rec(("a", "bytes")), rec(("a", "string")), {"a": b"abc"}),
    (rec(("a", "int")), rec(("a", ["null", "long"])), {"a": 5}),
    (rec(("a", ["null", "int"])), rec(("a", ["null", "long"])), {"a": 5}),
    (rec(("a", ["null", "int"])), rec(("a", ["null", "long"])), {"a": None}),
    (rec(("a", ["null", "int"])), rec(("a", "int")), {"a": 5}),
    (rec(("a", ["int", "string"])), rec(("a", ["string", "long", "null"])), {"a": 5}),
    (rec(("a", "int"), ("b", "string")), rec(("b", "string"), ("a", "int")), {"a": 5, "b": "x"}),
    (rec(("a", "int"), ("b", "string")), rec(("b", "string")), {"a": 5, "b": "x"}),
    (rec(("a", "int")), rec(("a", "int"), ("b", "string", "none")), {"a": 5}),
    (rec(("a", "int")), rec(("a", "int"), ("b", ["null", "int"], None)), {"a": 5}),
    (rec(("a", "int")), rec(("a", "int"), ("b", {"type": "array", "items": "int"}, [1, 2])), {"a": 5}),
    (rec(("a", "int")), rec(("a", "int"), ("b", {"type": "map", "values": "long"}, {"k": 2})), {"a": 5}),
    (rec(("a", "int")), rec(("a", "int"), ("b", rec(("x", "int"), name="S"), {"x": 1})), {"a": 5}),
    (rec(("a", "int")), rec({"name": "z", "type": "int", "aliases": ["a"]}), {"a": 5}),
    (rec(("a", "int"), name="Old"), rec(("a", "int"), name="New", aliases=["Old"]), {"a": 5}),
    (
        rec(("a", {"type": "enum", "name": "E", "symbols": ["X", "Y"]})),
        rec(("a", {"type": "enum", "name": "E", "symbols": ["Y", "Z"], "default": "Z"})),
        {"a": "X"},
    ),
    (rec(("a", {"type": "array", "items": "int"})), rec(("a", {"type": "array", "items": "double"})), {"a": [1, 2]}),
    (rec(("a", {"type": "map", "values": "int"})), rec(("a", {"type": "map", "values": ["null", "long"]})), {"a": {"k": 1}}),
]


@pytest.mark.parametrize(("writer", "reader", "value"), RESOLUTIONS)
def test_one_schema_is_read_as_another_as_the_specification_says(writer: Any, reader: Any, value: Any) -> None:
    (datum,) = write(writer, [value])
    theirs = fastavro.schemaless_reader(io.BytesIO(datum), fastavro.parse_schema(writer), fastavro.parse_schema(reader))
    for datums in ([datum], [datum, datum + b"\0"], [datum[:-1], datum]):
        table, _, _ = read(writer, datums, reader)
        assert all(map(same, table.to_pylist(), [theirs])), table.to_pylist()


SELF = rec(("n", "int"), ("next", ["null", "string", "R"]))


def test_a_type_that_contains_itself_in_a_union_of_several() -> None:
    tree = {"type": "record", "name": "Out", "fields": [{"name": "of", "type": SELF}]}
    values = [{"of": {"n": 1, "next": ("R", {"n": 2, "next": "x"})}}, {"of": {"n": 3, "next": None}}]
    table, _, failures = read(tree, write(tree, values))
    assert not failures
    assert table["of"].to_pylist() == ['{"n": 1, "next": {"n": 2, "next": "x"}}', '{"n": 3, "next": null}']


def test_a_type_that_contains_itself_only_for_its_writer_is_no_json_to_its_reader() -> None:
    writer = {"type": "record", "name": "Out", "fields": [{"name": "u", "type": ["string", SELF]}]}
    reader = {"type": "record", "name": "Out", "fields": [{"name": "u", "type": ["string", rec(("n", "int"))]}]}
    table, _, failures = read(writer, write(writer, [{"u": ("R", {"n": 1, "next": "x"})}, {"u": ("string", "s")}]), reader)
    assert not failures and table["u"].to_pylist() == [{"n": 1}, "s"]


def test_what_is_null_alone_within_others_and_empty_maps_as_json() -> None:
    union = [{"type": "map", "values": "null"}, "int"]
    tree = rec(("u", union), ("again", ["null", "R"]), ("tags", {"type": "map", "values": "int"}))
    whole = {"type": "record", "name": "Out", "fields": [{"name": "of", "type": tree}, {"name": "m", "type": union}]}
    value = {"u": ("int", 5), "again": None, "tags": {}}
    table, _, failures = read(whole, write(whole, [{"of": value, "m": ("map", {"k": None})}]))
    assert not failures and table.to_pylist() == [{"of": '{"u": 5, "again": null, "tags": {}}', "m": [("k", None)]}]


def test_defaults_that_fastavro_does_not_read() -> None:
    """A field's own default within a record's, and bytes, whose default is written as text."""
    inner = rec(("x", "int"), ("y", "string", "d"), name="S")
    reader = rec(("a", "int"), ("b", inner, {"x": 1}), ("c", "bytes", "\u00ff"))
    table, _, _ = read(rec(("a", "int")), [b"\x0a", b"\x0a\0"], reader)
    assert table.to_pylist() == [{"a": 5, "b": {"x": 1, "y": "d"}, "c": b"\xff"}]


def test_a_millisecond_stays_one_whoever_reads_it() -> None:
    """fastavro, as Java, takes the reader's unit for a number that the writer counted in another: a silent change."""
    units = [{"type": "long", "logicalType": f"timestamp-{unit}"} for unit in ("millis", "micros", "nanos")]
    table, _, _ = read(rec(("a", units[0])), [b"\x02"], rec(("a", units[1])))
    assert table["a"].cast(pa.int64()).to_pylist() == [1000]
    with pytest.raises(SourceError, match="written as timestamp-millis, read as time-micros"):
        read(rec(("a", units[0])), [b"\x02"], rec(("a", {"type": "long", "logicalType": "time-micros"})))


@pytest.mark.parametrize("local", ["", "local-"])
def test_a_time_of_any_unit_is_read_as_one_of_any_other_or_refused(local: str) -> None:
    """Every pair of units, by whole numbers of nanoseconds."""
    sizes = {"millis": 10**6, "micros": 10**3, "nanos": 1}
    numbers = [0, 1, -1, 999, 1000, 1001, -1000, -1001, 5_000_000, 1 << 61, -(1 << 61), (1 << 63) - 2, -(1 << 63) + 2]
    for written, read_as in itertools.product(sizes, repeat=2):
        w, r = (rec(("a", {"type": "long", "logicalType": f"{local}timestamp-{unit}"})) for unit in (written, read_as))
        table, kept, failures = read(w, [long(n) for n in numbers], r)
        unit = 1 if read_as == "nanos" else 1000
        most = ((1 << 63) - 2) * unit
        least = -most if read_as == "nanos" else -9_223_372_022_400_000_000 * unit
        moments = [n * sizes[written] for n in numbers]
        fine = [i for i, at in enumerate(moments) if at % unit]
        far = [i for i, at in enumerate(moments) if not least <= at <= most]
        assert [(i, why) for i, why, _ in failures] == [(i, "out of range") for i in sorted({*fine, *far})]
        assert all("timestamp-nanos holds" in detail for i, _, detail in failures if i in fine)
        assert table["a"].cast(pa.int64()).to_pylist() == [moments[i] // unit for i in kept]


@pytest.mark.parametrize(
    ("reader", "message"),
    [
        (rec(("a", "string")), r"at /a: written as int, read as string"),
        (rec(("a", "int"), ("b", "int")), r"at /b: the writer has no such field, and it has no default"),
        (rec(("a", ["null", "string"])), r"at /a: written as int, read as one of null, string"),
    ],
)
def test_schemas_that_do_not_go_together_stop_before_the_first_row(reader: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        read(rec(("a", "int")), [b"\0"], reader)


def test_records_of_different_names_do_not_go_together_within_others() -> None:
    writer, reader = (rec(("a", rec(("x", "int"), name=name)), name="Root") for name in ("Old", "New"))
    with pytest.raises(SourceError, match="at /a: written as Old, read as New"):
        read(writer, [b"\0"], reader)


def test_columns_that_are_declared_by_their_types_are_picked_and_cast() -> None:
    tree = rec(("a", "int"), ("b", "string"), ("c", {"type": "bytes", "logicalType": "decimal", "precision": 6, "scale": 2}))
    datums = write(tree, [{"a": 1, "b": "x", "c": Decimal(1)}])
    table, _, _ = read(tree, datums, Schema.declare({"c": "DECIMAL(18,2)", "a": "BIGINT"}))
    assert table.to_pylist() == [{"c": 1, "a": 1}] and str(table.schema.field("c").type) == "decimal128(18, 2)"
    with pytest.raises(SourceError, match="has no column x; it has a, b, c"):
        read(tree, datums, Schema.declare({"x": "BIGINT"}))


# -- hostile bytes ----------------------------------------------------------------------------------------------------------

NULLS = rec(("a", {"type": "array", "items": "null"}))
HOSTILE: list[tuple[str, Any, bytes, str]] = [
    ("cut off", rec(("a", "string")), b"\x0aab", "cut off"),
    ("trailing", rec(("a", "int")), b"\x02\x02", "trailing bytes"),
    ("negative length", rec(("a", "string")), b"\x01", "not avro"),
    ("endless varint", rec(("a", "long")), b"\xff" * 11, "not avro"),
    ("65 bits", rec(("a", "long")), b"\xff" * 9 + b"\x02", "out of range"),
    ("int of 33 bits", rec(("a", "int")), b"\x80\x80\x80\x80\x10", "out of range"),
    ("not utf-8", rec(("a", "string")), b"\x04\xff\xfe", "not utf-8"),
    ("lone surrogate", rec(("a", "string")), b"\x06\xed\xa0\x80", "not utf-8"),
    ("boolean 2", rec(("a", "boolean")), b"\x02", "not avro"),
    ("branch 9", rec(("a", ["null", "int"])), b"\x12", "not avro"),
    ("branch -1", rec(("a", ["null", "int"])), b"\x01", "not avro"),
    ("symbol 7", rec(("a", {"type": "enum", "name": "E", "symbols": ["A"]})), b"\x0e", "not avro"),
    ("100 million nulls in five bytes", NULLS, b"\x80\x84\xaf\x5f\x00", "too many elements"),
    ("blocks of nulls", NULLS, b"\xfe\xff\x07" * 40 + b"\x00", "too many elements"),
    ("a list longer than its bytes", rec(("a", {"type": "array", "items": "int"})), b"\xfe\xff\xff\xff\x0f\x02", "cut off"),
    ("a key twice", rec(("a", {"type": "map", "values": "int"})), b"\x04\x02k\x02\x02k\x04\x00", "duplicate key"),
    ("time past midnight", rec(("a", {"type": "int", "logicalType": "time-millis"})), b"\x80\xf0\xb2\x52", "out of range"),
    ("no uuid", rec(("a", {"type": "string", "logicalType": "uuid"})), b"\x04no", "wrong type"),
    (
        "decimal of three digits", rec(("a", {"type": "bytes", "logicalType": "decimal", "precision": 2})), b"\x02\x64",
        "out of range",
    ),
    (
        "decimal of 40 bytes", rec(("a", {"type": "bytes", "logicalType": "decimal", "precision": 38})),
        b"\x50" + b"\x7f" * 40, "out of range",
    ),
    (
        "nested a thousand times", rec(("n", ["null", "R"])), b"\x02" * 1000 + b"\x00", "nested too deeply",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("tree", "datum", "reason"), [h[1:] for h in HOSTILE], ids=[h[0] for h in HOSTILE])
def test_hostile_bytes_are_refused_with_a_reason(tree: Any, datum: bytes, reason: str) -> None:
    table, _, failures = read(tree, [datum, datum])
    assert not len(table) and [(i, why) for i, why, _ in failures] == [(0, reason), (1, reason)]


def test_datums_are_numbered_through_however_many_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = rec(("a", "string"))
    datums = write(tree, [{"a": f"value{i}"} for i in range(10)])
    datums[4], datums[7] = datums[4][:-1], datums[7] + b"\0"
    whole = read(tree, datums)
    monkeypatch.setattr("merganser.codecs.avro.datums.SLICE", 3)
    table, numbers, failures = read(tree, datums)
    assert table.to_pylist() == whole[0].to_pylist()
    assert list(numbers) == list(whole[1]) == [0, 1, 2, 3, 5, 6, 8, 9]
    assert failures == whole[2] and [number for number, *_ in failures] == [4, 7]


def test_unusual_encodings_are_values_all_the_same() -> None:
    """Numbers and blocks that no one writes so, but that are what they are."""
    array = rec(("a", {"type": "array", "items": "long"}))
    table, _, _ = read(array, [b"\x03\x04\x02\x04\x00", b"\x02\x02\x02\x04\x00", b"\x82\x00\x82\x80\x00\x02\x04\x00"])
    assert table["a"].to_pylist() == [[1, 2]] * 2 + [[1, 2]]
    decimal = rec(("a", {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}))
    table, _, _ = read(decimal, [b"\x28" + b"\0" * 19 + b"\x07", b"\x00", b"\x28" + b"\xff" * 20])
    assert [str(v) for v in table["a"].to_pylist()] == ["0.07", "0.00", "-0.01"]
    identity = rec(("a", {"type": "string", "logicalType": "uuid"}))
    text = b"{12345678-1234-5678-1234-567812345678}"
    table, _, _ = read(identity, [bytes([2 * len(text)]) + text])
    assert table["a"].to_pylist() == ["12345678-1234-5678-1234-567812345678"]
    many = list(range(3000))
    table, _, _ = read(array, write(array, [{"a": many}, {"a": [1]}]))
    assert table["a"].to_pylist() == [many, [1]]


def container(tree: Any, rows: list[Any], codec: str = "null", **more: Any) -> bytes:
    if codec == "zstandard":
        return zstandard_container(tree, rows, **more)
    buffer = io.BytesIO()
    fastavro.writer(buffer, fastavro.parse_schema(tree), rows, codec=codec, **more)
    return buffer.getvalue()


def zstandard_container(tree: Any, rows: list[Any], **more: Any) -> bytes:
    """What fastavro writes only with a package that we do not need."""
    plain = container(tree, rows, **more)
    head = plain[: plain.index(plain[-16:]) + 16]
    out = io.BytesIO()
    out.write(head.replace(b"\x08null", b"\x12zstandard"))
    for block in fastavro.block_reader(io.BytesIO(plain)):
        data = zstandard.ZstdCompressor().compress(block.bytes_.getvalue())
        out.write(long(block.num_records) + long(len(data)) + data + plain[-16:])
    return out.getvalue()


def long(value: int) -> bytes:
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()


def test_a_bad_value_in_a_block_costs_its_record_only(tmp_path: Path) -> None:
    tree = rec(("a", "string"), ("b", "int"))
    content = container(tree, [{"a": f"v{i}é", "b": i} for i in range(9)])
    table, rejects = file(content.replace("v4é".encode(), b"v4\xff\xfe"), tmp_path)
    assert table["b"].to_pylist() == [0, 1, 2, 3, 5, 6, 7, 8]
    (reject,) = rejects
    assert (reject.seq, reject.reason, reject.raw, reject.place.line) == (4, "not utf-8", b"\x08v4\xff\xfe\x08", 5)


def test_a_record_without_an_end_takes_the_rest_of_its_block_along(tmp_path: Path) -> None:
    tree = rec(("a", "string"))
    content = container(tree, [{"a": f"value{i}"} for i in range(40)], sync_interval=40)
    broken = content.replace(b"\x0evalue2"[:1] + b"\x0evalue2"[1:], b"\x7evalue2", 1).replace(b"\x0cvalue2", b"\x7evalue2", 1)
    table, rejects = file(broken, tmp_path)
    assert len(table) + len(rejects) == 40 and 0 < len(rejects) < 10
    assert {r.reason for r in rejects} <= {"cut off", "lost", "trailing bytes"} and rejects[0].raw


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: b"Obj\x02" + c[4:], "cannot be read as an Avro container file: it begins with"),
        (lambda c: c[:20], "cut off within its header"),
        (lambda c: c.replace(b"\x08null", b"\x08nule"), "is compressed with 'nule'; known are null, deflate"),
    ],
)
def test_a_damaged_file_stops_with_what_to_do(tmp_path: Path, change: Any, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        file(change(container(rec(("a", "int")), [{"a": 1}])), tmp_path)


def test_a_file_that_ends_within_a_block_has_a_dead_letter_there(tmp_path: Path) -> None:
    tree, rows = rec(("a", "int")), [{"a": i} for i in range(100)]
    whole = container(tree, rows, sync_interval=1)
    table, rejects = file(whole[:-1], tmp_path)
    assert table["a"].to_pylist() == list(range(99))
    assert [(r.seq, r.reason) for r in rejects] == [(99, "cut off")] and whole[:-1].endswith(rejects[0].raw)
    assert "of 1 records" in rejects[0].detail


ROWS = [{"a": f"value {i}", "b": i << 9} for i in range(150)]


def blocks_of(codec: str) -> tuple[bytes, list[tuple[int, int, list[dict[str, Any]]]]]:
    """A container file; where each of its blocks begins and ends, and the rows of each."""
    content = container(rec(("a", "string"), ("b", "long")), ROWS, codec=codec, sync_interval=300)
    places, rows, begin = [], iter(ROWS), content.index(content[-16:]) + 16
    while begin < len(content):
        at = io.BytesIO(content[begin : begin + 20])
        count = fastavro.schemaless_reader(at, "long", None)
        end = begin + fastavro.schemaless_reader(at, "long", None) + at.tell() + 16
        places.append((begin, end, [next(rows) for _ in range(count)]))
        begin = end
    assert begin == len(content) and len(places) > 5
    return content, places


@pytest.mark.parametrize("codec", ["null", "deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_a_flipped_bit_costs_its_block_at_most(tmp_path: Path, codec: str) -> None:
    content, places = blocks_of(codec)
    chance = random.Random(codec)
    for k in (0, 3, len(places) - 1):
        begin, end, own = places[k]
        framing = [(at, bit) for at in (*range(begin, begin + 3), end - 16) for bit in range(8)]
        within = [(chance.randrange(begin + 3, end - 16), chance.randrange(8)) for _ in range(12)]
        for at, bit in framing + within if k == 3 else chance.sample(framing + within, 8):
            broken = bytearray(content)
            broken[at] ^= 1 << bit
            table, rejects = file(bytes(broken), tmp_path)
            rows = table.drop_columns("_seq").to_pylist() if table.num_columns > 1 else []
            before = [row for _, _, rows_ in places[:k] for row in rows_]
            after = [row for _, _, rows_ in places[k + 1 :] for row in rows_]
            assert rows[: len(before)] == before and rows[len(rows) - len(after) :] == after, (at - begin, bit)
            left = rows[len(before) : len(rows) - len(after)]
            assert len(left) <= len(own) and (left == own or rejects or at >= begin + 3), (at - begin, bit)
            if (at, bit) in framing or codec in ("bzip2", "xz", "snappy"):  # of the others nothing tells that it was changed
                assert left == own[: len(left)], (at - begin, bit)


@pytest.mark.parametrize("at", [1, 20, -1])
def test_where_reading_goes_on_does_not_depend_on_how_far_a_file_had_grown(tmp_path: Path, at: int) -> None:
    content, places = blocks_of("deflate")
    begin, end, _ = places[2]
    broken = bytearray(content)
    broken[begin + at if at >= 0 else end - 1] ^= 0x40
    path = tmp_path / "growing.avro"
    path.write_bytes(broken[:begin])
    reader = ContainerFile(str(path), None)
    found = []
    for size in range(begin, len(broken) + 1, 7):
        with path.open("ab") as out:
            out.write(broken[path.stat().st_size : size])
        while (piece := reader.read(1, last=False)) is not None:
            found.append((piece.records, piece.byte, [(r.reason, r.raw, r.detail) for r in piece.rejects]))
    reader.close()
    whole = ContainerFile(str(path), None)
    expected = []
    while (piece := whole.read(1, last=False)) is not None:
        expected.append((piece.records, piece.byte, [(r.reason, r.raw, r.detail) for r in piece.rejects]))
    whole.close()
    assert found == expected and sum(bool(r) for *_, r in found) == 1
    (reason, raw, detail) = next(r[0] for *_, r in found if r)
    assert (reason, raw) == ("damaged block", bytes(broken[begin:end])) and f"goes on at byte {end}" in detail


@pytest.mark.parametrize("codec", ["deflate", "bzip2", "xz", "snappy", "zstandard"])
def test_a_block_that_would_fill_the_memory_is_a_dead_letter(tmp_path: Path, codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 256 << 20 if codec == "deflate" else 16 << 20  # the others are slow to make
    monkeypatch.setattr(containers, "MAX_BLOCK", limit)
    content = container(rec(("a", "int")), [{"a": 1}], codec=codec)
    last = container(rec(("a", "int")), [{"a": 2}], codec=codec, sync_marker=content[-16:])
    last = last[last.index(content[-16:]) + 16 :]
    squeezer: Any = {
        "deflate": lambda: zlib.compressobj(1, zlib.DEFLATED, -15), "bzip2": lambda: bz2.BZ2Compressor(1),
        "xz": lambda: lzma.LZMACompressor(preset=0), "zstandard": lambda: zstandard.ZstdCompressor().compressobj(),
        "snappy": lambda: None,
    }[codec]()  # fmt: skip
    if squeezer is None:
        bomb = b"\xff\xff\xff\xff\x0f" + bytes(cramjam.snappy.compress_raw(b"\0" * 1000))[2:] + b"1234"
    else:
        bomb = b"".join(squeezer.compress(b"\0" * (1 << 20)) for _ in range((limit >> 20) + 2)) + squeezer.flush()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
    table, rejects = file(content + b"\x02" + long(len(bomb)) + bomb + content[-16:] + last, tmp_path)
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before < 600 << 20
    assert table["a"].to_pylist() == [1, 2]
    (reject,) = rejects
    assert reject.reason == "too large" and f"more than {limit:,} bytes" in reject.detail and bomb in reject.raw


@pytest.mark.parametrize("count", [-5, 0, 1 << 40, 5_000_000])
def test_a_block_that_claims_to_have_many_records_is_a_dead_letter(tmp_path: Path, count: int) -> None:
    content = container(rec(("a", "int")), [], codec="deflate")
    data = zlib.compress(b"\0" * max(50, min(count, 5_000_000)))[2:-4]
    _, rejects = file(content + long(count) + long(len(data)) + data + content[-16:], tmp_path)
    assert [r.reason for r in rejects] == ["too large" if count == 5_000_000 else "damaged block"]

"""``write`` in every format: what is written is read by the reference library, and by a source of ours, as it was."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import fastavro
import pyarrow.ipc
import pyarrow.parquet
import pytest
from google.protobuf import proto

import merganser as mg
from merganser.sql import quote
from merganser.verify import verify
from tests.flows import balanced, rows

PLAIN = {
    "id": "VARCHAR NOT NULL", "flag": "BOOLEAN", "small": "SMALLINT", "n": "BIGINT", "u": "UBIGINT", "x": "DOUBLE", "f": "FLOAT",
    "price": "DECIMAL(38,12)", "day": "DATE", "clock": "TIME", "at": "TIMESTAMP", "instant": "TIMESTAMPTZ", "fine": "TIMESTAMP_NS",
    "who": "UUID", "raw": "BLOB", "free": "JSON",
}  # fmt: skip
NESTED = {
    "tags": "VARCHAR[]", "counts": "MAP(VARCHAR, INTEGER)", "place": "STRUCT(city VARCHAR, lat DOUBLE, since TIMESTAMPTZ)",
    "lines": "STRUCT(sku VARCHAR, n INTEGER)[]",
}  # fmt: skip
FIRST: dict[str, Any] = {
    "id": 'a "quoted", text\nof two lines \\ ä\U0001f600',
    "flag": True, "small": -7, "n": -(2**63), "u": 2**64 - 1, "x": 0.1, "f": 1.5,
    "price": Decimal("12345678901234567890123456.789012345678"), "day": date(1, 1, 1), "clock": time(23, 59, 59, 999999),
    "at": datetime(1969, 12, 31, 23, 59, 59, 1), "instant": datetime(2026, 1, 1, 12, 0, 0, 5, UTC),
    "fine": "2026-01-01 00:00:00.123456789",
    "who": "f81d4fae-7dec-11d0-a765-00a0c91e6bf6", "raw": b"\x00\xff", "free": '{"a":[1,null]}',
    "tags": ["x", ""], "counts": {"k": 1, "": -2}, "place": {"city": "Wien", "lat": 48.2, "since": "2026-01-01 00:00:00+00"},
    "lines": [{"sku": "s", "n": 3}, {"sku": None, "n": None}],
}  # fmt: skip
SECOND: dict[str, Any] = {"id": "b", "tags": [], "counts": {}, "lines": [], "flag": False, "x": -0.0}


def _source(folder: Path, kinds: dict[str, str], values: list[dict[str, Any]]) -> mg.Source:
    """A source of these rows: an Arrow file, which holds them exactly."""
    con = duckdb.connect()
    con.execute(f"CREATE TABLE t ({', '.join(f'{quote(name)} {kind}' for name, kind in kinds.items())})")
    for row in values:
        con.execute(f"INSERT INTO t VALUES ({', '.join('?' for _ in kinds)})", [row.get(name) for name in kinds])
    table = con.sql("FROM t").to_arrow_table()
    with pyarrow.ipc.new_file(folder / "in.arrow", table.schema) as out:
        out.write_table(table)
    return mg.source("in", mg.files(folder / "in.arrow"), schema=kinds)


def _avro(path: Path, schema: Any) -> list[dict[str, Any]]:
    with path.open("rb") as file:
        return [dict(row) for row in fastavro.reader(file)]  # type: ignore[arg-type, unused-ignore]


def _lines(path: Path, schema: Any) -> list[dict[str, Any]]:
    return [json.loads(line, parse_float=Decimal) for line in path.read_text().splitlines()]


def _csv(path: Path, schema: Any) -> list[dict[str, Any]]:
    return list(csv.DictReader(io.StringIO(path.read_text(), newline="")))


def _messages(path: Path, schema: Any) -> list[dict[str, Any]]:
    data, found = io.BytesIO(path.read_bytes()), []
    while (message := proto.parse_length_prefixed(schema.kind, data)) is not None:
        found.append({f.name: getattr(message, f.name) for f in message.DESCRIPTOR.fields})
    return found


READERS: dict[str, tuple[Callable[[Path, Any], list[dict[str, Any]]], dict[str, Any]]] = {
    "jsonl": (_lines, {"price": FIRST["price"], "raw": "AP8=", "instant": "2026-01-01T12:00:00.000005Z", "free": {"a": [1, None]}}),
    "csv": (
        _csv, {"price": str(FIRST["price"]), "raw": "AP8=", "instant": "2026-01-01 12:00:00.000005+00", "free": '{"a":[1,null]}'}
    ),
    "avro": (_avro, {n: FIRST[n] for n in ("price", "raw", "instant", "free", "clock", "day", "at")}),
    "pb": (_messages, {"price": str(FIRST["price"]), "raw": FIRST["raw"], "u": FIRST["u"], "n": FIRST["n"], "day": "0001-01-01"}),
    "parquet": (
        lambda path, _: pyarrow.parquet.read_table(path).to_pylist(), {n: FIRST[n] for n in ("price", "raw", "instant", "at")}
    ),
    "arrow": (
        lambda path, _: pyarrow.ipc.open_file(path).read_all().to_pylist(), {n: FIRST[n] for n in ("price", "raw", "instant", "u")}
    ),
}  # fmt: skip
"""By ending: the reference's rows of a file, and what some values of the first row are there."""


@pytest.mark.parametrize("ending", [*READERS, "jsonl.gz", "csv.zst"])
def test_every_type_is_read_back_as_it_was(ending: str, tmp_path: Path) -> None:
    kinds = PLAIN | (NESTED if "csv" not in ending else {})
    if ending == "pb":
        kinds = {name: kind for name, kind in kinds.items() if kind != "TIMESTAMP_NS"}  # read back as the text that it is
    flow = mg.Flow("f")
    stream = flow.read(_source(tmp_path, kinds, [FIRST, SECOND])).materialize("v")
    stream.write(mg.files(tmp_path / f"out/o-*.{ending}"))
    mg.run([flow], tmp_path / "s.duckdb")
    (file,) = (tmp_path / "out").iterdir()
    encoding = flow.written[0].encoding
    if ending in READERS:
        read, expected = READERS[ending]
        first = read(file, encoding.target.written)[0]
        assert first["id"] == FIRST["id"] and {name: first[name] for name in expected} == expected
    assert [(check.ok, check.rows) for check in verify([flow], tmp_path / "s.duckdb")] == [(True, 2)] * 2
    notation = {"avro": tmp_path / "own.avsc", "pb": tmp_path / "own.proto"}.get(ending)
    if notation is not None:
        notation.write_text(encoding.notation or "")
    again = mg.Flow("again")
    again.read(mg.source("back", mg.files(tmp_path / "out"), schema=notation or kinds)).materialize("v")
    mg.run([again], tmp_path / "t.duckdb")
    assert rows(tmp_path / "t.duckdb", "FROM merganser.dead_letters") == []
    casts = ", ".join(f"{quote(n)}::{k.removesuffix(' NOT NULL')}" for n, k in kinds.items())
    found, given = (rows(tmp_path / f"{name}.duckdb", f"SELECT {casts} FROM v ORDER BY id") for name in "ts")
    assert [_plain(row) for row in found] == [_plain(row) for row in given]


def _plain(row: tuple[Any, ...]) -> list[Any]:
    """Maps have no order, JSON has spaces as it likes."""
    return [json.loads(v) if isinstance(v, str) and v.startswith("{") else str(v) if isinstance(v, datetime) else v for v in row]


SCHEMA = {"type": "record", "name": "R", "fields": [
    {"name": "id", "type": "string"}, {"name": "n", "type": "int"},
    {"name": "kind", "type": {"type": "enum", "name": "K", "symbols": ["A", "B"]}},
    {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}},
    {"name": "price", "type": ["null", {"type": "bytes", "logicalType": "decimal", "precision": 4, "scale": 2}]},
]}  # fmt: skip
KINDS = {"id": "VARCHAR", "n": "BIGINT", "kind": "VARCHAR", "at": "TIMESTAMPTZ", "price": "DECIMAL(18,4)"}
GOOD: dict[str, Any] = {"id": "good", "n": 1, "kind": "A", "at": datetime(2026, 1, 1, tzinfo=UTC), "price": Decimal("1.50")}
BAD = [
    ({"n": 2**31}, "out of range", "column 'n': found 2147483648, which is no INTEGER without loss"),
    ({"kind": "C"}, "wrong type", "kind: found 'C', and the symbols are A, B"),
    ({"at": datetime(2026, 1, 1, 0, 0, 0, 1, UTC)}, "out of range", "no whole number of millis"),
    ({"price": Decimal("1.005")}, "out of range", "found 1.0050, which is no DECIMAL(4,2) without loss"),
    ({"price": Decimal("100")}, "out of range", "DECIMAL(4,2)"),
    ({"n": None}, "missing field", "is null"),
]


def test_a_row_that_the_schema_cannot_hold_is_a_dead_letter_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "r.avsc").write_text(json.dumps(SCHEMA))
    values = [GOOD | {"id": f"bad {i}"} | change for i, (change, _, _) in enumerate(BAD)]
    flow = mg.Flow("f")
    stream = flow.read(_source(tmp_path, KINDS, [GOOD, *values, GOOD | {"id": "last", "price": None}]))
    stream.write(mg.files(tmp_path / "out/o-*.avro"), schema=tmp_path / "r.avsc")
    mg.run([flow], tmp_path / "s.duckdb")
    (file,) = (tmp_path / "out").iterdir()
    assert [row["id"] for row in _avro(file, None)] == ["good", "last"]
    letters = rows(
        tmp_path / "s.duckdb", "SELECT view, reason, detail, decode(raw)->>'id' FROM merganser.dead_letters ORDER BY seq"
    )
    assert [(view, reason, name) for view, reason, _, name in letters] == [("o", r, f"bad {i}") for i, (_, r, _) in enumerate(BAD)]
    for (_, _, detail, _), (_, _, expected) in zip(letters, BAD):
        assert expected in detail and "test_formats.py" in detail
    balanced(tmp_path / "s.duckdb")
    assert [(check.ok, check.rows) for check in verify([flow], tmp_path / "s.duckdb")] == [(True, 2)]
    assert rows(tmp_path / "s.duckdb", "SELECT seq, sent FROM merganser.sinks") == [(2, 2)]


def test_json_has_no_nan(tmp_path: Path) -> None:
    flow = mg.Flow("f")
    values = [{"id": 'fine, "x":NaN}', "x": [1.0]}, {"id": "b", "x": [float("nan")]}]
    source = _source(tmp_path, {"id": "VARCHAR", "x": "DOUBLE[]"}, values)
    flow.read(source).write(out := mg.memory([]), name="out")
    mg.run([flow], tmp_path / "s.duckdb")
    assert [json.loads(row.value)["id"] for each in out.sent.values() for row in each] == ['fine, "x":NaN}']
    assert rows(tmp_path / "s.duckdb", "SELECT reason FROM merganser.dead_letters") == [("not finite",)]


@pytest.mark.parametrize(("sink", "kinds", "more", "message"), [
    ("o-*.avro", KINDS | {"extra": "INTEGER"}, {"schema": "r.avsc"}, "has no field for column 'extra'"),
    ("o-*.avro", {"id": "VARCHAR"}, {"schema": "r.avsc"}, "has a field 'n', 'kind', 'at', 'price' that the stream has not"),
    ("o-*.avro", KINDS | {"n": "VARCHAR"}, {"schema": "r.avsc"}, "column 'n' is VARCHAR, but its field is INTEGER"),
    ("o-*.avro", {"a b": "INTEGER"}, {}, "a b"),
    ("o-*.csv", {"tags": "VARCHAR[]"}, {}, "CSV has no VARCHAR\\[\\]"),
    ("o-*.parquet", {"u": "UNION(a INTEGER, b VARCHAR)"}, {}, "Parquet has no UNION"),
    ("o-*.pb", {"m": "INTEGER[][]"}, {}, "Protocol Buffers have no INTEGER"),
    ("o-*.jsonl", {"a": "INTEGER"}, {"subject": "x"}, "subject="),
    ("o-*.jsonl", {"a": "DOUBLE"}, {"schema": {"a": "FLOAT"}}, "column 'a' is DOUBLE, but its field is FLOAT"),
])  # fmt: skip
def test_what_cannot_be_written_is_told_on_the_users_line(
    sink: str, kinds: dict[str, str], more: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("r.avsc").write_text(json.dumps(SCHEMA))
    stream = mg.Flow("f").read(mg.source("s", mg.memory([]), schema=kinds))
    with pytest.raises(mg.FlowError, match=message) as found:
        stream.write(mg.files(sink), **more)
    assert "test_formats.py" in str(found.value.where)


def test_another_schema_is_another_plan(tmp_path: Path) -> None:
    source = _source(tmp_path, {"id": "VARCHAR", "n": "INTEGER"}, [{"id": "a", "n": 1}])
    for kind, message in (("BIGINT", None), ("DOUBLE", "write it under another name")):
        flow = mg.Flow("f")
        flow.read(source).write(mg.files(tmp_path / "out/o-*.parquet"), schema={"id": "VARCHAR", "n": kind})
        if message is None:
            mg.run([flow], tmp_path / "s.duckdb")
        else:
            with pytest.raises(mg.PlanChangedError, match=message):
                mg.run([flow], tmp_path / "s.duckdb")


KILLED = """
import sys
import merganser as mg
from merganser import faults
from merganser.verify import verify

flow = mg.Flow("f")
stream = flow.read(mg.source("in", mg.files("in.jsonl"), schema={"id": "BIGINT", "s": "VARCHAR"}))
for ending in ("parquet", "avro", "csv", "pb", "arrow", "jsonl.zst"):
    stream.write(mg.files(f"out/{ending[:3]}-*.{ending}"))
if sys.argv[1:] == ["verify"]:
    for check in verify([flow], "s.duckdb"):
        print(check.ok, check.rows)
else:
    if len(sys.argv) > 1:
        faults.arm(sys.argv[1], int(sys.argv[2]))
    mg.run([flow], "s.duckdb")
"""


@pytest.mark.crash
def test_files_of_all_formats_are_whole_and_hold_each_row_once_after_kills(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps({"id": i, "s": f'x"{i}'}) + "\n" for i in range(30_000)))
    (tmp_path / "flow.py").write_text(KILLED)
    for fault in (["step.write", "2"], ["sink.within", "4"], ["sink.after", "3"], ["sink.before", "2"], []):
        done = subprocess.run([sys.executable, "flow.py", *fault], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == (-9 if fault else 0), done.stderr
    told = subprocess.run([sys.executable, "flow.py", "verify"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert told.stdout.splitlines() == ["True 30000"] * 6

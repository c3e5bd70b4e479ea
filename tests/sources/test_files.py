"""Files that change, break off or are odd: a clear error, and nothing lost."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.parquet
import pytest

import merganser as mg
from merganser.codecs import Chunk, Place
from merganser.codecs.columnar import ColumnarCodec
from merganser.schema import Schema
from merganser.sources import columnar
from tests.flows import rows

INTERVAL = pa.month_day_nano_interval()

SCHEMA = {"id": "BIGINT NOT NULL", "name": "VARCHAR"}


def _lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({"id": n, "name": f"n{n}"}).encode() + b"\n" for n in numbers)


def _run(folder: Path, pattern: str = "*.jsonl", **more) -> list[int]:
    flow = mg.Flow("f")
    events = mg.source("events", mg.files(str(folder / pattern), **more), schema=SCHEMA)
    flow.read(events).materialize("v")
    mg.run([flow], folder / "s.duckdb")
    return [n for (n,) in rows(folder / "s.duckdb", "SELECT id FROM v ORDER BY id")]


def _dead(folder: Path) -> list[tuple]:
    return rows(folder / "s.duckdb", "SELECT reason, line, byte, raw FROM merganser.dead_letters ORDER BY seq")


def test_files_that_grow_and_new_files_are_gone_on_with(tmp_path: Path) -> None:
    (tmp_path / "b.jsonl").write_bytes(_lines(1, 2))
    assert _run(tmp_path) == [1, 2]
    with (tmp_path / "b.jsonl").open("ab") as file:
        file.write(_lines(3))
    (tmp_path / "a.jsonl").write_bytes(_lines(4))  # sorts before, but comes after
    assert _run(tmp_path) == [1, 2, 3, 4]
    assert _run(tmp_path) == [1, 2, 3, 4]


def test_a_file_that_grows_behind_a_later_one_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(1))
    (tmp_path / "b.jsonl").write_bytes(_lines(2))
    assert _run(tmp_path) == [1, 2]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(_lines(3))
    with pytest.raises(mg.SourceError, match=r"a\.jsonl grew by"):
        _run(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [(_lines(1), "got shorter"), (_lines(9, 2, 3), "was replaced"), (b"", "got shorter")],
)
def test_a_file_that_got_shorter_or_was_replaced(text: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(1, 2))
    assert _run(tmp_path) == [1, 2]
    (tmp_path / "a.jsonl").write_bytes(text)
    with pytest.raises(mg.SourceError, match=message):
        _run(tmp_path)


def test_a_file_that_was_read_may_be_rotated_away(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(1, 2))
    assert _run(tmp_path) == [1, 2]
    (tmp_path / "a.jsonl").unlink()
    (tmp_path / "b.jsonl").write_bytes(_lines(3))
    assert _run(tmp_path) == [1, 2, 3]


def test_a_last_line_without_an_end_that_is_gone_on_with_later(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(1) + b'{"id": 2}')
    assert _run(tmp_path) == [1, 2]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b"\n" + _lines(3))
    assert _run(tmp_path) == [1, 2, 3]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b'{"id": 4}')
    assert _run(tmp_path) == [1, 2, 3, 4]
    with (tmp_path / "a.jsonl").open("ab") as file:
        file.write(b"4}\n")
    with pytest.raises(mg.SourceError, match="had no line end when it was read"):
        _run(tmp_path)


@pytest.mark.parametrize("limit", [60, 200])
def test_records_that_are_too_long(limit: int, tmp_path: Path) -> None:
    long = b'{"id": 2, "name": "' + b"x" * 300 + b'"}'
    (tmp_path / "a.jsonl").write_bytes(_lines(1) + long + b"\n" + _lines(3, 4))
    assert _run(tmp_path, max_record_bytes=limit) == [1, 3, 4]
    [(reason, line, byte, raw)] = _dead(tmp_path)
    assert (reason, line, byte) == ("too long", 2, len(_lines(1)))
    assert long.startswith(raw)
    sql = "SELECT position::JSON->>'$.at.byte', position::JSON->>'$.at.line' FROM merganser.positions"
    [(at, lines)] = rows(tmp_path / "s.duckdb", sql)
    assert (int(at), int(lines)) == ((tmp_path / "a.jsonl").stat().st_size, 4)


def test_a_record_longer_than_a_chunk(tmp_path: Path) -> None:
    long = json.dumps({"id": 2, "name": "x" * 100_000}).encode() + b"\n"
    (tmp_path / "a.jsonl").write_bytes(_lines(1) + long + _lines(3))
    flow = mg.Flow("f")
    flow.read(mg.source("events", mg.files(tmp_path / "a.jsonl"), schema=SCHEMA)).materialize("v")
    mg.run([flow], tmp_path / "s.duckdb", chunk_bytes=1000)
    assert rows(tmp_path / "s.duckdb", "SELECT id, length(name) FROM v ORDER BY id") == [(1, 2), (2, 100_000), (3, 2)]


def test_a_compressed_file_that_breaks_off(tmp_path: Path) -> None:
    whole = gzip.compress(_lines(*range(5000)))
    (tmp_path / "a.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(mg.SourceError, match=r"a\.jsonl\.gz cannot be decompressed behind byte"):
        _run(tmp_path, "*.gz")


@pytest.mark.parametrize("line", [b"", b"{", b"null", b'"x"', b"[1]", b'{"id": "x"}', b'{"id": 1.5}', b'{"name": "x"}', b"\xc3("])
@pytest.mark.parametrize("where", [0, 2, 4])
def test_a_bad_line_and_its_neighbours(line: bytes, where: int, tmp_path: Path) -> None:
    good = _lines(0, 1, 2, 3).splitlines()
    good.insert(where, line)
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(good) + b"\n")
    assert _run(tmp_path) == [0, 1, 2, 3]
    [(_, number, byte, raw)] = _dead(tmp_path)
    assert (number, byte, raw) == (where + 1, sum(len(x) + 1 for x in good[:where]), line)


CSV = 'name,id\n"a, ""b""\nc",1\n'


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x", "wrong number of fields"), ("x,2,3", "wrong number of fields"), ("x,two", "wrong type"), ("x,", "missing field"),
        ("", "empty line"), ("x,1.5", "wrong type"),
    ],
)  # fmt: skip
def test_a_bad_csv_record_and_its_neighbours(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(f"{CSV}{line}\nlast,3\n")
    assert _run(tmp_path, "*.csv") == [1, 3]
    assert _dead(tmp_path) == [(reason, 4, len(CSV), line.encode())]
    assert rows(tmp_path / "s.duckdb", "SELECT name FROM v WHERE id = 1") == [('a, "b"\nc',)]


def test_a_csv_without_a_declared_column(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("id,nom\n1,x\n")
    with pytest.raises(mg.SourceError, match=r"no column name; it has id, nom"):
        _run(tmp_path, "*.csv")


def test_a_parquet_file_that_does_not_fit(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": [[1]], "name": ["y"]}), tmp_path / "a.parquet")
    with pytest.raises(mg.SourceError, match=r"a\.parquet: column 'id' is list<element: int64>, which cannot be read as BIGINT"):
        _run(tmp_path, "*.parquet")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(mg.SourceError, match="cannot be read as parquet"):
        _run(tmp_path, "*.parquet")


def test_values_of_a_column_that_its_declared_type_cannot_hold_are_dead_letters(tmp_path: Path) -> None:
    """Each type of a Parquet or Arrow file that is read as a coarser or smaller one, against the values that survive in SQL."""
    nanos, micros = pa.timestamp("ns"), pa.timestamp("us")
    cases: list[tuple[str, Any, Any, str, str]] = [
        ("TIMESTAMP", pa.array([1_000], nanos), pa.array([1_001], nanos), "out of range", "TIMESTAMP_NS and TIMESTAMPTZ_NS hold"),
        ("TIMESTAMP_MS", pa.array([1_000], micros), pa.array([1_001], micros), "out of range", ""),
        ("TIME", pa.array([1_000], pa.time64("ns")), pa.array([1_001], pa.time64("ns")), "out of range", "TIME_NS holds nanosec"),
        ("DATE", pa.array([0], micros), pa.array([1], micros), "out of range", ""),
        ("INTEGER", pa.array([7]), pa.array([1 << 40]), "out of range", ""),
        ("INTEGER", pa.array(["7"]), pa.array(["x"]), "wrong type", ""),
        ("BIGINT", pa.array([7.0]), pa.array([7.5]), "out of range", ""),
        ("DECIMAL(9,2)", pa.array([0.25]), pa.array([0.125]), "out of range", ""),
        ("INTERVAL", pa.array([(0, 0, 1_000)], INTERVAL), pa.array([(0, 0, 1_001)], INTERVAL), "out of range", ""),
        ("TIMESTAMP[]", pa.array([[1_000]], pa.list_(nanos)), pa.array([[0, 1_001]], pa.list_(nanos)), "out of range", ""),
    ]
    for kind, good, bad, reason, remedy in cases:
        whole = pa.concat_arrays([good, bad, pa.nulls(1, good.type), bad, good])
        table = pa.table({"n": range(len(whole)), "x": whole})
        chunk = Chunk("s", "", 5, len(table), Place("a.arrow", None, 1), table, {}, 0)
        schema = Schema.declare({"n": "BIGINT", "x": kind})
        decoded = ColumnarCodec(schema).decode(chunk)
        assert decoded.table["n"].to_pylist() == [0, 2, 4], kind
        assert decoded.table.schema.field("x").type == schema.arrow_schema().field(1).type
        assert decoded.table["x"].is_null().to_pylist() == [False, True, False]
        assert [(r.seq, r.reason, r.place.line) for r in decoded.rejects] == [(6, reason, 2), (8, reason, 4)]
        assert remedy in decoded.rejects[0].detail and "column 'x'" in decoded.rejects[0].detail
        assert json.loads(decoded.rejects[0].raw)["n"] == 1


def test_a_row_group_that_would_fill_the_memory_stops_before_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some kilobytes that stand for a million values, behind a row group that is read."""
    path = tmp_path / "a.parquet"
    with pyarrow.parquet.ParquetWriter(path, pa.schema({"id": pa.int64(), "name": pa.string()}), compression="zstd") as out:
        for count in (10, 1_000_000):
            out.write_table(pa.table({"id": pa.repeat(pa.scalar(7), count), "name": pa.nulls(count, pa.string())}))
    assert path.stat().st_size < 10_000
    monkeypatch.setattr(columnar, "MAX_GROUP", 8 << 20)
    with pytest.raises(mg.SourceError, match=r"row group 1 cannot be read \(it becomes 12,000,000 bytes, at most 8,388,608"):
        _run(tmp_path, "*.parquet")


def test_a_null_in_a_required_parquet_column(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({"id": [1, None, 3], "name": ["a", "b", None]}), tmp_path / "a.parquet")
    assert _run(tmp_path, "*.parquet") == [1, 3]
    assert _dead(tmp_path) == [("missing field", 2, None, b'{"id": null, "name": "b"}')]


def test_what_cannot_be_read_at_all(tmp_path: Path) -> None:
    with pytest.raises(mg.UsageError, match="no file matches"):
        _run(tmp_path)
    with pytest.raises(mg.FlowError, match=r"known are \.jsonl"):
        mg.files("data/orders.xml")
    with pytest.raises(mg.FlowError, match="partition_by"):
        mg.files("data/*.jsonl", partition_by="day")


def _avro(path: Path, *numbers: int) -> bytes:
    kinds = {"type": "record", "name": "R", "fields": [{"name": "id", "type": "long"}, {"name": "name", "type": "string"}]}
    with path.open("wb") as out:
        fastavro.writer(out, kinds, [{"id": n, "name": "x"} for n in numbers])
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda raw: b"PAR1" + raw[4:], "it begins with b'PAR1', not with b'Obj"),
        (lambda raw: raw[:40], "it is cut off within its header"),
        (lambda raw: raw.replace(b'"record"', b'"recipe"'), "the schema in its header is no Avro schema"),
        (lambda raw: raw.replace(b"\x08null", b"\x08lzma"), "it is compressed with 'lzma'; known are null, deflate"),
        (lambda raw: raw.replace(b"avro.codec", b"avro.code\xff"), "a key in its header .* is no text"),
        (lambda raw: raw[:4] + b"\xff" * 12 + raw[16:], "there is a number of more than ten bytes"),
    ],
)
@pytest.mark.parametrize("partition_by", [None, "file"])
@pytest.mark.parametrize("mended", [True, False])
def test_an_avro_file_with_a_damaged_header(
    damage: Callable[[bytes], bytes], why: str, partition_by: str | None, mended: bool, tmp_path: Path
) -> None:
    """What was read before is kept, of other partitions too; the run goes on once the file is whole, or gone."""
    _avro(tmp_path / "a.avro", 1, 2)
    whole = _avro(tmp_path / "b.avro", 3)
    (tmp_path / "b.avro").write_bytes(damage(whole))
    if partition_by is None:
        _avro(tmp_path / "c.avro", 4)  # behind it in the log
    for _ in range(2):
        with pytest.raises(mg.SourceError, match=rf"b\.avro cannot be read as an Avro container file: {why}.*; put the whole file"):
            _run(tmp_path, "*.avro", partition_by=partition_by)
        assert rows(tmp_path / "s.duckdb", "SELECT id FROM v ORDER BY id") == [(1,), (2,)]
    if mended:
        (tmp_path / "b.avro").write_bytes(whole)
    else:
        (tmp_path / "b.avro").unlink()
    assert _run(tmp_path, "*.avro", partition_by=partition_by) == [1, 2] + [3] * mended + [4] * (partition_by is None)

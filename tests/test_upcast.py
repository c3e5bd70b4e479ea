"""Upcasters: events of every version reach the views as the current one; what is stored stays as it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import fastavro
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet
import pytest

import merganser as mg
from merganser import dead_letters, engine
from merganser.dead_letters import Selection
from merganser.errors import FlowError, PlanChangedError, SourceError
from merganser.store import Store
from merganser.verify import verify
from tests.flows import balanced, rows

SCHEMA = {"id": "VARCHAR NOT NULL", "at": "TIMESTAMP", "v": "INTEGER", "name": "VARCHAR NOT NULL", "cents": "BIGINT NOT NULL"}
EVENTS: list[dict[str, Any]] = [
    {"id": "a", "at": "2026-01-01 00:00:01", "first": "Ada", "last": "L", "euros": "1.50"},  # before versions were written
    {"id": "b", "at": "2026-01-01 00:00:02", "v": 1, "first": "Bo", "last": "M", "euros": "2.25"},
    {"id": "c", "at": "2026-01-01 00:00:03", "v": 2, "name": "Cy N", "euros": "3"},
    {"id": "d", "at": "2026-01-01 00:00:04", "v": 3, "name": "Di O", "cents": 475},
    {"id": "e", "at": "2026-01-01 00:00:05", "v": 2, "name": "Ed P", "euros": "much"},
    {"id": "f", "at": "2026-01-01 00:00:06", "v": 3, "name": "Flo"},
    {"id": "g", "at": "2026-01-01 00:00:07", "v": 4, "name": "Gus", "cents": 5},
]


def cents(table: pa.Table) -> pa.Table:
    """From version 2 to 3, in Python."""
    euros = table["euros"].cast(pa.decimal128(10, 2))
    return table.set_column(table.column_names.index("cents"), "cents", pc.multiply(euros, 100).cast(pa.int64()))


def orders(connector: Any, *, python: bool = False) -> mg.Source:
    made = mg.source("orders", connector, schema=SCHEMA, time="at", lateness="1 minute", version="v")
    made = made.upcast(1, sql={"name": "first || ' ' || last"}, columns={"first": "VARCHAR", "last": "VARCHAR", "euros": "VARCHAR"})
    if python:
        return made.upcast(2, fn=cents)
    return made.upcast(2, sql={"cents": "euros::DECIMAL(10,2) * 100"})


@pytest.mark.parametrize("python", [False, True])
def test_versions_are_chained_and_bad_ones_are_dead_letters(tmp_path: Path, python: bool) -> None:
    path = tmp_path / "o.jsonl"
    before = "".join(json.dumps(e) + "\n" for e in EVENTS)
    path.write_text(before)
    flow = mg.Flow("f")
    flow.read(orders(mg.files(path), python=python)).materialize("kept")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    assert rows(store, "SELECT id, v, name, cents FROM kept ORDER BY id") == [
        ("a", None, "Ada L", 150), ("b", 1, "Bo M", 225), ("c", 2, "Cy N", 300), ("d", 3, "Di O", 475), ("g", 4, "Gus", 5)
    ]  # fmt: skip
    dead = rows(store, "SELECT seq, reason, line FROM merganser.dead_letters ORDER BY seq")
    assert dead == [(4, "not upcast", 5), (5, "missing field", 6)]
    assert path.read_text() == before
    balanced(store)
    assert all(check.ok for check in verify([flow], store))
    with Store(store) as opened:
        dead_letters.fix_by_sql(opened, Selection(where="seq = 4"), "replace(text, 'much', '4.50')")
    assert engine.redrive([flow], Selection(where="seq = 4"), store).applied == 1  # type: ignore[union-attr] # not stopped
    assert rows(store, "SELECT name, cents FROM kept WHERE id = 'e'") == [("Ed P", 450)]
    assert all(check.ok for check in verify([flow], store))


def test_another_upcaster_is_another_plan(tmp_path: Path) -> None:
    connector = mg.memory(EVENTS)
    first, second = mg.Flow("f"), mg.Flow("f")
    first.read(orders(connector)).materialize("kept")
    second.read(orders(connector, python=True)).materialize("kept")
    mg.run([first], tmp_path / "s.duckdb")
    with pytest.raises(PlanChangedError, match="upcast 2: cents = euros"):
        mg.run([second], tmp_path / "s.duckdb")


def test_mistakes_are_told_on_the_users_line(tmp_path: Path) -> None:
    plain = mg.source("orders", mg.memory([]), schema=SCHEMA, time="at")
    with pytest.raises(FlowError, match=r"test_upcast\.py:\d+: upcast\(\) needs version="):
        plain.upcast(1, sql={"name": "'x'"})
    made = mg.source("orders", mg.memory([]), schema=SCHEMA, time="at", version="v")
    with pytest.raises(FlowError, match="either sql="):
        made.upcast(1)
    with pytest.raises(FlowError, match="there is no such column; there are id, at"):
        made.upcast(1, sql={"nme": "'x'"})
    with pytest.raises(FlowError, match="frist"):
        made.upcast(1, sql={"name": "frist"}, columns={"first": "VARCHAR"})
    with pytest.raises(FlowError, match="an upcaster from version 1 already"):
        made.upcast(1, sql={"name": "'x'"}).upcast(1, sql={"name": "'y'"})
    with pytest.raises(FlowError, match="version='w' is no column"):
        mg.source("orders", mg.memory([]), schema=SCHEMA, version="w")


def test_the_folder_of_a_file_says_the_version(tmp_path: Path) -> None:
    """``v1/``, ``v2/`` anywhere above a file; letters come back by it too."""
    for file, *events in (("a/v1/1.jsonl", EVENTS[1]), ("a/v2/1.jsonl", EVENTS[2], EVENTS[4]), ("b.jsonl", EVENTS[0])):
        (tmp_path / "o" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "o" / file).write_text("".join(json.dumps(e | {"v": 9}) + "\n" for e in events))
    made = orders(mg.files([tmp_path / "o/a/*/*.jsonl", tmp_path / "o"], columns={"v": "folder.version"}))
    flow = mg.Flow("f")
    flow.read(made).materialize("kept")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    assert rows(store, "SELECT id, v, name, cents FROM kept ORDER BY id") == [
        ("a", None, "Ada L", 150), ("b", 1, "Bo M", 225), ("c", 2, "Cy N", 300)
    ]  # fmt: skip
    with Store(store) as opened:
        dead_letters.fix_by_sql(opened, Selection(), "replace(text, 'much', '4.50')")
    assert engine.redrive([flow], Selection(), store).applied == 1  # type: ignore[union-attr] # not stopped
    assert rows(store, "SELECT v, name, cents FROM kept WHERE id = 'e'") == [(2, "Ed P", 450)]
    assert all(check.ok for check in verify([flow], store))
    with pytest.raises(FlowError, match="a file has 'folder"):
        mg.files(tmp_path, columns={"v": "folder"})


@pytest.mark.parametrize("ending", ["parquet", "arrow", "avro"])
def test_a_mended_record_of_a_file_with_types_is_upcast(tmp_path: Path, ending: str) -> None:
    for version, event in ((1, EVENTS[1]), (2, EVENTS[2]), (2, EVENTS[4])):
        folder = tmp_path / f"v{version}"
        folder.mkdir(exist_ok=True)
        _write(pa.Table.from_pylist([{k: v for k, v in event.items() if k != "v"}]), folder / f"{event['id']}.{ending}")
    made = mg.source(
        "orders", mg.files(tmp_path / "*" / f"*.{ending}", columns={"v": "folder.version"}), version="v",
        schema={"id": "VARCHAR NOT NULL", "v": "INTEGER", "name": "VARCHAR NOT NULL", "cents": "BIGINT NOT NULL"},
    )  # fmt: skip
    made = made.upcast(1, sql={"name": "first || ' ' || last"}, columns={"first": "VARCHAR", "last": "VARCHAR", "euros": "VARCHAR"})
    made = made.upcast(2, sql={"cents": "euros::DECIMAL(10,2) * 100"})
    flow = mg.Flow("f")
    flow.read(made).materialize("kept")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    with Store(store) as opened:
        expression = "replace(text, 'much', '4.50')" if ending != "avro" else "replace(text, '\x08much', '\x084.50')"
        dead_letters.fix_by_sql(opened, Selection(), expression)
    assert engine.redrive([flow], Selection(), store).applied == 1  # type: ignore[union-attr] # not stopped
    assert rows(store, "SELECT id, v, name, cents FROM kept ORDER BY id") == [
        ("b", 1, "Bo M", 225), ("c", 2, "Cy N", 300), ("e", 2, "Ed P", 450)
    ]  # fmt: skip
    assert all(check.ok for check in verify([flow], store))


def test_a_version_must_be_a_number() -> None:
    with pytest.raises(FlowError, match="version='name' is a VARCHAR; declare it in the schema as an INTEGER"):
        mg.source("orders", mg.memory([]), schema=SCHEMA, version="name")


@pytest.mark.parametrize("ending", ["csv", "parquet", "avro"])
def test_files_that_were_written_without_a_column(tmp_path: Path, ending: str) -> None:
    """Each version's files have its columns; of others only those count that may be missing."""
    old, new = pa.table({"id": ["a"], "euros": ["1.50"]}), pa.table({"id": ["b"], "cents": pa.array([225], pa.int64())})
    for version, table in ((1, old), (2, new)):
        folder = tmp_path / f"v{version}"
        folder.mkdir()
        _write(table, folder / f"e.{ending}")
    schema = {"id": "VARCHAR NOT NULL", "cents": "BIGINT NOT NULL"}
    connector = mg.files(tmp_path / f"*/e.{ending}", columns={"v": "folder.version"})
    made = mg.source("prices", connector, schema=schema, version="v")
    made = made.upcast(1, sql={"cents": "euros::DECIMAL(9,2) * 100"}, columns={"euros": "VARCHAR"})
    flow = mg.Flow("f")
    flow.read(made).materialize("kept")
    flow.read(mg.source("ids", connector, schema={"id": "VARCHAR", "euros": "VARCHAR DEFAULT NULL"})).materialize("ids")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id, v, cents FROM kept ORDER BY id") == [("a", 1, 150), ("b", 2, 225)]
    assert rows(tmp_path / "s.duckdb", "SELECT id, euros FROM ids ORDER BY id") == [("a", "1.50"), ("b", None)]
    strict = mg.Flow("f")
    strict.read(mg.source("ids", connector, schema={"id": "VARCHAR", "euros": "VARCHAR"})).materialize("ids")
    with pytest.raises(SourceError, match=r"has no column euros; it has id, cents\. One that is not in everything is declared"):
        mg.run([strict], tmp_path / "t.duckdb")


def _write(table: pa.Table, path: Path) -> None:
    if path.suffix == ".csv":
        pyarrow.csv.write_csv(table, path)
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path)
    elif path.suffix == ".arrow":
        with pyarrow.ipc.new_file(path, table.schema) as out:
            out.write_table(table)
    else:
        fields = [{"name": name, "type": "long" if name == "cents" else "string"} for name in table.column_names]
        with path.open("wb") as out:
            fastavro.writer(out, {"type": "record", "name": "R", "fields": fields}, table.to_pylist())

"""The row-local verbs, and what becomes of rows that cannot be computed."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import SCHEMA, balanced, event, rows, source

EVENTS = [event(f"e{i}", i, "ab"[i % 2], i) for i in range(10)]


def _view(make, tmp_path: Path, events=EVENTS, schema=SCHEMA, **more) -> Path:
    flow = mg.Flow("r")
    make(flow.read(source(events, schema=schema, **more))).materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    balanced(tmp_path / "s.duckdb")
    return tmp_path / "s.duckdb"


def test_filter_select_derive_drop(tmp_path: Path) -> None:
    store = _view(
        lambda s: s.filter("n > 3").derive(n="n * 2", big="n > 7").select("key", "big", n="n + 1").drop("key"), tmp_path
    )
    assert rows(store, "SELECT big, n FROM v ORDER BY n") == [(i > 7, 2 * i + 1) for i in range(4, 10)]


def test_a_later_filter_is_not_asked_about_rows_that_are_out(tmp_path: Path) -> None:
    events = [event("1", 0, "1"), event("2", 1, "no number"), event("3", 2, "3")]
    store = _view(lambda s: s.filter("key <> 'no number'").filter("key::INTEGER > 1"), tmp_path, events)
    assert rows(store, "SELECT key FROM v") == [("3",)]
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters") == [(0,)]


def test_explode(tmp_path: Path) -> None:
    schema = SCHEMA | {"tags": "VARCHAR[]"}
    events = [event("1", 0, tags=["x", "y"]), event("2", 1, tags=[]), event("3", 2, tags=None), event("4", 3, tags=["y"])]
    store = _view(lambda s: s.explode("tags"), tmp_path, events, schema)
    assert rows(store, "SELECT id, tags FROM v ORDER BY ALL") == [("1", "x"), ("1", "y"), ("4", "y")]
    assert rows(store, "SELECT read, applied, filtered FROM merganser.commits") == [(4, 2, 2)]


def test_a_row_that_cannot_be_computed_is_a_dead_letter(tmp_path: Path) -> None:
    events = [event("1", 0, "12"), event("2", 1, "twelve"), event("3", 2, "13")]
    store = _view(lambda s: s.derive(number="key::INTEGER"), tmp_path, events)
    assert rows(store, "SELECT number FROM v ORDER BY ALL") == [(12,), (13,)]
    [(view, seq, reason, detail, raw)] = rows(store, "SELECT view, seq, reason, detail, raw FROM merganser.dead_letters")
    assert (view, seq, reason) == ("v", 1, "not computed")
    assert "twelve" in detail and "test_rowlocal.py" in detail
    assert json.loads(raw) == events[1]


def test_a_duplicate_of_a_row_that_cannot_be_computed_is_a_duplicate(tmp_path: Path) -> None:
    """Behind deduplicate the first one is a dead letter and the others are gone; before it each is a dead letter."""
    events = [event("1", 0, "x"), event("1", 0, "x"), event("1", 0, "7"), event("2", 1, "3")]
    flow = mg.Flow("r")
    read = flow.read(source(events))
    read.deduplicate().derive(number="key::INTEGER").materialize("behind")
    read.derive(number="key::INTEGER").deduplicate().materialize("before")
    doubled = read.deduplicate().map_batches(_doubled, schema={"n": "BIGINT"})
    doubled.materialize("mapped")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store)
    balanced(store)
    assert rows(store, "SELECT number FROM behind") == [(3,)] and rows(store, "SELECT number FROM before") == [(7,), (3,)]
    letters = "SELECT view, seq FROM merganser.dead_letters ORDER BY ALL"
    assert rows(store, letters) == [("before", 0), ("before", 1), ("behind", 0), ("mapped", 0)]
    assert [check.view for check in verify([flow], store) if not check.ok] == []


def _doubled(table: pa.Table) -> pa.Table:
    return pa.table({"n": [2 * int(key) for key in table["key"].to_pylist()]})


def test_the_same_behind_a_stateful_verb(tmp_path: Path) -> None:
    events = [event("1", 0, "12"), event("2", 1, "twelve"), event("2", 1, "twelve"), event("3", 2, "13")]
    store = _view(lambda s: s.deduplicate().derive(number="key::INTEGER").filter("number > 12"), tmp_path, events)
    assert rows(store, "SELECT number FROM v") == [(13,)]
    assert rows(store, "SELECT seq, raw::VARCHAR LIKE '%twelve%' FROM merganser.dead_letters") == [(1, True)]
    assert rows(store, "SELECT applied, filtered, duplicate, dead FROM merganser.commits") == [(1, 1, 1, 1)]


def test_on_error_stop(tmp_path: Path) -> None:
    with pytest.raises(mg.RecordError, match=r"memory:0:2.*on_error='stop'"):
        _view(lambda s: s.derive(x="key::INTEGER"), tmp_path, [event("1", 0, "1"), event("2", 1, "x")], on_error="stop")
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM v") == [(0,)]


def test_map_batches(tmp_path: Path) -> None:
    def doubled(table: pa.Table) -> pa.Table:
        return pa.table({"key": table["key"], "twice": pc.multiply(table["n"], 2)})

    store = _view(
        lambda s: s.filter("n < 4").map_batches(doubled, {"key": "VARCHAR", "twice": "BIGINT"}).deduplicate().filter("twice > 0"),
        tmp_path,
    )
    assert rows(store, "SELECT key, twice FROM v ORDER BY twice") == [("b", 2), ("a", 4), ("b", 6)]


def test_map_batches_that_raises_for_a_row(tmp_path: Path) -> None:
    def picky(table: pa.Table) -> pa.Table:
        if 3 in table["n"].to_pylist():
            raise ValueError("three is not liked")
        return table.select(["n"])

    store = _view(lambda s: s.map_batches(picky, {"n": "BIGINT"}), tmp_path)
    assert rows(store, "SELECT count(*) FROM v") == [(9,)]
    assert rows(store, "SELECT seq, detail LIKE '%three is not liked%' FROM merganser.dead_letters") == [(3, True)]


def test_an_exploded_event_is_applied_as_a_whole_or_not_at_all(tmp_path: Path) -> None:
    """So that it brings each of its rows once when it comes back mended."""

    def picky(table: pa.Table) -> pa.Table:
        if not {"x", "y"}.isdisjoint(table["tags"].to_pylist()):
            raise ValueError("no x or y is liked")
        return table

    tags = (["1", "x", "y", "2"], ["3", "4"], [])
    events = [event(id, i, tags=those) for i, (id, those) in enumerate(zip("abc", tags))]
    schema = SCHEMA | {"tags": "VARCHAR[]"}
    store = _view(lambda s: s.explode("tags").map_batches(picky, SCHEMA | {"tags": "VARCHAR"}), tmp_path, events, schema)
    assert rows(store, "SELECT id, tags FROM v ORDER BY ALL") == [("b", "3"), ("b", "4")]
    assert rows(store, "SELECT applied, filtered, dead FROM merganser.commits") == [(1, 1, 1)]
    assert rows(store, "SELECT seq, reason FROM merganser.dead_letters") == [(0, "not computed")]


def test_map_batches_that_changes_the_number_of_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(mg.FlowError, match="returned 1 rows for 10"):
        _view(lambda s: s.map_batches(lambda t: t.slice(0, 1).select(["n"]), {"n": "BIGINT"}), tmp_path)


def test_what_is_computed_while_decoding_is_what_is_computed_afterwards(tmp_path: Path) -> None:
    """A filter that fails for a row, records that are bad, ids of a type that Arrow loses: each in a chunk of its own."""
    keys = ["1", "2", "x", "4", "4", "5", "6"]
    lines = [json.dumps(event(f"{i:032x}", i, key)) for i, key in enumerate(keys)]
    lines[4] = lines[3]
    (tmp_path / "e.jsonl").write_text("\n".join([*lines[:2], "{", *lines[2:], '{"key": "1"}']) + "\n")
    for kind in ("VARCHAR", "UUID"):
        flow = mg.Flow("r")
        events = mg.source("s", mg.files(tmp_path / "e.jsonl"), schema=SCHEMA | {"id": kind}, time="at", id="id")
        flow.read(events).filter("key::INTEGER > 1").deduplicate().select("key").materialize("v")
        for chunk_bytes in (1, 1 << 20):
            store = tmp_path / f"{kind}-{chunk_bytes}.duckdb"
            mg.run([flow], store, chunk_bytes=chunk_bytes)
            balanced(store)
            assert rows(store, "SELECT key FROM v ORDER BY ALL") == [("2",), ("4",), ("5",), ("6",)]
            found = rows(store, "SELECT reason, count(*) FROM merganser.dead_letters GROUP BY ALL ORDER BY ALL")
            assert found == [("no event time", 1), ("not computed", 1), ("not json", 1)]

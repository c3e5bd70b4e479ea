"""Epochs with more rows than DuckDB puts into a row group, or keeps beside the rows from before."""

from __future__ import annotations

from pathlib import Path

import duckdb

import merganser as mg
from tests.flows import rows


def test_a_quarter_of_a_million_sessions_that_close_at_once(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    moment = "TIMESTAMP '2026-01-01' + to_milliseconds(i)"
    duckdb.execute(f"COPY (SELECT i AS id, {moment} AS at, i % 5000 AS key FROM range(300000) t(i)) TO '{path}'")
    schema = {"id": "BIGINT", "at": "TIMESTAMP", "key": "BIGINT"}
    source = mg.source("e", mg.files(path), schema=schema, time="at", lateness="1 second")
    flow = mg.Flow("f")
    closed = flow.read(source).window(mg.session("1 second"), by="key").aggregate(n="count(*)", kinds="count(DISTINCT id)")
    closed.group_by("n").aggregate(sessions="count(*)", kinds="sum(kinds)").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb", epoch=60, chunk_bytes=1 << 28, epoch_bytes=1 << 30)
    # The watermark stands at 298.999 s: of the sessions, each of one event, those that ended by then.
    assert rows(tmp_path / "s.duckdb", "SELECT n, sessions, kinds FROM v") == [(1, 298_000, 298_000)]


def test_versions_that_come_in_large_epochs_are_taken_out_when_no_row_needs_them(tmp_path: Path) -> None:
    path = tmp_path / "events.parquet"
    moment = "TIMESTAMP '2026-01-01' + to_milliseconds(i)"
    rows_of = f"SELECT i AS id, {moment} AS at, 'k' || (i % 1000) AS key, i // 2 % 2 = 0 AS large FROM range(400000) t(i)"
    duckdb.execute(f"COPY ({rows_of}) TO '{path}' (ROW_GROUP_SIZE 60000)")
    schema = {"id": "BIGINT", "at": "TIMESTAMP", "key": "VARCHAR", "large": "BOOLEAN"}
    source = mg.source("e", mg.files(path), schema=schema, time="at", lateness="60 seconds")
    flow = mg.Flow("f")
    versions = flow.read(source).derive(version="id").select("key", "version")
    flow.read(source).filter("large").enrich(versions, on="key", as_of=True).materialize("v")
    store = tmp_path / "s.duckdb"
    mg.run([flow], store, epoch=60, chunk_bytes=1 << 16, epoch_bytes=1 << 16)
    assert rows(store, "SELECT count(*), count(*) FILTER (version = id), max(id) FROM v") == [(170_000, 170_000, 339_997)]

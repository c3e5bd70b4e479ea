"""What closes in one epoch may be more than DuckDB puts into a row group, and all of it reaches the verbs behind."""

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

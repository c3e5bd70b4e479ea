"""What there is to know about a store and the flow that runs on it, as plain data.

``merganser status``, ``top``, ``/status``, ``/health`` and ``/metrics`` all show what ``status`` returns, so it is gathered
here only: by queries of one commit, and by the running flow's own figures where there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from merganser.lag import Lag, lags
from merganser.sql import quote

Status = dict[str, Any]
"""Names to numbers, texts, lists and dicts: what JSON can hold. Times are microseconds of event time, or seconds."""

Read = Callable[[Sequence[str]], list[pa.Table]]
"""Answers some queries from one snapshot."""


class Live(Protocol):
    """A running flow, as it is seen by those who ask about it."""

    def figures(self) -> Status:
        """What it has done since it began: see ``engine.figures``."""
        ...

    def waiter(self) -> Callable[[], bool]:
        """A function that is True once everything that was there to read at this call has been committed."""
        ...


QUERIES: dict[str, str] = {
    "meta": "SELECT key, value FROM merganser.meta",
    "views": "SELECT view, flow, status AS state, cohort FROM merganser.views ORDER BY flow, cohort NULLS LAST, view",
    "positions": (
        "SELECT p.source, p.partition, p.cohort, p.seq AS records, p.max_time AS newest, w.watermark AS final,"
        " p.position::JSON->>'$.file' AS file, p.ended FROM merganser.positions p"
        " LEFT JOIN merganser_state.watermarks w USING (cohort, source) ORDER BY ALL"
    ),
    "books": (
        "SELECT view, source, sum(read)::BIGINT AS read, sum(applied)::BIGINT AS applied, sum(filtered)::BIGINT AS filtered,"
        " sum(late)::BIGINT AS late, sum(duplicate)::BIGINT AS duplicate, sum(dead)::BIGINT AS dead"
        " FROM merganser.commits GROUP BY ALL ORDER BY ALL"
    ),
    "dead_letters": (
        "SELECT source, reason, count(*) AS records FROM merganser.dead_letters GROUP BY ALL ORDER BY ALL"
    ),
    "late": (
        "SELECT view, source, count(*) AS rows, max(watermark - event_time)::VARCHAR AS latest_by"
        " FROM merganser.late GROUP BY ALL ORDER BY ALL"
    ),
    "sinks": (
        "SELECT sink, seq AS rows, sent, (SELECT count(*) FROM merganser.outbox o WHERE o.sink = s.sink AND o.seq > s.sent)"
        " AS waiting FROM merganser.sinks s ORDER BY sink"
    ),
    "shown": "SELECT view_name AS name FROM duckdb_views() WHERE schema_name = 'main'",
    "state": (
        "SELECT table_name AS table FROM duckdb_tables() WHERE database_name = 'store' AND schema_name = 'merganser_state'"
        " AND table_name NOT IN ('watermarks', 'tables') ORDER BY ALL"
    ),
    "commit": "SELECT max(epoch) AS epoch, epoch_us(max(committed_at)) AS at FROM merganser.commits",
}


def shown_lag(lag: Lag) -> Status:
    """A lag as plain data."""
    at = lag.committed
    return {**asdict(lag), "messages": lag.messages, "committed": None if at is None else at.isoformat(" ", "seconds")}


def status(read: Read, path: str, live: Live | None) -> Status:
    """Everything, of one commit (counts of rows of that or a later one)."""
    found = dict(zip(QUERIES, (table.to_pylist() for table in read(list(QUERIES.values())))))
    meta = {row["key"]: row["value"] for row in found.pop("meta")}
    shown: Status = {
        "store": {
            "path": path,
            "bytes": sum(file.stat().st_size for file in (Path(path), Path(f"{path}.wal")) if file.exists()),
            "merganser": meta["merganser"],
            "duckdb": meta["duckdb"],
        },
        "commit": found.pop("commit")[0],
        **found,
        "lag": [shown_lag(each) for each in lags(lambda sql: [tuple(row.values()) for row in read([sql])[0].to_pylist()])],
        "running": live.figures() if live else None,
    }
    there = {row["name"] for row in shown.pop("shown")}  # not what is being built, nor what is only sent on
    counted = [each for each in shown["views"] if each["state"] != "building" and each["view"] in there] + shown["state"]
    names = [quote(each["view"]) if "view" in each else f"merganser_state.{quote(each['table'])}" for each in counted]
    if names:
        counts = read([f"SELECT {', '.join(f'(SELECT count(*) FROM {name})' for name in names)}"])[0]
        for each, column in zip(counted, counts.columns):
            each["rows"] = column[0].as_py()
    for view in shown["views"]:
        view.setdefault("rows", None)
    for sink in shown["sinks"]:  # the store knows of what was sent at the next commit only
        sent = max(sink["sent"], shown["running"]["sent"].get(sink["sink"], 0) if live else 0)
        sink["sent"], sink["waiting"] = sent, min(sink["waiting"], sink["rows"] - sent)
    return shown

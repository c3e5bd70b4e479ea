"""Short ways to run small flows in tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import duckdb

import merganser as mg

SCHEMA = {"id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "n": "BIGINT"}


def at(seconds: float) -> str:
    """An event time so many seconds after 2026-01-01."""
    us = round(seconds * 1e6) + 1_767_225_600_000_000
    return duckdb.execute("SELECT make_timestamp($1::BIGINT)::VARCHAR", [us]).fetchall()[0][0]


def event(id: str, seconds: float, key: str | None = "k", n: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"id": id, "at": at(seconds), "key": key, "n": n, **more}


def source(events: Any, *, schema: Mapping[str, str] = SCHEMA, lateness: str | None = "10 seconds", **more: Any) -> mg.Source:
    connector = events if hasattr(events, "describe") else mg.memory(events)
    return mg.source("events", connector, schema=schema, time="at", lateness=lateness, id="id", key="key", **more)


def rows(store: Path | str, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect(str(store), read_only=str(store) != ":memory:") as con:
        return con.execute(sql).fetchall()


def balanced(store: Path | str) -> None:
    for read, *fates in rows(store, "SELECT read, applied, filtered, late, duplicate, dead FROM merganser.commits"):
        assert read == sum(fates)


def one_by_one(flow: mg.Flow, memory: mg.sources.memory.Memory, events: Sequence[Any], store: Path, partition: str = "0") -> None:
    """Each event in a run of its own: a restart between every two."""
    for record in events:
        memory.feed(record, partition)
        mg.run([flow], store)

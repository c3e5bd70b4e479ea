"""The in-memory DuckDB that binds and decodes: apart from the store, whose instance can so be locked."""

from __future__ import annotations

import os
import sys
import threading
from functools import cache
from pathlib import Path

import duckdb
import pyarrow as pa

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "python_enable_replacements": False,  # a table that is not there is not a Python variable that happens to be
}

REFUSED = (duckdb.Error, UnicodeDecodeError)
"""What a query raises for a value it cannot take. DuckDB's message may cut the value in the middle of a character, which
Python then cannot decode."""


def lower_priority(niceness: int, thread: int | None = None) -> None:
    """Let others go before this thread, or another of this process (Linux only). It cannot be taken back."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, thread or threading.get_native_id(), niceness)


def instance(path: str | Path = ":memory:", **config: str | bool | int | float | list[str]) -> duckdb.DuckDBPyConnection:
    """An instance of DuckDB as all of merganser's are: what it answers depends on no setting of the machine."""
    con = duckdb.connect(str(path), config={**CONFIG, **config})
    con.execute("SET GLOBAL TimeZone = 'UTC'")  # or the days, hours and texts of a TIMESTAMPTZ are those of where it runs
    return con


@cache
def _shared() -> duckdb.DuckDBPyConnection:
    # One thread: those that run queries here are workers already.
    return instance(threads=1)


def scratch() -> duckdb.DuckDBPyConnection:
    """A connection to the one instance, for one thread. What is registered in a connection is seen there only."""
    return _shared().cursor()


class Query:
    """A query over one table, planned once and run over many tables of one schema. For one thread.

    To plan a query takes as long as to decode some thousand records with it.
    """

    def __init__(self, sql: str, relation: str) -> None:
        """``sql``: a SELECT that reads ``relation``, which is what ``run`` is given."""
        self._sql, self._relation = sql, relation
        self._con = scratch()
        self._feed: _Feed | None = None

    def run(self, table: pa.Table) -> pa.Table:
        """The result, all of it. Raises what DuckDB raises (``REFUSED`` for a value that the query cannot take)."""
        if self._feed is None or self._feed.schema != table.schema:
            self._feed = _Feed(table.schema)
            self._con.register(self._relation, self._feed)
            self._con.execute(f"PREPARE query AS {self._sql}")
        self._feed.table = table
        try:
            return _arrow(self._con, "EXECUTE query")
        finally:
            self._feed.table = None


def _arrow(con: duckdb.DuckDBPyConnection, sql: str) -> pa.Table:
    """A statement's result. DuckDB 2.0.0 has a public way to Arrow for a SELECT alone, which plans it twice each time; rows of an
    EXECUTE it keeps first and then reads again, which is a seventh of decoding JSON. So, where it is there, by DuckDB's own way.
    """
    submit = getattr(con, "_submit", None)
    return con.sql(sql).to_arrow_table() if submit is None else submit(sql, None, "arrow", 131072).arrow_table()


class _Feed:
    """What DuckDB reads as a table: by the Arrow PyCapsule interface, asked anew each time that the query runs."""

    def __init__(self, schema: pa.Schema) -> None:
        self.schema = schema
        self.table: pa.Table | None = None

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        table = self.schema.empty_table() if self.table is None else self.table
        return table.__arrow_c_stream__(requested_schema)

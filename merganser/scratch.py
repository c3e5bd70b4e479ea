"""The in-memory DuckDB that binds and decodes: apart from the store, whose instance can so be locked."""

from __future__ import annotations

from functools import cache

import duckdb

CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,  # an ICU that loads itself would bring the machine's time zone into results
}

REFUSED = (duckdb.Error, UnicodeDecodeError)
"""What a query raises for a value it cannot take. DuckDB's message may cut the value in the middle of a character, which
Python then cannot decode."""


@cache
def _instance() -> duckdb.DuckDBPyConnection:
    # One thread: those that run queries here are workers already.
    return duckdb.connect(config={**CONFIG, "threads": 1})


def scratch() -> duckdb.DuckDBPyConnection:
    """A connection to the one instance, for one thread. What is registered in a connection is seen there only."""
    return _instance().cursor()

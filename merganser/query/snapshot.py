"""Copies of a store's views, all of one commit: in a DuckDB file of their own, or in Parquet files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet

from merganser.errors import StoreInUseError
from merganser.query.caps import LONGEST
from merganser.query.connection import Connection, connect
from merganser.scratch import instance
from merganser.sql import literal, quote
from merganser.store import Store

BOOKS = (
    "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = 'store' AND (schema_name = 'merganser' OR"
    " (schema_name = 'merganser_state' AND (table_name IN ('tables', 'watermarks')"
    " OR table_name SIMILAR TO '.*_(skipped|resumed|parked)'))) ORDER BY ALL"
)
"""What ``verify`` and the commands that list need to know of a store: not the steps' states."""


def copy(connection: Connection, views: Sequence[str], path: Path, *, books: bool = False) -> int:
    """Write tables with the rows of some views to a new DuckDB file; with ``books`` what ``BOOKS`` lists too.

    Returns the epoch that they show. Raises QueryError for a view that is not there.
    """
    wanted = [("main", view) for view in views]
    if books:
        wanted += connection.sql(BOOKS).fetchall()
    here = ", ".join(f"({literal(schema)}, {literal(name)})" for schema, name in wanted)
    kinds = (
        "SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()"
        f" WHERE database_name = 'store' AND (schema_name, table_name) IN ({here}) ORDER BY column_index"
    )
    contents = [f"FROM {quote(schema)}.{quote(name)}" for schema, name in wanted]
    types, *tables = connection.read([kinds, *contents], max_rows=None, max_bytes=None, timeout=LONGEST)
    columns = types.fetchall()
    # As old versions of DuckDB write files, since what reads snapshots brings one of its own, if it can hold the columns.
    storage = "v1.5.0" if any("VARIANT" in kind for *_, kind in columns) else "v1.0.0"
    with instance() as con:
        con.execute(f"ATTACH {literal(str(path))} AS snapshot (STORAGE_VERSION '{storage}'); USE snapshot")
        for (schema, name), rows in zip(wanted, tables):
            declared = ", ".join(f"{quote(c)} {kind}" for s, t, c, kind in columns if (s, t) == (schema, name))
            con.execute(f"CREATE SCHEMA IF NOT EXISTS {quote(schema)}; CREATE TABLE {quote(schema)}.{quote(name)} ({declared})")
            con.register("_rows", rows.reader())
            con.execute(f"INSERT INTO {quote(schema)}.{quote(name)} FROM _rows")
            con.unregister("_rows")
    return types.epoch


@contextmanager
def books(store: str | Path) -> Iterator[Store]:
    """A store to read the books in: the file itself where it is free, else a copy of what the running flow gives of them."""
    try:
        opened = Store(store, read_only=True)
    except StoreInUseError:
        with tempfile.TemporaryDirectory() as folder:
            copy(connect(store), [], Path(folder) / "books.duckdb", books=True)
            with Store(Path(folder) / "books.duckdb", read_only=True) as opened:
                yield opened
        return
    with opened:
        yield opened


EPOCH = b"merganser.epoch"
"""The metadata of a Parquet file that says which commit it shows."""


def export_duckdb(connection: Connection, views: Sequence[str], folder: Path) -> int:
    """Put ``views.duckdb`` into a folder: whoever opens it sees the old one whole, or the new one. Returns the epoch."""
    new, path = folder / ".views.duckdb.new", folder / "views.duckdb"
    for left in (new, new.with_name(f"{new.name}.wal")):  # by one that was killed
        left.unlink(missing_ok=True)
    epoch = copy(connection, views, new)
    _put(new, path)
    return epoch


def export_parquet(connection: Connection, views: Sequence[str], folder: Path) -> int:
    """Put a Parquet file for each view into a folder, each replaced whole; all say which epoch they show."""
    results = connection.read([f"FROM {quote(view)}" for view in views], max_rows=None, max_bytes=None, timeout=LONGEST)
    for view, rows in zip(views, results):
        new = folder / f".{view}.parquet.new"
        schema = rows.schema.with_metadata({**(rows.schema.metadata or {}), EPOCH: str(rows.epoch).encode()})
        with pyarrow.parquet.ParquetWriter(new, schema, compression="zstd") as writer:
            for batch in rows:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    for view in views:
        _put(folder / f".{view}.parquet.new", folder / f"{view}.parquet")
    return results[0].epoch


def _put(new: Path, path: Path) -> None:
    """Replace a file by one that is whole, on the disk too."""
    with new.open("rb") as file:
        os.fsync(file.fileno())
    new.replace(path)

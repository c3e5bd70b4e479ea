"""Rows as text: CSV, and JSON with an object a line."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import IO

import pyarrow as pa
import pyarrow.csv

from merganser.scratch import scratch
from merganser.sql import quote


def as_csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: IO[bytes]) -> None:
    """CSV with a header; lists, structs and the like as DuckDB writes them."""
    nested = {f.name for f in schema if pa.types.is_nested(f.type) or pa.types.is_binary(f.type)}
    flat = [f"{quote(n)}::VARCHAR AS {quote(n)}" if n in nested else quote(n) for n in schema.names]
    with scratch() as con:
        con.register("_rows", pa.Table.from_batches([], schema))
        sql = f"SELECT {', '.join(flat)} FROM _rows"
        with pyarrow.csv.CSVWriter(out, con.sql(sql).to_arrow_table().schema) as writer:
            for batch in batches:
                con.register("_rows", batch)
                writer.write_table(con.sql(sql).to_arrow_table())
        con.unregister("_rows")


def as_json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], out: IO[bytes]) -> None:
    """An object a line."""
    with scratch() as con:
        for batch in batches:
            con.register("_rows", batch)
            lines = con.execute("SELECT string_agg(to_json(_rows)::VARCHAR, chr(10)) FROM _rows").fetchall()[0][0]
            if lines is not None:
                out.write(lines.encode() + b"\n")
            con.unregister("_rows")


Format = Callable[[pa.Schema, Iterable[pa.RecordBatch], IO[bytes]], None]
TEXTS: dict[str, tuple[str, Format]] = {
    "csv": ("text/csv; charset=utf-8", as_csv),
    "json": ("application/x-ndjson", as_json),
}
"""By name: media type and writer."""

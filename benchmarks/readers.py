"""The fastest known readers of each format, to measure ours against: the dependency group ``bench``.

Each is given what ours is, on one thread, and makes a table of it. ``None`` stands for a reader that is not installed.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.json

from merganser.sql import quote

os.environ["POLARS_MAX_THREADS"] = "1"  # read when it is first imported

Reader = Callable[[], Any]


def _installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


def avro_files(path: Path) -> dict[str, Reader | None]:
    return {
        "datafusion": (lambda: _datafusion(path)) if _installed("datafusion") else None,
        "polars": (lambda: _polars().read_avro(path)) if _installed("polars") else None,
    }


def protobuf(kind: Any, raws: list[bytes]) -> dict[str, Reader | None]:
    """``kind``: the messages' class."""
    if not _installed("ptars"):
        return {"ptars": None}
    import ptars

    handler = ptars.HandlerPool([kind.DESCRIPTOR.file]).get_for_message(kind.DESCRIPTOR)
    return {"ptars": lambda: handler.list_to_record_batch(raws)}


def json_lines(path: Path, schema: pa.Schema, columns: dict[str, str]) -> dict[str, Reader | None]:
    """``columns``: DuckDB's types. polars has no decimals in JSON: it leaves ``amount`` a text."""
    options = pa.json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="error")
    whole = pa.json.ReadOptions(use_threads=False, block_size=1 << 20)
    con = duckdb.connect(config={"threads": 1})
    spec = ", ".join(f"{quote(name)}: '{kind}'" for name, kind in columns.items())
    sql = f"SELECT * FROM read_json('{path}', format = 'newline_delimited', columns = {{{spec}}})"
    return {
        "pyarrow": lambda: pa.json.read_json(path, read_options=whole, parse_options=options),
        "polars": (lambda: _polars().read_ndjson(path, schema=_polars_types(schema))) if _installed("polars") else None,
        "DuckDB": lambda: con.sql(sql).to_arrow_table(),
    }


def _datafusion(path: Path) -> Any:
    import datafusion

    context = datafusion.SessionContext(datafusion.SessionConfig().with_target_partitions(1))
    return context.read_avro(str(path)).to_arrow_table()


def _polars() -> Any:
    import polars

    return polars


def _polars_types(schema: pa.Schema) -> dict[str, Any]:
    pl = _polars()
    types = dict(pl.from_arrow(schema.empty_table()).schema)
    return {name: pl.String if isinstance(kind, pl.Decimal) else kind for name, kind in types.items()}

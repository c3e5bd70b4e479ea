"""Columns and their types: what a source's owner declares, as DuckDB SQL types.

A schema is declared as a mapping of column to SQL type (``{"amount": "DECIMAL(18,2)", "note": "VARCHAR"}``), or as a
file in one of the notations (``notations``): Avro (``.avsc``), Protocol Buffers (``.proto``) or JSON Schema
(``.schema.json``). ``NOT NULL`` behind a type makes the column required; a column is nullable otherwise, and may then be
absent from a JSON record. ``DEFAULT NULL`` says that not every file or writer has the column.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import duckdb
import pyarrow as pa

from merganser.errors import FlowError
from merganser.scratch import scratch

COMMON = (
    "VARCHAR", "INTEGER", "BIGINT", "DOUBLE", "DECIMAL(18,2)", "BOOLEAN", "DATE", "TIME", "TIMESTAMP", "TIMESTAMPTZ",
    "UUID", "BLOB", "JSON",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, DuckDB SQL type in DuckDB's own spelling (``DECIMAL(18,2)``), and whether NULL is refused.

    ``optional``: NULL throughout what was written without it (a file whose header or schema lacks it).
    """

    name: str
    type: str
    required: bool = False
    optional: bool = field(default=False, compare=False)

    def describe(self) -> str:
        return f"{self.name} {self.type}{' NOT NULL' if self.required else ''}"


@runtime_checkable
class Envelope(Protocol):
    """What events come in, which has schemas of its own for what is within."""

    def typed(self, types: Mapping[str, str]) -> Envelope:
        """With other types for some of its columns, by the names that these have outside."""
        ...


@dataclass(frozen=True, slots=True)
class Schema:
    """An ordered tuple of columns with distinct names.

    ``written``: the schema in its own notation (``AvroSchema``, ``Message``), which says how binary records are laid
    out; None where there is none. It is no part of what a schema is equal by.
    """

    columns: tuple[Column, ...]
    written: Any = field(default=None, compare=False, repr=False)

    @classmethod
    def declare(cls, spec: Mapping[str, str] | str | Path) -> Schema:
        """A schema from a mapping of column to type, or from a file. Raises FlowError with what is possible."""
        if isinstance(spec, (str, Path)):
            from merganser.schema.notations import load

            return load(spec)
        if not isinstance(spec, Mapping) or not spec:
            raise FlowError("schema must map columns to SQL types, such as {'id': 'VARCHAR', 'at': 'TIMESTAMPTZ'}")
        return cls(tuple(_column(name, kind) for name, kind in spec.items()))

    @classmethod
    def of(cls, columns: Iterable[tuple[str, str, bool]], written: Any = None) -> Schema:
        """A schema from names, types in any spelling, and whether NULL is refused. Raises FlowError."""
        return cls(tuple(Column(name, sql_type(name, kind), required) for name, kind, required in columns), written)

    def typed(self, types: Mapping[str, str]) -> Schema:
        """With other types for some of its columns, also where these are of what is within an envelope. Raises FlowError."""
        if unknown := [name for name in types if name not in self]:
            raise FlowError(f"types={{{unknown[0]!r}: …}}: there is no such column; there are {', '.join(self.names())}")
        columns = tuple(replace(c, type=sql_type(c.name, types[c.name])) if c.name in types else c for c in self.columns)
        written = self.written.typed(types) if isinstance(self.written, Envelope) else self.written
        return replace(self, columns=columns, written=written)

    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def describe(self) -> str:
        """The schema on one line, in SQL: ``id VARCHAR NOT NULL, amount DECIMAL(18,2)``."""
        return ", ".join(column.describe() for column in self.columns)

    def arrow_schema(self) -> pa.Schema:
        """The Arrow types that DuckDB gives these columns."""
        return _arrow(self)

    def __contains__(self, name: str) -> bool:
        return any(c.name == name for c in self.columns)

    def __getitem__(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)


def _column(name: str, spec: str) -> Column:
    if not isinstance(name, str) or not name or name.startswith("_"):
        raise FlowError(f"column name {name!r} must be text that does not begin with _ (those are merganser's own)")
    if not isinstance(spec, str):
        raise FlowError(f"column {name!r}: the type must be SQL text such as 'BIGINT', not {spec!r}")
    more = re.search(r"\s+(NOT|DEFAULT)\s+NULL\s*$", spec, re.IGNORECASE)
    if more is None:
        return Column(name, sql_type(name, spec))
    required = more[1].upper() == "NOT"
    return Column(name, sql_type(name, spec[: more.start()]), required, not required)


def sql_type(name: str, spec: str) -> str:
    """A type in DuckDB's own spelling."""
    con = scratch()
    if not re.fullmatch(r"""(?:[\w\s(),'\[\]]|"(?:[^"]|"")*")+""", spec):
        raise FlowError(f"column {name!r}: {spec!r} is no SQL type; common ones are {', '.join(COMMON)}")
    try:
        found = con.execute(f"SELECT typeof(NULL::{spec})").fetchall()[0]
    except duckdb.Error:
        close = difflib.get_close_matches(spec.upper(), COMMON, 1)
        hint = f", did you mean {close[0]}?" if close else ""
        raise FlowError(
            f"column {name!r}: {spec!r} is no SQL type{hint}; common ones are {', '.join(COMMON)}, T[], STRUCT(a T, …)"
        ) from None
    return str(found[0])


@cache
def _arrow(schema: Schema) -> pa.Schema:
    items = ", ".join(f'NULL::{c.type} AS "{c.name.replace(chr(34), chr(34) * 2)}"' for c in schema.columns)
    return scratch().sql(f"SELECT {items} WHERE false").to_arrow_table().schema


def arrow_type(kind: str) -> pa.DataType:
    """The Arrow type that DuckDB gives a SQL type."""
    return _arrow(Schema((Column("x", kind),))).field("x").type

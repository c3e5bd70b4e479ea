"""Columns and their types: what a source's owner declares, as DuckDB SQL types.

A schema is declared as a mapping of column to SQL type (``{"amount": "DECIMAL(18,2)", "note": "VARCHAR"}``) or as an
Avro schema file (``.avsc``). ``NOT NULL`` behind a type makes the column required; a column is nullable otherwise, and
may then be absent from a record.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Column:
    """A column: its name, DuckDB SQL type in DuckDB's own spelling (``DECIMAL(18,2)``), and whether NULL is refused."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """An ordered tuple of columns with distinct names."""

    columns: tuple[Column, ...]

    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def __contains__(self, name: str) -> bool:
        return any(c.name == name for c in self.columns)

    def __getitem__(self, name: str) -> Column:
        return next(c for c in self.columns if c.name == name)

    @classmethod
    def declare(cls, spec, *, base=None):
        import duckdb
        con = duckdb.connect()
        out = []
        for name, t in spec.items():
            req = t.upper().endswith(" NOT NULL")
            if req: t = t[:-9]
            out.append(Column(name, con.execute(f"select typeof(null::{t})").fetchone()[0], req))
        return cls(tuple(out))

    def describe(self):
        return ", ".join(f"{c.name} {c.type}{' NOT NULL' if c.required else ''}" for c in self.columns)

    def arrow_schema(self):
        import duckdb
        con = duckdb.connect()
        return con.sql("select " + ", ".join(f'null::{c.type} as "{c.name}"' for c in self.columns) + " where false").to_arrow_table().schema

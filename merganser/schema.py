"""Columns and their types: what a source's owner declares, as DuckDB SQL types.

A schema is declared as a mapping of column to SQL type (``{"amount": "DECIMAL(18,2)", "note": "VARCHAR"}``), as an Avro
schema file (``.avsc``) or as a JSON Schema file (``.schema.json``). ``NOT NULL`` behind a type makes the column
required; a column is nullable otherwise, and may then be absent from a record.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

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
    """A column: its name, DuckDB SQL type in DuckDB's own spelling (``DECIMAL(18,2)``), and whether NULL is refused."""

    name: str
    type: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Schema:
    """An ordered tuple of columns with distinct names."""

    columns: tuple[Column, ...]

    @classmethod
    def declare(cls, spec: Mapping[str, str] | str | Path) -> Schema:
        """A schema from a mapping of column to type, or from a file. Raises FlowError with what is possible."""
        if isinstance(spec, (str, Path)):
            return cls(tuple(_from_file(Path(spec))))
        if not isinstance(spec, Mapping) or not spec:
            raise FlowError("schema must map columns to SQL types, such as {'id': 'VARCHAR', 'at': 'TIMESTAMPTZ'}")
        return cls(tuple(_column(name, kind) for name, kind in spec.items()))

    def names(self) -> tuple[str, ...]:
        return tuple(c.name for c in self.columns)

    def describe(self) -> str:
        """The schema on one line, in SQL: ``id VARCHAR NOT NULL, amount DECIMAL(18,2)``."""
        return ", ".join(f"{c.name} {c.type}{' NOT NULL' if c.required else ''}" for c in self.columns)

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
    required = re.search(r"\s+NOT\s+NULL\s*$", spec, re.IGNORECASE)
    return Column(name, _type(name, spec[: required.start()] if required else spec), bool(required))


def _type(name: str, spec: str) -> str:
    """A type in DuckDB's own spelling."""
    con = scratch()
    if not re.fullmatch(r"[\w\s(),'\"\[\]]+", spec):
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


# -- files ------------------------------------------------------------------------------------------------------------


def _from_file(path: Path) -> list[Column]:
    if not path.is_file():
        raise FlowError(f"there is no schema file {path} (looked in {Path.cwd()})")
    try:
        tree = json.loads(path.read_text())
    except ValueError as error:
        raise FlowError(f"{path} is no JSON: {error}") from None
    if path.name.endswith(".avsc"):
        return _from_avro(tree, path)
    if path.name.endswith(".schema.json"):
        return _from_json_schema(tree, path)
    raise FlowError(f"schema file {path}: known are .avsc (Avro) and .schema.json (JSON Schema)")


AVRO: dict[str, str] = {
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bytes": "BLOB",
    "string": "VARCHAR",
}
AVRO_LOGICAL: dict[str, str] = {
    "date": "DATE",
    "time-millis": "TIME",
    "time-micros": "TIME",
    "timestamp-millis": "TIMESTAMP WITH TIME ZONE",
    "timestamp-micros": "TIMESTAMP WITH TIME ZONE",
    "local-timestamp-millis": "TIMESTAMP",
    "local-timestamp-micros": "TIMESTAMP",
    "uuid": "UUID",
}


def _from_avro(tree: Any, path: Path) -> list[Column]:
    """The columns of an Avro record (Apache Avro specification 1.12)."""
    import fastavro.schema

    try:
        fastavro.schema.parse_schema(tree)
    except Exception as error:
        raise FlowError(f"{path} is no Avro schema: {error}") from None
    if not isinstance(tree, dict) or tree.get("type") != "record":
        raise FlowError(f"{path}: the schema of a source must be an Avro record")
    return [Column(f["name"], *_avro_type(f["type"], f"{path}: field {f['name']}")) for f in tree["fields"]]


def _avro_type(tree: Any, at: str) -> tuple[str, bool]:
    """SQL type, and whether NULL is refused."""
    if isinstance(tree, list):
        others = [branch for branch in tree if branch != "null"]
        if len(others) != 1:
            raise FlowError(f"{at}: a union of {len(others)} types has no column type; only a union with null has")
        return _avro_type(others[0], at)[0], len(others) == len(tree)
    if isinstance(tree, str):
        if tree not in AVRO:
            raise FlowError(f"{at}: type {tree!r} is not known here; write named types out where they are used")
        return AVRO[tree], True
    logical = tree.get("logicalType")
    if logical == "decimal":
        return f"DECIMAL({tree['precision']},{tree.get('scale', 0)})", True
    if logical in AVRO_LOGICAL:
        return AVRO_LOGICAL[logical], True
    kind = tree["type"]
    if kind == "array":
        return f"{_avro_type(tree['items'], at)[0]}[]", True
    if kind == "map":
        return f"MAP(VARCHAR, {_avro_type(tree['values'], at)[0]})", True
    if kind == "record":
        fields = [(f["name"], _avro_type(f["type"], f"{at}.{f['name']}")[0]) for f in tree["fields"]]
        inner = ", ".join(f'"{name}" {type}' for name, type in fields)
        return _type(at, f"STRUCT({inner})"), True
    if kind in ("enum", "fixed"):
        return ("VARCHAR" if kind == "enum" else "BLOB"), True
    return _avro_type(kind, at)


JSON_FORMATS: dict[str, str] = {"date-time": "TIMESTAMP WITH TIME ZONE", "date": "DATE", "time": "TIME", "uuid": "UUID"}
JSON_TYPES: dict[str, str] = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}


def _from_json_schema(tree: Any, path: Path) -> list[Column]:
    """The properties of a JSON Schema object (draft 2020-12), required ones as NOT NULL unless they may be null."""
    if not isinstance(tree, dict) or not isinstance(tree.get("properties"), dict):
        raise FlowError(f"{path}: the schema of a source must be an object with properties")
    required = set(tree.get("required", ()))
    columns = []
    for name, sub in tree["properties"].items():
        kind, nullable = _json_type(sub, f"{path}: property {name}")
        columns.append(Column(name, kind, name in required and not nullable))
    return columns


def _json_type(tree: Any, at: str) -> tuple[str, bool]:
    """SQL type, and whether null is allowed."""
    kinds = tree.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    nullable = "null" in kinds
    kinds = [k for k in kinds if k != "null"]
    if len(kinds) != 1:
        return "JSON", nullable
    kind = kinds[0]
    if kind == "string":
        return JSON_FORMATS.get(tree.get("format", ""), "VARCHAR"), nullable
    if kind in JSON_TYPES:
        return JSON_TYPES[kind], nullable
    if kind == "array":
        return f"{_json_type(tree.get('items', {}), at)[0]}[]", nullable
    if kind == "object" and tree.get("properties"):
        fields = [(n, _json_type(sub, f"{at}.{n}")[0]) for n, sub in tree["properties"].items()]
        inner = ", ".join(f'"{n}" {type}' for n, type in fields)
        return _type(at, f"STRUCT({inner})"), nullable
    return "JSON", nullable

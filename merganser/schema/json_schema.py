"""JSON Schemas (draft 2020-12 and before) and the columns that they declare."""

from __future__ import annotations

from typing import Any

from merganser.errors import FlowError
from merganser.schema import Schema

FORMATS: dict[str, str] = {"date-time": "TIMESTAMP WITH TIME ZONE", "date": "DATE", "time": "TIME", "uuid": "UUID"}
TYPES: dict[str, str] = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}


def declared(tree: Any, at: str) -> Schema:
    """The properties of an object, required ones as NOT NULL unless they may be null. Raises FlowError."""
    if not isinstance(tree, dict) or not isinstance(tree.get("properties"), dict):
        raise FlowError(f"{at}: the schema of a source must be an object with properties")
    required = set(tree.get("required", ()))
    columns = []
    for name, sub in tree["properties"].items():
        kind, nullable = sql_of(sub)
        columns.append((name, kind, name in required and not nullable))
    return Schema.of(columns)


def sql_of(tree: Any) -> tuple[str, bool]:
    """SQL type, and whether null is allowed. What has no SQL type of its own is JSON."""
    if not isinstance(tree, dict):
        return "JSON", True
    kinds = tree.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    nullable = "null" in kinds
    kinds = [k for k in kinds if k != "null"]
    if len(kinds) != 1:
        return "JSON", nullable
    kind = kinds[0]
    if kind == "string":
        return FORMATS.get(tree.get("format", ""), "VARCHAR"), nullable
    if kind in TYPES:
        return TYPES[kind], nullable
    if kind == "array":
        return f"{sql_of(tree.get('items', {}))[0]}[]", nullable
    if kind == "object" and tree.get("properties"):
        inner = ", ".join(f'"{n}" {sql_of(sub)[0]}' for n, sub in tree["properties"].items())
        return f"STRUCT({inner})", nullable
    return "JSON", nullable

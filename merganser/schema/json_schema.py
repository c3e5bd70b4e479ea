"""JSON Schemas (draft 2020-12 and before) and the columns that they declare."""

from __future__ import annotations

from typing import Any

from merganser.errors import FlowError
from merganser.schema import Schema

FORMATS: dict[str, str] = {"date-time": "TIMESTAMP WITH TIME ZONE", "date": "DATE", "time": "TIME", "uuid": "UUID"}
TYPES: dict[str, str] = {"integer": "BIGINT", "number": "DOUBLE", "boolean": "BOOLEAN"}


KINDS = ("string", "integer", "number", "boolean", "object", "array", "null")
SCHEMAS = ("items", "additionalProperties", "additionalItems", "not", "contains", "propertyNames", "if", "then", "else")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
NAMED = ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")
"""Keywords whose values are a schema, a list of schemas, schemas by name."""


def check(tree: Any, at: str, path: str = "#") -> None:
    """Raise a FlowError with the place, if what is compared and declared is not what JSON Schema says that it is."""
    if isinstance(tree, bool):
        return
    _expect(isinstance(tree, dict), at, path, "a schema is an object, true or false", tree)
    kinds = tree.get("type", [])
    for kind in [kinds] if isinstance(kinds, str) else kinds if isinstance(kinds, list) else [kinds]:
        _expect(kind in KINDS, at, f"{path}/type", f"types are {', '.join(KINDS)}", kind)
    names = tree.get("required", [])
    whole = isinstance(names, list) and all(isinstance(name, str) for name in names)
    _expect(whole, at, f"{path}/required", "required is a list of names", names)
    _expect(isinstance(tree.get("enum", []), list), at, f"{path}/enum", "enum is a list of values", tree.get("enum"))
    _expect(isinstance(tree.get("$ref", ""), str), at, f"{path}/$ref", "$ref is a text", tree.get("$ref"))
    for keyword in (k for k in (*SCHEMAS, *LISTS, *NAMED) if k in tree):
        inner, here = tree[keyword], f"{path}/{keyword}"
        if keyword in NAMED:
            _expect(isinstance(inner, dict), at, here, f"{keyword} is an object of schemas", inner)
            parts = inner.items()
        elif keyword in LISTS or isinstance(inner, list):
            _expect(isinstance(inner, list), at, here, f"{keyword} is a list of schemas", inner)
            parts = enumerate(inner)
        else:
            parts = [("", inner)]
        for name, sub in parts:
            check(sub, at, f"{here}/{name}".rstrip("/"))


def _expect(ok: bool, at: str, path: str, what: str, found: Any) -> None:
    if not ok:
        raise FlowError(f"{at} is no JSON Schema, at {path}: {what}, this is {found!r}")


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

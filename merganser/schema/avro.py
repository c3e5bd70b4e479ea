"""Avro schemas (Apache Avro specification 1.12) and the columns that they declare."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import fastavro.schema

from merganser.errors import FlowError
from merganser.schema import Schema
from merganser.schema.references import whole

PRIMITIVES: dict[str, str] = {
    "null": "VARCHAR",
    "boolean": "BOOLEAN",
    "int": "INTEGER",
    "long": "BIGINT",
    "float": "FLOAT",
    "double": "DOUBLE",
    "bytes": "BLOB",
    "string": "VARCHAR",
}
LOGICAL: dict[tuple[str, str], str] = {
    ("int", "date"): "DATE",
    ("int", "time-millis"): "TIME",
    ("long", "time-micros"): "TIME",
    ("long", "timestamp-millis"): "TIMESTAMP WITH TIME ZONE",
    ("long", "timestamp-micros"): "TIMESTAMP WITH TIME ZONE",
    ("long", "timestamp-nanos"): "TIMESTAMPTZ_NS",
    ("long", "local-timestamp-millis"): "TIMESTAMP",
    ("long", "local-timestamp-micros"): "TIMESTAMP",
    ("long", "local-timestamp-nanos"): "TIMESTAMP_NS",
    ("string", "uuid"): "UUID",
    ("fixed", "uuid"): "UUID",
    ("fixed", "duration"): "INTERVAL",
}
"""Type and logical type to SQL. A logical type that is not here, or on another type, is ignored, as the specification says."""


@dataclass(frozen=True)
class AvroSchema:
    """A parsed schema: names are full ones, and each named type is written out where it stands first."""

    text: str
    """JSON, in fastavro's normal form."""

    @cached_property
    def tree(self) -> Any:
        return json.loads(self.text)

    @cached_property
    def names(self) -> dict[str, Any]:
        """The named types by their full names."""
        return {t["name"]: t for t in _walk(self.tree) if isinstance(t, dict) and t["type"] in ("record", "enum", "fixed")}

    def resolve(self, tree: Any) -> Any:
        """A type: what a name stands for, ``{"type": "int"}`` as ``"int"``."""
        if isinstance(tree, str):
            return self.names.get(tree, tree)
        if isinstance(tree, dict) and not isinstance(tree["type"], str):
            return self.resolve(tree["type"])
        if isinstance(tree, dict) and tree["type"] in self.names:
            return self.names[tree["type"]]
        return tree

    def kind(self, tree: Any) -> str:
        """``record``, ``union``, ``int``, …"""
        found = self.resolve(tree)
        if isinstance(found, list):
            return "union"
        return str(found if isinstance(found, str) else found["type"])

    def logical(self, tree: Any) -> str | None:
        """The logical type, where it is one that this type can have."""
        found = self.resolve(tree)
        name = found.get("logicalType") if isinstance(found, dict) else None
        if name is None:
            return None
        kind = self.kind(found)
        if name == "decimal" and kind in ("bytes", "fixed") and 0 < int(found.get("precision", 0)) <= 38:
            return "decimal"
        if name == "uuid" and kind == "fixed" and found["size"] != 16:
            return None
        if name == "duration" and (kind != "fixed" or found["size"] != 12):
            return None
        return name if (kind, name) in LOGICAL else None

    @cached_property
    def recursive(self) -> frozenset[str]:
        """Names of the records that contain themselves."""
        return frozenset(n for n, t in self.names.items() if t["type"] == "record" and n in self._within(t))

    def _within(self, record: Any) -> set[str]:
        """Names of all records that a record contains."""
        found: set[str] = set()
        waiting = [f["type"] for f in record["fields"]]
        while waiting:
            tree = self.resolve(waiting.pop())
            if isinstance(tree, list):
                waiting += tree
            elif isinstance(tree, dict) and tree["type"] == "record":
                if tree["name"] not in found:
                    found.add(tree["name"])
                    waiting += (f["type"] for f in tree["fields"])
            elif isinstance(tree, dict):
                waiting += (tree[k] for k in ("items", "values") if k in tree)
        return found

    @cached_property
    def fingerprint(self) -> int:
        """CRC-64-AVRO of the canonical form, as single-object encoding has it."""
        canonical = fastavro.schema.to_parsing_canonical_form(self.tree)
        return int.from_bytes(bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO")), "little")


def parse(text: Any, at: str, references: Iterable[str] = ()) -> AvroSchema:
    """A schema from its JSON, as text or parsed. ``at``: where it stands, for messages. Raises FlowError.

    ``references``: the texts of the schemas whose types it has by name; before each, those that it refers to itself.
    """
    if isinstance(text, (str, bytes)):
        try:
            text = json.loads(text)
        except ValueError as error:
            raise FlowError(f"{at} is no JSON: {error}") from None
    known: dict[str, Any] = {}
    try:
        for reference in references:
            fastavro.schema.parse_schema(json.loads(reference), named_schemas=known)
        parsed = fastavro.schema.parse_schema(text, named_schemas=known)
        parsed = whole(parsed, known) if references else parsed
    except Exception as error:
        raise FlowError(f"{at} is no Avro schema: {type(error).__name__} {error}") from None
    if isinstance(parsed, dict):
        parsed = {k: v for k, v in parsed.items() if not k.startswith("__")}
    found = AvroSchema(json.dumps(parsed))
    _check(found, at)
    return found


def _check(avro: AvroSchema, at: str) -> None:
    """What fastavro lets through."""
    for tree in _walk(avro.tree):
        if isinstance(tree, list):
            names = [branch_name(avro, b) for b in tree]
            if any(isinstance(b, list) for b in tree) or len(set(names)) < len(names):
                raise FlowError(f"{at}: a union may not contain a union, nor a type twice: {', '.join(names)}")
        elif isinstance(tree, dict) and tree.get("type") == "record":
            names = [f["name"] for f in tree["fields"]]
            if len(set(names)) < len(names):
                raise FlowError(f"{at}: record {tree['name']} has a field twice: {', '.join(names)}")


def _walk(tree: Any) -> Iterator[Any]:
    """A schema and all that it contains."""
    yield tree
    if isinstance(tree, list):
        for branch in tree:
            yield from _walk(branch)
    elif isinstance(tree, dict):
        for inner in (tree.get("items"), tree.get("values"), tree["type"]):
            if isinstance(inner, (dict, list)):
                yield from _walk(inner)
        for field in tree.get("fields", ()) if tree["type"] == "record" else ():
            yield from _walk(field["type"])


def branch_name(avro: AvroSchema, tree: Any) -> str:
    """What a branch of a union is called: its type, or the last part of its name."""
    found = avro.resolve(tree)
    if isinstance(found, dict) and "name" in found:
        return str(found["name"]).rsplit(".", 1)[-1]
    return avro.kind(found)


# -- Avro to columns ----------------------------------------------------------------------------------------------------


def declared(avro: AvroSchema, at: str) -> Schema:
    """The columns of a record: one for each field. Raises FlowError."""
    if avro.kind(avro.tree) != "record":
        raise FlowError(f"{at}: the schema of a source must be an Avro record")
    fields = avro.resolve(avro.tree)["fields"]
    return Schema.of(
        ((f["name"], sql_of(avro, f["type"]), not nullable(avro, f["type"])) for f in fields), avro
    )


def nullable(avro: AvroSchema, tree: Any) -> bool:
    found = avro.resolve(tree)
    return found == "null" or (isinstance(found, list) and any(avro.resolve(b) == "null" for b in found))


def sql_of(avro: AvroSchema, tree: Any) -> str:
    """The SQL type of an Avro type. What contains itself is JSON; a union of several types is a UNION of their names."""
    found = avro.resolve(tree)
    if isinstance(found, list):
        branches = [b for b in found if avro.resolve(b) != "null"]
        if not branches:
            return PRIMITIVES["null"]
        if len(branches) == 1:
            return sql_of(avro, branches[0])
        members = ", ".join(f"{_quoted(branch_name(avro, b))} {sql_of(avro, b)}" for b in branches)
        return f"UNION({members})"
    kind, logical = avro.kind(found), avro.logical(found)
    if logical == "decimal":
        return f"DECIMAL({found['precision']},{found.get('scale', 0)})"
    if logical is not None:
        return LOGICAL[kind, logical]
    if kind in PRIMITIVES:
        return PRIMITIVES[kind]
    if kind == "array":
        return f"{sql_of(avro, found['items'])}[]"
    if kind == "map":
        return f"MAP(VARCHAR, {sql_of(avro, found['values'])})"
    if kind == "record":
        if found["name"] in avro.recursive or not found["fields"]:
            return "JSON"
        inner = (f"{_quoted(f['name'])} {sql_of(avro, f['type'])}" for f in found["fields"])
        return f"STRUCT({', '.join(inner)})"
    return "VARCHAR" if kind == "enum" else "BLOB"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

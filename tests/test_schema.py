"""Schemas from mappings and files: the types, what is required, and what is said of mistakes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from merganser.errors import FlowError
from merganser.schema import Column, Schema


def test_types_are_in_duckdbs_own_spelling() -> None:
    declared = {"a": "text", "b": "int8 not null", "c": "decimal(9, 2)", "d": "STRUCT(x INT, y TEXT[])", "e": "timestamptz"}
    schema = Schema.declare(declared)
    assert [c.type for c in schema.columns] == [
        "VARCHAR", "BIGINT", "DECIMAL(9,2)", "STRUCT(x INTEGER, y VARCHAR[])", "TIMESTAMP WITH TIME ZONE",
    ]  # fmt: skip
    assert [c.name for c in schema.columns if c.required] == ["b"]
    assert schema.arrow_schema().names == list("abcde")


@pytest.mark.parametrize(
    ("declared", "says"),
    [
        ({}, "must map columns"),
        ({"a": "VARCHR"}, "did you mean VARCHAR"),
        ({"a": "INT; DROP TABLE x"}, "no SQL type"),
        ({"a": 7}, "must be SQL text"),
        ({"_a": "INT"}, "begin with _"),
        ("nowhere.avsc", "there is no schema file"),
    ],
)
def test_mistakes(declared: Any, says: str) -> None:
    with pytest.raises(FlowError, match=says):
        Schema.declare(declared)


def _file(folder: Path, name: str, tree: Any) -> Path:
    path = folder / name
    path.write_text(tree if isinstance(tree, str) else json.dumps(tree))
    return path


def test_avro(tmp_path: Path) -> None:
    fields: dict[str, tuple[Any, Column]] = {
        "i": ("int", Column("i", "INTEGER", True)),
        "n": (["null", "long"], Column("n", "BIGINT")),
        "t": ({"type": "long", "logicalType": "timestamp-millis"}, Column("t", "TIMESTAMP WITH TIME ZONE", True)),
        "l": ({"type": "long", "logicalType": "local-timestamp-micros"}, Column("l", "TIMESTAMP", True)),
        "d": ({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}, Column("d", "DECIMAL(9,2)", True)),
        "u": ({"type": "string", "logicalType": "uuid"}, Column("u", "UUID", True)),
        "e": ({"type": "enum", "name": "E", "symbols": ["A"]}, Column("e", "VARCHAR", True)),
        "a": ({"type": "array", "items": "double"}, Column("a", "DOUBLE[]", True)),
        "m": ({"type": "map", "values": "string"}, Column("m", "MAP(VARCHAR, VARCHAR)", True)),
        "r": (
            {"type": "record", "name": "R", "fields": [{"name": "x", "type": "boolean"}]},
            Column("r", "STRUCT(x BOOLEAN)", True),
        ),
        "w": (["int", "null", "string"], Column("w", "UNION(int INTEGER, string VARCHAR)")),
        "p": ({"type": "fixed", "name": "P", "size": 12, "logicalType": "duration"}, Column("p", "INTERVAL", True)),
        "x": ({"type": "record", "name": "X", "fields": [{"name": "x", "type": ["null", "X"]}]}, Column("x", "JSON", True)),
        "y": ("E", Column("y", "VARCHAR", True)),
    }
    record = {"type": "record", "name": "T", "fields": [{"name": n, "type": t} for n, (t, _) in fields.items()]}
    found = Schema.declare(_file(tmp_path, "t.avsc", record))
    assert [(c.name, c.type.replace('"', ""), c.required) for c in found.columns] == [
        (c.name, c.type, c.required) for _, c in fields.values()
    ]


@pytest.mark.parametrize(
    ("name", "tree", "says"),
    [
        ("a.avsc", "{", "no JSON"),
        ("a.avsc", {"type": "record"}, "no Avro schema"),
        ("a.avsc", {"type": "array", "items": "int"}, "must be an Avro record"),
        ("a.avsc", {"type": "record", "name": "A", "fields": [{"name": "x", "type": ["int", ["null"]]}]}, "a union may not"),
        ("a.schema.json", [], "is no JSON Schema, at #: a schema is an object"),
        ("a.txt", {}, "known are .avsc"),
    ],
)
def test_mistakes_in_files(name: str, tree: Any, says: str, tmp_path: Path) -> None:
    with pytest.raises(FlowError, match=says):
        Schema.declare(_file(tmp_path, name, tree))


def test_json_schema(tmp_path: Path) -> None:
    properties = {
        "id": {"type": "string", "format": "uuid"},
        "at": {"type": "string", "format": "date-time"},
        "n": {"type": ["integer", "null"]},
        "tags": {"type": "array", "items": {"type": "string"}},
        "any": {},
    }
    tree = {"type": "object", "properties": properties, "required": ["id", "n"]}
    found = Schema.declare(_file(tmp_path, "t.schema.json", tree))
    assert found.describe() == (
        "id UUID NOT NULL, at TIMESTAMP WITH TIME ZONE, n BIGINT, tags VARCHAR[], any JSON"
    )

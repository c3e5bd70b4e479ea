"""A schema written in each of the notations, and what a notation cannot say."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from merganser.schema import Column, Schema
from merganser.schema.types import SqlType, parse

AVRO: dict[str, Any] = {
    "BOOLEAN": "boolean",
    "TINYINT": "int", "SMALLINT": "int", "INTEGER": "int", "UTINYINT": "int", "USMALLINT": "int",
    "UINTEGER": "long", "BIGINT": "long",
    "FLOAT": "float", "DOUBLE": "double", "VARCHAR": "string", "BLOB": "bytes", "JSON": "string",
    "DATE": {"type": "int", "logicalType": "date"},
    "TIME": {"type": "long", "logicalType": "time-micros"},
    "TIMESTAMP": {"type": "long", "logicalType": "local-timestamp-micros"},
    "TIMESTAMP WITH TIME ZONE": {"type": "long", "logicalType": "timestamp-micros"},
    "TIMESTAMP_NS": {"type": "long", "logicalType": "local-timestamp-nanos"},
    "TIMESTAMPTZ_NS": {"type": "long", "logicalType": "timestamp-nanos"},
    "TIMESTAMP_MS": {"type": "long", "logicalType": "local-timestamp-millis"},
    "UUID": {"type": "string", "logicalType": "uuid"},
    "UBIGINT": {"type": "bytes", "logicalType": "decimal", "precision": 20, "scale": 0},
    "HUGEINT": {"type": "bytes", "logicalType": "decimal", "precision": 38, "scale": 0},
}  # fmt: skip
PROTO: dict[str, str] = {
    "BOOLEAN": "bool",
    "TINYINT": "int32", "SMALLINT": "int32", "INTEGER": "int32", "UTINYINT": "uint32", "USMALLINT": "uint32", "UINTEGER": "uint32",
    "BIGINT": "int64", "UBIGINT": "uint64", "FLOAT": "float", "DOUBLE": "double", "VARCHAR": "string", "BLOB": "bytes",
    "TIMESTAMP WITH TIME ZONE": "google.protobuf.Timestamp", "INTERVAL": "google.protobuf.Duration",
    "JSON": "google.protobuf.Value",
    "DECIMAL": "string", "DATE": "string", "TIME": "string", "TIMESTAMP": "string", "UUID": "string", "HUGEINT": "string",
    "TIMESTAMP_NS": "string", "TIMESTAMPTZ_NS": "string", "TIMESTAMP_MS": "string", "TIMESTAMP_S": "string",
}  # fmt: skip
JSON_TYPES: dict[str, dict[str, Any]] = {
    "BOOLEAN": {"type": "boolean"}, "FLOAT": {"type": "number"}, "DOUBLE": {"type": "number"}, "VARCHAR": {"type": "string"},
    "DATE": {"type": "string", "format": "date"}, "TIME": {"type": "string", "format": "time"},
    "TIMESTAMP WITH TIME ZONE": {"type": "string", "format": "date-time"},
    "TIMESTAMPTZ_NS": {"type": "string", "format": "date-time"},
    "UUID": {"type": "string", "format": "uuid"}, "JSON": {}, "DECIMAL": {"type": "number"},
    "BLOB": {"type": "string", "contentEncoding": "base64"}, "INTERVAL": {"type": "string", "format": "duration"},
    "TIMESTAMP": {"type": "string"}, "TIMESTAMP_NS": {"type": "string"}, "TIMESTAMP_MS": {"type": "string"},
    "TIMESTAMP_S": {"type": "string"},
} | {kind: {"type": "integer"} for kind in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT")} | {
    kind: {"type": "integer", "minimum": 0} for kind in ("UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
}  # fmt: skip

UNSAID: dict[tuple[str, str], str] = {
    ("avro", "JSON"): "Avro has no JSON: it is a text",
    ("avro", "UBIGINT"): "Avro has no unsigned 64-bit number: it is a decimal of 20 digits",
    ("avro", "UINTEGER"): "Avro has no unsigned number: it is a long",
    ("protobuf", "DECIMAL"): "Protocol Buffers have no decimal: it is a text",
    ("protobuf", "UUID"): "Protocol Buffers have no UUID: it is a text",
    ("protobuf", "DATE"): "Protocol Buffers have no date of their own: it is a text",
    ("protobuf", "TIME"): "Protocol Buffers have no time of day of their own: it is a text",
    ("protobuf", "TIMESTAMP"): "Protocol Buffers have no time without a zone: it is a text",
    ("json", "DECIMAL"): "JSON Schema has no exact decimal: digits and scale are lost",
    ("json", "BLOB"): "JSON has no bytes: they are base64",
    ("json", "TIMESTAMP"): "JSON Schema's date-time has a zone: this is a text",
    ("json", "BIGINT"): "integers past 2^53 are not exact in every reader of JSON",
    ("json", "UNION"): "a UNION is an anyOf, which does not say its names",
}
"""What a notation cannot say of a type, by notation and type."""


@dataclass
class Written:
    """A schema in one notation: its text, and notes (column, what is lost)."""

    text: str
    notes: list[tuple[str, str]] = field(default_factory=list)
    columns: dict[str, str] = field(default_factory=dict)
    """What each column is in this notation, on a line."""


def write(schema: Schema, notation: str, name: str = "Event") -> Written:
    """A schema in ``avro``, ``protobuf`` or ``json``, as a record called ``name``."""
    made: dict[str, type[_Avro | _Proto | _Json]] = {"avro": _Avro, "protobuf": _Proto, "json": _Json}
    return made[notation](schema, name).written()


class _Notation:
    key = ""

    def __init__(self, schema: Schema, name: str) -> None:
        self.schema, self.name = schema, name
        self.notes: list[tuple[str, str]] = []
        self.column = ""

    def lost(self, kind: SqlType) -> None:
        said = UNSAID.get((self.key, kind.name))
        if said and (self.column, said) not in self.notes:
            self.notes.append((self.column, said))

    def fallback(self, kind: SqlType, what: str) -> None:
        self.notes.append((self.column, f"no way to say {kind.name}: it is {what}"))


class _Avro(_Notation):
    key = "avro"

    def written(self) -> Written:
        fields, columns = [], {}
        for c in self.schema.columns:
            self.column = c.name
            tree = self.of(parse(c.type), title(c.name))
            if not c.required:
                tree = ["null", *tree] if isinstance(tree, list) else ["null", tree]
            fields.append({"name": c.name, "type": tree} | ({} if c.required else {"default": None}))
            columns[c.name] = _short(tree)
        return Written(json.dumps({"type": "record", "name": self.name, "fields": fields}, indent=2), self.notes, columns)

    def of(self, kind: SqlType, name: str) -> Any:
        self.lost(kind)
        if kind.name == "DECIMAL":
            return {"type": "bytes", "logicalType": "decimal", "precision": kind.digits[0], "scale": kind.digits[1]}
        if kind.name == "LIST":
            return {"type": "array", "items": self.nullable(kind.inner[0][1], name)}
        if kind.name == "MAP":
            if kind.inner[0][1].name != "VARCHAR":
                self.notes.append((self.column, "Avro's maps have texts as keys"))
            return {"type": "map", "values": self.nullable(kind.inner[1][1], name)}
        if kind.name == "STRUCT":
            inner = [{"name": n, "type": self.nullable(t, f"{name}_{title(n)}"), "default": None} for n, t in kind.inner]
            return {"type": "record", "name": name, "fields": inner}
        if kind.name == "UNION":
            return [self.of(t, f"{name}_{title(n)}") for n, t in kind.inner]
        if kind.name == "INTERVAL":
            return {"type": "fixed", "name": f"{name}_Duration", "size": 12, "logicalType": "duration"}
        if kind.name not in AVRO:
            self.fallback(kind, "a text")
        return AVRO.get(kind.name, "string")

    def nullable(self, kind: SqlType, name: str) -> Any:
        inner = self.of(kind, name)
        return ["null", *inner] if isinstance(inner, list) else ["null", inner]


class _Proto(_Notation):
    key = "protobuf"

    def written(self) -> Written:
        columns: dict[str, str] = {}
        body = self.message(self.name, [(c, parse(c.type)) for c in self.schema.columns], "", columns)
        imports = sorted(set(re.findall(r"google\.protobuf\.(\w+)", body)))
        files = {"Timestamp": "timestamp", "Duration": "duration", "Value": "struct"}
        head = "".join(f'import "google/protobuf/{files[i]}.proto";\n' for i in imports)
        return Written(f'syntax = "proto3";\n{head}\n{body}', self.notes, columns)

    def message(self, name: str, fields: list[tuple[Column, SqlType]], indent: str, columns: dict[str, str]) -> str:
        lines, nested = [], []
        number = 0
        for column, kind in fields:
            if not indent:
                self.column = column.name
            if kind.name == "UNION":
                members = []
                for label, inner in kind.inner:
                    number += 1
                    made, below = self.of(inner, title(f"{column.name}_{label}"), indent)
                    nested += below
                    members.append(f"{made} {_ident(column.name)}_{_ident(label)} = {number};")
                columns[column.name] = f"oneof {_ident(column.name)} {{ {' '.join(members)} }}"
                lines.append(f"{indent}  {columns[column.name]}")
                continue
            number += 1
            made, below = self.of(kind, title(column.name), indent)
            nested += below
            plain = not made.startswith(("repeated ", "map<", "google.")) and kind.name != "STRUCT"
            label = "optional " if not column.required and plain else ""
            if column.required and kind.name == "STRUCT":
                self.notes.append((column.name, "Protocol Buffers cannot require a message"))
            columns[column.name] = f"{label}{made} {_ident(column.name)} = {number}"
            lines.append(f"{indent}  {columns[column.name]};")
        return "\n".join([f"{indent}message {name} {{", *nested, *lines, f"{indent}}}"])

    def of(self, kind: SqlType, name: str, indent: str) -> tuple[str, list[str]]:
        """The type's name, and the messages that it needs."""
        self.lost(kind)
        if kind.name == "LIST":
            inner = kind.inner[0][1]
            if inner.name in ("LIST", "MAP", "UNION"):
                return f"repeated {name}", [self.message(name, [(Column("value", "", True), inner)], f"{indent}  ", {})]
            made, below = self.of(inner, name, indent)
            return f"repeated {made}", below
        if kind.name == "MAP":
            key, value = kind.inner[0][1], kind.inner[1][1]
            made, below = self.of(value, name, indent)
            keyed = PROTO.get(key.name, "string")
            if made.startswith(("repeated ", "map<")):
                return f"map<{keyed}, {name}>", [self.message(name, [(Column("value", "", True), value)], f"{indent}  ", {})]
            return f"map<{keyed}, {made}>", below
        if kind.name == "STRUCT":
            fields = [(Column(n, "", False), t) for n, t in kind.inner]
            return name, [self.message(name, fields, f"{indent}  ", {})]
        if kind.name not in PROTO:
            self.fallback(kind, "a text")
        return PROTO.get(kind.name, "string"), []


class _Json(_Notation):
    key = "json"

    def written(self) -> Written:
        properties, columns = {}, {}
        for c in self.schema.columns:
            self.column = c.name
            tree = self.of(parse(c.type))
            if not c.required and isinstance(tree.get("type"), str):
                tree = tree | {"type": [tree["type"], "null"]}
            properties[c.name] = tree
            columns[c.name] = _short(tree)
        tree = {
            "$schema": "https://json-schema.org/draft/2020-12/schema", "title": self.name, "type": "object",
            "properties": properties, "required": [c.name for c in self.schema.columns if c.required],
        }  # fmt: skip
        return Written(json.dumps(tree, indent=2), self.notes, columns)

    def of(self, kind: SqlType) -> dict[str, Any]:
        self.lost(kind)
        if kind.name == "LIST":
            return {"type": "array", "items": self.of(kind.inner[0][1])}
        if kind.name == "MAP":
            return {"type": "object", "additionalProperties": self.of(kind.inner[1][1])}
        if kind.name == "STRUCT":
            return {"type": "object", "properties": {n: self.of(t) for n, t in kind.inner}}
        if kind.name == "UNION":
            return {"anyOf": [self.of(t) for _, t in kind.inner]}
        if kind.name not in JSON_TYPES:
            self.fallback(kind, "a text")
        return dict(JSON_TYPES.get(kind.name, {"type": "string"}))


def title(name: str) -> str:
    """A name as records and messages are called: ``OrdersPerDay``."""
    return "".join(part[:1].upper() + part[1:] for part in re.split(r"\W|_", name)) or "Part"


def _ident(name: str) -> str:
    return re.sub(r"\W", "_", name)


def _short(tree: Any) -> str:
    return tree if isinstance(tree, str) else json.dumps(tree, ensure_ascii=False).replace('"', "")

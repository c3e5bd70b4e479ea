"""Avro schema resolution: which nodes read what one schema wrote as another schema has it.

Apache Avro specification 1.12, "Schema Resolution": fields are matched by name and alias, missing ones take the reader's
default, numbers are promoted, enums map symbol by symbol. Names of records, enums and fixed types match by their last part.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa

from merganser.codecs.avro.nested import Again, Many, Mismatch, Nested, Record, Union, Wrapped
from merganser.codecs.avro.node import Node
from merganser.codecs.avro.pieces import (
    Boolean,
    Bytes,
    DecimalBytes,
    Duration,
    Enum,
    FixedUuid,
    Float,
    Null,
    Number,
    uuid_text,
)
from merganser.codecs.binary import Entries, jsonable
from merganser.schema import arrow_type
from merganser.schema.avro import AvroSchema, branch_name

INT, LONG = (-(1 << 31), (1 << 31) - 1), (-(1 << 63), (1 << 63) - 1)
MICROS = (-9_223_372_022_400_000_000, (1 << 63) - 2)
"""What a TIMESTAMP of DuckDB can be; beyond are its infinities."""

DAY = 86_400_000_000

UTC, UTC_NANOS = (arrow_type(kind) for kind in ("TIMESTAMPTZ", "TIMESTAMPTZ_NS"))
LOGICAL_NUMBERS: dict[str, tuple[pa.DataType, int, int, int]] = {
    "date": (pa.date32(), -(1 << 31) + 2, (1 << 31) - 2, 1),
    "time-millis": (pa.time64("us"), 0, DAY // 1000 - 1, 1000),
    "time-micros": (pa.time64("us"), 0, DAY - 1, 1),
    "timestamp-millis": (UTC, -9_223_372_022_400_000, MICROS[1] // 1000, 1000),
    "timestamp-micros": (UTC, *MICROS, 1),
    "timestamp-nanos": (UTC_NANOS, -(1 << 63) + 2, (1 << 63) - 2, 1),
    "local-timestamp-millis": (pa.timestamp("us"), -9_223_372_022_400_000, MICROS[1] // 1000, 1000),
    "local-timestamp-micros": (pa.timestamp("us"), *MICROS, 1),
    "local-timestamp-nanos": (pa.timestamp("ns"), -(1 << 63) + 2, (1 << 63) - 2, 1),
}
"""Logical type of a number to Arrow type, least and greatest number, and factor."""

PROMOTIONS = {
    "int": ("int", "long", "float", "double"),
    "long": ("long", "float", "double"),
    "float": ("float", "double"),
    "double": ("double",),
    "string": ("string", "bytes"),
    "bytes": ("bytes", "string"),
}
"""What a reader may have for what a writer wrote."""


class Unresolvable(Exception):
    """A writer's type that the reader's cannot take: where, and why."""

    def __init__(self, path: str, detail: str) -> None:
        super().__init__(f"{path}: {detail}")
        self.path, self.detail = path, detail


@dataclass
class Resolver:
    """Makes nodes. ``writer`` and ``reader`` are whole schemas; ``resolve`` begins at their roots."""

    writer: AvroSchema
    reader: AvroSchema
    _open: dict[tuple[str, str], Again] = field(default_factory=dict)
    _within: int = 0
    """How many types that contain themselves are being resolved: there, values are plain (no logical types)."""

    def root(self) -> Record:
        """The node of the two root records. Raises Unresolvable."""
        w, r = self.writer.resolve(self.writer.tree), self.reader.resolve(self.reader.tree)
        if self.writer.kind(w) != "record" or self.reader.kind(r) != "record":
            raise Unresolvable("/", f"{self.writer.kind(w)} and {self.reader.kind(r)}; both must be records")
        return self._record(w, r, "")

    def resolve(self, w: Any, r: Any, path: str) -> Node:
        w, r = self.writer.resolve(w), self.reader.resolve(r)
        if isinstance(w, list) or isinstance(r, list):
            return self._union(w, r, path)
        wk, rk = self.writer.kind(w), self.reader.kind(r)
        if wk == rk == "record":
            return self._named(w, r, path)
        if wk == rk == "array":
            return Many(self.resolve(w["items"], r["items"], f"{path}/items"), None)
        if wk == rk == "map":
            return Many(self.resolve(w["values"], r["values"], f"{path}/values"), Bytes(None, text=True))
        if wk == rk == "enum":
            self._same_name(w, r, path)
            known = {s: s for s in r["symbols"]}
            return Enum([known.get(s, r.get("default")) for s in w["symbols"]], w["symbols"])
        if wk == rk == "fixed":
            self._same_name(w, r, path)
            if w["size"] != r["size"]:
                raise Unresolvable(path, f"written as fixed of {w['size']} bytes, read as one of {r['size']}")
            return self._plain(r, "fixed", int(w["size"]))
        if wk == rk == "boolean":
            return Boolean()
        if wk == rk == "null":
            return Null()
        if rk not in PROMOTIONS.get(wk, ()):
            raise Unresolvable(path, f"written as {wk}, read as {rk}")
        return self._scalar(w, r, wk, rk, path)

    # -- one piece ----------------------------------------------------------------------------------------------------

    def _scalar(self, w: Any, r: Any, wk: str, rk: str, path: str) -> Node:
        self._same_decimal(w, r, path)
        if wk in ("int", "long"):
            logical = None if self._within else self.reader.logical(r)
            low, high = INT if wk == "int" else LONG
            if logical is not None:
                return _logical(self._unit(self.writer.logical(w), logical, path), logical, low, high)
            kind = {"int": pa.int32(), "long": pa.int64(), "float": pa.float32(), "double": pa.float64()}[rk]
            return Number(kind, low, high)
        if wk in ("float", "double"):
            return Float(4 if wk == "float" else 8, pa.float32() if rk == "float" else pa.float64())
        return self._plain(r, rk, None)

    def _unit(self, written: str | None, read: str, path: str) -> str:
        """The logical type that says what a number counts: the writer's, since a millisecond stays one whoever reads it."""
        if written is None or written == read:
            return read
        w, r = (name.removeprefix("local-").rpartition("-")[0] for name in (written, read))
        if w != r:
            raise Unresolvable(path, f"written as {written}, read as {read}")
        return written

    def _plain(self, r: Any, rk: str, size: int | None) -> Node:
        logical = None if self._within else self.reader.logical(r)
        if logical == "decimal":
            return DecimalBytes(size, int(r["precision"]), int(r.get("scale", 0)))
        if logical == "uuid":
            return FixedUuid() if rk == "fixed" else uuid_text()
        if logical == "duration":
            return Duration()
        return Bytes(size, text=rk == "string")

    def _same_decimal(self, w: Any, r: Any, path: str) -> None:
        """A decimal is its number of units: another scale would be another value."""
        mine, theirs = self.writer.logical(w) == "decimal", self.reader.logical(r) == "decimal"
        if mine and theirs and w.get("scale", 0) != r.get("scale", 0):
            raise Unresolvable(path, f"written with scale {w.get('scale', 0)}, read with scale {r.get('scale', 0)}")

    # -- several pieces -----------------------------------------------------------------------------------------------

    def _same_name(self, w: Any, r: Any, path: str) -> None:
        names = {_last(n) for n in (r["name"], *r.get("aliases", ()))}
        if _last(w["name"]) not in names:
            raise Unresolvable(path, f"written as {w['name']}, read as {r['name']}")

    def _named(self, w: Any, r: Any, path: str) -> Node:
        key = w["name"], r["name"]
        if key in self._open:
            return self._open[key]
        self._same_name(w, r, path)
        if r["name"] not in self.reader.recursive:
            return Nested(self._record(w, r, path)) if not r["fields"] else self._record(w, r, path)
        again = self._open[key] = Again()
        self._within += 1
        try:
            again.of = self._record(w, r, path)
        finally:
            self._within -= 1
            del self._open[key]
        return again if self._within else Nested(again)

    def _record(self, w: Any, r: Any, path: str) -> Record:
        places: dict[str, int] = {}
        for place, f in enumerate(r["fields"]):
            places[f["name"]] = place
        by_alias = {a: place for place, f in enumerate(r["fields"]) for a in f.get("aliases", ())}
        written: list[tuple[Node, int | None]] = []
        taken: set[int] = set()
        for f in w["fields"]:
            at = places.get(f["name"], by_alias.get(f["name"]))
            if at is None or at in taken:
                written.append((self._skipped(f["type"], f"{path}/{f['name']}"), None))
                continue
            taken.add(at)
            written.append((self.resolve(f["type"], r["fields"][at]["type"], f"{path}/{f['name']}"), at))
        defaults: dict[int, tuple[Any, pa.DataType]] = {}
        for place, f in enumerate(r["fields"]):
            if place in taken:
                continue
            if "default" not in f:
                raise Unresolvable(f"{path}/{f['name']}", "the writer has no such field, and it has no default")
            kind = self._own(f["type"], path)
            defaults[place] = self._default(f["type"], f["default"]), kind
        return Record(written, [f["name"] for f in r["fields"]], defaults)

    def _union(self, w: Any, r: Any, path: str) -> Node:
        places = self._places(r)
        kind = self._union_type(r, path)
        if not isinstance(w, list):
            branch, node = self._branch(w, r, path)
            return node if kind is None or places[branch] is None else Wrapped(node, places[branch] or 0, kind)
        branches: list[tuple[Node, int | None]] = []
        for tree in w:
            try:
                branch, node = self._branch(tree, r, path)
                branches.append((node, places[branch]))
            except Unresolvable as error:
                own = self._skipped(tree, path)
                branches.append((Mismatch(own, error.detail, kind or pa.utf8()), 0))
        if kind is None:
            types = [node.type for node, place in branches if place is not None and not isinstance(node, Mismatch)]
            single = [b for b in (r if isinstance(r, list) else [r]) if self.reader.resolve(b) != "null"]
            whole = types[0] if types else self._own(single[0] if single else "null", path)
            for i, (node, place) in enumerate(branches):
                if isinstance(node, Mismatch):
                    branches[i] = (Mismatch(node.of, node.detail, whole), place)
            if not isinstance(r, list) and self.reader.resolve(r) == "null":
                whole = pa.utf8()
            return Union(branches, whole)
        return Union([(_typed(node, kind, place), place) for node, place in branches], kind)

    def _own(self, tree: Any, path: str) -> pa.DataType:
        return self._alone().resolve(tree, tree, path).type

    def _alone(self) -> Resolver:
        """A resolver of the reader's types by themselves, to which those that are being resolved are what they are here."""
        return Resolver(self.reader, self.reader, {(r, r): Again() for _, r in self._open}, self._within)

    def _skipped(self, tree: Any, path: str) -> Node:
        """A node for what the writer has and the reader has not."""
        return Resolver(self.writer, self.writer).resolve(tree, tree, path)

    def _places(self, r: Any) -> list[int | None]:
        """For each branch of the reader: its place among those that are not null."""
        branches = r if isinstance(r, list) else [r]
        places: list[int | None] = []
        for b in branches:
            places.append(None if self.reader.resolve(b) == "null" else sum(p is not None for p in places))
        return places

    def _union_type(self, r: Any, path: str) -> pa.DataType | None:
        """The Arrow type of a reader's union of several types besides null; None where there is one."""
        branches = [b for b in r if self.reader.resolve(b) != "null"] if isinstance(r, list) else [r]
        if len(branches) < 2:
            return None
        return pa.sparse_union([pa.field(branch_name(self.reader, b), self._own(b, path)) for b in branches])

    def _branch(self, w: Any, r: Any, path: str) -> tuple[int, Node]:
        """The first branch of the reader that takes a writer's type; the same type before one it is promoted to."""
        if not isinstance(r, list):
            return 0, self.resolve(w, r, path)
        same = [i for i, b in enumerate(r) if branch_name(self.reader, b) == branch_name(self.writer, w)]
        for i in dict.fromkeys([*same, *range(len(r))]):
            try:
                return i, self.resolve(w, r[i], path)
            except Unresolvable:
                continue
        wanted = ", ".join(branch_name(self.reader, b) for b in r)
        raise Unresolvable(path, f"written as {branch_name(self.writer, w)}, read as one of {wanted}")

    # -- defaults -----------------------------------------------------------------------------------------------------

    def _default(self, tree: Any, value: Any) -> Any:
        """A default, from its JSON, as ``one`` gives values."""
        found = self.reader.resolve(tree)
        if isinstance(found, list):
            for i, branch in enumerate(found):
                if _is(self.reader, branch, value):
                    inner, place = self._default(branch, value), self._places(found)[i]
                    several = sum(p is not None for p in self._places(found)) > 1
                    return (place, inner) if several and place is not None else inner
            raise Unresolvable("default", f"{value!r} is no value of any branch")
        kind, logical = self.reader.kind(found), None if self._within else self.reader.logical(found)
        if kind in ("bytes", "fixed"):
            raw = value.encode("latin-1")
            if logical == "decimal":
                number = Decimal(int.from_bytes(raw, "big", signed=True))
                return number.scaleb(-int(found.get("scale", 0)))
            return _plain_default(raw, logical)
        if kind in ("int", "long"):
            return value * LOGICAL_NUMBERS[logical][3] if logical else value
        if kind in ("float", "double"):
            return float(value)
        if kind == "array":
            return [self._default(found["items"], v) for v in value]
        if kind == "map":
            return Entries((k, self._default(found["values"], v)) for k, v in value.items())
        if kind == "record":
            return self._record_default(found, value)
        return value

    def _record_default(self, record: Any, value: Any) -> Any:
        made = {f["name"]: self._default(f["type"], value.get(f["name"], f.get("default"))) for f in record["fields"]}
        if not self._within and (record["name"] in self.reader.recursive or not record["fields"]):
            return json.dumps(jsonable(made), ensure_ascii=False)
        return made


def _logical(written: str, read: str, low: int, high: int) -> Number:
    """Numbers between ``low`` and ``high`` that count the unit of one logical type, as values of another."""
    _, least, most, factor = LOGICAL_NUMBERS[written]
    kind, part = LOGICAL_NUMBERS[read][0], 1
    if read.endswith("nanos") and not written.endswith("nanos"):
        factor *= 1000
        most = LOGICAL_NUMBERS[read][2] // factor
        least = -most
    elif written.endswith("nanos") and not read.endswith("nanos"):
        part = 1000
    return Number(kind, max(low, least), min(high, most), factor, part)


def _typed(node: Node, kind: pa.DataType, place: int | None) -> Node:
    """A node of a branch, with the type of its place where it has none."""
    return Mismatch(node.of, node.detail, kind.field(place).type) if isinstance(node, Mismatch) and place is not None else node


def _plain_default(raw: bytes, logical: str | None) -> Any:
    if logical == "uuid":
        return str(UUID(bytes=raw))
    if logical == "duration":
        months, days, millis = struct.unpack("<III", raw)
        return pa.MonthDayNano([months, days, millis * 1_000_000])
    return raw


def _is(avro: AvroSchema, tree: Any, value: Any) -> bool:
    """Whether a JSON value can be one of a type."""
    kind = avro.kind(tree)
    if kind == "null":
        return value is None
    if kind == "boolean":
        return isinstance(value, bool)
    if kind in ("int", "long"):
        return isinstance(value, int) and not isinstance(value, bool)
    if kind in ("float", "double"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind in ("map", "record"):
        return isinstance(value, dict)
    return isinstance(value, list if kind == "array" else str)


def _last(name: str) -> str:
    return name.rsplit(".", 1)[-1]

"""Random Avro schemas, and values of them as fastavro takes and gives them."""

from __future__ import annotations

import datetime as dt
import itertools
import struct
import uuid
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st

UTC = dt.UTC
MICROSECOND = dt.timedelta(microseconds=1)
names = itertools.count()

PRIMITIVES: dict[str, st.SearchStrategy[Any]] = {
    "boolean": st.booleans(),
    "int": st.integers(-(2**31), 2**31 - 1),
    "long": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(width=32),
    "double": st.floats(),
    "bytes": st.binary(max_size=20),
    "string": st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
}
INSTANTS = st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30))


def _millis(moment: dt.datetime) -> dt.datetime:
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


LOGICAL: list[tuple[dict[str, Any], st.SearchStrategy[Any]]] = [
    ({"type": "int", "logicalType": "date"}, st.dates()),
    ({"type": "int", "logicalType": "time-millis"}, st.times().map(lambda t: t.replace(microsecond=t.microsecond // 1000 * 1000))),
    ({"type": "long", "logicalType": "time-micros"}, st.times()),
    ({"type": "long", "logicalType": "timestamp-millis"}, INSTANTS.map(lambda m: _millis(m).replace(tzinfo=UTC))),
    ({"type": "long", "logicalType": "timestamp-micros"}, INSTANTS.map(lambda m: m.replace(tzinfo=UTC))),
    ({"type": "long", "logicalType": "local-timestamp-millis"}, INSTANTS.map(_millis)),
    ({"type": "long", "logicalType": "local-timestamp-micros"}, INSTANTS),
    ({"type": "string", "logicalType": "uuid"}, st.uuids()),
    ({"type": "long", "logicalType": "of-another-world"}, PRIMITIVES["long"]),
]


@st.composite
def decimals(draw: st.DrawFn) -> tuple[dict[str, Any], st.SearchStrategy[Any]]:
    precision = draw(st.integers(1, 38))
    scale = draw(st.integers(0, precision))
    kind: dict[str, Any] = {"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": scale}
    if draw(st.booleans()):
        kind |= {"type": "fixed", "name": f"D{next(names)}", "size": draw(st.integers(16, 17))}
    limit = 10**precision - 1
    return kind, st.integers(-limit, limit).map(lambda n: Decimal(n).scaleb(-scale, _wide))


_wide = __import__("decimal").Context(prec=60)


@st.composite
def types(draw: st.DrawFn, depth: int = 2, branch: bool = False) -> tuple[Any, st.SearchStrategy[Any]]:
    """A type, and its values. ``branch``: one that may stand in a union."""
    kinds = ["primitive", "primitive", "logical", "decimal", "enum", "fixed", "duration", "fixed-uuid"]
    kinds += ["array", "map", "record"] * (depth > 0) + ["union", "nullable"] * (not branch)
    kind = draw(st.sampled_from(kinds))
    if kind == "primitive":
        name = draw(st.sampled_from(list(PRIMITIVES)))
        return name, PRIMITIVES[name]
    if kind == "logical":
        return draw(st.sampled_from(LOGICAL))
    if kind == "decimal":
        return draw(decimals())
    if kind == "enum":
        symbols = [f"S{i}" for i in range(draw(st.integers(1, 5)))]
        return {"type": "enum", "name": f"E{next(names)}", "symbols": symbols}, st.sampled_from(symbols)
    if kind == "fixed":
        size = draw(st.integers(0, 20))
        return {"type": "fixed", "name": f"F{next(names)}", "size": size}, st.binary(min_size=size, max_size=size)
    if kind == "duration":
        parts = st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), st.integers(0, 2**32 - 1))
        tree = {"type": "fixed", "name": f"P{next(names)}", "size": 12, "logicalType": "duration"}
        return tree, parts.map(lambda p: struct.pack("<III", *p))
    if kind == "fixed-uuid":
        return {"type": "fixed", "name": f"U{next(names)}", "size": 16, "logicalType": "uuid"}, st.binary(min_size=16, max_size=16)
    if kind == "array":
        tree, values = draw(types(depth=depth - 1))
        return {"type": "array", "items": tree}, st.lists(values, max_size=4)
    if kind == "map":
        tree, values = draw(types(depth=depth - 1))
        return {"type": "map", "values": tree}, st.dictionaries(PRIMITIVES["string"], values, max_size=4)
    if kind == "record":
        return draw(records(depth=depth - 1))
    inner = draw(types(depth=depth, branch=True))
    if kind == "nullable":
        tree = ["null", inner[0]] if draw(st.booleans()) else [inner[0], "null"]
        return tree, st.none() | inner[1]
    return draw(unions(inner, depth))


@st.composite
def unions(draw: st.DrawFn, first: tuple[Any, Any], depth: int) -> tuple[Any, st.SearchStrategy[Any]]:
    """Types that fastavro can tell apart by their values alone."""
    others = [first]
    if first[0] != "string":
        others.append(("string", PRIMITIVES["string"]))
    if first[0] != "boolean":
        others.append(("boolean", PRIMITIVES["boolean"]))
    if draw(st.booleans()):
        others.insert(draw(st.integers(0, len(others))), ("null", st.none()))
    kinds = {(t if isinstance(t, str) else t["type"]) for t, _ in others}
    if len(kinds) < len(others):
        others = [o for o in others if o[0] in ("string", "boolean", "null")]
    branches = [t for t, _ in others]
    values = st.one_of([v.map(lambda x, t=t: _hint(t, x)) for t, v in others])
    return branches, values


def _hint(tree: Any, value: Any) -> Any:
    """A branch's value with the name of its branch: fastavro would else write the first that fits."""
    if isinstance(tree, dict) and tree["type"] == "record":
        return (tree["name"], value)
    return (tree if isinstance(tree, str) else tree.get("name", tree["type"]), value) if value is not None else None


@st.composite
def records(draw: st.DrawFn, depth: int = 2, least: int = 1) -> tuple[dict[str, Any], st.SearchStrategy[Any]]:
    fields = draw(st.lists(types(depth=depth), min_size=least, max_size=5))
    tree = {
        "type": "record",
        "name": f"R{next(names)}",
        "fields": [{"name": f"f{i}", "type": t} for i, (t, _) in enumerate(fields)],
    }
    return tree, st.fixed_dictionaries({f"f{i}": v for i, (_, v) in enumerate(fields)})


def same(ours: Any, theirs: Any) -> bool:
    """Whether a value of ``to_pylist`` is one of fastavro's."""
    if isinstance(theirs, tuple) and len(theirs) == 2:
        return same(ours, theirs[1])
    if isinstance(theirs, dict):
        ours = dict(ours) if isinstance(ours, list) else ours
        return isinstance(ours, dict) and ours.keys() == theirs.keys() and all(same(ours[k], theirs[k]) for k in theirs)
    if isinstance(theirs, list):
        return isinstance(ours, list) and len(ours) == len(theirs) and all(map(same, ours, theirs))
    if isinstance(theirs, float):
        return isinstance(ours, float) and (ours == theirs or (ours != ours and theirs != theirs))
    if isinstance(theirs, uuid.UUID):
        return bool(ours == str(theirs))
    if isinstance(theirs, bytes) and isinstance(ours, str):  # fastavro leaves a UUID in a fixed as it is
        return ours == str(uuid.UUID(bytes=theirs))
    if type(ours).__name__ == "MonthDayNano":
        months, days, millis = struct.unpack("<III", theirs)
        return tuple(ours) == (months, days, millis * 1_000_000)
    return type(ours) is type(theirs) and ours == theirs

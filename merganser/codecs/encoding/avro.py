"""Rows as Avro datums, many at once (Apache Avro specification 1.12, "Binary encoding")."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import fastavro
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs.cursor import Flags, Ints
from merganser.codecs.encoding.pieces import (
    Trouble,
    Values,
    as_array,
    elements,
    encoded_long,
    fixed,
    gathered,
    joined,
    lengths,
    nothing,
    scattered,
    split,
    text_bytes,
    varints,
    whole,
    zigzags,
)
from merganser.schema.avro import AvroSchema

UNITS: dict[str, int] = {
    "date": 1, "time-millis": 1000, "time-micros": 1, "timestamp-millis": 1000, "timestamp-micros": 1, "timestamp-nanos": 1,
    "local-timestamp-millis": 1000, "local-timestamp-micros": 1, "local-timestamp-nanos": 1,
}  # fmt: skip
"""By logical type of a number: how many of the column's units are one of its own."""

NEVER = "which the schema does not allow here"


def datums(avro: AvroSchema, table: pa.Table, trouble: Trouble) -> pa.BinaryArray:
    """A datum for each row; of a row that is in trouble some bytes. ``table`` has the columns that the record declares."""
    rows = np.arange(len(table))
    fields = avro.resolve(avro.tree)["fields"]
    parts = [_encoded(avro, f["type"], Values(as_array(table, f["name"]), rows, f["name"], trouble)) for f in fields]
    return joined(*parts) if parts else nothing(len(table))


def _encoded(avro: AvroSchema, tree: Any, values: Values) -> pa.BinaryArray:
    found = avro.resolve(tree)
    if not len(values):
        return nothing(0)
    if isinstance(found, list):
        return _union(avro, found, values)
    kind, logical = avro.kind(found), avro.logical(found)
    if kind == "null":
        values.refuse(values.there(), "wrong type", "where the schema has nothing but null")
        return nothing(len(values))
    values = values.required(NEVER)
    if kind == "record":
        return _record(avro, found, values)
    if kind in ("array", "map"):
        return _many(avro, found, values)
    return SCALARS[kind](found, logical, values)


# -- of several pieces ----------------------------------------------------------------------------------------------------


def _record(avro: AvroSchema, tree: Any, values: Values) -> pa.BinaryArray:
    if tree["name"] in avro.recursive or not tree["fields"]:
        return _one_by_one(avro, tree, values)
    return joined(*(_encoded(avro, f["type"], part) for f, part in zip(tree["fields"], split(values))))


def _many(avro: AvroSchema, tree: Any, values: Values) -> pa.BinaryArray:
    """One block of all items with their count in front, then an empty one."""
    items, count = elements(values)
    if tree["type"] == "map":
        key, value = split(items)
        name = values.of(items.array).path
        parts = joined(_text({}, None, key), _encoded(avro, tree["values"], Values(value.array, value.rows, name, value.trouble)))
    else:
        parts = _encoded(avro, tree["items"], items)
    head = scattered([(np.flatnonzero(count), zigzags(count[count > 0]))], len(values))
    return joined(head, gathered(parts, count), b"\0")


def _union(avro: AvroSchema, branches: list[Any], values: Values) -> pa.BinaryArray:
    null = next((i for i, b in enumerate(branches) if avro.resolve(b) == "null"), None)
    others = [i for i, b in enumerate(branches) if avro.resolve(b) != "null"]
    pieces: list[tuple[Ints, pa.BinaryArray]] = []
    if len(others) > 1:
        tags = values.array.type_codes.to_numpy()
        children = [values.array.field(place) for place in range(len(others))]
        there: Flags = np.zeros(len(values), np.bool_)
        for place, child in enumerate(children):
            there |= (tags == place) & child.is_valid().to_numpy(zero_copy_only=False)
    else:
        tags, children, there = np.zeros(len(values), np.int8), [values.array], values.there()
    for place, number in enumerate(others):
        rows = np.flatnonzero(there & (tags == place))
        if len(rows):
            mine = values.of(children[place]) if len(rows) == len(values) else values.take(rows, children[place])
            pieces.append((rows, joined(encoded_long(number), _encoded(avro, branches[number], mine))))
    gone = np.flatnonzero(~there)
    if len(gone) and null is not None:
        pieces.append((gone, pa.array([encoded_long(null)], pa.binary()).take(pa.array(np.zeros(len(gone), np.int64)))))
    elif len(gone):
        values.trouble.note(values.rows, ~there, "missing field", lambda at: f"{values.path}: it is NULL, {NEVER}")
    return scattered(pieces, len(values))


def _one_by_one(avro: AvroSchema, tree: Any, values: Values) -> pa.BinaryArray:
    """What contains itself is JSON here, and written by the reference library."""
    parsed = fastavro.parse_schema(_whole_tree(avro, tree))
    made = []
    for at, text in enumerate(values.array.to_pylist()):
        out = io.BytesIO()
        try:
            fastavro.schemaless_writer(out, parsed, json.loads(text), strict=True)
        except Exception as error:
            why = f"{values.path}: found {text[:60]}, which is no {tree['name']}: {type(error).__name__} {error}"
            values.trouble.of.setdefault(int(values.rows[at]), ("wrong type", why))
        made.append(out.getvalue())
    return pa.array(made, pa.binary())


def _whole_tree(avro: AvroSchema, tree: Any) -> Any:
    """A named type with all names that it refers to written out where they stand first."""
    known: set[str] = set()

    def out(t: Any) -> Any:
        if isinstance(t, list):
            return [out(b) for b in t]
        if isinstance(t, str):
            if t not in avro.names or t in known:
                return t
            return out(avro.names[t])
        if not isinstance(t["type"], str):
            return out(t["type"])
        if t["type"] in avro.names:
            return out(t["type"])
        if "name" in t:
            if t["name"] in known:
                return t["name"]
            known.add(t["name"])
        made = dict(t)
        for inner in ("items", "values"):
            if inner in made:
                made[inner] = out(made[inner])
        if "fields" in made:
            made["fields"] = [{**f, "type": out(f["type"])} for f in made["fields"]]
        return made

    return out(tree)


# -- of one piece ---------------------------------------------------------------------------------------------------------


def _boolean(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    return whole(values.array.cast(pa.uint8()).to_numpy(), 1, len(values))


def _integer(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    numbers = values.numbers()
    unit = UNITS[logical] if logical else 1
    if unit > 1:
        rest = numbers % unit
        values.refuse(rest != 0, "out of range", f"which is no whole number of {logical.rpartition('-')[2] if logical else ''}")
        numbers = numbers // unit
    return zigzags(numbers)


def _float(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    return fixed(np.ascontiguousarray(values.array.to_numpy()))


def _text(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    raw = text_bytes(values)
    return joined(zigzags(lengths(raw)), raw)


def _bytes(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    if logical != "decimal":
        return _text(tree, None, values)
    data, length = _twos_complement(values)
    return joined(zigzags(length), data)


def _fixed(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    size = int(tree["size"])
    if logical == "decimal":
        data, length = _twos_complement(values, size)
        values.refuse(length > size, "out of range", f"which does not fit into {size} bytes")
        return data
    if logical == "duration":
        return _duration(values)
    if logical == "uuid":
        return _uuid(values)
    values.refuse(lengths(values.array) != size, "wrong type", f"and exactly {size} bytes were expected")
    return values.array


def _twos_complement(values: Values, pad: int | None = None) -> tuple[pa.BinaryArray, Ints]:
    """Decimals as numbers of units, big end first, in as few bytes as can be, or ``pad`` of them; and the fewest bytes."""
    count = len(values)
    units = np.frombuffer(values.array.buffers()[1], np.uint8)[16 * values.array.offset : 16 * (values.array.offset + count)]
    octets = units.reshape(count, 16)[:, ::-1]
    fill = np.where(octets[:, 0] > 127, 255, 0).astype(np.uint8)
    same = octets == fill[:, None]
    leading = np.where(same.all(axis=1), 15, np.argmin(same, axis=1))
    sign_kept = (octets[np.arange(count), leading] > 127) == (fill == 255)
    leading = np.where(sign_kept, leading, leading - 1)
    length = 16 - leading
    if pad is None:
        return whole(octets[np.arange(16) >= leading[:, None]], length, count), length
    made = np.repeat(fill[:, None], pad, axis=1)
    keep = min(pad, 16)
    made[:, pad - keep :] = octets[:, 16 - keep :]
    return whole(made.reshape(-1), pad, count), length


def _duration(values: Values) -> pa.BinaryArray:
    parts = np.frombuffer(values.array.buffers()[1], np.int32).reshape(-1, 4)[values.array.offset :][: len(values)]
    months, days = parts[:, 0], parts[:, 1]
    nanos = np.ascontiguousarray(parts[:, 2:]).view(np.int64)[:, 0]
    millis = nanos // 1_000_000
    wrong = (months < 0) | (days < 0) | (nanos < 0) | (nanos % 1_000_000 != 0) | (millis >= 1 << 32)
    values.refuse(wrong, "out of range", "and a duration has months, days and milliseconds, none below 0")
    made = np.empty((len(values), 3), np.uint32)
    made[:, 0], made[:, 1], made[:, 2] = months.view(np.uint32), days.view(np.uint32), millis.astype(np.uint32)
    return whole(made.reshape(-1).view(np.uint8), 12, len(values))


def _uuid(values: Values) -> pa.BinaryArray:
    digits = pc.replace_substring(values.array, "-", "")
    return pa.array([bytes.fromhex(d) if d else bytes(16) for d in digits.to_pylist()], pa.binary())


def _enum(tree: Any, logical: str | None, values: Values) -> pa.BinaryArray:
    place = pc.index_in(values.array, pa.array(tree["symbols"], pa.utf8()))
    values.refuse(place.is_null().to_numpy(zero_copy_only=False), "wrong type", f"and the symbols are {', '.join(tree['symbols'])}")
    at: npt.NDArray[np.uint64] = place.fill_null(0).to_numpy().astype(np.uint64)
    return varints(at << np.uint64(1))


SCALARS: dict[str, Callable[[Any, str | None, Values], pa.BinaryArray]] = {
    "boolean": _boolean, "int": _integer, "long": _integer, "float": _float, "double": _float, "string": _text, "bytes": _bytes,
    "fixed": _fixed, "enum": _enum,
}  # fmt: skip

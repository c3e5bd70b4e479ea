"""Avro values of several pieces: records, arrays, maps, unions, and types that contain themselves."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from merganser.codecs.avro.node import Node, Scan
from merganser.codecs.avro.pieces import Bytes, Null
from merganser.codecs.binary import MAX_ELEMENTS, Broken, Entries, array, jsonable
from merganser.codecs.cursor import Cursor, Ints

MAX_EMPTY = 1 << 16
"""Elements of no bytes that a record may have: five bytes can say that there are a hundred million."""

MAX_DEPTH = 64
"""How deep a value of a type that contains itself may be nested."""

SIDE_BY_SIDE = 1024
"""Elements of a list up to which lists are read side by side."""


@dataclass
class Record:
    """``written``: a node for each field of the writer, with its place among the reader's, or None to skip it."""

    written: Sequence[tuple[Node, int | None]]
    names: Sequence[str]
    defaults: dict[int, tuple[Any, pa.DataType]]

    def __post_init__(self) -> None:
        types: dict[int, pa.DataType] = {i: node.type for node, i in self.written if i is not None}
        types |= {i: kind for i, (_, kind) in self.defaults.items()}
        self.type = pa.struct([pa.field(name, types[i]) for i, name in enumerate(self.names)])

    def columns(self, c: Cursor) -> list[pa.Array]:
        found: dict[int, pa.Array] = {}
        for node, place in self.written:
            if place is None:
                node.skip(c)
            else:
                found[place] = node.read(c)
        for place, (value, kind) in self.defaults.items():
            found[place] = array([value], kind).take(pa.array(np.zeros(len(c), np.int64)))
        return [found[i] for i in range(len(self.names))]

    def read(self, c: Cursor) -> pa.Array:
        if not self.names:
            self.skip(c)
            return pa.array([{}] * len(c), self.type)
        return pa.StructArray.from_arrays(self.columns(c), fields=list(self.type))

    def skip(self, c: Cursor) -> None:
        for node, _ in self.written:
            node.skip(c)

    def one(self, s: Scan) -> Any:
        values: dict[int, Any] = {i: value for i, (value, _) in self.defaults.items()}
        for node, place in self.written:
            value = node.one(s)
            if place is not None:
                values[place] = value
        return {name: values[i] for i, name in enumerate(self.names)}


@dataclass
class Many:
    """``array`` and ``map``: blocks of items. A block has a count, or a negative one and then its size in bytes."""

    item: Node
    key: Bytes | None

    @property
    def type(self) -> pa.DataType:
        return pa.map_(pa.utf8(), self.item.type) if self.key else pa.list_(pa.field("l", self.item.type))

    def read(self, c: Cursor) -> pa.Array:
        rows: list[Ints] = []
        keys: list[pa.Array] = []
        items: list[pa.Array] = []

        def take(sub: Cursor, at: Ints) -> None:
            rows.append(at)
            if self.key:
                keys.append(self.key.read(sub))
            items.append(self.item.read(sub))

        self._walk(c, take)
        row = np.concatenate([np.zeros(0, np.int64), *rows])
        order = np.argsort(row, kind="stable")
        offsets = np.zeros(len(c) + 1, np.int32)
        np.cumsum(np.bincount(row, minlength=len(c)), out=offsets[1:])
        values = pa.concat_arrays([pa.nulls(0, self.item.type), *items]).take(pa.array(order))
        if self.key:
            names = pa.concat_arrays([pa.array([], pa.utf8()), *keys]).take(pa.array(order))
            _refuse_repeated(c, row[order], names)
            return pa.MapArray.from_arrays(pa.array(offsets), names, values)
        return pa.ListArray.from_arrays(pa.array(offsets), values, type=self.type)

    def skip(self, c: Cursor) -> None:
        def take(sub: Cursor, at: Ints) -> None:
            if self.key:
                self.key.skip(sub)
            self.item.skip(sub)

        self._walk(c, take)

    def _walk(self, c: Cursor, take: Callable[[Cursor, Ints], None]) -> None:
        """Call ``take`` for the n-th items of all records that have one, n by n."""
        open_ = np.flatnonzero(c.ok)
        total = np.zeros(len(c), np.int64)
        while len(open_):
            sub = c.some(open_)
            count = sub.zigzag()
            sized = np.flatnonzero((count < 0) & sub.ok)
            if len(sized):
                inner = sub.some(sized)
                inner.span(inner.zigzag() * 0)  # its size is for those who skip
                sub.join(sized, inner)
                count[sized] = -count[sized]
            total[open_] += count
            sub.refuse((count < 0) | (total[open_] > SIDE_BY_SIDE))
            count = np.where(sub.ok, count, 0)
            for n in range(int(count.max(initial=0))):
                has = np.flatnonzero((count > n) & sub.ok)
                if not len(has):
                    break
                inner = sub.some(has)
                take(inner, open_[has])
                sub.join(has, inner)
            c.join(open_, sub)
            open_ = open_[(count > 0) & sub.ok]

    def one(self, s: Scan) -> Any:
        found: list[Any] = Entries() if self.key else []
        while count := s.varint():
            if count < 0:
                count, size = -count, s.varint()
                if size < 0:
                    raise Broken("not avro", f"byte {s.at}: a block of {size} bytes")
            s.elements += count
            if s.elements > MAX_ELEMENTS and count <= len(s.data) - s.at:  # with more of them it is cut off, which says more
                raise Broken("too many elements", f"{s.elements:,} elements; at most {MAX_ELEMENTS:,} are taken of one record")
            for _ in range(count):
                before = s.at
                key = self.key.one(s) if self.key else None
                value = self.item.one(s)
                if s.at == before:
                    s.empty += 1
                    if s.empty > MAX_EMPTY:
                        raise Broken("too many elements", f"{count} elements of no bytes; at most {MAX_EMPTY} are taken")
                found.append((key, value) if self.key else value)
        if self.key and len({key for key, _ in found}) < len(found):
            raise Broken("duplicate key", "a key stands in a map more than once")
        return found


def _refuse_repeated(c: Cursor, row: Ints, keys: pa.Array) -> None:
    """Refuse the records with a map that has a key twice; ``row``: the record of each key."""
    codes = keys.dictionary_encode()
    pairs = np.sort(row * max(1, len(codes.dictionary)) + codes.indices.to_numpy())
    twice = pairs[1:][pairs[1:] == pairs[:-1]]
    if len(twice):
        wrong = np.zeros(len(c), np.bool_)
        wrong[twice // len(codes.dictionary)] = True
        c.refuse(wrong)


@dataclass
class Union:
    """A union: ``branches`` of the writer, each with its place among the reader's (None for null).

    ``type`` is that of the value where the reader has one type besides null, else an Arrow sparse union.
    """

    branches: Sequence[tuple[Node, int | None]]
    type: pa.DataType

    @property
    def single(self) -> bool:
        return not pa.types.is_union(self.type)

    def read(self, c: Cursor) -> pa.Array:
        index = c.zigzag()
        c.refuse(index.view(np.uint64) >= len(self.branches))
        places = sorted({place for _, place in self.branches if place is not None})
        for number, (node, place) in enumerate(self.branches):
            if self.single and place is not None and c.ok.all() and (index == number).all():
                return node.read(c)
        found: dict[int, list[tuple[Ints, pa.Array]]] = {place: [] for place in places}
        for number, (node, place) in enumerate(self.branches):
            rows = np.flatnonzero((index == number) & c.ok)
            if not len(rows):
                continue
            sub = c.some(rows)
            values = node.read(sub)
            c.join(rows, sub)
            if place is not None:
                found[place].append((rows, values))
        if self.single:
            return _scattered([piece for pieces in found.values() for piece in pieces], len(c), self.type)
        tags = np.zeros(len(c), np.int8)
        children = []
        for place, child in enumerate(self.type):
            pieces = found.get(place, [])
            for rows, _ in pieces:
                tags[rows] = place
            children.append(_scattered(pieces, len(c), child.type))
        names = [child.name for child in self.type]
        return pa.UnionArray.from_sparse(pa.array(tags), children, names)

    def skip(self, c: Cursor) -> None:
        index = c.zigzag()
        c.refuse(index.view(np.uint64) >= len(self.branches))
        for number, (node, _) in enumerate(self.branches):
            if isinstance(node, Null):
                continue
            rows = np.flatnonzero((index == number) & c.ok)
            if len(rows) == len(c):
                node.skip(c)
            elif len(rows):
                sub = c.some(rows)
                node.skip(sub)
                c.join(rows, sub)

    def one(self, s: Scan) -> Any:
        index = s.varint()
        if not 0 <= index < len(self.branches):
            raise Broken("not avro", f"branch {index} of a union of {len(self.branches)}")
        node, place = self.branches[index]
        value = node.one(s)
        return value if self.single or place is None else (place, value)


def _scattered(pieces: Sequence[tuple[Ints, pa.Array]], count: int, kind: pa.DataType) -> pa.Array:
    """Values at their rows, NULL elsewhere."""
    place = np.full(count, -1, np.int64)
    at = 0
    for rows, _ in pieces:
        place[rows] = np.arange(at, at + len(rows))
        at += len(rows)
    whole = pa.concat_arrays([pa.nulls(0, kind), *(values for _, values in pieces)])
    return whole.take(pa.array(place, mask=place < 0))


@dataclass
class Wrapped:
    """What the writer wrote as one type and the reader has as a union of several."""

    of: Node
    place: int
    type: pa.DataType

    def read(self, c: Cursor) -> pa.Array:
        values = self.of.read(c)
        children = [values if i == self.place else pa.nulls(len(c), f.type) for i, f in enumerate(self.type)]
        return pa.UnionArray.from_sparse(
            pa.array(np.full(len(c), self.place, np.int8)), children, [f.name for f in self.type]
        )

    def skip(self, c: Cursor) -> None:
        self.of.skip(c)

    def one(self, s: Scan) -> Any:
        return self.place, self.of.one(s)


@dataclass
class Mismatch:
    """A type that the reader has no place for: a datum that has such a value is refused."""

    of: Node
    detail: str
    type: pa.DataType = field(default_factory=pa.null)

    def read(self, c: Cursor) -> pa.Array:
        c.refuse(np.ones(len(c), np.bool_))
        return pa.nulls(len(c), self.type)

    def skip(self, c: Cursor) -> None:
        self.of.skip(c)

    def one(self, s: Scan) -> Any:
        raise Broken("wrong type", self.detail)


@dataclass
class Nested:
    """A type that contains itself, as JSON text: always one by one."""

    of: Node
    type: pa.DataType = field(default_factory=pa.utf8)

    def read(self, c: Cursor) -> pa.Array:
        c.refuse(np.ones(len(c), np.bool_))
        return pa.nulls(len(c), self.type)

    def skip(self, c: Cursor) -> None:
        c.refuse(np.ones(len(c), np.bool_))

    def one(self, s: Scan) -> Any:
        return json.dumps(jsonable(self.of.one(s)), ensure_ascii=False, allow_nan=True)


@dataclass
class Again:
    """A place inside of a type where that type stands again; ``of`` is set when it is known."""

    of: Node | None = None
    type: pa.DataType = field(default_factory=pa.utf8)

    def read(self, c: Cursor) -> pa.Array:
        raise AssertionError("read one by one")

    skip = read

    def one(self, s: Scan) -> Any:
        assert self.of is not None
        s.depth += 1
        if s.depth > MAX_DEPTH:
            raise Broken("nested too deeply", f"more than {MAX_DEPTH} values within each other")
        value = self.of.one(s)
        s.depth -= 1
        return value

"""How texts become values of a column's type: DuckDB's casts, made strict where a cast would change a value unseen."""

from __future__ import annotations

import json
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from merganser.codecs import Chunk, Place
from merganser.codecs.shapes import remade, spelt
from merganser.schema import Column
from merganser.schema.types import parse

SMALL = ("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER")
LARGE = ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT")
FLOATS = ("DOUBLE", "FLOAT")


@dataclass(frozen=True, slots=True)
class Rule:
    """How a column type is decoded: first as what, its value from that (``{}``), and what must hold besides."""

    decoded: str
    value: str
    check: str | None = None


def rule(column: Column, careful: bool = True) -> Rule:
    """``careful``: read small integers as text too, which tells a boolean from 0 and 1."""
    kind = column.type
    if kind in LARGE:  # text, since a DOUBLE cannot hold every one
        return Rule("VARCHAR", f"{{}}::{kind}", "NOT contains({}, '.')")
    if kind in SMALL and careful:
        return Rule("VARCHAR", f"{{}}::DOUBLE::{kind}", "TRY_CAST({} AS DOUBLE) = trunc(TRY_CAST({} AS DOUBLE))")
    if kind in SMALL:  # exact in a DOUBLE, which shows a fraction where a cast would round it
        return Rule("DOUBLE", f"{{}}::{kind}", "{} = trunc({})")
    if kind in FLOATS:
        return Rule(kind, "{}", "isfinite({})")
    if kind == "TIMESTAMP":  # a cast from text drops the zone, so go by the instant
        return Rule("TIMESTAMP WITH TIME ZONE", "{}::TIMESTAMP")
    if "BLOB" in kind:  # JSON has no bytes: they are base64
        tree = parse(kind)
        return Rule(spelt(tree, {"BLOB": "VARCHAR"}), remade("{}", tree, {"BLOB": lambda value: f"from_base64({value})"}))
    return Rule(kind, "{}")


def numeric(kind: str) -> bool:
    """Whether a column holds numbers."""
    return kind.startswith("DECIMAL") or kind in (*SMALL, *LARGE, *FLOATS)


def shown(value: object) -> str:
    """A value as people would write it, cut to a line."""
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def utf8_error(raw: bytes) -> str | None:
    """What is wrong with a text that is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} of the record (0x{raw[error.start]:02x}) is not UTF-8"
    return None


def after_comma(octets: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Where a closing bracket stands behind a comma, or behind white space, of which one cannot know without a closer look."""
    found = [np.zeros(0, np.int64)]
    folded, marks = (np.empty(min(BLOCK, len(octets)), kind) for kind in (np.uint8, np.bool_))
    for begin in range(0, len(octets), BLOCK):
        block = octets[begin : begin + BLOCK]
        np.bitwise_or(block, 32, out=folded[: len(block)])  # } and ] differ in one bit
        closing = places(np.equal(folded[: len(block)], 125, out=marks[: len(block)])) + begin
        before = octets[np.maximum(closing, 1) - 1]
        doubtful = (before == 44) | (before <= 32)
        if np.count_nonzero(doubtful):
            found.append(closing[doubtful])
    return np.concatenate(found)


def line_ends(data: bytes | memoryview) -> npt.NDArray[np.int64]:
    """Where the line ends stand."""
    array = np.frombuffer(data, np.uint8)
    marks = np.empty(min(BLOCK, len(array)), np.bool_)
    found = [np.zeros(0, np.int64)]
    for begin in range(0, len(array), BLOCK):
        block = array[begin : begin + BLOCK]
        found.append(places(np.equal(block, 10, out=marks[: len(block)])) + begin)
    return np.concatenate(found)


BLOCK = 1 << 19
"""Bytes that are searched at a time: few enough to stay in the processor's cache."""

PLACE = np.uint64(0x0001020304050607)
"""Times a word of which one byte is 1 and the others 0, its uppermost byte is the place of that one (little-endian)."""


def places(marks: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
    """Where a few marks stand: ``flatnonzero``, by eight at a time. Twice as fast for one in a hundred."""
    whole = len(marks) & ~7
    words = marks[:whole].view(np.uint64)
    at = np.flatnonzero(words != 0)
    found = words[at]
    if np.count_nonzero(found & (found - np.uint64(1))):  # several in a word
        return np.flatnonzero(marks)
    at *= 8
    at += ((found * PLACE) >> np.uint64(56)).view(np.int64)
    return at if whole == len(marks) else np.concatenate([at, whole + np.flatnonzero(marks[whole:])])


def is_json(raw: bytes) -> bool:
    """Whether a text is JSON as RFC 8259 has it, but for NaN and its like."""
    try:
        json.loads(raw)
    except (ValueError, RecursionError):
        return False
    return True


def ordinals(chunk: Chunk, count: int) -> npt.NDArray[np.int64]:
    """The ordinal of each record in the payload: those that the reader refused are not in it."""
    refused = {r.seq for r in chunk.rejects}
    if not refused:
        return np.arange(chunk.seq, chunk.seq + count)
    return np.array([s for s in range(chunk.seq, chunk.seq + chunk.records) if s not in refused], np.int64)


def place(chunk: Chunk, offset: int, line: int, seq: int) -> Place:
    """Where a record stands, ``offset`` bytes and ``line`` lines into the payload."""
    gone = sum(len(r.raw) + 1 for r in chunk.rejects if r.seq < seq)
    skipped = sum(1 for r in chunk.rejects if r.seq < seq)
    byte = None if chunk.place.byte is None else chunk.place.byte + offset + gone
    return Place(chunk.place.file, byte, None if chunk.place.line is None else chunk.place.line + line + skipped)

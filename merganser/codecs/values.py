"""How texts become values of a column's type: DuckDB's casts, made strict where a cast would change a value unseen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from merganser.codecs import Chunk, Place
from merganser.codecs.shapes import remade, spelt
from merganser.schema.types import SqlType, parse

SMALL = ("TINYINT", "SMALLINT", "INTEGER", "UTINYINT", "USMALLINT", "UINTEGER")
LARGE = ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT")
FLOATS = ("DOUBLE", "FLOAT")
DIGITS = {
    "TIMESTAMP": 6, "TIMESTAMP WITH TIME ZONE": 6, "TIMESTAMP_S": 0, "TIMESTAMP_MS": 3, "TIMESTAMP_NS": 9, "TIMESTAMPTZ_NS": 9,
    "TIME": 6, "TIME WITH TIME ZONE": 6, "TIME_NS": 9,
}  # fmt: skip
"""How many digits of a second a type has."""

NESTED = ("LIST", "MAP", "STRUCT")
INTERVAL = r"\s*([-+]?\d+(\.\d{0,6}0*\s*s(ec|econd)?s?|\s*[a-z]+)\s*)*([-+]?\d+:\d+(:\d+(\.\d{0,6}0*)?)?\s*)?(ago\s*)?"


@dataclass(frozen=True, slots=True)
class Rule:
    """How a text becomes a value, in SQL with the text as ``{}``.

    Where ``check`` is false, ``value`` is not what the text says, or fails. ``decoded``: the type that it is read as before, which
    is the type itself with texts for all that it is made of.
    """

    value: str
    check: str | None = None
    decoded: str = "VARCHAR"

    def held(self, text: str) -> str:
        """SQL for the value of a text, a cast in which fails if the type cannot hold what it says."""
        if self.check is None:
            return self.value.replace("{}", text)
        return self.value.replace("{}", f"(CASE WHEN ({self.check.replace('{}', text)}) IS NOT FALSE THEN {text} ELSE '???' END)")


def rule(kind: str, json: bool = False) -> Rule:
    """The rule of a column's type, for texts that are as they were written, or (``json``) what DuckDB reads as text from JSON."""
    if kind.startswith("ENUM("):
        return Rule(f"{{}}::{kind}")
    tree = parse(kind)
    if tree.name not in NESTED:
        return _leaf(tree, json)
    leaves = {t.name: partial(_held, json) for t in _parts(tree)}
    texts = {t.name: _leaf(t, json).decoded for t in _parts(tree)}
    return Rule(f"({remade('{}', tree, leaves)})::{kind}", None, spelt(tree, texts))


def _parts(tree: SqlType) -> list[SqlType]:
    """What a type is made of, in the end."""
    return [part for _, inner in tree.inner for part in _parts(inner)] if tree.name in NESTED else [tree]


def _held(json: bool, value: str, kind: SqlType) -> str:
    return _leaf(kind, json).held(value)


def _leaf(tree: SqlType, json: bool) -> Rule:
    """The rule of a type that is not made of others.

    A check is, where that is quicker, first one that all usual texts pass, then the exact one: in a CASE, since DuckDB computes
    both sides of an OR.
    """
    name, kind = tree.name, spelt(tree, {})
    if name in SMALL:  # exact in a DOUBLE, which shows a fraction where a cast would round it
        return Rule(f"{{}}::DOUBLE::{kind}", "TRY_CAST({} AS DOUBLE) = trunc(TRY_CAST({} AS DOUBLE))")
    if name in LARGE:  # which a DOUBLE cannot hold
        return Rule(f"{{}}::{kind}", r"regexp_full_match({}, '\s*[-+]?\d+\s*')")
    if name in FLOATS:  # a FLOAT is rounded from a DOUBLE, as JSON's numbers are, so that no way gives another one
        return Rule("{}::DOUBLE" if name == "DOUBLE" else "{}::DOUBLE::FLOAT", "isfinite(TRY_CAST({} AS DOUBLE))")
    if name == "DECIMAL":
        plain = f"regexp_full_match({{}}, '\\s*[-+]?\\d*(\\.\\d{{0,{tree.digits[1]}}}0*)?\\s*')"
        return Rule(f"{{}}::{kind}", f"CASE WHEN {_short(kind)} THEN true ELSE {plain} END")
    if name == "BOOLEAN":
        return Rule("{}::BOOLEAN", "lower({}) IN ('true', 'false')")
    if name == "DATE":
        return Rule("{}::DATE", "CASE WHEN {} LIKE '____-__-__' THEN true ELSE NOT regexp_matches({}, '[Tt ].*[1-9]') END")
    if name.startswith("TIMESTAMP"):
        return _timestamp(kind)
    if name in DIGITS:  # one without a zone in it, or in UTC: of another one no time of day keeps what it says
        zone = r"\s*([zZ]|[-+]00(:?00)?)?\s*"
        return Rule(f"{{}}::{kind}", rf"regexp_full_match({{}}, '\s*\d+:\d+(:\d+(\.\d{{0,{DIGITS[name]}}}0*)?)?{zone}')")
    if name == "INTERVAL":
        return Rule("{}::INTERVAL", f"regexp_full_match({{}}, '{INTERVAL}', 'i')")
    if name == "BLOB" and json:  # with its quotes, since a number could be taken for base64
        return Rule("from_base64({}[2:-2])", "prefix({}, '\"')", "JSON")
    if name == "BLOB":
        return Rule("from_base64({})")
    if name == "JSON":
        return Rule("{}::JSON", None, "JSON" if json else "VARCHAR")
    return Rule("{}" if name == "VARCHAR" else f"{{}}::{kind}")


def _short(kind: str) -> str:
    """SQL for whether a text of at most 15 digits is a DECIMAL without rounding: it is so if both are the same as DOUBLEs."""
    return f"strlen({{}}) <= 16 AND {{}}::{kind}::DOUBLE = {{}}::DOUBLE"


def _timestamp(kind: str) -> Rule:
    """One without a zone is the instant in UTC: a cast from the text would drop a zone."""
    instant = "TIMESTAMPTZ_NS" if kind.endswith("_NS") else "TIMESTAMP WITH TIME ZONE"
    value = f"{{}}::{instant}" if instant == kind else f"{{}}::{instant}::{kind}"
    finer = f"regexp_matches({{}}, '\\.\\d{{{DIGITS[kind]}}}\\d*[1-9]')"
    return Rule(value, f"CASE WHEN ({_usual(kind)}) THEN true ELSE NOT {finer} END")


def _usual(kind: str) -> str:
    """SQL for whether a text that is a TIMESTAMP, of any unit, surely has no more digits of a second than the type."""
    digits = "_" * DIGITS[kind]
    return f"CASE WHEN {{}} NOT LIKE '%.{digits}_%' THEN true ELSE {{}} LIKE '%.{digits}+%' END"


def numeric(kind: str) -> bool:
    """Whether a column holds numbers."""
    return kind.startswith("DECIMAL") or kind in (*SMALL, *LARGE, *FLOATS)


def shown(value: object) -> str:
    """A value as JSON, cut to a line."""
    return cut(json.dumps(value, default=str))


def cut(text: str) -> str:
    return text if len(text) <= 60 else text[:57] + "..."


def utf8_error(raw: bytes) -> str | None:
    """What is wrong with a text that is not UTF-8."""
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"byte {error.start} of the record (0x{raw[error.start]:02x}) is not UTF-8"
    return None


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

"""How the columns of a stream become those that a format is written with: casts, and which rows cannot be cast without loss."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from merganser.errors import FlowError
from merganser.schema import Column, Schema
from merganser.schema.types import SqlType, parse
from merganser.sql import literal, quote

ENUM = re.compile(r"ENUM\((?:'(?:[^']|'')*'(?:,\s*)?)*\)")

LOST = re.compile(r"\b(?:HUGEINT|UHUGEINT|UUID|ENUM|JSON|BIT|BIGNUM)\b")
"""Types that come out of Arrow as others, and have to be cast where they are read."""

WHOLE = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT", "UHUGEINT")
FRACTIONS = ("FLOAT", "DOUBLE", "DECIMAL")
MOMENTS = ("TIMESTAMP", "TIMESTAMP WITH TIME ZONE", "TIMESTAMP_S", "TIMESTAMP_MS", "TIMESTAMP_NS", "TIMESTAMPTZ_NS")
TEXTS = ("VARCHAR", "JSON", "UUID")
SPELT = ("DATE", "TIME", "DECIMAL", "HUGEINT", "UHUGEINT", "INTERVAL", *MOMENTS)
"""Types whose values a text can be instead, where a notation has no type for them."""

REASON, DETAIL = "_reason", "_detail"
"""Columns that say of a row why it cannot be written; NULL of one that can."""


def plain(kind: str) -> str:
    """A type with ENUMs as the texts that they are."""
    return ENUM.sub("VARCHAR", kind)


def fits(have: SqlType, want: SqlType) -> bool:
    """Whether values of one type can be values of another; whether each one is, is asked of each row."""
    if have.name in ("LIST", "MAP", "UNION", "STRUCT") or want.name in ("LIST", "MAP", "UNION", "STRUCT"):
        if have.name != want.name or len(have.inner) != len(want.inner):
            return False
        theirs = dict(have.inner) if have.name == "STRUCT" else {}
        pairs = [(theirs.get(n) if theirs else h, t) for (_, h), (n, t) in zip(have.inner, want.inner)]
        named = have.name != "UNION" or [n for n, _ in have.inner] == [n for n, _ in want.inner]
        return named and all(h is not None and fits(h, t) for h, t in pairs)
    if have.name in WHOLE + FRACTIONS and want.name in WHOLE + FRACTIONS:
        return have.name != "DOUBLE" or want.name != "FLOAT"
    if have.name in MOMENTS and want.name in MOMENTS:
        return True
    if have.name in TEXTS and want.name in TEXTS:
        return True
    if want.name == "VARCHAR" and have.name in SPELT:
        return True
    return have.name == want.name or have.name == '"NULL"'


def check(columns: Mapping[str, str], target: Schema, what: str) -> None:
    """Raise a FlowError unless the target has the stream's columns, and types that can hold them."""
    missing = [n for n in columns if n not in target]
    if missing:
        raise FlowError(
            f"{what} has no field for column {', '.join(map(repr, missing))}; its fields are {', '.join(target.names())}."
            f" Leave it out with drop({', '.join(map(repr, missing))}), or add it to the schema"
        )
    unknown = [c.name for c in target.columns if c.name not in columns]
    if unknown:
        raise FlowError(
            f"{what} has a field {', '.join(map(repr, unknown))} that the stream has not; it has {', '.join(columns)}."
            f" derive({unknown[0]}=…) makes it"
        )
    for column in target.columns:
        if not fits(parse(plain(columns[column.name])), parse(plain(column.type))):
            raise FlowError(
                f"{what}: column {column.name!r} is {columns[column.name]}, but its field is {column.type};"
                f" derive({column.name}=…) with a value of that type"
            )


def items(columns: Mapping[str, str], target: Sequence[Column]) -> tuple[list[str], list[str]]:
    """SQL for each column of the target, and for why a row has none: conditions and texts as ``WHEN … THEN …``."""
    made, wrong = [], []
    for column in target:
        name, have, want = quote(column.name), plain(columns[column.name]), column.type
        source = f"{name}::{have}" if LOST.search(columns[column.name]) else name
        if have == want:
            made.append(f"{source} AS {name}")
        else:
            made.append(f"TRY_CAST({source} AS {want}) AS {name}")
            found = f"left({source}::VARCHAR, 60)"
            text = f"{literal(f'column {column.name!r}: found ')} || {found} || {literal(f', which is no {want} without loss')}"
            back = f"TRY_CAST(TRY_CAST({source} AS {want}) AS {have})"
            wrong.append(f"WHEN {back} IS DISTINCT FROM {source} THEN ['out of range', {text}]")
        if column.required:
            text = literal(f"column {column.name!r} ({want} NOT NULL) is null")
            wrong.append(f"WHEN {name} IS NULL THEN ['missing field', {text}]")
    return made, wrong


def verdict(wrong: Sequence[str]) -> str:
    """SQL for the columns ``REASON`` and ``DETAIL``."""
    found = f"(CASE {' '.join(wrong)} END)" if wrong else "NULL::VARCHAR[]"
    return f"{found}[1] AS {REASON}, {found}[2] AS {DETAIL}"

"""What of JSON need not be looked at as text: types that DuckDB reads faster as such, and how to be sure of what they give."""

from __future__ import annotations

from dataclasses import dataclass

from merganser.codecs.values import FLOATS, LARGE, SMALL, rule
from merganser.schema import Column
from merganser.sql import literal, quote


@dataclass(frozen=True, slots=True)
class Quick:
    """A column of records ``_line`` in SQL.

    What it is ``decoded`` as into ``_read``; its ``value``; and ``sure``: false if that may not be what its type's rule has.
    """

    decoded: str
    value: str
    sure: str | None = None


def quick(column: Column) -> Quick:
    """The quick way to a column's values."""
    kind, field = column.type, f"_read.{quote(column.name)}"
    # DuckDB takes booleans for 0 and 1.
    number = f"CASE WHEN {field} IN (0, 1) THEN json_type(_line, {literal(path(column.name))}) <> 'BOOLEAN' ELSE true END"
    if kind in SMALL:
        return Quick("DOUBLE", f"{field}::{kind}", f"{field} = trunc({field}) AND {number}")
    if kind in FLOATS:
        return Quick("DOUBLE", field if kind == "DOUBLE" else f"{field}::FLOAT", f"isfinite({field}) AND {number}")
    if kind == "BOOLEAN":
        return Quick("VARCHAR", f"{field} = 'true'", f"{field} IN ('true', 'false')")
    how = rule(kind, json=True)
    value, check = (None if part is None else part.replace("{}", field) for part in (how.value, how.check))
    if kind in LARGE:
        check = f"CASE WHEN {value}::VARCHAR = {field} THEN true ELSE {check} END"
    assert value is not None
    return Quick(how.decoded, value, check)


def path(name: str) -> str:
    """The JSON path of a key of a record."""
    return '$."' + name.replace('"', '\\"') + '"'

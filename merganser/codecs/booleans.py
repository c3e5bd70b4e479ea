"""Booleans in JSON where there should be numbers: DuckDB takes them for 0 and 1, which would change a value unseen.

The values that can be such are 0 and 1 in records in which ``true`` or ``false`` stands, so nearly no record needs a closer look.
"""

from __future__ import annotations

import json

from merganser.codecs.shapes import has, spelt
from merganser.codecs.values import FLOATS, LARGE, SMALL
from merganser.schema import Column
from merganser.schema.types import parse
from merganser.sql import literal, quote

_TRUTH = "(contains(l, 'true') OR contains(l, 'false'))"
_NUMBERS = dict.fromkeys(("DECIMAL", *SMALL, *LARGE, *FLOATS), str)


def doubted(column: Column) -> str | None:
    """SQL over a record ``l`` and its values ``s``: true wherever a column may hold a boolean where there should be a number."""
    if column.type in SMALL:
        return f"s.{quote(column.name)} IN (0, 1)"
    if _as_text(column.type):
        return _TRUTH
    if _alone(column.type):
        return f"CASE WHEN s.{quote(column.name)} IN (0, 1) THEN {_TRUTH} ELSE false END"
    return None


def no_boolean(column: Column, value: str) -> str | None:
    """SQL over a record ``l`` and a column's ``value``: true unless a boolean stands in it where there should be a number.

    None for columns that are read as text when it matters (``values.rule``): no text is cast from a boolean to a number.
    """
    if spec := _as_text(column.type):
        text = f"struct_extract(json_transform_strict(l, {literal(json.dumps({column.name: spec}))}), {literal(column.name)})"
        return f"CASE WHEN {value} IS NOT NULL AND {_TRUTH} THEN TRY({text}::{column.type}) IS NOT NULL ELSE true END"
    if _alone(column.type):
        number = f"json_type(l, {literal(path(column.name))}) IS DISTINCT FROM 'BOOLEAN'"
        return f"CASE WHEN {value} NOT IN (0, 1) THEN true WHEN {_TRUTH} THEN {number} ELSE true END"
    return None


def path(name: str) -> str:
    """The JSON path of a key of a record."""
    return '$."' + name.replace('"', '\\"') + '"'


def _alone(kind: str) -> bool:
    return kind in FLOATS or kind.startswith("DECIMAL(")


def _as_text(kind: str) -> str | None:
    """A type with numbers within it as it is called with these as text; None for one without, and for a number itself."""
    tree = parse(kind)
    if not tree.inner or not has(tree, _NUMBERS):
        return None
    return spelt(tree, dict.fromkeys((*_NUMBERS, "BLOB"), "VARCHAR"))

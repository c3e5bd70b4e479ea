"""Why a record is no JSON object, or does not fit a schema: the reason and a sentence for a dead letter."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

from merganser.codecs.filling import Number, Object, text, tree
from merganser.codecs.values import DIGITS, LARGE, SMALL, cut, numeric
from merganser.schema import Column, Schema


def explain(raw: bytes, schema: Schema, fits: Callable[[Column, Any], bool]) -> tuple[str, str]:
    """Reason and detail for a record that was refused. ``fits``: whether a value fits a column."""
    if not raw.strip():
        return "empty line", "the record is empty; a JSON object was expected"
    try:
        found = tree(raw, _no_constant)
    except _NotFinite as error:
        return "not finite", str(error)
    except ValueError as error:
        return "not json", f"{error}; a JSON object was expected"
    except RecursionError:
        return "nested too deeply", "the record has more brackets within each other than can be told apart"
    if not isinstance(found, Object):
        return "not an object", f"the record is {_kind(found)}; a JSON object was expected"
    if not _is_text(found):
        return "lone surrogate", "there is half a character in it (\\ud800 to \\udfff alone), which is no text"
    keys = [key for key, _ in found]
    twice = sorted({key for key in keys if keys.count(key) > 1})
    if twice:
        return "duplicate key", f"key {twice[0]!r} stands in the object more than once"
    values = dict(found)
    for column in schema.columns:
        value = values.get(column.name)
        if value is None:
            if column.required:
                there = "null" if column.name in values else "absent"
                return "missing field", f"column {column.name!r} ({column.type} NOT NULL) is {there}"
        elif not fits(column, value):
            if (key := _twice(value)) is not None:
                return "duplicate key", f"key {key!r} stands more than once in an object in column {column.name!r}"
            reason, hint = unfit(column.type, value)
            return reason, f"column {column.name!r}: expected {column.type}, found {_kind(value)} {cut(text(value))}{hint}"
    return "wrong type", "the record does not fit the schema"


def unfit(kind: str, value: Any) -> tuple[str, str]:
    """The reason that a value does not fit a type, and what to do: ``out of range`` if it is only too large, or too fine."""
    if isinstance(value, Number):
        fraction = kind in (*SMALL, *LARGE) and re.search("[.eE]", value)
        return ("out of range" if numeric(kind) and not fraction else "wrong type"), ""
    if kind in DIGITS and isinstance(value, str) and re.search(rf"\.\d{{{DIGITS[kind]}}}\d*[1-9]", value):
        return "out of range", f", which is finer than the type{finer_types(kind)}"
    return "wrong type", ""


def finer_types(kind: str) -> str:
    """What to say where a time has more digits of a second than its type: which types have more."""
    if DIGITS.get(kind, 9) == 9:
        return ""
    return "; TIMESTAMP_NS and TIMESTAMPTZ_NS hold nanoseconds" if kind.startswith("TIMESTAMP") else "; TIME_NS holds nanoseconds"


def _kind(value: Any) -> str:
    names = {Object: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _twice(value: Any) -> str | None:
    """A key that stands in an object twice, however deep."""
    if not isinstance(value, list):
        return None
    keys = [key for key, _ in value] if isinstance(value, Object) else []
    inner = (v for _, v in value) if isinstance(value, Object) else iter(value)
    return next((key for key in keys if keys.count(key) > 1), None) or next(filter(None, map(_twice, inner)), None)


def _is_text(value: Any) -> bool:
    """Whether all texts in a value are such: JSON can say half of a pair of surrogates."""
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True


class _NotFinite(ValueError):
    """A number that JSON does not have."""


def _no_constant(name: str) -> None:
    raise _NotFinite(f"{name} is no JSON value; null, or a text in a VARCHAR, says that there is no number")

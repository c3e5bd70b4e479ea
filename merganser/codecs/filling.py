"""JSON in Python, with all that it says; and objects made so that the query takes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from merganser.schema.types import SqlType


class Number(str):
    """A number as it is written, so that no digit of it is lost."""


class Object(list[tuple[str, Any]]):
    """An object with its keys as they came."""


def mendable(kind: SqlType) -> bool:
    """Whether there is a STRUCT or a DECIMAL in a type."""
    return kind.name in ("STRUCT", "DECIMAL") or any(mendable(inner) for _, inner in kind.inner)


def tree(text: str | bytes, constant: Callable[[str], Any] = Number) -> Any:
    """A text of JSON with all that it says: digits, repeated keys. ``constant``: what to make of NaN and its like.

    Raises ValueError, and RecursionError for brackets within brackets without end.
    """
    return json.loads(text, parse_int=Number, parse_float=Number, parse_constant=constant, object_pairs_hook=Object)


def filled(line: str, kinds: Mapping[str, SqlType]) -> str:
    """An object's text with ``null`` for each key of a STRUCT that it lacks, and with DECIMALs as texts of all their digits, which
    DuckDB would take for a DOUBLE's; what is no object stays as it is.

    ``kinds``: the types of its values by key.
    """
    try:
        found = tree(line)
    except (ValueError, RecursionError):
        return line
    if not isinstance(found, Object):
        return line
    return text(Object((key, _filled(value, kinds[key]) if key in kinds else value) for key, value in found))


def _filled(value: Any, kind: SqlType) -> Any:
    if kind.name == "STRUCT" and isinstance(value, Object):
        inner, there = dict(kind.inner), {key for key, _ in value}
        made = [(key, _filled(v, inner[key]) if key in inner else v) for key, v in value]
        return Object([*made, *((key, None) for key in inner if key not in there)])
    if kind.name == "MAP" and isinstance(value, Object):
        return Object((key, _filled(v, kind.inner[1][1])) for key, v in value)
    if kind.name == "LIST" and isinstance(value, list) and not isinstance(value, Object):
        return [_filled(v, kind.inner[0][1]) for v in value]
    return _digits(value) if kind.name == "DECIMAL" and isinstance(value, Number) else value


def _digits(number: Number) -> str:
    """A number as a text of all its digits."""
    value = Decimal(number)
    return f"{value:f}" if value.is_finite() and abs(value.adjusted()) < 100 else number


def text(value: Any) -> str:
    """The text of what ``tree`` made."""
    if isinstance(value, Number):
        return value
    if isinstance(value, Object):
        return "{" + ",".join(f"{json.dumps(key)}:{text(v)}" for key, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(text, value)) + "]"
    return json.dumps(value)

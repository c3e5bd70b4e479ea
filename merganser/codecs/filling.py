"""JSON objects that lack keys of a STRUCT, which is NULL there: the same text with these keys, for a query that wants all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from merganser.schema.types import SqlType


class _Number(str):
    """A number as it is written, so that no digit of it is lost."""


class _Object(list[tuple[str, Any]]):
    """An object with its keys as they came."""


def lacking(kinds: Mapping[str, SqlType]) -> bool:
    """Whether there is any STRUCT in these types."""
    return any(kind.name == "STRUCT" or lacking({str(i): t for i, (_, t) in enumerate(kind.inner)}) for kind in kinds.values())


def filled(text: str, kinds: Mapping[str, SqlType]) -> str | None:
    """An object's text with ``null`` for each key of a STRUCT that it lacks; None if it lacks none, or is no object.

    ``kinds``: the types of its values by key.
    """
    try:
        tree = json.loads(text, parse_int=_Number, parse_float=_Number, parse_constant=_Number, object_pairs_hook=_Object)
    except (ValueError, RecursionError):
        return None
    if not isinstance(tree, _Object):
        return None
    made = _Object((key, _filled(value, kinds[key]) if key in kinds else value) for key, value in tree)
    return None if made == tree else _text(made)


def _filled(value: Any, kind: SqlType) -> Any:
    if kind.name == "STRUCT" and isinstance(value, _Object):
        inner, there = dict(kind.inner), {key for key, _ in value}
        made = [(key, _filled(v, inner[key]) if key in inner else v) for key, v in value]
        return _Object([*made, *((key, None) for key in inner if key not in there)])
    if kind.name == "MAP" and isinstance(value, _Object):
        return _Object((key, _filled(v, kind.inner[1][1])) for key, v in value)
    if kind.name == "LIST" and isinstance(value, list) and not isinstance(value, _Object):
        return [_filled(v, kind.inner[0][1]) for v in value]
    return value


def _text(value: Any) -> str:
    if isinstance(value, _Number):
        return value
    if isinstance(value, _Object):
        return "{" + ",".join(f"{json.dumps(key)}:{_text(v)}" for key, v in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(_text, value)) + "]"
    return json.dumps(value)

"""SQL over values of nested types: the same value with some of what is in it made otherwise."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from merganser.schema.types import SqlType
from merganser.sql import literal, quote

Leaves = Mapping[str, Callable[[str, SqlType], str]]
"""By name of a type: SQL for another value, given SQL for a value of it, and the type."""


def has(kind: SqlType, leaves: Leaves) -> bool:
    """Whether a value of this type may hold one of these types. What a UNION holds is left as it is."""
    return kind.name in leaves or (kind.name != "UNION" and any(has(t, leaves) for _, t in kind.inner))


def remade(value: str, kind: SqlType, leaves: Leaves, depth: int = 0) -> str:
    """A value with all that is of the given types, however deep, made anew."""
    if not has(kind, leaves):
        return value
    if kind.name in leaves:
        return leaves[kind.name](value, kind)
    each = f"_e{depth}"
    if kind.name == "LIST":
        return f"list_transform({value}, lambda {each}: {remade(each, kind.inner[0][1], leaves, depth + 1)})"
    if kind.name == "MAP":
        (_, key), (_, item) = kind.inner
        entry = f"k := {remade(f'{each}.key', key, leaves, depth + 1)}, v := {remade(f'{each}.value', item, leaves, depth + 1)}"
        return f"map_from_entries(list_transform(map_entries({value}), lambda {each}: struct_pack({entry})))"
    fields = ", ".join(
        f"{quote(n)} := {remade(f'struct_extract({value}, {literal(n)})', t, leaves, depth)}" for n, t in kind.inner
    )
    return f"CASE WHEN {value} IS NOT NULL THEN struct_pack({fields}) END"


def spelt(kind: SqlType, instead: Mapping[str, str]) -> str:
    """A type's name, with some types within it called otherwise."""
    if kind.name in instead:
        return instead[kind.name]
    if kind.name == "LIST":
        return f"{spelt(kind.inner[0][1], instead)}[]"
    if kind.digits:
        return f"{kind.name}({', '.join(map(str, kind.digits))})"
    if not kind.inner:
        return kind.name
    named = (f"{quote(n)} {spelt(t, instead)}" if n else spelt(t, instead) for n, t in kind.inner)
    return f"{kind.name}({', '.join(named)})"

"""Takes aggregate expressions apart into calls whose results can be kept incrementally."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from merganser.errors import FlowError
from merganser.sql import binder, empty, walk


@dataclass(frozen=True)
class Call:
    sql: str
    type: str
    kind: Literal["state", "values"]
    value: str | None = None
    condition: str | None = None
    finish: str | None = None


@dataclass(frozen=True)
class Aggregate:
    name: str
    sql: str
    type: str
    calls: tuple[Call, ...]
    approximate: bool
    batch: str
    spans: tuple[tuple[int, int, Call], ...] = ()

    def finished(self, replace: Mapping[Call, str]) -> str:
        text = self.sql.encode()
        for start, length, call in sorted(self.spans, reverse=True, key=lambda s: s[0]):
            text = text[:start] + replace[call].encode() + text[start + length:]
        return text.decode()


def analyse(name: str, sql: str, columns: Mapping[str, str], *, keys: Sequence[str] = ()) -> Aggregate:
    b = binder()
    tree = b.parse(sql, f"{name} =")
    b.check_pure(tree, sql, columns, f"{name} =")
    off = len("SELECT (\n")
    raw = sql.encode()
    spans = []
    for node in walk(tree):
        if node["class"] == "FUNCTION" and node["function_name"] in b.aggregates:
            s, n = node["query_location"] - off, node["query_location_length"]
            text = raw[s:s+n].decode()
            t = b.type_of(f"SELECT {text} FROM ({empty(columns)})", text, columns, name)
            spans.append((s, n, Call(text, t, "state")))
    if not spans:
        raise FlowError(f"{name} = {sql!r} is not an aggregate")
    by = f" GROUP BY {', '.join(keys)}" if keys else ""
    t = b.type_of(f"SELECT {sql} FROM ({empty(columns)}){by}", sql, columns, name)
    return Aggregate(name, sql, t, tuple(dict.fromkeys(c for _, _, c in spans)), False, sql, tuple(spans))

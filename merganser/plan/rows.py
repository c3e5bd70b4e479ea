"""Nodes over events: the row-local ones, which workers compute, ``Deduplicate`` and ``Fetch``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from merganser.asking import Service
from merganser.clock import show_duration
from merganser.plan.node import TRAVELS, Node
from merganser.plan.text import On, code, equal, named
from merganser.reference import Reference
from merganser.schema import Schema
from merganser.sql import literal, quote


def _lost(node: Node, hidden: str, column: str | None) -> bool:
    """Whether ``column`` (one that travels) stands under its name before this node and no longer after it."""
    assert node.input is not None
    if column is None or hidden in node.input.hidden:
        return False
    return column not in node.columns or (isinstance(node, (Select, Derive)) and node.changes(column))


class _Reshapes(Node):
    """A row-local node that may take away columns of what travels on: it does so hidden."""

    row_local = True

    @property
    def hidden(self) -> tuple[str, ...]:
        assert self.input is not None
        if not self.input.events:
            return ()
        lost = tuple(h for role, h in TRAVELS.items() if _lost(self, h, self.input.declared(role)))
        return self.input.hidden + lost


@dataclass(frozen=True)
class Filter(Node):
    sql: str
    row_local = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Filter[{of}, {self.sql}]"


@dataclass(frozen=True)
class Route(Filter):
    """The rows of one branch of a router: those for which no earlier predicate is true, and its own is. ``sql`` says so."""

    branches: tuple[tuple[str, str], ...]
    default: str | None
    name: str

    def line(self, of: str = "·", *others: str) -> str:
        rest = f"; else {self.default}" if self.default else ""
        return f"Route[{of}, to {self.name} of {named(self.branches)}{rest}]"


def takes(name: str, branches: tuple[tuple[str, str], ...], default: str | None) -> str:
    """SQL that is true for the rows of a branch, and fails for a row that no branch takes."""
    cases = " ".join(f"WHEN (\n{sql}\n) THEN {str(branch == name).lower()}" for branch, sql in branches)
    names = ", ".join(branch for branch, _ in branches)
    rest = f"error({literal(f'no branch takes this row ({names}); name one for the rest: default=')})::BOOLEAN"
    return f"CASE {cases} ELSE {rest if default is None else str(default == name).lower()} END"


@dataclass(frozen=True)
class Select(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Select[{of}, {named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column and sql.strip('" ') != column for name, sql in self.items)


@dataclass(frozen=True)
class Derive(_Reshapes):
    items: tuple[tuple[str, str], ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Derive[{of}, {named(self.items)}]"

    def changes(self, column: str) -> bool:
        return any(name == column for name, _ in self.items)


@dataclass(frozen=True)
class Drop(_Reshapes):
    names: tuple[str, ...]

    def line(self, of: str = "·", *others: str) -> str:
        return f"Drop[{of}, {', '.join(self.names)}]"


@dataclass(frozen=True)
class Explode(Node):
    column: str
    row_local = True
    multiplies = True
    explodes = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"Explode[{of}, {self.column}]"


@dataclass(frozen=True)
class MapBatches(_Reshapes):
    fn: Callable[[Any], Any]
    schema: Schema

    def line(self, of: str = "·", *others: str) -> str:
        return f"MapBatches[{of}, {getattr(self.fn, '__qualname__', 'fn')}#{code(self.fn)}, ({self.schema.describe()})]"


@dataclass(frozen=True)
class LookUp(Node):
    """Rows with the columns of the row of some reference data that has their key; NULL where there is none."""

    data: Reference
    on: On
    taken: tuple[tuple[str, str], ...]
    row_local = True

    def line(self, of: str = "·", *others: str) -> str:
        return f"LookUp[{of}, {self.data.name}#{self.data.digest} on {equal(self.on)}]"


@dataclass(frozen=True)
class Deduplicate(Node):
    by: tuple[str, ...]
    within: int | None

    def line(self, of: str = "·", *others: str) -> str:
        within = f", within {show_duration(self.within)}" if self.within is not None else ""
        return f"Deduplicate[{of}, by {', '.join(self.by)}{within}]"


@dataclass(frozen=True)
class Fetch(Node):
    """Rows with the columns of what a service answers for their key; NULL where it says that there is no such thing.

    ``cache``: how much event time, in microseconds, shares an answer; None: all of it.
    """

    service: Service
    by: tuple[str, ...]
    cache: int | None
    schema: Schema
    taken: tuple[tuple[str, str], ...]

    @property
    def question(self) -> str:
        """What tells its answers from all others in the store; which columns of them are read is no part of it."""
        cache = "" if self.cache is None else f", cache {show_duration(self.cache)}"
        return f"{self.service.describe()} by {', '.join(self.by)}{cache}"

    def line(self, of: str = "·", *others: str) -> str:
        return f"Fetch[{of}, {self.question}, ({self.schema.describe()})]"

    def key_sql(self) -> str:
        """The key of a row as text; NULL, which asks nobody, if a column of it is."""
        there = " AND ".join(f"{quote(name)} IS NOT NULL" for name in self.by)
        key = ", ".join(f"{quote(name)} := {quote(name)}" for name in self.by)
        return f"CASE WHEN {there} THEN to_json(struct_pack({key}))::VARCHAR END"

    def slot_sql(self) -> str:
        """The start of the stretch of event time that shares an answer with a row."""
        if self.cache is None:
            return "0::BIGINT"
        return "_time" if self.cache == 0 else f"(_time - ((_time % {self.cache}) + {self.cache}) % {self.cache})"

"""The row-local verbs: ``filter``, ``select``, ``derive``, ``drop``, ``explode``, ``map_batches``. Mixed into ``Stream``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from merganser import plan
from merganser.errors import FlowError, on_users_line, users_line
from merganser.plan import Columns, Node
from merganser.schema import Schema
from merganser.sql import binder, quote


class RowLocal:
    """What ``Stream`` can do with each row by itself."""

    if TYPE_CHECKING:

        def _open(self, verb: str) -> Node: ...

        def _then(self, node: Node) -> Self: ...

    @on_users_line
    def filter(self, sql: str) -> Self:
        """Keep the rows for which a SQL condition is true (not false, not NULL)."""
        node = self._open("filter")
        binder().bind_filter(sql, node.columns)
        return self._then(plan.Filter(users_line(), node.columns, node, sql))

    @on_users_line
    def select(self, *names: str, **items: str) -> Self:
        """Only these columns: names of present ones, then ``name="sql"``. Event time, id and key travel on regardless."""
        node = self._open("select")
        wanted = {name: quote(name) for name in names} | items
        if not wanted:
            raise FlowError("select() needs at least one column")
        for name in names:
            column_type(name, node.columns, "select")
        columns = _bound(wanted, node, "select")
        return self._then(plan.Select(users_line(), columns, node, tuple(wanted.items())))

    @on_users_line
    def derive(self, **items: str) -> Self:
        """Add columns, or replace present ones, by SQL over the columns there are."""
        node = self._open("derive")
        if not items:
            raise FlowError("derive() needs at least one column, such as derive(total='price * quantity')")
        columns = node.columns | _bound(items, node, "derive")
        return self._then(plan.Derive(users_line(), columns, node, tuple(items.items())))

    @on_users_line
    def drop(self, *names: str) -> Self:
        """All columns but these."""
        node = self._open("drop")
        for name in names:
            column_type(name, node.columns, "drop")
        columns = {n: t for n, t in node.columns.items() if n not in names}
        if not names or not columns:
            raise FlowError("drop() needs the names of some columns, and must leave at least one")
        return self._then(plan.Drop(users_line(), columns, node, names))

    @on_users_line
    def explode(self, column: str) -> Self:
        """One row for each element of a list column; none for an empty or NULL list."""
        node = self._open("explode")
        kind = column_type(column, node.columns, "explode")
        if not kind.endswith("]"):
            raise FlowError(f"explode({column!r}) needs a list, this column is a {kind}")
        element = kind[: kind.rindex("[")]
        return self._then(plan.Explode(users_line(), node.columns | {column: element}, node, column))

    @on_users_line
    def map_batches(self, fn: Callable[[Any], Any], schema: Mapping[str, str] | str | Path) -> Self:
        """Row-local Python, for what SQL cannot say: ``fn`` takes a ``pyarrow.Table`` and returns one of as many rows.

        ``schema`` declares the columns it returns. Row i of the result must depend on row i alone: batches are cut
        anywhere. If it raises, the rows that it cannot take are found one by one and become dead letters.
        """
        node = self._open("map_batches")
        if not callable(fn):
            raise FlowError("map_batches() takes a function of a pyarrow.Table")
        declared = Schema.declare(schema)
        columns = {c.name: c.type for c in declared.columns}
        return self._then(plan.MapBatches(users_line(), columns, node, fn, declared))


def _bound(items: Mapping[str, str], node: Node, verb: str) -> Columns:
    for name in items:
        if name.startswith("_"):
            raise FlowError(f"{verb}({name}=…): names that begin with _ are merganser's own")
    return binder().bind_select(items, node.columns)


def column_type(name: str, columns: Columns, what: str) -> str:
    """The type of a column that there must be."""
    if name not in columns:
        hint = "; derive() it first" if not name.isidentifier() else ""
        raise FlowError(f"{what}: there is no column {name!r}; there are {', '.join(columns)}{hint}")
    return columns[name]

"""The row-local verbs: neighbouring ones become one DuckDB query a batch; ``map_batches`` and look-ups
stand between two queries.

A row that cannot be computed (a cast that fails, an exception of the user's function) is found by halving the batch
and becomes a dead letter; the others go on.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from merganser.errors import FlowError
from merganser.operators import HIDDEN, PART
from merganser.plan import TRAVELS, Derive, Drop, Explode, Filter, LookUp, MapBatches, Node, Select
from merganser.reference import look_up
from merganser.scratch import REFUSED, Query
from merganser.sql import quote

FATAL = (duckdb.FatalException, duckdb.InternalException, duckdb.OutOfMemoryException, duckdb.InterruptException)
"""Errors that are not about a row."""


@dataclass(frozen=True, slots=True)
class Refused:
    """A row that a verb could not compute: its ordinal, the verb, and why."""

    seq: int
    partition: str | None
    detail: str
    row: str
    """The row as JSON, as far as it can be said; for rows that are no record of a source any more."""


@dataclass(frozen=True)
class Stage:
    """One pass over a batch: SQL over ``_in``, or a function; ``node`` is the last verb in it."""

    node: Node
    sql: str | None
    fn: MapBatches | LookUp | None

    @cached_property
    def work(self) -> Callable[[pa.Table], pa.Table]:
        fn = self.fn
        if self.sql is not None:
            return Query(f"FROM {self.sql}", "_in").run
        if isinstance(fn, LookUp):
            return lambda table: look_up(fn.data, fn.on, fn.taken, table)
        assert fn is not None
        return lambda table: _call(fn, table)


KEEP = "_keep"
"""A boolean column that says which rows are left, where it is cheaper to say so than to copy the others."""

DENSE = 0.7
"""The share of rows that must be left for that."""


class RowLocal:
    """The row-local verbs from ``start`` (exclusive) to ``end``, ready to run on tables."""

    def __init__(self, start: Node, end: Node, *, extra: Mapping[str, str] | None = None, casts: str = "") -> None:
        """``extra``: columns to append to the last query's result, by their SQL; ``casts``: see ``Rows``."""
        nodes = []
        for node in end.chain():
            if node == start:
                break
            nodes.append(node)
        nodes.reverse()
        self.stages = _fuse(nodes, start, extra or {}, casts)
        self.marks: dict[str, str] = {}
        """If there is nothing but filters: columns by their SQL, ``_keep`` for the rows that are left and the extra ones."""
        if all(isinstance(node, Filter) for node in nodes):
            filters = [node for node in nodes if isinstance(node, Filter)]
            self.marks = ({KEEP: f"coalesce({_both(filters)}, false)"} if filters else {}) | dict(extra or {})
        self._exploded = end.exploded and end.events
        self._mask = Stage(end, f"(SELECT {_items(self.marks)} FROM _in)", None)

    def mark(self, table: pa.Table) -> tuple[pa.Table | None, list[Refused]]:
        """Like ``run``, but filters may only mark the rows that are left, in ``_keep``."""
        if not self.marks:
            return self.run(table)
        try:
            marks = self._mask.work(table)
        except FATAL:
            raise
        except REFUSED:  # some row cannot be computed
            return self.run(table)
        for name in marks.column_names:
            if name != KEEP:
                table = table.append_column(name, marks[name])
        if KEEP not in marks.column_names:
            return table, []
        left = pc.sum(marks[KEEP]).as_py() or 0
        if left == len(table):
            return table, []
        if left < DENSE * len(table):
            return (table.filter(marks[KEEP]) if left else None), []
        return table.append_column(KEEP, marks[KEEP]), []

    def run(self, table: pa.Table) -> tuple[pa.Table | None, list[Refused]]:
        """The rows that come out, in order (None if there are none), and those that could not be computed."""
        refused: list[Refused] = []
        result: pa.Table | None = table
        for stage in self.stages:
            if result is None or len(result) == 0:
                return None, refused
            result = _halving(result, stage.work, stage.node, refused)
        if self._exploded and refused:
            return _without(result, refused)
        return result, refused


def _without(table: pa.Table | None, refused: list[Refused]) -> tuple[pa.Table | None, list[Refused]]:
    """Take out the other rows of events of which a row was refused, and refuse each event once.

    An event is applied as a whole or not at all: when it comes back mended, it brings all of its rows.
    """
    events = {(r.partition, r.seq): r for r in reversed(refused)}
    if table is not None:
        parts = table[PART].to_pylist() if PART in table.column_names else [None] * len(table)
        left = [event not in events for event in zip(parts, table["_seq"].to_pylist())]
        table = table.filter(pa.array(left, pa.bool_()))
    return table, list(reversed(events.values()))


def _fuse(nodes: list[Node], start: Node, extra: Mapping[str, str], casts: str) -> list[Stage]:
    stages: list[Stage] = []
    sql, last = f"(SELECT *{casts} FROM _in)" if casts else "_in", start
    filters: list[Filter] = []
    for node in nodes:
        if isinstance(node, Filter):
            filters.append(node)
            last = node
            continue
        if filters:
            sql, filters = _filtered(sql, filters), []
        if isinstance(node, (MapBatches, LookUp)):
            if sql != "_in":
                stages.append(Stage(last, sql, None))
            stages.append(Stage(node, None, node))
            sql = "_in"
        else:
            sql = _sql(node, sql)
        last = node
    if filters:
        sql = _filtered(sql, filters)
    if extra:
        sql = f"(SELECT *, {_items(extra)} FROM {sql})"
    if sql != "_in":
        stages.append(Stage(last, sql, None))
    return stages


def _items(columns: Mapping[str, str]) -> str:
    return ", ".join(f"{sql} AS {name}" for name, sql in columns.items())


def _filtered(of: str, filters: list[Filter]) -> str:
    return f"(SELECT * FROM {of} WHERE {_both(filters)})"


def _both(filters: list[Filter]) -> str:
    """Filters in their order: a later one is not asked about rows that an earlier one took out (AND may be reordered)."""
    *first, last = [f"(\n{node.sql}\n)" for node in filters]
    for condition in reversed(first):
        last = f"(CASE WHEN {condition} THEN {last} END)"
    return last


def _sql(node: Node, of: str) -> str:
    """A parenthesised query for one verb over the relation ``of``."""
    assert node.input is not None
    before = node.input
    items: dict[str, str] = {}
    if isinstance(node, (Select, Derive)):
        items = dict(node.items)
    elif isinstance(node, Explode):
        items = {node.column: f"unnest({quote(node.column)})"}
    else:
        assert isinstance(node, Drop)
    parts = [f"(\n{items[name]}\n) AS {quote(name)}" if name in items else quote(name) for name in node.columns]
    for role, hidden in TRAVELS.items():
        if hidden in before.hidden:
            parts.append(hidden)
        elif hidden in node.hidden:
            parts.append(f"{quote(before.declared(role) or '')} AS {hidden}")
    return f"(SELECT {', '.join(parts)}, COLUMNS('^_(seq|time|wm|part)$') FROM {of})"


def _call(node: MapBatches, table: pa.Table) -> pa.Table:
    assert node.input is not None
    before = node.input
    result = node.fn(table.select(list(before.columns)))
    if isinstance(result, pa.RecordBatch):
        result = pa.Table.from_batches([result])
    name = getattr(node.fn, "__qualname__", "fn")
    if not isinstance(result, pa.Table):
        raise FlowError(
            f"map_batches: {name} must return a pyarrow.Table, not a {type(result).__name__}", where=node.where
        )
    if len(result) != len(table):
        raise FlowError(
            f"map_batches: {name} returned {len(result)} rows for {len(table)}; it must return one for each."
            " filter() drops rows, explode() makes several",
            where=node.where,
        )
    missing = [n for n in node.columns if n not in result.column_names]
    if missing:
        raise FlowError(
            f"map_batches: {name} returned no column {', '.join(missing)}; its schema declares them", where=node.where
        )
    result = result.select(list(node.columns)).cast(node.schema.arrow_schema())
    for role, hidden in TRAVELS.items():
        if hidden in node.hidden:
            result = result.append_column(hidden, table[hidden if hidden in before.hidden else before.declared(role)])
    for column in (*HIDDEN, PART):
        if column in table.column_names:
            result = result.append_column(column, table[column])
    return result


def _halving(
    table: pa.Table, work: Callable[[pa.Table], pa.Table], node: Node, refused: list[Refused]
) -> pa.Table | None:
    """``work(table)``; where it raises, its halves', down to the rows that it cannot take. None if it takes no row."""
    try:
        return work(table)
    except FATAL:
        raise
    except (FlowError, MemoryError, KeyboardInterrupt):
        raise
    except Exception as error:
        if len(table) > 1:
            half = len(table) // 2
            halves = [_halving(part, work, node, refused) for part in (table.slice(0, half), table.slice(half))]
            parts = [part for part in halves if part is not None]
            return pa.concat_tables(parts) if parts else None
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        partition = table[PART][0].as_py() if PART in table.column_names else None
        verb = type(node).__name__.lower()
        row = {name: value for name, value in table.to_pylist()[0].items() if not name.startswith("_")}
        detail = f"{verb} ({node.where}): {message}"
        refused.append(Refused(table["_seq"][0].as_py(), partition, detail, json.dumps(row, default=str)))
        return None

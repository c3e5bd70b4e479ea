"""SQL over the histories that folds keep: what a view was, and what happened to a key."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from merganser.errors import UsageError
from merganser.operators.history import ENDING
from merganser.sql import literal, quote

Rows = Callable[[str], list[tuple[Any, ...]]]
"""Asks the store: a query's rows."""


@dataclass(frozen=True)
class Past:
    """The history of a view. ``columns`` (name to DuckDB type) are the view's, ``events`` those of the events in it."""

    view: str
    table: str
    keys: tuple[str, ...]
    order: str
    timed: bool
    columns: dict[str, str]
    events: dict[str, str]

    @staticmethod
    def of(rows: Rows, view: str) -> Past:
        """Raises UsageError where there is no such view, or where it has no history."""
        name = "'merganser_state.\"' || d.table_name || '\"'"
        found = rows(
            "SELECT d.table_name, d.comment, c.schema_name, c.column_name, c.data_type FROM merganser_state.tables t"
            " JOIN merganser.views v ON v.view = t.view AND v.cohort = t.cohort AND v.status <> 'building'"
            f" JOIN duckdb_tables() d ON d.database_name = 'store' AND {name} = t.name"
            " JOIN duckdb_columns() c ON c.database_name = 'store' AND (c.schema_name, c.table_name) IN"
            " (('main', v.view), ('merganser_state', d.table_name))"
            f" WHERE v.view = {literal(view)} AND ends_with(d.table_name, {literal(ENDING)}) AND v.signature LIKE '%\"Fold[%\"]'"
            " ORDER BY c.column_index"
        )
        if not found:
            there = [name for (name,) in rows("SELECT view FROM merganser.views WHERE status <> 'building' ORDER BY view")]
            if view not in there:
                raise UsageError(f"there is no view {view!r}; there are {', '.join(there) or 'none'}")
            raise UsageError(f"view {view!r} keeps no history: give its fold(…) history=True, and rebuild it")
        table, comment = found[0][:2]
        about = json.loads(comment)
        columns = {n: kind for _, _, schema, n, kind in found if schema == "main"}
        events = {n: kind for _, _, schema, n, kind in found if schema != "main" and not n.startswith("_")}
        path = f"merganser_state.{quote(table)}"
        return Past(view, path, tuple(about["keys"]), about["order"], about["timed"], columns, events)

    def history(self, key: Any) -> str:
        """The events of a key in order, with the ``state`` after each."""
        name = "state"
        while name in self.events:
            name += "_after"
        items = ", ".join(map(quote, self.events))
        return f"SELECT {items}, _state AS {quote(name)} FROM {self.table} WHERE {self._is(key)} ORDER BY seq"

    def as_of(
        self, rows: Rows, version: int | None, time: datetime | str | None, position: int | Mapping[str, int] | None
    ) -> str:
        """The view's rows as they were then."""
        if sum(given is not None for given in (version, time, position)) != 1:
            raise UsageError("as_of() takes one of version=, time= and position=")
        if version is not None:
            until = f"seq <= {int(version)}"
        elif time is not None:
            until = self._by_time(time)
        else:
            assert position is not None
            until = self._by_position(rows, position)
        keys = ", ".join(map(quote, self.keys))
        items = [quote(n) if n in (*self.keys, "seq") else self._of_state(n) for n in self.columns]
        last = f"SELECT DISTINCT ON ({keys}) * FROM {self.table} WHERE {until} ORDER BY seq DESC"
        return f"SELECT {', '.join(items)} FROM ({last}) ORDER BY {keys}"

    def _of_state(self, name: str) -> str:
        if name == "state" and self.columns[name] == "JSON":
            return "_state AS state"
        return f"struct_extract(_state, {literal(name)}) AS {quote(name)}"

    def _by_time(self, time: datetime | str) -> str:
        if not self.timed:
            raise UsageError(f"the source of view {self.view!r} has no time=, so as_of() takes version= or position= alone")
        try:
            moment = time if isinstance(time, datetime) else datetime.fromisoformat(time)
        except (TypeError, ValueError):
            raise UsageError(f"time={time!r} is no time such as '2026-01-31T12:00:00'") from None
        since = (moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - datetime(1970, 1, 1, tzinfo=UTC)
        return f"_time <= {(since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds}"

    def _by_position(self, rows: Rows, position: int | Mapping[str, int]) -> str:
        if self.order != "log":
            raise UsageError(
                f"view {self.view!r} is folded by event time, in which its log's positions are in no order; give version= or time=,"
                " or fold it with order='log'"
            )
        if isinstance(position, Mapping):
            each = [f"(_part = {literal(str(name))} AND _seq < {int(at)})" for name, at in position.items()]
            return " OR ".join(each) or "false"
        partitions = [name for (name,) in rows(f"SELECT DISTINCT _part FROM {self.table} ORDER BY ALL")]
        if len(partitions) > 1:
            raise UsageError(f"view {self.view!r} is of partitions {', '.join(partitions)}: give position={{partition: records}}")
        return f"_seq < {int(position)}"

    def _is(self, key: Any) -> str:
        """The condition for a key: a value, or column to value."""
        given = key if isinstance(key, Mapping) else dict(zip(self.keys, [key])) if len(self.keys) == 1 else {}
        if set(given) != set(self.keys):
            raise UsageError(f"a key of view {self.view!r} has {', '.join(self.keys)}: give a mapping of these, not {key!r}")
        parts = []
        for name, value in given.items():
            text = "NULL" if value is None else literal(str(value))
            parts.append(f"{quote(name)} IS NOT DISTINCT FROM CAST({text} AS {self.events[name]})")
        return " AND ".join(parts)


"""``window(…).aggregate(…)`` and ``group_by(…).aggregate(…)``: exported aggregate states, merged each epoch.

Tables, each with the group columns and ``_w`` (the window's start in microseconds; 0 without windows):

- *open*: one row a group whose window may still change, with a state for each aggregate call;
- *values_i*: for a call that cannot be kept as a state (DISTINCT, histogram, mode): its values and how often each came;
- *closed*: finished results of windows that no row can reach any more; append only; not kept where only what follows reads
  them.

The view is the union of the closed rows and the open ones, finished. An epoch costs what its new rows and the groups
that they touch cost, not what history costs.

New rows are always reduced to one row a group first; old states are joined, deleted and inserted again (an upsert by
key is twenty times slower on large tables, and any grouping *over* state columns is an internal error of DuckDB 2.0.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from merganser import faults
from merganser.aggregates import Call
from merganser.clock import MIN_TIME
from merganser.operators import STATE, Emitted, Epoch, Outcome, Rows, keep_late, released
from merganser.plan import Aggregated
from merganser.sql import literal, quote
from merganser.windows import Window, moment_sql

Starts = npt.NDArray[np.int64]
"""Starts of windows, in microseconds."""


class AggregateStep:
    """The tables of one aggregated stream, and how an epoch changes them."""

    def __init__(self, node: Aggregated, table: str, views: Sequence[str], cohort: int, *, emits: bool, kept: bool) -> None:
        """``views``: those that depend on it. ``emits``: a step reads the closed windows; ``kept``: a view shows them."""
        assert node.input is not None
        self.node, self.input, self.views, self.cohort = node, node.input, views, cohort
        self.window = node.window if isinstance(node.window, Window) else None
        self.table, self.emits, self.kept = table, emits, kept
        self.name = f"_{table}_final"
        self.open = f"{STATE}.{quote(table + '_open')}"
        self.closed = f"{STATE}.{quote(table + '_closed')}"
        calls = list(dict.fromkeys(call for a in node.aggregates for call in a.calls))
        self.states = {call: f"_s{i}" for i, call in enumerate(c for c in calls if c.kind == "state")}
        self.values = {
            call: f"{STATE}.{quote(f'{table}_values_{i}')}"
            for i, call in enumerate(c for c in calls if c.kind == "values")
        }
        self.keys = [*(quote(name) for name in node.by), "_w"]
        self.results = {n: t for n, t in node.columns.items() if not (node.window and n == "final")}
        self._put_aside = 0
        self._ending: str | None = None
        """SQL for what an epoch brings to the windows in the open table that end in it: a row a group."""
        self._begun: Starts = np.zeros(0, np.int64)
        """The starts of the windows that the open table has, in order."""

    @property
    def tables(self) -> list[str]:
        return [self.open, *([self.closed] if self.node.window else []), *self.values.values()]

    # -- tables ---------------------------------------------------------------------------------------------------

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        columns = ", ".join(f"NULL::{type} AS {quote(n)}" for n, type in self.input.columns.items())
        con.execute(f"CREATE OR REPLACE TEMP VIEW _typed AS SELECT {columns}, 0::BIGINT AS _w, 0::BIGINT AS _time")
        con.execute(f"CREATE TABLE {self.open} AS {self._reduced('_typed', 'false')}")
        for call, table in self.values.items():
            con.execute(f"CREATE TABLE {table} AS {self._valued(call, '_typed', 'false')}")
        if self.node.window:
            con.execute(f"CREATE TABLE {self.closed} AS {self._finished(self.open, 'false')}")
        con.execute("DROP VIEW _typed")

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        self._begun = con.sql(f"SELECT DISTINCT _w FROM {self.open} ORDER BY _w").to_arrow_table()["_w"].to_numpy()

    # -- SQL ------------------------------------------------------------------------------------------------------

    def _windowed(self, con: duckdb.DuckDBPyConnection, rows: Rows) -> tuple[str, str]:
        """The rows once for each of their windows, as ``_w``; and the condition for being on time in it."""
        window = self.window
        if window is None:
            return f"(SELECT *, 0::BIGINT AS _w FROM {rows.relation})", "true"
        if window.overlap == 1:
            return rows.relation, f"_wm < _w + {window.size}" if _any_late(rows, window) else "true"
        each = f"SELECT * REPLACE (_w - _k * {window.every} AS _w) FROM {rows.relation} CROSS JOIN range({window.overlap}) t(_k)"
        return f"({each})", f"_w + {window.size} > _time AND _wm < _w + {window.size}"

    def _reduced(self, relation: str, condition: str) -> str:
        """One row a group: its states."""
        items = [*self.keys, *(f"{call.sql} EXPORT_STATE AS {name}" for call, name in self.states.items())]
        return f"SELECT {', '.join(items)} FROM {relation} WHERE {condition} GROUP BY {', '.join(self.keys)}"

    def _valued(self, call: Call, relation: str, condition: str) -> str:
        """One row a group and value: how often the value came."""
        passing = f" AND ({call.condition})" if call.condition else ""
        return (
            f"SELECT {', '.join(self.keys)}, ({call.value}) AS value, count(*) AS n FROM {relation}"
            f" WHERE {condition}{passing} GROUP BY ALL"
        )

    def _finished(self, groups: str, condition: str, valued: str | None = None) -> str:
        """The user's columns for the groups in a table that has their states; ``valued`` is the condition for their values."""
        finished: dict[Call, str] = {call: f"finalize(g.{name})" for call, name in self.states.items()}
        joins = ""
        for i, (call, table) in enumerate(self.values.items()):
            joins += (
                f" LEFT JOIN (SELECT {', '.join(self.keys)}, {call.finish} AS _f FROM {table}"
                f" WHERE {valued or condition} GROUP BY {', '.join(self.keys)}) v{i} ON {same(self.keys, 'g', f'v{i}')}"
            )
            nothing = f"(SELECT {call.finish} FROM {table} WHERE false)"
            finished[call] = f"coalesce(v{i}._f, {nothing})"
        return f"SELECT {self._items(finished, 'g.')} FROM (SELECT * FROM {groups} WHERE {condition}) g{joins}"

    def _direct(self, relation: str, condition: str) -> str:
        """The user's columns straight from all rows of some groups."""
        calls = {call: call.sql for call in (*self.states, *self.values)}
        return f"SELECT {self._items(calls, '')} FROM {relation} WHERE {condition} GROUP BY {', '.join(self.keys)}"

    def _items(self, calls: dict[Call, str], prefix: str) -> str:
        """The user's columns, given SQL for each call; ``prefix`` is put before group columns."""
        groups_by = {name: f"{prefix}{quote(name)}" for name in self.node.by}
        if self.node.window:
            kind = self.node.columns["window_start"]
            groups_by["window_start"] = moment_sql(f"{prefix}_w", kind)
            groups_by["window_end"] = moment_sql(self._end(prefix), kind)
        items = [f"{sql} AS {quote(name)}" for name, sql in groups_by.items()]
        items += [f"({a.finished(calls, groups_by)})::{a.type} AS {quote(a.name)}" for a in self.node.aggregates]
        return ", ".join(items)

    def _end(self, prefix: str = "") -> str:
        """SQL for a window's end, in microseconds."""
        assert self.window is not None
        return f"({prefix}_w + {self.window.size})"

    def live_sql(self) -> str:
        return self._finished(self.open, "true")

    def view_sql(self) -> str:
        names = [quote(name) for name in self.results]
        live = self._finished(self.open, "true")
        if not self.node.window:
            return f"SELECT {', '.join(names)} FROM ({live})"
        kind = self.node.columns["window_start"]
        delays = ", ".join(f"({literal(source)}, {delay})" for source, delay in self.node.delays.items())
        reached = "min(w.watermark - d.delay)"  # where all of its sources have come to; NULL while one has not begun
        watermark = (
            f"(SELECT CASE WHEN count(w.watermark) = count(*) THEN {moment_sql(reached, kind)} END"
            f" FROM (VALUES {delays}) d(source, delay) LEFT JOIN {STATE}.watermarks w"
            f" ON w.source = d.source AND w.cohort = {self.cohort})"
        )
        return (
            f"SELECT {', '.join(names)}, true AS final FROM {self.closed} UNION ALL"
            f" SELECT {', '.join(names)}, coalesce(window_end <= {watermark}, false) AS final FROM ({live})"
        )

    # -- one epoch ------------------------------------------------------------------------------------------------

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        faults.point("step.aggregate")
        (rows,) = inputs
        outcome = Outcome()
        self._put_aside, self._ending = 0, None
        if rows is not None and rows.count:
            if self.window is not None:
                placed = rows.table.append_column("_w", pa.array(_starts(rows.table, self.window)))
                rows = replace(rows, name=f"{self.name}_rows", table=placed)  # others read the same rows
            outcome = self._late(con, rows, epoch)
            self._take(con, rows, epoch)
        self._close(con, epoch)
        if rows is not None and self.window is not None:
            rows.forget()
        return Emitted((outcome,), self._emit(con) if self.emits else None)

    def _put(self, con: duckdb.DuckDBPyConnection, windows: str) -> None:
        """Put windows that close where they belong: to the closed ones, or first to those who wait for them.

        Each time into a table of its own: of a temporary one that was made empty and then filled in the same transaction,
        DuckDB 2.0.0 may scan no row group, though it counts them.
        """
        if self.emits:
            con.execute(f"CREATE OR REPLACE TEMP TABLE _final_{self._put_aside} AS {windows}")
            self._put_aside += 1
        else:
            con.execute(f"INSERT INTO {self.closed} {windows}")

    def _emit(self, con: duckdb.DuckDBPyConnection) -> Rows | None:
        """The windows that were closed in this epoch; each has the event time of its last microsecond."""
        if not self._put_aside:
            return None
        names = ", ".join(quote(name) for name in self.results)
        final = " UNION ALL ".join(f"SELECT {names} FROM _final_{i}" for i in range(self._put_aside))
        rows = released(
            con, self.name, self.results,
            f"SELECT {names}, '' AS _part, 0::BIGINT AS _seq, epoch_us(window_end) - 1 AS _time, {MIN_TIME}::BIGINT AS _wm"
            f" FROM ({final}) ORDER BY _time",
        )  # fmt: skip
        if rows is not None and self.kept:
            con.execute(f"INSERT INTO {self.closed} {final}")
        for i in range(self._put_aside):
            con.execute(f"DROP TABLE _final_{i}")
        return rows

    def _take(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> None:
        """Put new rows into the groups of their windows.

        Windows that begin and end in this epoch, as most do when much is read at once, need no states: each is finished
        straight from its rows. Those that begin and stay open have no states to be merged with. What comes to those that are
        open and end now is merged where they are finished.
        """
        relation, on_time = self._windowed(con, rows)
        touched = np.zeros(1, np.int64) if self.window is None else _touched(rows.table, self.window)
        before = self._ended(epoch)
        fresh = np.setdiff1d(touched, self._begun, assume_unique=True)
        whole = fresh[:0] if before is None else fresh[fresh <= before]
        opened = fresh[len(whole) :]
        if len(whole):
            of_whole = _among(whole, touched)
            self._put(con, self._direct(relation, f'{on_time} AND {of_whole}'))
            on_time += f" AND NOT {of_whole}"
        self._count_values(con, relation, on_time)
        if len(opened):
            of_opened = _among(opened, touched)
            con.execute(f"INSERT INTO {self.open} {self._reduced(relation, f'{on_time} AND {of_opened}')}")
            on_time += f" AND NOT {of_opened}"
            self._begun = np.union1d(self._begun, opened)
        begun = np.setdiff1d(touched, fresh, assume_unique=True)
        ending = begun[:0] if before is None else begun[begun <= before]
        staying = begun[len(ending) :]
        if len(staying):
            of_staying = f"{on_time} AND {_among(staying, touched)}"
            self._merge(con, self.open, self._reduced(relation, of_staying), self.keys, self._combined())
        if len(ending):
            self._ending = self._reduced(relation, f"{on_time} AND {_among(ending, touched)}")

    def _late(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> Outcome:
        """Count what is on time in some window; keep what is late in all of them."""
        if self.window is None or self.node.source.lateness is None or not self.input.events:
            return Outcome(applied=rows.count)
        # The last window that a row belongs to ends last, so a row late there is late everywhere.
        if not _any_late(rows, self.window):
            return Outcome(applied=rows.count)
        late = f"_wm >= {self.window.last_start_sql()} + {self.window.size}"
        count = keep_late(con, self.input, self.views, rows, late, epoch, policy=self.node.late)
        return Outcome(applied=rows.count - count, late=count)

    def _ended(self, epoch: Epoch) -> int | None:
        """The last window's start that the watermark has passed the end of."""
        if self.window is None or epoch.watermarks.closing == MIN_TIME:
            return None
        return epoch.watermarks.closing - self.window.size

    def _combined(self) -> dict[str, str]:
        """SQL for the states of groups of ``o`` and ``n``, one of which may be missing."""
        return {name: f"combine(o.{name}, n.{name})" for name in self.states.values()}

    def _merge(
        self, con: duckdb.DuckDBPyConnection, table: str, groups: str, keys: Sequence[str], combined: Mapping[str, str]
    ) -> None:
        """Put groups into a table, or change those that are in it: ``combined`` is SQL for that, of ``n``, the new, and ``o``."""
        names = ", ".join(f"n.{name}" for name in (*keys, *combined))
        changed = ", ".join(f"{name} = {sql}" for name, sql in combined.items())
        con.execute(
            f"MERGE INTO {table} o USING ({groups}) n ON {same(keys, 'n', 'o')} WHEN NOT MATCHED THEN INSERT VALUES ({names})"
            f"{f' WHEN MATCHED THEN UPDATE SET {changed}' if changed else ''}"
        )

    def _close(self, con: duckdb.DuckDBPyConnection, epoch: Epoch) -> None:
        """Move the windows that the watermark has passed from the open table to the closed one."""
        before = self._ended(epoch)
        if before is None or not len(self._begun) or self._begun[0] > before:
            return
        ended = f"_w <= {before}"
        self._begun = self._begun[self._begun > before]
        groups = self.open
        if self._ending is not None:
            keys = "".join(f"coalesce(o.{k}, n.{k}) AS {k}, " for k in self.keys)
            states = ", ".join(f"{sql} AS {name}" for name, sql in self._combined().items())
            old = f"(SELECT * FROM {self.open} WHERE {ended})"
            groups = f"(SELECT {keys}{states} FROM {old} o FULL JOIN ({self._ending}) n ON {same(self.keys, 'o', 'n')})"
        self._put(con, self._finished(groups, ended))
        for table in (self.open, *self.values.values()):
            con.execute(f"DELETE FROM {table} WHERE {ended}")

    def _count_values(self, con: duckdb.DuckDBPyConnection, relation: str, on_time: str) -> None:
        for call, table in self.values.items():
            self._merge(con, table, self._valued(call, relation, on_time), [*self.keys, "value"], {"n": "n.n + o.n"})


def same(keys: Sequence[str], left: str, right: str) -> str:
    """SQL: two rows have equal keys, or NULL in the same ones."""
    return " AND ".join(f"{left}.{k} IS NOT DISTINCT FROM {right}.{k}" for k in keys)


def _starts(rows: pa.Table, window: Window) -> Starts:
    """The start of the last window that each row belongs to."""
    every = np.int64(window.every)
    starts: Starts = rows["_time"].to_numpy() // every * every
    return starts


def _any_late(rows: Rows, window: Window) -> bool:
    """Whether there is a row that is late in the last window that it belongs to, which ``_w`` is the start of."""
    late = rows.table["_wm"].to_numpy() >= rows.table["_w"].to_numpy() + window.size
    if rows.condition is not None and late.any():  # such as duplicates, which are not meant
        late &= rows.table[rows.condition].to_numpy()
    return bool(late.any())


def _touched(rows: pa.Table, window: Window) -> Starts:
    """The starts of all windows that rows belong to, in order, and perhaps of some more; ``_w`` has those of their last ones."""
    last, every = rows["_w"].to_numpy(), window.every
    first = int(last.min())
    if int(last.max()) - first < 4 * every * len(last):  # so dense that counting is faster than sorting
        last = np.flatnonzero(np.bincount((last - first) // every)) * every + first
    return np.unique(np.concatenate([last - k * every for k in range(window.overlap)]))


FEW = 4
"""Up to so many ranges of windows are compared with faster than looked up, which takes a join."""


def _among(some: Starts, of: Starts) -> str:
    """SQL that is true for windows of ``of`` that are in ``some``; both are in order."""
    runs = np.split(some, np.flatnonzero(np.diff(np.searchsorted(of, some)) > 1) + 1)
    if len(runs) <= FEW:
        return f"({' OR '.join(f'_w BETWEEN {run[0]} AND {run[-1]}' for run in runs)})"
    return f"(_w IN ({', '.join(map(str, some.tolist()))}))"

"""``deduplicate``: the first row of an id wins, in the order of its partition.

A row r is a duplicate of an accepted row e of its partition with the same id, if their event times are at most
``within`` apart and e is not forgotten: e's time is at least the watermark at r less ``within``. Without ``within`` any
accepted row of the id makes it one. The rule names nothing but r, e and the partition's order, so it does not matter
when expired entries are really swept.
"""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.operators import PART, Epoch, Outcome, Rows, events
from merganser.operators.hashset import HashSet
from merganser.plan import Deduplicate
from merganser.sql import literal, quote

HASH = "_hash"

SWEEP = 262_144
"""Expired entries are swept once there are this many, and more than live ones."""


def hash_sql(node: Deduplicate, partition: str) -> str:
    """SQL for the 64-bit hash of a row's id in its partition (``partition``: SQL for its name), under a name of its own.

    Workers compute it where nothing stateful stands before.
    """
    return f"hash({', '.join(quote(c) for c in node.by)}, {partition}::VARCHAR) AS {hash_name(node)}"


def hash_name(node: Deduplicate) -> str:
    return f"{HASH}_{node.digest()}"


class DeduplicateStep:
    """Keeps one table: ``(_part, ids…, _time, _hash)`` of the accepted rows that can still have duplicates."""

    def __init__(self, node: Deduplicate, table: str) -> None:
        self.node = node
        self.table = f"merganser.{quote(table)}"
        self.hash = hash_name(node)
        self.ids = [f"_{i}" for i in range(len(node.by))]
        self._sets: dict[str, HashSet] = {}
        self._segments: dict[str, list[tuple[int, int]]] = {}
        """By partition: (newest time, rows) of what each epoch accepted, to know how much has expired."""

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        assert self.node.input is not None
        columns = self.node.input.columns | {"_id": self._hidden_type("id"), "_key": self._hidden_type("key")}
        types = [(name, columns[column]) for name, column in zip(self.ids, self.node.by)]
        # Ids are nearly all distinct and hashes random: looking for a compression costs most of an insert, for nothing.
        raw = " USING COMPRESSION uncompressed"
        ids = ", ".join(f"{name} {kind}{raw if kind in ('VARCHAR', 'BLOB', 'UUID') else ''}" for name, kind in types)
        con.execute(f"CREATE TABLE {self.table} (_part VARCHAR, {ids}, _time BIGINT, {HASH} UBIGINT{raw})")

    def _hidden_type(self, role: str) -> str:
        source = self.node.source
        column = source.id if role == "id" else source.key
        return source.schema[column].type if column else "VARCHAR"

    def drop(self, con: duckdb.DuckDBPyConnection) -> None:
        con.execute(f"DROP TABLE IF EXISTS {self.table}")

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        for (part,) in con.execute(f"SELECT DISTINCT _part FROM {self.table}").fetchall():
            kept = con.sql(f"SELECT {HASH}, _time FROM {self.table} WHERE _part = {literal(part)}").to_arrow_table()
            newest = pc.max(kept["_time"]).as_py()
            self._set(part).add(kept[HASH].to_numpy(), newest)
            self._segments[part] = [(newest, len(kept))]

    def _set(self, part: str) -> HashSet:
        return self._sets.setdefault(part, HashSet())

    def apply(self, con: duckdb.DuckDBPyConnection, rows: Rows, epoch: Epoch) -> tuple[Rows, Outcome]:
        """The rows that are no duplicates."""
        faults.point("step.deduplicate")
        if self.hash not in rows.table.column_names:
            table = con.sql(f"SELECT *, {hash_sql(self.node, PART)} FROM {rows.relation}").to_arrow_table()
            con.register(rows.name, table)
            rows = Rows(rows.name, table, None, rows.count)
        keep = self._first(con, rows.table)
        if keep.all():
            kept, duplicate = rows, 0
        else:
            table = rows.table.append_column("_keep", pa.array(keep))
            con.register(rows.name, table)
            kept = Rows(rows.name, table, "_keep", rows.count)
            kept.count = int(_value(con, events(self.node, rows.name, "_keep")))
            duplicate = rows.count - kept.count
        ids = ", ".join(quote(c) for c in self.node.by)
        con.execute(f"INSERT INTO {self.table} SELECT {PART}, {ids}, _time, {self.hash} FROM {kept.relation}")
        self._sweep(con, rows.table, keep, epoch)
        return kept, Outcome(applied=kept.count, duplicate=duplicate)

    def _first(self, con: duckdb.DuckDBPyConnection, table: pa.Table) -> np.ndarray:
        """A mask of the rows that are no duplicates."""
        parts = _runs(table)
        seen = np.concatenate([
            self._set(part).add(
                table[self.hash].slice(start, count).to_numpy(), int(pc.max(table["_time"].slice(start, count)).as_py())
            )
            for part, start, count in parts
        ]) if parts else np.zeros(0, np.bool_)  # fmt: skip
        keep = ~seen
        if seen.any():
            self._settle(con, table, seen, keep)
        return keep

    def _settle(self, con: duckdb.DuckDBPyConnection, table: pa.Table, seen: np.ndarray, keep: np.ndarray) -> None:
        """Decide the rows whose hash was met before, by their ids and times, in order."""
        numbered = table.append_column("_row", pa.array(np.arange(len(table))))
        suspects = pc.unique(table[self.hash].filter(pa.array(seen)))
        con.register("_suspects", pa.table({HASH: suspects}))
        con.register("_rows", numbered)
        columns = ", ".join(f"{quote(c)} AS {n}" for n, c in zip(self.ids, self.node.by))
        names = ", ".join(self.ids)
        # Accepted rows of earlier epochs come with _row = -1, before all of this one.
        found = con.sql(
            f"SELECT _part::VARCHAR AS _part, dense_rank() OVER (ORDER BY _part, {names}) AS id, _row, _time, _wm FROM ("
            f" SELECT _part, {names}, -1 AS _row, _time, NULL AS _wm FROM {self.table} SEMI JOIN _suspects USING ({HASH})"
            f" UNION ALL"
            f" SELECT _part, {columns}, _row, _time, _wm FROM _rows SEMI JOIN _suspects"
            f"   ON _rows.{self.hash} = _suspects.{HASH}"
            f") ORDER BY _row"
        ).to_arrow_table()
        con.unregister("_rows")
        con.unregister("_suspects")
        within = self.node.within
        accepted: dict[int, list[int]] = {}
        for group, row, time, wm in zip(*(found[c].to_pylist() for c in ("id", "_row", "_time", "_wm"))):
            earlier = accepted.get(group)
            if earlier is None:
                accepted[group] = [time]
                first = True
            elif row < 0:
                earlier.append(time)
                continue
            else:
                first = within is not None and not any(abs(time - t) <= within and t >= wm - within for t in earlier)
                if first:
                    earlier.append(time)
            if row >= 0:
                keep[row] = first

    def _sweep(self, con: duckdb.DuckDBPyConnection, table: pa.Table, keep: np.ndarray, epoch: Epoch) -> None:
        if self.node.within is None:
            return
        for part, start, count in _runs(table):
            times = table["_time"].slice(start, count).to_numpy()
            self._segments.setdefault(part, []).append((int(times.max()), int(keep[start : start + count].sum())))
            watermark = epoch.watermarks.partitions.get(part, MIN_TIME)
            if watermark == MIN_TIME:
                continue
            before = watermark - self.node.within
            segments = self._segments[part]
            expired = sum(n for newest, n in segments if newest < before)
            if expired >= SWEEP and 2 * expired > sum(n for _, n in segments):
                con.execute(f"DELETE FROM {self.table} WHERE _part = {literal(part)} AND _time < {before}")
                self._set(part).forget(before)
                self._segments[part] = [s for s in segments if s[0] >= before]


def _runs(table: pa.Table) -> list[tuple[str, int, int]]:
    """(partition, first row, rows) of each partition in a table that is ordered by partition."""
    runs: list[tuple[str, int, int]] = []
    start = 0
    for chunk in table[PART].chunks:
        if len(chunk) == 0:
            continue
        if chunk[0].as_py() == chunk[-1].as_py():
            pieces = [(chunk[0].as_py(), len(chunk))]
        else:
            encoded = pc.run_end_encode(chunk.cast(pa.string()))
            ends = [0, *encoded.run_ends.to_pylist()]
            pieces = [(part, b - a) for part, a, b in zip(encoded.values.to_pylist(), ends, ends[1:])]
        for part, count in pieces:
            if runs and runs[-1][0] == part:
                runs[-1] = (part, runs[-1][1], runs[-1][2] + count)
            else:
                runs.append((part, start, count))
            start += count
    return runs


def _value(con: duckdb.DuckDBPyConnection, sql: str) -> int:
    found = con.execute(f"SELECT {sql}").fetchone()
    assert found is not None
    return int(found[0])

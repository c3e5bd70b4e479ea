"""``deduplicate``: the first row of an id wins, in the order of its partition.

A row r is a duplicate of an accepted row e of its partition with the same id, if their event times are at most
``within`` apart and e is not forgotten: e's time is at least the watermark at r less ``within``. Without ``within`` any
accepted row of the id makes it one. The rule names nothing but r, e and the partition's order, so it does not matter
when expired entries are really swept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.operators import PART, STATE, Emitted, Epoch, Outcome, Rows, events, one
from merganser.operators.hashset import HashSet, Mask
from merganser.operators.rowlocal import KEEP
from merganser.plan import Deduplicate
from merganser.sql import quote

HASH, UUID = "_hash", "_uuid"

RAW = " USING COMPRESSION uncompressed"
"""Ids are nearly all distinct: looking for a compression costs most of an insert, for nothing."""

SWEEP = 262_144
"""Expired entries are swept once there are this many, and more than live ones."""


def hash_sql(node: Deduplicate) -> str:
    """SQL for the 64-bit hash of a row's id, for a column ``hash_name``.

    Workers compute it where nothing stateful stands before. It is never stored: another DuckDB may hash otherwise.
    """
    return _hash([quote(c) for c in node.by])


def _hash(ids: list[str]) -> str:
    return f"hash({', '.join(ids)})"


def hash_name(node: Deduplicate) -> str:
    return f"{HASH}_{node.digest()}"


def uuid_name(node: Deduplicate) -> str | None:
    """The column that workers put ids into as UUIDs (``uuids``); None where ids are no texts."""
    return f"{UUID}_{node.digest()}" if _types(node) == ["VARCHAR"] else None


def _types(node: Deduplicate) -> list[str]:
    """The types of the columns that make an id; hidden ones are declared by the source."""
    assert node.input is not None
    source, types = node.source, dict(node.input.columns)
    for hidden, column in (("_id", source.id), ("_key", source.key)):
        types[hidden] = source.schema[column].type if column else "VARCHAR"
    return [types[column] for column in node.by]


class DeduplicateStep:
    """Keeps ``(_p, ids…, _time)`` of the accepted rows that can still have duplicates; a second table names the ``_p``.

    Where an id is one text, and all texts of an epoch are those of UUIDs, they are kept in a third table as such. A text may
    be in either, so it is looked for in both.
    """

    def __init__(self, node: Deduplicate, table: str) -> None:
        self.node = node
        self.table = f"{STATE}.{quote(table)}"
        self.partitions = f"{STATE}.{quote(table + '_partitions')}"
        self.uuids = f"{STATE}.{quote(table + '_uuids')}"
        self.hash, self.uuid = hash_name(node), uuid_name(node)
        self.ids = [f"_{i}" for i in range(len(node.by))]
        self._numbers: dict[str, int] = {}
        """``_p`` of each partition: a name in each row would cost a quarter of the whole insert."""
        self._sets: dict[str, HashSet] = {}
        self._filled: list[str] = []
        """The tables of ids that have some: each that is looked into costs a millisecond an epoch."""
        self._segments: dict[str, list[tuple[int, int]]] = {}
        """By partition: (newest time, rows) of what each epoch accepted, to know how much has expired."""

    def create(self, con: duckdb.DuckDBPyConnection) -> None:
        ids = ", ".join(
            f"{name} {kind}{'' if kind.endswith((']', ')')) else RAW}" for name, kind in zip(self.ids, _types(self.node))
        )
        con.execute(f"CREATE TABLE {self.table} (_p INTEGER{RAW}, {ids}, _time BIGINT{RAW})")
        con.execute(f"CREATE TABLE {self.partitions} (_p INTEGER, partition VARCHAR)")
        self._create_uuids(con)

    def _create_uuids(self, con: duckdb.DuckDBPyConnection) -> None:
        if self.uuid:
            con.execute(f"CREATE TABLE IF NOT EXISTS {self.uuids} (_p INTEGER{RAW}, _uuid UUID{RAW}, _time BIGINT{RAW})")

    @property
    def tables(self) -> list[str]:
        return [*self._kept, self.partitions]

    @property
    def _kept(self) -> list[str]:
        """The tables that ids are kept in."""
        return [self.table, self.uuids] if self.uuid else [self.table]

    def load(self, con: duckdb.DuckDBPyConnection) -> None:
        if self.uuid and not con.execute(f"SELECT 1 FROM {STATE}.tables WHERE name = $1", [self.uuids]).fetchall():
            # A store that was written before there were any.
            self._create_uuids(con)
            note = f"INSERT INTO {STATE}.tables SELECT cohort, view, $1 FROM {STATE}.tables WHERE name = $2"
            con.execute(note, [self.uuids, self.table])
        self._filled = [kept for kept in self._kept if con.execute(f"SELECT 1 FROM {kept} LIMIT 1").fetchall()]
        numbers = con.execute(f"SELECT partition, _p FROM {self.partitions}").fetchall()
        self._numbers = dict(numbers)
        stored = f"SELECT _p, {', '.join(self.ids)}, _time FROM {self.table}"
        if self.uuid:
            stored += f" UNION ALL SELECT _p, _uuid::VARCHAR, _time FROM {self.uuids}"
        for part, number in numbers:
            kept = con.sql(f"SELECT {_hash(self.ids)} AS h, _time FROM ({stored}) WHERE _p = {number}").to_arrow_table()
            if len(kept):
                newest = pc.max(kept["_time"]).as_py()
                self._set(part).add(kept["h"].to_numpy(), newest)
                self._segments[part] = [(newest, len(kept))]

    def _set(self, part: str) -> HashSet:
        return self._sets.setdefault(part, HashSet())

    def _number(self, con: duckdb.DuckDBPyConnection, part: str) -> int:
        if part not in self._numbers:
            self._numbers[part] = len(self._numbers)
            con.execute(f"INSERT INTO {self.partitions} VALUES (?, ?)", [self._numbers[part], part])
        return self._numbers[part]

    def apply(self, con: duckdb.DuckDBPyConnection, inputs: Sequence[Rows | None], epoch: Epoch) -> Emitted:
        """The rows that are no duplicates."""
        faults.point("step.deduplicate")
        (found,) = inputs
        if found is None:
            return Emitted((Outcome(),))
        rows = Rows(f"{found.name}_d", found.table, found.condition, found.count)  # others read the same rows
        table, condition = rows.table, rows.condition
        if self.hash not in table.column_names:
            con.register(rows.name, rows.table)
            table = con.sql(f"SELECT *, {hash_sql(self.node)} AS {self.hash} FROM {rows.relation}").to_arrow_table()
            condition = None
        runs = _runs(table)
        numbers = np.repeat(np.array([self._number(con, part) for part, _, _ in runs], np.int32), [n for _, _, n in runs])
        table = table.append_column("_p", pa.array(numbers))
        asked = None if condition is None else table[condition].to_numpy()
        keep = self._first(con, table, runs, asked)
        names = [n for n in table.column_names if n not in (KEEP, self.hash, self.uuid, "_p")]
        left = table.select(names)
        condition = None
        if not keep.all():
            condition = KEEP
            left = left.append_column(KEEP, pa.array(keep))
            table = table.select([n for n in table.column_names if n != KEEP]).append_column(KEEP, pa.array(keep))
        con.register(rows.name, table)
        kept = Rows(rows.name, left, condition, int(keep.sum()))
        if self.node.exploded:
            kept.count = int(one(con, f"SELECT {events(self.node, kept.relation)}"))
        into, ids = (self.uuids, self.uuid) if self._as_uuids(table) else (self.table, ", ".join(map(quote, self.node.by)))
        if into not in self._filled:
            self._filled.append(into)
        con.execute(f"INSERT INTO {into} SELECT _p, {ids}, _time FROM {kept.relation}")
        self._sweep(con, runs, table, keep, epoch)
        con.register(rows.name, left)
        return Emitted((Outcome(applied=kept.count, duplicate=rows.count - kept.count),), kept)

    def _as_uuids(self, table: pa.Table) -> bool:
        """Whether the ids of an epoch are all there as UUIDs, too."""
        return self.uuid in table.column_names and not table[self.uuid].null_count

    def _first(
        self, con: duckdb.DuckDBPyConnection, table: pa.Table, runs: list[tuple[str, int, int]], asked: Mask | None
    ) -> Mask:
        """A mask of the rows that are no duplicates, among those asked about."""
        hashes, times = table[self.hash].to_numpy(), table["_time"].to_numpy()
        seen, old = np.zeros(len(table), np.bool_), np.zeros(len(table), np.bool_)
        for part, start, count in runs:
            span = slice(start, start + count)
            newest = int(times[span].max())
            rows: Any = span if asked is None else start + np.flatnonzero(asked[span])
            seen[rows], old[rows] = self._set(part).add(hashes[rows], newest)
        keep = ~seen if asked is None else asked & ~seen
        if old.any():
            first, last = int(times[old].min()), int(times[old].max())
            # A repeat nearly always has the time of the first: look at all that is kept only where this explains not every one.
            self._settle(con, table, seen, keep, _between(first, last))
            if keep[old].any():
                within = self.node.within
                self._settle(con, table, seen, keep, "true" if within is None else _between(first - within, last + within))
        elif seen.any():
            self._settle(con, table, seen, keep, None)
        return keep

    def _settle(self, con: duckdb.DuckDBPyConnection, table: pa.Table, seen: Mask, keep: Mask, near: str | None) -> None:
        """Decide the rows whose hash was met before: by their ids and times, in order.

        ``seen`` has every row of such a hash; accepted ones of earlier epochs come from the step's tables, those that the
        condition ``near`` is true for; none without one.
        """
        found = self._met(con, table, seen, near)
        hashes, part, row = found[HASH].to_numpy(), found["_p"].to_numpy(), found["_row"].to_numpy()
        time, wm = found["_time"].to_numpy(), found["_wm"].to_numpy()
        begins = np.flatnonzero(np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (part[1:] != part[:-1])]))
        group = np.cumsum(np.bincount(begins, minlength=len(hashes))) - 1
        first = begins[group]
        within = self.node.within
        # The usual case, all at once: the group is one id, and each other row a duplicate of its first.
        same = np.ones(len(hashes), np.bool_)
        for name in self.ids:
            column = found[name].combine_chunks()
            same &= pc.fill_null(pc.equal(column, column.take(pa.array(first))), False).to_numpy(zero_copy_only=False)
        usual = same & (row >= 0)
        if within is not None:
            usual &= (np.abs(time - time[first]) <= within) & (time[first] >= wm - within)
        usual[begins] = same[begins]
        odd = np.unique(group[~usual])
        new = row >= 0
        keep[row[new]] = False
        keep[row[begins[row[begins] >= 0]]] = True
        for g in odd.tolist():
            end = begins[g + 1] if g + 1 < len(begins) else len(hashes)
            span = range(int(begins[g]), int(end))
            ids = list(zip(*(found[name].slice(span.start, len(span)).to_pylist() for name in self.ids)))
            accepted: dict[tuple[object, ...], list[int]] = {}
            for i, key in zip(span, ids):
                earlier = accepted.setdefault(key, [])
                is_first = row[i] < 0 or not any(
                    within is None or (abs(time[i] - t) <= within and t >= wm[i] - within) for t in earlier
                )
                if is_first:
                    earlier.append(int(time[i]))
                if row[i] >= 0:
                    keep[row[i]] = is_first

    def _met(self, con: duckdb.DuckDBPyConnection, table: pa.Table, seen: Mask, near: str | None) -> pa.Table:
        """The rows that ``seen`` has, and the kept ones with their ids, by hash and in order; ``_row`` is -1 of those."""
        as_uuids = self._as_uuids(table)
        columns = [*dict.fromkeys(self.node.by), "_p", "_time", "_wm", self.hash]
        # Not take(), which would put all ids together first.
        now = table.select([*columns, self.uuid] if as_uuids else columns).filter(pa.array(seen))
        con.register("_now", now.append_column("_row", pa.array(np.flatnonzero(seen))))
        ids = ", ".join(f"{quote(c)} AS {n}" for n, c in zip(self.ids, self.node.by))
        uuid = "NULL" if self.uuid is None else self.uuid if as_uuids else _uuid(quote(self.node.by[0]))
        names = ", ".join(self.ids)
        same = " AND ".join(f"s.{n} IS NOT DISTINCT FROM d.{n}" for n in self.ids)
        equal = {self.table: same, self.uuids: f"s.{UUID} = d.{UUID}"}
        earlier = "".join(
            f"SELECT d._p, {names.replace('_', 'd._')}, -1 AS _row, s._time, 0 AS _wm, {HASH}"
            f" FROM {kept} s JOIN d ON s._p = d._p AND {equal[kept]} WHERE {near} UNION ALL "
            for kept in (self._filled if near else ())
        )
        found = con.sql(
            f"WITH n AS (SELECT _p, {ids}, _row, _time, _wm, {self.hash} AS {HASH}, {uuid} AS {UUID} FROM _now),"
            f" d AS (SELECT DISTINCT _p, {names}, {HASH}, {UUID} FROM n)"
            f" FROM ({earlier}SELECT _p, {names}, _row, _time, _wm, {HASH} FROM n) ORDER BY _p, {HASH}, _row"
        ).to_arrow_table()
        con.unregister("_now")
        return found

    def _sweep(
        self, con: duckdb.DuckDBPyConnection, runs: list[tuple[str, int, int]], table: pa.Table, keep: Mask, epoch: Epoch
    ) -> None:
        if self.node.within is None:
            return
        times = table["_time"].to_numpy()
        for part, start, count in runs:
            span = slice(start, start + count)
            self._segments.setdefault(part, []).append((int(times[span].max()), int(keep[span].sum())))
            watermark = epoch.watermarks.partitions.get(part, MIN_TIME)
            if watermark == MIN_TIME:
                continue
            before = watermark - self.node.within
            segments = self._segments[part]
            expired = sum(n for newest, n in segments if newest < before)
            if expired >= SWEEP and 2 * expired > sum(n for _, n in segments):
                for kept in self._filled:
                    con.execute(f"DELETE FROM {kept} WHERE _p = {self._numbers[part]} AND _time < {before}")
                self._set(part).forget(before)
                self._segments[part] = [s for s in segments if s[0] >= before]


def _uuid(text: str) -> str:
    """SQL for a text as a UUID; NULL where it is no text of one just as DuckDB writes it."""
    return f"CASE WHEN TRY_CAST({text} AS UUID)::VARCHAR = {text} THEN TRY_CAST({text} AS UUID) END"


def _between(first: int, last: int) -> str:
    return f"s._time BETWEEN {first} AND {last}"


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

"""``deduplicate``: the first row of an id wins, in the order of its partition.

A row r is a duplicate of an accepted row e of its partition with the same id, if their event times are at most
``within`` apart and e is not forgotten: e's time is at least the watermark at r less ``within``. Without ``within`` any
accepted row of the id makes it one. The rule names nothing but r, e and the partition's order, so it does not matter
when expired entries are really swept.
"""

from __future__ import annotations

from collections.abc import Sequence

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.operators import PART, STATE, Emitted, Epoch, Outcome, Rows, events, one
from merganser.operators.hashset import U64, HashSet, Mask, Places
from merganser.operators.ids import hashed
from merganser.operators.rowlocal import KEEP
from merganser.plan import Deduplicate
from merganser.sql import quote

HASH, UUID = "_hash", "_uuid"

RAW = " USING COMPRESSION uncompressed"
"""Ids are nearly all distinct: looking for a compression costs most of an insert, for nothing."""

SWEEP = 262_144
"""Expired entries are swept once there are this many, and more than live ones."""


def hash_sql(node: Deduplicate) -> str | None:
    """SQL for the 64-bit hash of a row's id, for a column ``hash_name``; None where ids are texts, see ``with_hashes``.

    Workers compute it where nothing stateful stands before. It is never stored: another DuckDB may hash otherwise.
    """
    return None if uuid_name(node) else _hash([quote(c) for c in node.by])


def with_hashes(node: Deduplicate, table: pa.Table) -> pa.Table:
    """Append the hashes of ids that are texts, and the ids as UUIDs, if they are such."""
    hashes, uuids = hashed(table[node.by[0]])
    return table.append_column(hash_name(node), hashes).append_column(uuid_name(node), uuids)


def _hash(ids: list[str]) -> str:
    return f"hash({', '.join(ids)})"


def hash_name(node: Deduplicate) -> str:
    return f"{HASH}_{node.digest()}"


def uuid_name(node: Deduplicate) -> str | None:
    """The column for ids as UUIDs; None where ids are no texts."""
    return f"{UUID}_{node.digest()}" if _types(node) == ["VARCHAR"] else None


def _types(node: Deduplicate) -> list[str]:
    """The types of the columns that make an id; hidden ones are declared by the source."""
    assert node.input is not None
    source, types = node.source, dict(node.input.columns)
    for hidden, column in (("_id", source.id), ("_key", source.key)):
        types[hidden] = source.schema[column].type if column else "VARCHAR"
    return [types[column] for column in node.by]


Earlier = tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]
"""Rows of earlier epochs: the number of a row of now that has the same id, and their times."""

NONE: Earlier = np.zeros(0, np.int64), np.zeros(0, np.int64)


class Met:
    """Rows of an epoch whose hashes were met before: by partition, hash and order. ``old``: in an earlier epoch.

    ``rows`` are their numbers in the epoch's table, ``columns`` what else is asked for.
    """

    def __init__(self, table: pa.Table, rows: Places, old: Mask, hashes: U64, columns: Sequence[str]) -> None:
        self.rows, self.old, self.hashes = rows, old, hashes[rows]
        wanted = np.zeros(len(table), np.bool_)
        wanted[rows] = True
        order = np.empty(len(rows), np.int64)
        order[np.argsort(rows)] = np.arange(len(rows))
        # Not take() alone, which would put all ids together first.
        found = table.select(list(dict.fromkeys(columns))).filter(mask(wanted)).combine_chunks().take(pa.array(order))
        self.table: pa.Table = found
        self.parts, self.times, self.marks = (found[name].to_numpy() for name in ("_p", "_time", "_wm"))


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
        what = self.ids[0] if self.uuid else _hash(self.ids)
        for part, number in numbers:
            kept = con.sql(f"SELECT {what} AS h, _time FROM ({stored}) WHERE _p = {number}").to_arrow_reader(1 << 20)
            for batch in kept or ():
                if not len(batch):
                    continue
                hashes = hashed(pa.chunked_array([batch["h"]]))[0] if self.uuid else batch["h"]
                newest = pc.max(batch["_time"]).as_py()
                self._set(part).add(hashes.to_numpy(), newest)
                self._segments.setdefault(part, []).append((newest, len(batch)))

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
        table, condition = found.table, found.condition
        if self.hash not in table.column_names and self.uuid:
            table = with_hashes(self.node, table)
        elif self.hash not in table.column_names:
            table = con.sql(f"SELECT *, {hash_sql(self.node)} AS {self.hash} FROM {found.relation}").to_arrow_table()
            condition = None
        runs = _runs(table)
        numbers = np.repeat(np.array([self._number(con, part) for part, _, _ in runs], np.int32), [n for _, _, n in runs])
        table = table.append_column("_p", pa.array(numbers))
        asked = None if condition is None else table[condition].to_numpy()
        keep = self._first(con, table, runs, asked)
        names = [n for n in table.column_names if n not in (KEEP, self.hash, self.uuid, "_p")]
        left = table.select(names)
        kept = Rows(con, f"{found.name}_d", left, None, int(np.count_nonzero(keep)))
        if kept.count < len(left):
            kept.condition = KEEP
            kept.table = left.append_column(KEEP, mask(keep))
        uuid = self._as_uuids(table)
        into, ids = (self.uuids, uuid) if uuid else (self.table, self.node.by)
        if into not in self._filled:
            self._filled.append(into)
        new = pa.table([table["_p"], *(table[c] for c in ids), table["_time"], mask(keep)], ["_p", *self.ids, "_time", KEEP])
        con.register("_new", new)
        con.execute(f"INSERT INTO {into} SELECT * EXCLUDE {KEEP} FROM _new WHERE {KEEP}")
        con.unregister("_new")
        self._sweep(con, runs, table, keep, epoch)
        if self.node.exploded:
            kept.count = int(one(con, f"SELECT {events(self.node, kept.relation)}"))
        return Emitted((Outcome(applied=kept.count, duplicate=found.count - kept.count),), kept)

    def _as_uuids(self, table: pa.Table) -> list[str]:
        """The column of the ids of an epoch as UUIDs, if they are all there."""
        return [self.uuid] if self.uuid and self.uuid in table.column_names and not table[self.uuid].null_count else []

    def _first(
        self, con: duckdb.DuckDBPyConnection, table: pa.Table, runs: list[tuple[str, int, int]], asked: Mask | None
    ) -> Mask:
        """A mask of the rows that are no duplicates, among those asked about."""
        hashes, times = table[self.hash].to_numpy(), table["_time"].to_numpy()
        seen, old = [], []
        for part, start, count in runs:
            span = slice(start, start + count)
            newest = int(times[span].max())
            if asked is None:
                again, before = self._set(part).add(hashes[span], newest)
                seen.append(start + again)
            else:
                rows = start + np.flatnonzero(asked[span])
                again, before = self._set(part).add(hashes[rows], newest)
                seen.append(rows[again])
            old.append(before)
        keep = np.ones(len(table), np.bool_) if asked is None else asked.copy()
        if not any(map(len, seen)):
            return keep
        columns = [*self.node.by, "_p", "_time", "_wm", *self._as_uuids(table)]
        met = Met(table, np.concatenate(seen), np.concatenate(old), hashes, columns)
        if met.old.any():
            first, last = int(met.times[met.old].min()), int(met.times[met.old].max())
            # A repeat nearly always has the time of the first: look at all that is kept only where this explains not every one.
            self._settle(met, keep, self._earlier(con, met, _between(first, last)))
            if keep[met.rows[met.old]].any():
                within = self.node.within
                near = "true" if within is None else _between(first - within, last + within)
                self._settle(met, keep, self._earlier(con, met, near))
        else:
            self._settle(met, keep, NONE)
        return keep

    def _settle(self, met: Met, keep: Mask, earlier: Earlier) -> None:
        """Decide the rows whose hash was met before: by their ids and times, in order."""
        numbers, before = earlier
        which = np.concatenate([np.arange(len(met.rows)), numbers])
        row = np.concatenate([met.rows, np.full(len(numbers), -1)])
        time = np.concatenate([met.times, before])
        if len(numbers):
            order = np.lexsort((row, met.hashes[which], met.parts[which]))
            which, row, time = which[order], row[order], time[order]
        part, hashes, wm = met.parts[which], met.hashes[which], met.marks[which]
        begins = np.flatnonzero(np.concatenate([[True], (hashes[1:] != hashes[:-1]) | (part[1:] != part[:-1])]))
        group = np.cumsum(np.bincount(begins, minlength=len(hashes))) - 1
        first = begins[group]
        within = self.node.within
        # The usual case, all at once: the group is one id, and each other row a duplicate of its first.
        same = np.ones(len(hashes), np.bool_)
        ids = [met.table[name].combine_chunks().take(pa.array(which)) for name in self.node.by]
        for column in ids:
            same &= pc.fill_null(pc.equal(column, column.take(pa.array(first))), False).to_numpy(zero_copy_only=False)
        usual = same
        if within is not None:
            usual = same & ((row < 0) | (np.abs(time - time[first]) <= within) & (time[first] >= wm - within))
            usual[begins] = same[begins]
        odd = np.unique(group[~usual])
        keep[met.rows] = False
        keep[row[begins[row[begins] >= 0]]] = True
        for g in odd.tolist():
            end = begins[g + 1] if g + 1 < len(begins) else len(hashes)
            span = range(int(begins[g]), int(end))
            keys = list(zip(*(column.slice(span.start, len(span)).to_pylist() for column in ids)))
            accepted: dict[tuple[object, ...], list[int]] = {}
            for i, key in zip(span, keys):
                times = accepted.setdefault(key, [])
                is_first = row[i] < 0 or not any(
                    within is None or (abs(time[i] - t) <= within and t >= wm[i] - within) for t in times
                )
                if is_first:
                    times.append(int(time[i]))
                if row[i] >= 0:
                    keep[row[i]] = is_first

    def _earlier(self, con: duckdb.DuckDBPyConnection, met: Met, near: str) -> Earlier:
        """The accepted rows of earlier epochs with the ids of those in ``met.old``, if the condition ``near`` is true for them."""
        numbers = np.flatnonzero(met.old)
        columns = [*dict.fromkeys(self.node.by), "_p", *self._as_uuids(met.table)]
        asked = met.table.select(columns).take(pa.array(numbers)).append_column("_number", pa.array(numbers))
        same = " AND ".join(f"s.{n} IS NOT DISTINCT FROM d.{quote(c)}" for n, c in zip(self.ids, self.node.by))
        uuid = f"d.{self.uuid}" if self._as_uuids(asked) else _uuid(f"d.{quote(self.node.by[0])}")
        equal = {self.table: same, self.uuids: f"s.{UUID} = {uuid}"}
        kept = " UNION ALL ".join(
            f"SELECT d._number, s._time FROM {kept} s JOIN d ON s._p = d._p AND {equal[kept]} WHERE {near}" for kept in self._filled
        )
        con.register("_met", asked)
        # Each id once, however often it repeats: else the result has each of its rows for each of them.
        ids = ", ".join(map(quote, self.node.by))
        found = con.execute(f"WITH d AS (SELECT DISTINCT ON (_p, {ids}) * FROM _met) {kept}").fetchnumpy()
        con.unregister("_met")
        return found["_number"], found["_time"]

    def _sweep(
        self, con: duckdb.DuckDBPyConnection, runs: list[tuple[str, int, int]], table: pa.Table, keep: Mask, epoch: Epoch
    ) -> None:
        if self.node.within is None:
            return
        times = table["_time"].to_numpy()
        for part, start, count in runs:
            span = slice(start, start + count)
            self._segments.setdefault(part, []).append((int(times[span].max()), int(np.count_nonzero(keep[span]))))
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


def mask(which: Mask) -> pa.Array:
    """A mask in Arrow: ten times as fast as by ``pa.array``."""
    return pa.Array.from_buffers(pa.bool_(), len(which), [None, pa.py_buffer(np.packbits(which, bitorder="little"))])


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

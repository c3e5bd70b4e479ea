"""The store: one DuckDB file with every result, all operator state, all positions and the books.

Schema ``merganser`` (the books) and ``merganser_state`` (the steps' tables) belong to merganser and may be read with SQL;
schema ``main`` holds only the views that users named. Every change of one epoch happens in one transaction (``Store.transaction``).
"""

from __future__ import annotations

import os
import re
import sys
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from merganser import faults
from merganser.clock import MIN_TIME
from merganser.codecs import Place
from merganser.codecs.mending import Mended
from merganser.errors import StoreError, StoreInUseError, UsageError
from merganser.scratch import instance, lower_priority
from merganser.sql import literal

FORMAT = 2
"""Raised when a change of the tables below makes older versions of merganser unable to go on with a store."""

HELPERS = 5
"""The niceness of DuckDB's threads where others than the flow have work for them, too."""

FEW = 4
"""Rows that a statement puts into a table sooner than an appender, which takes a millisecond for the first."""

PATIENCE = 2.0
"""Seconds to wait for a file that another process has open: queries open it for as long as they take."""

CATALOG = """
CREATE SCHEMA IF NOT EXISTS merganser;
CREATE TABLE IF NOT EXISTS merganser.meta (key VARCHAR PRIMARY KEY, value VARCHAR);
CREATE TABLE IF NOT EXISTS merganser.flows (flow VARCHAR, file VARCHAR, plan VARCHAR, updated_at TIMESTAMP);
CREATE TABLE IF NOT EXISTS merganser.views (
    view VARCHAR, flow VARCHAR, cohort INTEGER, status VARCHAR, signature VARCHAR, sql VARCHAR);
CREATE TABLE IF NOT EXISTS merganser.positions (
    cohort INTEGER, source VARCHAR, partition VARCHAR, seq BIGINT, position VARCHAR, max_time BIGINT, floor BIGINT,
    ended BOOLEAN);
CREATE SCHEMA IF NOT EXISTS merganser_state;
CREATE TABLE IF NOT EXISTS merganser_state.watermarks (cohort INTEGER, source VARCHAR, watermark BIGINT);
CREATE TABLE IF NOT EXISTS merganser_state.tables (cohort INTEGER, view VARCHAR, name VARCHAR);
CREATE TABLE IF NOT EXISTS merganser.commits (
    epoch BIGINT, committed_at TIMESTAMP, cohort INTEGER, view VARCHAR, source VARCHAR, branch INTEGER,
    read BIGINT, applied BIGINT, filtered BIGINT, late BIGINT, duplicate BIGINT, dead BIGINT);
CREATE TABLE IF NOT EXISTS merganser.dead_letters (
    source VARCHAR, cohort INTEGER, view VARCHAR, partition VARCHAR, seq BIGINT, file VARCHAR, byte BIGINT, line BIGINT,
    reason VARCHAR, detail VARCHAR, raw BLOB, epoch BIGINT, fixed BLOB, attempts INTEGER, status VARCHAR);
CREATE TABLE IF NOT EXISTS merganser.mended (
    source VARCHAR, partition VARCHAR, seq BIGINT, raw BLOB, file VARCHAR, byte BIGINT, line BIGINT, since INTEGER);
CREATE TABLE IF NOT EXISTS merganser.gained (cohort INTEGER, source VARCHAR, name VARCHAR, partition VARCHAR, seq BIGINT);
CREATE TABLE IF NOT EXISTS merganser.late (
    cohort INTEGER, view VARCHAR, source VARCHAR, partition VARCHAR, seq BIGINT, event_time TIMESTAMP,
    watermark TIMESTAMP, row JSON, epoch BIGINT);
CREATE TABLE IF NOT EXISTS merganser.answers (
    question VARCHAR, key VARCHAR, slot BIGINT, answer VARCHAR, asked_at TIMESTAMP, epoch BIGINT);
CREATE TABLE IF NOT EXISTS merganser.sinks (sink VARCHAR, cohort INTEGER, seq BIGINT, sent BIGINT);
CREATE TABLE IF NOT EXISTS merganser.outbox (sink VARCHAR, seq BIGINT, epoch BIGINT, key BLOB, value BLOB);
ALTER TABLE merganser.outbox ADD COLUMN IF NOT EXISTS headers STRUCT(name VARCHAR, value BLOB)[];
"""


@dataclass(slots=True)
class Progress:
    """How far a cohort of views has come in one partition.

    ``seq``: records behind it; ``position``: where its reader goes on; ``max_time``: the largest event time so far in
    microseconds, None before the first; ``ended``: the partition can get no further records. ``floor``: where the watermark
    of a partition begins that was found after its source had begun, since windows below it may be closed; else None.
    """

    seq: int = 0
    position: dict[str, Any] | None = None
    max_time: int | None = None
    ended: bool = False
    floor: int | None = None

    def watermark(self, lateness: int | None) -> int:
        """The largest event time so far less the lateness, or the floor; MIN_TIME where there is neither."""
        floor = MIN_TIME if self.floor is None else self.floor
        return floor if self.max_time is None or lateness is None else max(floor, self.max_time - lateness)


@dataclass(frozen=True, slots=True)
class Books:
    """What became of the events of one source in one epoch, for one view: ``read`` is the sum of the others.

    ``branch`` numbers the ways on which a source's events come into the view: a join of a source with itself has two.
    """

    cohort: int
    view: str
    source: str
    branch: int
    read: int
    applied: int
    filtered: int
    late: int
    duplicate: int
    dead: int

    def check(self) -> None:
        total = self.applied + self.filtered + self.late + self.duplicate + self.dead
        if self.read != total:
            raise StoreError(
                f"the books of view {self.view!r} do not balance: {self.read} events of source {self.source!r} were read,"
                f" {total} accounted for ({self}); nothing of this epoch was kept. This is a defect of merganser:"
                " please report it with the flow"
            )


class Store:
    """The opened file. Used by one thread at a time."""

    def __init__(
        self,
        path: str | Path,
        *,
        read_only: bool = False,
        existing: bool = False,
        shared: bool = False,
        memory_limit: str | None = None,
        workers: int = 0,
    ) -> None:
        """``existing``: make none where there is none, as if it were only read.

        ``shared``: others will query this instance, so that what DuckDB does in threads of its own must not take all.

        ``workers``: how many threads will work beside it, each of which has a core that DuckDB leaves to it: a query in two
        threads that share one takes up to a third more processor time than in one, and no less time.
        """
        self.path = path if str(path) == ":memory:" else Path(path)
        self.fresh = not isinstance(self.path, Path) or not self.path.exists()
        existing = existing or read_only
        if existing and self.fresh:
            raise UsageError(f"there is no store {self.path}; `merganser run FLOW.py --store {self.path}` makes one")
        if isinstance(self.path, Path) and not self.path.parent.is_dir():
            raise UsageError(f"cannot make the store {self.path}: there is no folder {self.path.parent}")
        config: dict[str, Any] = {"threads": max(1, _cores() - workers)}
        if memory_limit:
            config["memory_limit"] = memory_limit
        if isinstance(self.path, Path):
            config["temp_directory"] = f"{self.path}.tmp"
        self.con = _instance_for_many(config) if shared else instance(**config)
        try:
            self._attach(read_only)
        except BaseException:
            self.con.close()
            raise
        self._written = 0
        self._checkpointed = time.monotonic()
        try:
            self._check_versions(read_only, existing)
        except BaseException:
            self.con.close()
            raise

    def _attach(self, read_only: bool) -> None:
        # Under a name of its own: that of the file may be one that the schemas in it have (merganser.duckdb).
        sql = f"ATTACH {literal(str(self.path))} AS store{' (READ_ONLY)' if read_only else ''}; USE store"
        until = time.monotonic() + (0 if read_only else PATIENCE)
        while True:
            try:
                self.con.execute(sql)
                break
            except duckdb.Error as error:
                found = _cannot_open(self.path, error)
                if not isinstance(found, StoreInUseError) or time.monotonic() > until:
                    raise found from None
                time.sleep(0.02)  # a query may have it open: it is over soon
        # Those who query this instance get no further than the store, whatever their SQL: see docs/decisions/queries.md.
        self.con.execute("SET enable_external_access = false; SET lock_configuration = true")

    def _check_versions(self, read_only: bool, existing: bool) -> None:
        found = self.rows(
            "SELECT 1 FROM duckdb_tables() WHERE database_name = 'store' AND schema_name = 'merganser' AND table_name = 'meta'"
        )
        if not found:
            if existing:
                raise UsageError(f"{self.path} is a DuckDB file, but no store of merganser")
            self._create({"id": uuid.uuid4().hex[:8]})
            return
        written = dict(self.rows("SELECT key, value FROM merganser.meta"))
        if int(written["format"]) > FORMAT:
            raise StoreError(
                f"{self.path} was written by merganser {written.get('merganser')} (store format {written['format']}), this is"
                f" {version('merganser')} (format {FORMAT}); install that version or a later one"
            )
        if not read_only:
            self._create({})  # what came to be since it was written

    def _create(self, meta: Mapping[str, str]) -> None:
        """The tables that are not there yet, and who wrote them."""
        meta = {**meta, "format": str(FORMAT), "merganser": version("merganser"), "duckdb": duckdb.__version__}
        with self.transaction():
            self.con.execute(CATALOG)
            values = [text for item in meta.items() for text in item]
            self.con.execute(f"INSERT OR REPLACE INTO merganser.meta VALUES {', '.join(['(?, ?)'] * len(meta))}", values)

    def close(self) -> None:
        self.con.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """All rows of a query, as Python values."""
        return self.con.execute(sql, list(parameters)).fetchall()

    def value(self, sql: str, parameters: Sequence[Any] = ()) -> Any:
        """The first column of a query's first row; None without rows."""
        found = self.rows(sql, parameters)  # all of them: an unfinished result blocks the connection
        return found[0][0] if found else None

    def table(self, sql: str) -> pa.Table:
        """A query's result in Arrow."""
        return self.con.sql(sql).to_arrow_table()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing; what cannot be kept (a full disk) is a StoreError that says so."""
        try:
            self.con.execute("BEGIN")
            yield
            faults.point("commit.before")
            with faults.during("commit.in", Path(f"{self.path}.wal")):
                self.con.execute("COMMIT")
            faults.point("commit.after")
        except BaseException as error:
            with suppress(duckdb.Error):  # a failed COMMIT has rolled back already
                self.con.execute("ROLLBACK")
            if isinstance(error, duckdb.IOException):
                raise _cannot_write(self.path, error) from None
            raise

    def wrote(self, nbytes: int) -> None:
        """Note that an epoch of ``nbytes`` of input was committed; checkpoints when it is time.

        Without checkpoints deleted rows stay in the file and a restart replays the log of all that was written.
        """
        self._written += nbytes
        if self._written > 512 << 20 or time.monotonic() - self._checkpointed > 60:
            self.checkpoint()

    def checkpoint(self) -> None:
        faults.point("checkpoint.before")
        try:
            self.con.execute("CHECKPOINT store")
        except duckdb.TransactionException:
            return  # somebody's statement is in the way just now: the next epoch tries again
        except duckdb.IOException as error:
            raise _cannot_write(self.path, error) from None
        faults.point("checkpoint.after")
        self._written = 0
        self._checkpointed = time.monotonic()

    def insert(self, table: str, rows: Iterable[Sequence[Any]]) -> None:
        """Append rows of Python values to a table of schema ``merganser``."""
        rows = list(rows)
        if 0 < len(rows) <= FEW:
            values = ", ".join(f"({', '.join('?' * len(row))})" for row in rows)
            self.con.execute(f"INSERT INTO merganser.{table} VALUES {values}", [value for row in rows for value in row])
        elif rows:
            with self.con.appender(f"merganser.{table}") as appender:
                appender.append_rows(rows)

    def identity(self) -> str:
        """What tells this store from all others, in places that outlive it; a copy of the file is the same store."""
        return str(self.value("SELECT value FROM merganser.meta WHERE key = 'id'"))

    def mends(self, source: str, cohort: int | None = None) -> dict[tuple[str, int], Mended]:
        """What stands for records that were bad, by partition and ordinal; as far as a cohort has read it, if one is given."""
        found = self.rows(
            "SELECT partition, seq, raw, file, byte, line FROM merganser.mended WHERE source = $1"
            " AND since <= coalesce($2, since)",
            [source, cohort],
        )
        return {(p, seq): Mended(bytes(raw), Place(file, byte, line)) for p, seq, raw, file, byte, line in found}

    def mend(self, since: int, mended: Iterable[tuple[str, str, int, Mended]]) -> None:
        """Note what stands for records from now on: in all cohorts from number ``since`` on."""
        for source, partition, seq, m in mended:
            key = [source, partition, seq]
            self.con.execute("DELETE FROM merganser.mended WHERE source = ? AND partition = ? AND seq = ?", key)
            values = [*key, m.raw, m.place.file, m.place.byte, m.place.line, since]
            self.con.execute("INSERT INTO merganser.mended VALUES (?, ?, ?, ?, ?, ?, ?, ?)", values)

    def gained(self, source: str, cohort: int) -> list[tuple[str, str, int]]:
        """Columns that a source gained while a cohort had read it in part: name, partition, the ordinal below which it is NULL."""
        sql = "SELECT name, partition, seq FROM merganser.gained WHERE cohort = ? AND source = ?"
        return [(str(name), str(partition), int(seq)) for name, partition, seq in self.rows(sql, [cohort, source])]

    def next_epoch(self) -> int:
        return int(self.value("SELECT coalesce(max(epoch), 0) + 1 FROM merganser.commits"))

    def next_cohort(self) -> int:
        return int(self.value("SELECT coalesce(max(cohort), 0) + 1 FROM merganser.views"))


def _cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _instance_for_many(config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    """An instance whose threads work for each statement in turn, at a lower priority than those that execute one (Linux).

    A thread has the priority of the one that starts it, so that is one of a lower priority.
    """
    with ThreadPoolExecutor(1, "merganser-store", initializer=lower_priority, initargs=(HELPERS,)) as starter:
        return starter.submit(instance, **config, scheduler_process_partial=True).result()


def _cannot_open(path: Path | str, error: duckdb.Error) -> StoreError | UsageError:
    text = str(error)
    if "already attached" in text:
        return StoreInUseError(f"{path} is in use by this process already")
    if re.search(r"\block\b", text, re.IGNORECASE):
        holder = re.search(r"PID (\d+)", text)
        who = f"process {holder.group(1)}" if holder else "another process"
        return StoreInUseError(f"{path} is in use by {who}; stop it, or use another --store")
    if Path(path).is_dir():
        return UsageError(f"{path} is a folder; --store names a file")
    if "not a valid DuckDB database" in text:
        return UsageError(f"{path} is no DuckDB file; use another --store, or move it away")
    return StoreError(f"cannot open the store {path}: {text.splitlines()[0]}")


def _cannot_write(path: Path | str, error: duckdb.Error) -> StoreError:
    text = str(error).splitlines()[0]
    if "No space left" in text or "disk" in text.lower():
        return StoreError(
            f"the disk of {path} is full; nothing of the last epoch was kept, all before it is safe. Free some space"
            f" and run again ({text})"
        )
    return StoreError(f"cannot write to {path}: {text}; nothing of the last epoch was kept, run again")

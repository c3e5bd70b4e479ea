"""Answers queries from a DuckDB instance: one read-only transaction, caps, and a result that holds nothing of the store.

An answer is written to a temporary file as fast as the query runs, and only then read by whoever asked. So neither a
snapshot of the store nor memory is held by a reader that is slow or went away.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import duckdb
import pyarrow as pa

from merganser.errors import QueryError
from merganser.query.apart import Apart
from merganser.query.caps import BATCH_ROWS, Limits, write
from merganser.query.growth import grows
from merganser.query.guard import check
from merganser.scratch import lower_priority

IN_MEMORY = 4 << 20
"""Bytes of an answer that stay in memory; what is larger goes to a temporary file without a name."""


@dataclass(slots=True)
class Answer:
    """What some queries of one commit gave: an Arrow IPC stream for each, one behind the other, in ``data``.

    ``epoch``: the last one that they see; 0 before the first. By query: ``bytes`` of its stream, and the limit at which it was
    ``cut``.
    """

    data: IO[bytes]
    epoch: int
    rows: list[int] = field(default_factory=list)
    bytes: list[int] = field(default_factory=list)
    cut: list[str | None] = field(default_factory=list)


LONG, NICE = 0.25, 15
"""After so many seconds a query is a long one, and its thread gets this niceness (Linux): a thirtieth of a processor in demand."""

STOPPING = "the flow is stopping"


class StoppingError(QueryError):
    """The flow that was asked is about to stop; the store can be asked again at once."""


class Warden:
    """Interrupts queries that run for too long, whose client is gone, or that take too much memory or disk. Has one thread."""

    EVERY = 0.05

    def __init__(self, spill: Path) -> None:
        """``spill``: the folder where DuckDB puts what has no room in memory."""
        self._running: dict[Query, float] = {}
        """By query: the memory of this process when it began."""
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = False
        self.budget = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
        self._spill, self.room = spill, shutil.disk_usage(spill.parent).free // 4
        threading.Thread(target=self._work, name="merganser-warden", daemon=True).start()

    @contextmanager
    def watching(self, query: Query) -> Iterator[None]:
        with self._lock:
            self._running[query] = memory()
            if self._closed:
                query.stop(STOPPING)
        self._news.set()
        try:
            yield
        finally:
            with self._lock:
                del self._running[query]

    def close(self) -> None:
        """Stop all queries, those that still come too, and the thread."""
        with self._lock:
            self._closed = True
            for query in self._running:
                query.stop(STOPPING)
        self._news.set()

    def _work(self) -> None:
        while not self._closed:
            self._news.wait()
            while not self._closed:
                with self._lock:
                    running = dict(self._running)
                    if not running:
                        self._news.clear()
                        break
                self._look(running)
                time.sleep(self.EVERY)

    def _look(self, running: dict[Query, float]) -> None:
        now, used, spilt = time.monotonic(), memory(), _size(self._spill)
        for query, before in running.items():
            if now > query.deadline:
                query.overdue()
            elif query.thread and now - query.began > LONG:
                with suppress(ProcessLookupError):  # it ended just now
                    lower_priority(NICE, query.thread)
                query.thread = None
            if used - before > self.budget:
                query.stop(f"memory grew by more than {self.budget / 1e9:.1f} GB while it ran")
            elif spilt > self.room:
                query.stop(f"more than {self.room / 1e9:.1f} GB had to be put on disk while it ran")


def _size(folder: Path) -> int:
    try:
        return sum(file.stat().st_size for file in folder.iterdir())
    except OSError:  # it is made when it is needed, and files in it come and go
        return 0


class Query:
    """Some statements that are answered together, from one snapshot."""

    def __init__(self, statements: Sequence[str], limits: Limits) -> None:
        self._checked = [(sql, check(sql)) for sql in statements]
        self.limits = limits
        self.deadline = time.monotonic() + limits.seconds
        self.began = 0.0
        self.thread: int | None = None
        """That runs it, as the system numbers threads."""
        self._con: duckdb.DuckDBPyConnection | None = None
        self._apart: Apart | None = None
        self._stopped: str | None = None

    def stop(self, why: str) -> None:
        """End it, from any thread, before or while it runs."""
        self._stopped = self._stopped or why
        if self._con is not None:
            self._con.interrupt()
        if self._apart is not None:
            self._apart.stop()

    def overdue(self) -> None:
        self.stop(f"it ran for more than {self.limits.seconds:g} seconds")

    def run(self, instance: duckdb.DuckDBPyConnection, *, shared: bool = False) -> Answer:
        """The answer, on a cursor of its own. Raises QueryError.

        ``shared``: others work in this process, so that what may need any amount of memory must not run in it.
        """
        self.began, self.thread = time.monotonic(), threading.get_native_id() if shared else None
        if self.began > self.deadline:
            self._stopped = "there was no turn for it in time: too many others are running"
        data: IO[bytes] = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 # closed by whoever reads the answer
        with instance.cursor() as con:
            con.execute("USE store; BEGIN TRANSACTION READ ONLY")
            self._con = con
            try:
                if self._stopped:
                    raise duckdb.InterruptException
                last = "SELECT coalesce(max(epoch), 0) FROM merganser.commits"
                answer = Answer(data, int(con.execute(last).fetchall()[0][0]))
                for sql, nodes in self._checked:
                    what = grows(nodes) if shared else None
                    at = data.tell()
                    if what is None:
                        rows, cut = self._here(con, sql, data)
                    else:
                        self._apart = Apart(sql, nodes, what)
                        rows, cut = self._apart.run(con, self.limits, data)
                        self._apart = None
                    answer.rows.append(rows)
                    answer.bytes.append(data.tell() - at)
                    answer.cut.append(cut)
            except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError) as error:
                data.close()
                raise self._explained(error, con) from None
            except BaseException:
                data.close()
                raise
            finally:
                self._con = self.thread = None
                with suppress(duckdb.Error):
                    con.execute("ROLLBACK")
        data.seek(0)
        return answer

    def _here(self, con: duckdb.DuckDBPyConnection, sql: str, out: IO[bytes]) -> tuple[int, str | None]:
        relation = con.sql(sql)
        if relation is None:
            raise QueryError("a query is one SELECT and only reads")
        return write(relation.to_arrow_reader(BATCH_ROWS), self.limits, out, self._look)

    def _look(self) -> None:
        if self._stopped:
            raise duckdb.InterruptException

    def _explained(self, error: BaseException, con: duckdb.DuckDBPyConnection) -> QueryError:
        if self._stopped == STOPPING:
            return StoppingError(STOPPING)
        if self._stopped:
            return QueryError(f"the query was stopped: {self._stopped}")
        if missing := re.match(r"Catalog Error: Table with name (.+) does not exist!", str(error)):
            views = con.execute("SELECT view FROM merganser.views WHERE status <> 'building' ORDER BY view").fetchall()
            return QueryError(f"there is no view {missing[1]!r}; there are: {', '.join(view for (view,) in views) or 'none'}")
        return QueryError(str(error).strip())


def memory() -> int:
    """Bytes of memory that this process holds (on systems without /proc: held at most)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

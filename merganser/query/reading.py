"""Answers queries from a DuckDB instance: one read-only transaction, caps, and a result that holds nothing of the store.

An answer is written to a temporary file as fast as the query runs, and only then read by whoever asked. So neither a
snapshot of the store nor memory is held by a reader that is slow or went away.
"""

from __future__ import annotations

import os
import resource
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
from merganser.query.guard import check

BATCH_ROWS = 16_384
"""Rows of a batch of an answer: small, since nothing is known of how wide they are."""

IN_MEMORY = 4 << 20
"""Bytes of an answer that stay in memory; what is larger goes to a temporary file without a name."""


MAX_ROWS, MAX_BYTES = 10_000_000, 1 << 30
"""Where answers are cut unless other limits are asked for."""


SECONDS, LONGEST = 60.0, 3600.0
"""After how long a query is stopped unless another time is asked for, and the longest that can be asked of a flow."""


@dataclass(frozen=True, slots=True)
class Limits:
    """When an answer is cut (rows, bytes of Arrow data) and a query is stopped (seconds); None: never cut."""

    rows: int | None = MAX_ROWS
    bytes: int | None = MAX_BYTES
    seconds: float = SECONDS


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


STOPPING = "the flow is stopping"


class StoppingError(QueryError):
    """The flow that was asked is about to stop; the store can be asked again at once."""


class Warden:
    """Interrupts queries that run for too long, whose client is gone, or that take too much memory. Has one thread."""

    EVERY = 0.05

    def __init__(self) -> None:
        self._running: dict[Query, float] = {}
        """By query: the memory of this process when it began."""
        self._lock = threading.Lock()
        self._news = threading.Event()
        self._closed = False
        self.budget = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4
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
        now, used = time.monotonic(), memory()
        for query, before in running.items():
            if now > query.deadline:
                query.overdue()
            elif used - before > self.budget:
                query.stop(f"memory grew by more than {self.budget / 1e9:.1f} GB while it ran")


class Query:
    """Some statements that are answered together, from one snapshot."""

    def __init__(self, statements: Sequence[str], limits: Limits) -> None:
        for sql in statements:
            check(sql)
        self.statements, self.limits = statements, limits
        self.deadline = time.monotonic() + limits.seconds
        self._con: duckdb.DuckDBPyConnection | None = None
        self._stopped: str | None = None

    def stop(self, why: str) -> None:
        """End it, from any thread, before or while it runs."""
        self._stopped = self._stopped or why
        if self._con is not None:
            self._con.interrupt()

    def overdue(self) -> None:
        self.stop(f"it ran for more than {self.limits.seconds:g} seconds")

    def run(self, instance: duckdb.DuckDBPyConnection) -> Answer:
        """The answer, on a cursor of its own. Raises QueryError."""
        if time.monotonic() > self.deadline:
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
                for sql in self.statements:
                    self._answer(con, sql, answer)
            except (duckdb.Error, pa.ArrowException, OSError, UnicodeDecodeError) as error:
                data.close()
                raise self._explained(error) from None
            except BaseException:
                data.close()
                raise
            finally:
                self._con = None
                with suppress(duckdb.Error):
                    con.execute("ROLLBACK")
        data.seek(0)
        return answer

    def _answer(self, con: duckdb.DuckDBPyConnection, sql: str, answer: Answer) -> None:
        rows = nbytes = 0
        cut = None
        at = answer.data.tell()
        relation = con.sql(sql)
        if relation is None:
            raise QueryError("a query is one SELECT and only reads")
        reader = relation.to_arrow_reader(BATCH_ROWS)
        with pa.ipc.new_stream(answer.data, reader.schema) as writer:
            for batch in reader:
                if self._stopped:
                    raise duckdb.InterruptException
                if self.limits.rows is not None and rows + len(batch) > self.limits.rows:
                    cut = f"cut at {self.limits.rows:,} rows"
                    batch = batch.slice(0, self.limits.rows - rows)
                nbytes += batch.nbytes
                if self.limits.bytes is not None and nbytes > self.limits.bytes:
                    cut = f"cut after {rows:,} rows, at {self.limits.bytes:,} bytes"
                    break
                writer.write_batch(batch)
                rows += len(batch)
                if cut:
                    break
        del reader, relation  # an unfinished result blocks the connection
        answer.rows.append(rows)
        answer.bytes.append(answer.data.tell() - at)
        answer.cut.append(cut)

    def _explained(self, error: BaseException) -> QueryError:
        if self._stopped == STOPPING:
            return StoppingError(STOPPING)
        if self._stopped:
            return QueryError(f"the query was stopped: {self._stopped}")
        return QueryError(str(error).strip())


def memory() -> int:
    """Bytes of memory that this process holds (on systems without /proc: held at most)."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

"""``mg.connect``: ask a store whether a flow is running on it or not."""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import pyarrow as pa

from merganser import display
from merganser.errors import QueryError, StoreError, StoreInUseError, UsageError, WaitTimeoutError
from merganser.query import sidecar
from merganser.query.caps import MAX_BYTES, MAX_ROWS, SECONDS, Limits
from merganser.query.client import GoneError, Remote
from merganser.query.past import Past
from merganser.query.reading import IN_MEMORY, Answer, Query
from merganser.query.sidecar import Holder
from merganser.query.status import Status
from merganser.query.status import status as status_of
from merganser.store import Store

if TYPE_CHECKING:
    import pandas
    import polars

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds to wait for a flow that has opened the store and does not answer yet, or is just closing it."""

_opening = threading.Lock()
"""DuckDB refuses to open a file twice in one process."""


def connect(store: str | Path = "merganser.duckdb", *, token: str | None = None) -> Connection:
    """A connection to a store, for reading.

    While a flow runs on it the flow is asked, over loopback, otherwise the file is opened for as long as a query takes: so
    flows may start and stop between any two queries. ``store`` may also be the address of a flow that serves elsewhere
    (``http://host:port``); then ``token`` (or ``MERGANSER_TOKEN``) is its token. Raises UsageError where there is no store.
    """
    return Connection(store, token)


class Connection:
    """What ``connect`` returns. May be used from several threads."""

    def __init__(self, store: str | Path, token: str | None = None) -> None:
        self._address: Holder | None = None
        self.path = Path(store)
        if str(store).startswith(("http://", "https://")):
            given = token or os.environ.get("MERGANSER_TOKEN", "")
            if not given:
                raise UsageError(f"{store} asks for a token: connect(…, token=…), or set MERGANSER_TOKEN")
            self._address = Holder(str(store), given, 0, "")
        elif not self.path.exists() and sidecar.read(self.path) is None:
            raise UsageError(f"there is no store {self.path}; `merganser run FLOW.py --store {self.path}` makes one")

    def sql(
        self, query: str, *, max_rows: int | None = MAX_ROWS, max_bytes: int | None = MAX_BYTES, timeout: float = SECONDS
    ) -> Result:
        """The rows of one SELECT, as of one commit. Raises QueryError, also after ``timeout`` seconds.

        A result that is larger than ``max_rows`` or ``max_bytes`` (of Arrow data; None: no limit) is cut; then its ``cut``
        says so, and so does a warning.
        """
        return self._read([query], Limits(max_rows, max_bytes, timeout))[0]

    def read(
        self,
        queries: Sequence[str],
        *,
        max_rows: int | None = MAX_ROWS,
        max_bytes: int | None = MAX_BYTES,
        timeout: float = SECONDS,
    ) -> list[Result]:
        """The rows of several queries, all as of the same commit."""
        return self._read(queries, Limits(max_rows, max_bytes, timeout))

    def _read(self, queries: Sequence[str], limits: Limits) -> list[Result]:
        answer = self._ask(lambda remote: remote.read(queries, limits), lambda store: _answered(store, queries, limits))
        results = _results(answer)
        for result in results:
            if result.cut:
                warnings.warn(f"the result was {result.cut}; sql(…, max_rows=, max_bytes=) sets other limits", stacklevel=3)
        return results

    def views(self) -> Result:
        """The views that there are: name, flow, state, columns."""
        views, columns = self.read([
            "SELECT view, flow, status AS state FROM merganser.views WHERE status <> 'building' ORDER BY view",
            "SELECT table_name, column_name || ' ' || data_type FROM duckdb_columns()"
            " WHERE database_name = 'store' AND schema_name = 'main' ORDER BY table_name, column_index",
        ])  # fmt: skip
        of: dict[str, list[str]] = {}
        for view, column in columns.fetchall():
            of.setdefault(view, []).append(column)
        found = views.arrow()
        described = [of.get(view, []) for view in found["view"].to_pylist()]
        return _made(found.append_column("columns", pa.array(described, pa.list_(pa.string()))), views.epoch)

    def history(self, view: str, key: Any) -> Result:
        """What happened to a key of a fold with ``history=True``: its events in order, each with the ``state`` after it.

        ``key``: a value, or ``{column: value}`` where a key has several columns. Raises UsageError for other views.
        """
        return self._past(view, lambda past: past.history(key))

    def as_of(
        self,
        view: str,
        *,
        version: int | None = None,
        time: datetime | str | None = None,
        position: int | Mapping[str, int] | None = None,
    ) -> Result:
        """The rows of a fold with ``history=True`` as they were, for the keys that there were.

        After the first ``version`` events of each key (of which the view's ``seq`` is the number); after the events up to
        and including ``time`` (UTC unless it has a zone); or after so many records of the log (``position``, as in
        ``wait_for``; of an event store the id of the last notification), ``{partition: records}`` where there are several.
        """
        return self._past(view, lambda past: past.as_of(self._rows, version, time, position))

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self.sql(sql).fetchall()

    def _past(self, view: str, query: Callable[[Past], str]) -> Result:
        past = Past.of(self._rows, view)
        while True:
            try:
                return self.sql(query(past))
            except QueryError:
                before, past = past, Past.of(self._rows, view)
                if past == before:  # else it was rebuilt between two queries
                    raise

    def dead_letters(self) -> Result:
        """The records that could not be decoded or applied, with their bytes and the reason."""
        return self.sql("FROM merganser.dead_letters ORDER BY source, partition, seq")

    def status(self) -> Status:
        """What the store holds, and what the flow is doing if one runs: what ``merganser status --json`` prints."""

        def direct(store: Store) -> Status:
            def read(statements: Sequence[str]) -> list[pa.Table]:
                return [result.arrow() for result in answered(store, statements, Limits())]

            return status_of(read, str(self.path), None)

        return self._ask(lambda remote: remote.status(), direct)

    def wait_for(self, position: Mapping[str, int | Mapping[str, Any]] | str = "now", timeout: float = 60.0) -> None:
        """Wait until the views have what was written before this call (read your writes). Raises WaitTimeoutError.

        ``"now"``: everything that a running flow finds in its sources now. Or how far each partition of each source must be
        read: ``{"orders": {"0": 1200}}`` in records, or by what its position has; of Kafka the offset of the next message:
        ``{"orders": {f"{message.topic()}/{message.partition()}": {"offset": message.offset() + 1}}}``.
        """
        until = time.monotonic() + timeout
        if position != "now" and not isinstance(position, Mapping):
            raise UsageError(f"wait_for({position!r}): give 'now', or source → partition → position")
        found = ""
        while (left := until - time.monotonic()) > 0:
            if isinstance(position, Mapping):
                found = self._behind(position)
                if not found:
                    return
                time.sleep(min(0.05, left))
                continue
            holder = self._address or sidecar.read(self.path)
            found = "it is still reading" if holder else f"no flow is running on {self.path}"
            try:
                if holder and Remote(holder).wait(left):
                    return
            except GoneError:
                found = f"no flow is running on {self.path}"
            time.sleep(0.05)
        raise WaitTimeoutError(f"not there after {timeout:g} seconds: {found}")

    def _behind(self, position: Mapping[str, int | Mapping[str, Any]]) -> str:
        """What has not been read as far as wanted; empty if everything has."""
        rows = self.sql("SELECT source, partition, seq, position FROM merganser.positions").fetchall()
        for source, partitions in position.items():
            if not isinstance(partitions, Mapping):
                names = sorted({p for s, p, _, _ in rows if s == source})
                if len(names) > 1:
                    raise UsageError(f"wait_for(): source {source!r} has partitions {', '.join(names)}: {{partition: position}}")
                if not names:
                    return f"nothing of source {source!r} is committed"
                partitions = {names[0]: partitions}
            for partition, wanted in partitions.items():
                reached = [(seq, text) for s, p, seq, text in rows if (s, p) == (source, str(partition))]
                if not reached:
                    there = ", ".join(sorted({p for s, p, *_ in rows if s == source})) or "none"
                    return f"nothing of partition {partition!r} of source {source!r} is committed, of its partitions: {there}"
                if any(_before(seq, text, wanted) for seq, text in reached):
                    seq, at = min(reached)
                    return f"partition {partition!r} of source {source!r} is at record {seq}, position {at}"
        return ""

    def _ask(self, remote: Callable[[Remote], T], direct: Callable[[Store], T]) -> T:
        """Ask the flow that holds the store, or open the file; whichever is possible first."""
        until = time.monotonic() + PATIENCE
        while True:
            holder = self._address or sidecar.read(self.path)
            if holder is not None:
                try:
                    return remote(Remote(holder))
                except GoneError as error:
                    if self._address:
                        raise StoreError(error.message) from None
            try:
                with _opening, Store(self.path, read_only=True) as store:
                    return direct(store)
            except StoreInUseError as error:
                if time.monotonic() > until:
                    raise StoreInUseError(f"{error.message}. It answers no queries: was it started with --no-serve?") from None
                time.sleep(0.05)

    def close(self) -> None:
        """Nothing is open between queries; here so that a connection can be used like others."""

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"merganser.connect({(self._address.url if self._address else str(self.path))!r})"


class Result:
    """The rows of a query: a stream in Arrow's format, in memory or in a temporary file, that may be read any number of times.

    ``epoch``: the commit that it shows. ``cut``: the limit at which it ends before its end, or None.
    """

    def __init__(self, data: _Shared, at: int, epoch: int, rows: int, cut: str | None) -> None:
        self._data, self._at = data, at
        self.epoch, self.cut, self._rows = epoch, cut, rows
        self.schema: pa.Schema = self.reader().schema

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names)

    def __len__(self) -> int:
        return self._rows

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        """The rows, a batch (of some thousand) at a time."""
        yield from self.reader()

    def reader(self) -> pa.RecordBatchReader:
        """The rows as what other Arrow libraries read; each call begins anew."""
        return pa.ipc.open_stream(pa.PythonFile(_Place(self._data, self._at), "r"))

    def arrow(self) -> pa.Table:
        return pa.Table.from_batches(list(self), self.schema)

    def df(self) -> pandas.DataFrame:
        """As a pandas DataFrame (``pip install pandas``)."""
        _needed("pandas", "df()")
        return self.arrow().to_pandas()

    def pl(self) -> polars.DataFrame:
        """As a Polars DataFrame (``pip install polars``)."""
        _needed("polars", "pl()")
        import polars

        frame = polars.from_arrow(self.arrow())
        assert isinstance(frame, polars.DataFrame)
        return frame

    def fetchall(self) -> list[tuple[Any, ...]]:
        """As Python values."""
        return [row for batch in self for row in zip(*(column.to_pylist() for column in batch.columns))]

    def head(self, rows: int) -> pa.Table:
        """The first rows."""
        head: list[pa.RecordBatch] = []
        for batch in self:
            head.append(batch.slice(0, rows - sum(map(len, head))))
            if sum(map(len, head)) >= rows:
                break
        return pa.Table.from_batches(head, self.schema)

    def __repr__(self) -> str:
        return display.table_text(self.head(display.SHOWN), self._rows, self.cut)

    def _repr_html_(self) -> str:
        return display.table_html(self.head(display.SHOWN), self._rows, self.cut)


class _Shared:
    """A file that several read, from whatever threads; closed when the last of them is forgotten."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._lock = file, threading.Lock()
        weakref.finalize(self, file.close)

    def read(self, at: int, size: int) -> bytes:
        with self._lock:
            self._file.seek(at)
            return self._file.read(size)


class _Place:
    """A place of its own in such a file, as Arrow wants to see files."""

    closed = False

    def __init__(self, data: _Shared, at: int) -> None:
        self._data, self._at = data, at

    def read(self, size: int = -1) -> bytes:
        found = self._data.read(self._at, size)
        self._at += len(found)
        return found

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        pass


def _needed(package: str, call: str) -> None:
    try:
        __import__(package)
    except ImportError:
        raise UsageError(f"{call} needs {package}: pip install {package}") from None


def answered(store: Store, statements: Sequence[str], limits: Limits) -> list[Result]:
    """The rows of some queries of an open store."""
    return _results(_answered(store, statements, limits))


def _answered(store: Store, statements: Sequence[str], limits: Limits) -> Answer:
    query = Query(statements, limits)
    timer = threading.Timer(limits.seconds, query.overdue)
    timer.daemon = True
    timer.start()
    try:
        return query.run(store.con)
    finally:
        timer.cancel()


def _results(answer: Answer) -> list[Result]:
    """The results in an answer, which share its file."""
    results, at, data = [], 0, _Shared(answer.data)
    for rows, cut, nbytes in zip(answer.rows, answer.cut, answer.bytes):
        results.append(Result(data, at, answer.epoch, rows, cut))
        at += nbytes
    return results


def _made(table: pa.Table, epoch: int) -> Result:
    data = tempfile.SpooledTemporaryFile(IN_MEMORY)  # noqa: SIM115 # closed when the result is forgotten
    with pa.ipc.new_stream(data, table.schema) as writer:
        writer.write_table(table)
    return Result(_Shared(data), 0, epoch, len(table), None)


def _before(seq: int, text: str, wanted: Any) -> bool:
    """Whether a position is before the wanted one: of records, or of the values that are named, in their order."""
    if isinstance(wanted, int):
        return seq < wanted
    position = json.loads(text) or {}
    if not isinstance(wanted, Mapping) or not wanted.keys() <= position.keys():
        raise UsageError(f"wait_for(): a position here has {', '.join(position)}; not {wanted!r}")
    return bool(tuple(position[name] for name in wanted) < tuple(wanted.values()))


"""Event stores of the library ``eventsourcing`` as a source: an application's notification log, in the order of its ids.

The log is one partition. A position has ``id``, of the last notification that was read, and ``last``, the event that it was,
by which a store that was put back or replaced is found out; ``types`` if not all are read; ``skipped``, how many ids were never
used (see ``event_logs``); and ``gaps``, ranges of ids that were lost and accepted.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.stored_events import COMMON, ORIGINS, StoredEvents, StoredEventsCodec, event_types
from merganser.errors import FlowError, SourceError, UsageError, on_users_line
from merganser.schema import Schema
from merganser.secrets import Secret
from merganser.sources import Position
from merganser.sources.databases import DatabaseReader
from merganser.sources.event_logs import Log, Row, application_log, postgres_log, sqlite_log
from merganser.sources.turns import Turns, Whole

if TYPE_CHECKING:
    from eventsourcing.application import Application

LOG = "log"
"""The name of the only partition."""

TAKE = 20_000
"""Events that are taken from the store at a time, at most."""

WAIT = 10.0
"""Seconds after which it is said that a gap is waited for."""

log = logging.getLogger("merganser")


@on_users_line
def event_store(
    where: str | Secret | Application[Any], *, types: Sequence[str] | None = None, table: str = "stored_events"
) -> EventStore:
    """The events of an application of the library ``eventsourcing`` (``pip install 'merganser[eventsourcing]'``).

    - ``where``: ``"sqlite:///shop.db"`` (``sqlite:////…`` for an absolute path), ``"postgresql://user@host/shop"``, or
      ``mg.secret(env=…)`` for one of these; it is read from another process than the writer's. Or the application itself, which
      is needed if it encrypts or compresses its events.
    - ``types``: which events to read, such as ``["Order.Placed", "Order.Paid"]``; all without.
    - ``table``: where a store in PostgreSQL keeps its events, ``"schema.table"`` where it is in no search path.

    The schema declares columns of the events' states; an event has NULL in those that are not of its type. These come
    besides: ``notification_id``, ``originator_id``, ``originator_version``, ``topic``, ``event_type`` (``Order.Placed``),
    ``timestamp``, and where events have them ``correlation_id`` and ``causation_id``.
    """
    if isinstance(where, str) and not where.startswith(("sqlite:///", "postgresql://", "postgres://")):
        raise FlowError(f"event_store({where!r}): expected sqlite:///FILE, postgresql://HOST/DATABASE, or an application")
    if not isinstance(where, (str, Secret)) and not hasattr(where, "recorder"):
        raise FlowError(f"event_store() takes a URL or an eventsourcing Application (an instance), not {where!r}")
    if not re.fullmatch(r"\w+(\.\w+)?", table):
        raise FlowError(f"table={table!r} must be the name of a table, or schema.table")
    if isinstance(types, str) or (types is not None and not types):
        raise FlowError(f"types={types!r} must be a list of event types, such as ['Order.Placed']")
    return EventStore(where, None if types is None else tuple(types), table)


@dataclass(frozen=True, slots=True)
class EventStore(Whole):
    """The connector to an event store; see ``event_store``."""

    in_order: ClassVar[bool] = True

    where: str | Secret | Application[Any] = field(repr=False)
    types: tuple[str, ...] | None
    table: str

    def describe(self) -> str:
        only = f", only {', '.join(self.types)}" if self.types is not None else ""
        if isinstance(self.where, Secret):
            return f"event store at {self.where!r}{only}"
        if not isinstance(self.where, str):
            return f"event store of {type(self.where).__name__}{only}"
        return f"event store {without_password(self.where)}{only}"

    def metadata(self, schema: Schema) -> dict[str, str]:
        taken = [name for name in ORIGINS if name in schema]
        if taken:
            raise FlowError(f"{', '.join(taken)} comes with each event of an event store, not from its state: do not declare it")
        return {**ORIGINS, **COMMON}

    def check(self) -> None:
        opened = self.log()
        opened.close()

    def log(self) -> Log:
        """The notification log, opened. Raises UsageError where there is none (yet), and SourceError where it cannot be had."""
        where = self.where.read() if isinstance(self.where, Secret) else self.where
        if not isinstance(where, str):
            return application_log(where)
        if where.startswith("sqlite:///"):
            return sqlite_log(where.removeprefix("sqlite:///"), self.table)
        return postgres_log(where, self.table, without_password(where))

    def partitions(self) -> list[str]:
        return [LOG]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        return Turns(lambda partition, position: EventStoreReader(self, source, position, follow, accept_gap))

    def moved(self, old: Position | None, new: Position) -> Position:
        before, now = old.get("types") if old else new.get("types"), new.get("types")
        if before != now:
            raise SourceError(
                f"{self.describe()} was read with types={before} so far, and is now with types={now}: what was left out before"
                " would be missing from its views. Rebuild them (merganser rebuild), or declare the types as they were"
            )
        return new

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        return StoredEventsCodec(schema)


class EventStoreReader(DatabaseReader[Log]):
    """Reads a notification log from a position on."""

    def __init__(self, store: EventStore, source: str, position: Position | None, follow: bool, accept_gap: bool) -> None:
        position = position or {}
        super().__init__(source, follow)
        self._store, self._accept_gap = store, accept_gap
        self._id: int = position.get("id", 0)
        self._last: str | None = position.get("last")
        self._skipped: int = position.get("skipped", 0)
        self._gaps: list[list[Any]] = list(position.get("gaps", []))
        self._end: int | None = None
        """Where a run that does not follow ends."""
        self._size = 4096.0
        """Bytes of an event, as the last ones were."""
        self._settled = 0
        """Up to this id, ids that are not there will never be."""
        self._unsettled: tuple[int, frozenset[str], float] | None = None
        """Up to which id it is not known yet, the transactions that were at work then, and since when."""

    @property
    def finished(self) -> bool:
        return self._end is not None and self._id >= self._end

    def _open(self) -> Log | None:
        """The log; None as long as there is no store, while following: its application makes it with its first event."""
        try:
            return self._store.log()
        except UsageError:
            if not self._follow or self._id:
                raise
            return None

    def _begin(self, opened: Log) -> None:
        """Find out where a run that does not follow ends, and whether the events can be read at all."""
        self._end = None if self._follow else opened.newest()
        self._next(opened, 0)
        if first := opened.read(0, 1):
            opened.check_json(first[0][4])

    def _next(self, opened: Log, limit: int) -> list[Row]:
        """The next notifications. The last one is looked up with them: so that another log in its place is found out at once."""
        rows = opened.read(max(self._id - 1, 0), limit + 1)
        if self._id:
            found = _event(rows[0]) if rows and rows[0][0] == self._id else None
            if found != self._last:
                newest, name = opened.newest(), self._store.describe()
                what = f"it ends at {newest}" if newest < self._id else f"{found or 'nothing'} is there"
                raise SourceError(
                    f"source {self._source!r} cannot be read on: notification {self._id} of {name} was {self._last}"
                    f" when it was read, and now {what}. Was it put back from a backup, or made anew? Bring the old one back, or"
                    " rebuild the views from what there is (merganser rebuild)"
                )
            rows = rows[1:]
        if self._end is not None and rows and rows[-1][0] > self._end:
            return [row for row in rows if row[0] <= self._end]
        return rows

    def _read(self, opened: Log, max_bytes: int) -> Chunk | None:
        limit = int(min(max(1, max_bytes // self._size), TAKE))
        rows = self._next(opened, limit)
        if not rows and self._end is not None:
            raise SourceError(f"source {self._source!r}: {self._store.describe()} ended at {self._end}, and lost that meanwhile")
        if rows and rows[-1][0] - self._id != len(rows):
            rows = self._without_doubt(opened, rows, limit)
        if not rows:
            return None
        nbytes = sum(len(row[4]) for row in rows) + 60 * len(rows)
        self._size = nbytes / len(rows)
        first, self._id, self._last = self._id, rows[-1][0], _event(rows[-1])
        self._skipped += self._id - first - len(rows)
        events = self._chosen(StoredEvents.of(rows))
        position: Position = {"id": self._id, "last": self._last}
        if self._store.types is not None:
            position["types"] = sorted(self._store.types)
        if self._skipped:
            position["skipped"] = self._skipped
        if self._gaps:
            position["gaps"] = list(self._gaps)
        place = Place(self._store.describe(), None, None)
        # Ordinals are ids less one, so the first of the chunk is the number of ids before it.
        return Chunk(self._source, LOG, first, len(events), place, events, position, nbytes, until=self._id)

    def _chosen(self, events: StoredEvents) -> StoredEvents:
        if self._store.types is None:
            return events
        wanted = pc.is_in(event_types(events.topics), pa.array(self._store.types, pa.string()))
        return events.take(np.flatnonzero(wanted.to_numpy(zero_copy_only=False)))

    # -- ids that are not there ---------------------------------------------------------------------------------------

    def _without_doubt(self, opened: Log, rows: list[Row], limit: int) -> list[Row]:
        """Rows before the first id that may still come; all, where no id between them can come any more."""
        if rows[-1][0] > self._settled and opened.leaves_gaps:
            if not self._settle(opened, rows[-1][0]):
                return [row for i, row in enumerate(rows) if row[0] == self._id + 1 + i]
            # What was missing may have come since.
            rows = [row for row in self._next(opened, limit) if row[0] <= self._settled]
        if not opened.leaves_gaps:
            self._lost(rows)
        return rows

    def _settle(self, opened: Log, last: int) -> bool:
        """Whether the transactions have ended that were at work when ``last`` was there already.

        One that could still fill a gap before ``last`` took its id before ``last`` was taken, and it is seen until it has ended.
        """
        if self._unsettled is None:
            self._unsettled = last, opened.writers(), time.monotonic()
        until, writers, since = self._unsettled
        if writers and (left := writers & opened.writers()):
            if time.monotonic() - since > WAIT:
                log.warning(
                    "source %r waits for a transaction that has written to %s and has not ended (%s): it may have ids after %d",
                    self._source, self._store.describe(), ", ".join(sorted(left)), self._id,
                )  # fmt: skip
                self._unsettled = until, writers, float("inf")
            return False
        self._settled, self._unsettled = until, None
        return True

    def _lost(self, rows: list[Row]) -> None:
        """Stop at the first gap in a log that has none by itself, unless losses are accepted."""
        before = self._id
        for row in rows:
            if row[0] != before + 1:
                first, last = before + 1, row[0] - 1
                ids = f"notifications {first} to {last}" if first < last else f"notification {first}"
                why = f"{ids} of {self._store.describe()} are not there: events were deleted"
                if not self._accept_gap:
                    raise SourceError(
                        f"source {self._source!r} cannot be read on: {why}. Run with --accept-gap to go on without them (it is"
                        " recorded), or bring them back"
                    )
                log.warning("source %r: %s; accepted", self._source, why)
                self._gaps.append([first, last, why])
                self._skipped -= last - first + 1
            before = row[0]


def _event(row: Row) -> str:
    """Which event it is, for all time."""
    return f"{row[1]}/{row[2]}"


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    if url.startswith("sqlite"):
        return url
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.hostname or ''}{f':{parts.port}' if parts.port else ''}{parts.path}"

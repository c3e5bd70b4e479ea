"""The notification logs of the library ``eventsourcing``: how to read them where they are, and what a missing id means.

In SQLite, and in memory, ids have no gaps: one writer at a time, and a transaction that fails takes its ids back. So an id that
is not there was deleted.

In PostgreSQL a sequence gives out the ids, and does not take them back: each transaction that fails (two commands that change one
aggregate at the same time: one of them) leaves a gap for ever. The library's recorder locks the table while it writes, so
ids become visible in their order; but whoever writes without that lock (its own ``POSTGRES_ENABLE_DB_FUNCTIONS``, a restore,
a script) may commit id 7 after id 8 was read. To pass over 7 then would lose an event, and to wait for it for ever would stop
for nothing. What can be known: whoever was given 7 had locked the table for writing before that, and keeps the lock until its
transaction has ended, one way or the other. So ``writers`` asks PostgreSQL who holds such a lock; once none of those does that
held one when 8 was there, 7 will not come any more.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from merganser.errors import SourceError, UsageError
from merganser.sources.databases import AwayError

if TYPE_CHECKING:
    import psycopg
    from eventsourcing.application import Application

Row = tuple[int, str, int, str, bytes]
"""Notification id, originator, its version, topic, state as JSON."""

NEEDS = "pip install 'merganser[eventsourcing]'"

WRITERS = """
SELECT virtualtransaction FROM pg_locks JOIN pg_database d ON d.oid = database AND d.datname = current_database()
WHERE locktype = 'relation' AND relation = %s::regclass AND granted
AND mode IN ('RowExclusiveLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
"""


class Log(Protocol):
    """A notification log that is open. Used from one thread, and closed from any."""

    @property
    def leaves_gaps(self) -> bool:
        """Whether ids may be missing though no event was deleted."""
        ...

    def read(self, after: int, limit: int) -> list[Row]:
        """The notifications with the next ids that are there. Raises AwayError."""
        ...

    def newest(self) -> int:
        """The highest id that is there, 0 if there is none."""
        ...

    def writers(self) -> frozenset[str]:
        """The transactions that write to the log now, or have and are not over: asked only of a log that leaves gaps."""
        ...

    def check_json(self, state: bytes) -> None:
        """Raise SourceError if a state is no JSON object, saying why that may be."""
        ...

    def close(self) -> None: ...


# -- SQLite -------------------------------------------------------------------------------------------------------------


def sqlite_log(path: str, table: str) -> Log:
    """Raises UsageError where there is no such file or table."""
    if not Path(path).is_file():
        raise UsageError(f"there is no event store {path} in {Path.cwd()}; its application makes it: run that, or mend the path")
    # Read only: nothing that is done here can change the store, or make one.
    con = sqlite3.connect(f"{Path(path).absolute().as_uri()}?mode=ro", uri=True, timeout=5.0, check_same_thread=False)
    try:
        columns = {row[1] for row in con.execute(f'PRAGMA table_info("{table}")').fetchall()}
    except sqlite3.DatabaseError as error:
        con.close()
        raise UsageError(f"{path} cannot be read as an SQLite database: {error}") from None
    if not {"originator_id", "originator_version", "topic", "state"} <= columns:
        con.close()
        raise UsageError(f"{path} has no table {table} of events yet: an application of the library eventsourcing makes it")
    return _SqliteLog(con, path, table)


class _SqliteLog:
    leaves_gaps = False

    def __init__(self, con: sqlite3.Connection, path: str, table: str) -> None:
        self._con, self._path = con, path
        self._select = (
            f'SELECT rowid, originator_id, originator_version, topic, state FROM "{table}" WHERE rowid > ? ORDER BY rowid LIMIT ?'
        )
        self._newest = f'SELECT coalesce(max(rowid), 0) FROM "{table}"'

    def read(self, after: int, limit: int) -> list[Row]:
        return self._rows(self._select, after, limit)

    def newest(self) -> int:
        return int(self._rows(self._newest)[0][0])

    def _rows(self, sql: str, *given: int) -> list[Any]:
        try:
            return self._con.execute(sql, given).fetchall()
        except sqlite3.OperationalError as error:  # locked by somebody who does not use the write-ahead log, mostly
            raise AwayError(f"{self._path} cannot be read now: {error}") from None
        except sqlite3.DatabaseError as error:
            raise SourceError(f"{self._path} cannot be read: {error}") from None

    def writers(self) -> frozenset[str]:
        return frozenset()

    def check_json(self, state: bytes) -> None:
        _check_json(state, "give event_store() the application itself, which knows how to read them")

    def close(self) -> None:
        self._con.close()


# -- PostgreSQL -----------------------------------------------------------------------------------------------------------


def postgres_log(url: str, table: str, shown: str) -> Log:
    """Raises AwayError where nobody answers, UsageError where there is no such table."""
    try:
        import psycopg
    except ImportError:
        raise UsageError(f"event stores in PostgreSQL need psycopg: {NEEDS}") from None
    try:
        con = psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="merganser")
    except psycopg.OperationalError as error:
        raise AwayError(f"{shown} cannot be reached: {' '.join(str(error).split())}") from None
    except psycopg.Error as error:
        raise UsageError(f"{shown}: {error}") from None
    if con.execute("SELECT to_regclass(%s)", [table]).fetchall() == [(None,)]:
        con.close()
        raise UsageError(
            f"{shown} has no table {table}: an application of the library eventsourcing makes it; one with a name keeps its events"
            " in NAME_events: event_store(…, table='NAME_events')"
        )
    return _PostgresLog(con, table, shown)


class _PostgresLog:
    leaves_gaps = True

    def __init__(self, con: psycopg.Connection[Any], table: str, shown: str) -> None:
        self._con, self._table, self._shown = con, table, shown
        name = ".".join(f'"{part}"' for part in table.split("."))
        self._select = (
            f"SELECT notification_id, originator_id::text, originator_version, topic, state FROM {name}"
            " WHERE notification_id > %s ORDER BY notification_id LIMIT %s"
        )
        self._newest = f"SELECT coalesce(max(notification_id), 0) FROM {name}"

    def read(self, after: int, limit: int) -> list[Row]:
        return self._rows(self._select, after, limit)

    def newest(self) -> int:
        return int(self._rows(self._newest)[0][0])

    def writers(self) -> frozenset[str]:
        if self._rows("SELECT pg_is_in_recovery()") == [(True,)]:
            raise SourceError(
                f"{self._shown} is a replica, which does not know whether notification ids that are missing are still being"
                " written; read from the primary"
            )
        return frozenset(row[0] for row in self._rows(WRITERS, self._table))

    def _rows(self, sql: str, *given: Any) -> list[Any]:
        import psycopg

        try:
            with self._con.cursor(binary=True) as cursor:
                return cursor.execute(sql.encode(), given).fetchall()
        except psycopg.OperationalError as error:
            raise AwayError(f"{self._shown} cannot be read now: {' '.join(str(error).split())}") from None
        except psycopg.Error as error:
            raise SourceError(f"{self._shown} cannot be read: {' '.join(str(error).split())}") from None

    def check_json(self, state: bytes) -> None:
        _check_json(state, "give event_store() the application itself, which knows how to read them")

    def close(self) -> None:
        self._con.close()


# -- by way of the application --------------------------------------------------------------------------------------------


def application_log(application: Application[Any]) -> Log:
    """The log of an application of this process. Raises UsageError if it keeps its events where ids are not understood."""
    from eventsourcing.popo import POPOApplicationRecorder
    from eventsourcing.sqlite import SQLiteApplicationRecorder

    recorder = application.recorder
    if isinstance(recorder, (POPOApplicationRecorder, SQLiteApplicationRecorder)):
        return _ApplicationLog(application)
    try:
        from eventsourcing.postgres import PostgresApplicationRecorder
    except ImportError:
        pass
    else:
        if isinstance(recorder, PostgresApplicationRecorder):
            return _PostgresApplicationLog(application)
    raise UsageError(
        f"{type(application).__name__} records its events by {type(recorder).__name__}, and what a missing id means there is not"
        " known; eventsourcing.popo, eventsourcing.sqlite and eventsourcing.postgres are"
    )


class _ApplicationLog:
    leaves_gaps = False

    def __init__(self, application: Application[Any]) -> None:
        self._application, self._recorder, self._mapper = application, application.recorder, application.mapper

    def read(self, after: int, limit: int) -> list[Row]:
        from eventsourcing.persistence import PersistenceError

        try:
            found = self._recorder.select_notifications(after, limit, inclusive_of_start=False)
        except PersistenceError as error:
            raise AwayError(f"the events of {type(self._application).__name__} cannot be read now: {error}") from None
        return [(n.id, str(n.originator_id), n.originator_version, n.topic, self._plain(n.id, n.state)) for n in found]

    def _plain(self, number: int, state: bytes) -> bytes:
        cipher, compressor = self._mapper.cipher, self._mapper.compressor
        try:
            state = cipher.decrypt(state) if cipher else state
            return compressor.decompress(state) if compressor else state
        except Exception as error:  # whatever a user's cipher raises
            why = f"{type(error).__name__}: {error}"
            raise SourceError(f"{type(self._application).__name__} cannot decipher notification {number}: {why}") from None

    def newest(self) -> int:
        return self._recorder.max_notification_id() or 0

    def writers(self) -> frozenset[str]:
        return frozenset()

    def check_json(self, state: bytes) -> None:
        _check_json(state, f"its transcoder ({type(self._mapper.transcoder).__name__}) writes something else")

    def close(self) -> None:
        pass  # it is the user's


class _PostgresApplicationLog(_ApplicationLog):
    leaves_gaps = True

    def writers(self) -> frozenset[str]:
        from eventsourcing.postgres import PostgresApplicationRecorder

        recorder = self._recorder
        assert isinstance(recorder, PostgresApplicationRecorder)
        schema = recorder.datastore.schema
        name = f"{schema}.{recorder.events_table_name}" if schema else recorder.events_table_name
        with recorder.datastore.get_connection() as con:
            return frozenset(row["virtualtransaction"] for row in con.execute(WRITERS, [name]).fetchall())


def _check_json(state: bytes, what: str) -> None:
    if not state.lstrip()[:1] == b"{":
        raise SourceError(
            f"the events' states are no JSON (the first begins with {state[:8]!r}): they are encrypted or compressed, or"
            f" written by another transcoder; {what}"
        )

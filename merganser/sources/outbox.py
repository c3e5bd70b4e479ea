"""Other programs' outbox tables in PostgreSQL as a source: rows that they insert in the transaction of what they did.

A transaction that began earlier may commit later, and an id that was given out earlier may come after one that was read. So
rows are read in the order of the transactions that wrote them (``xmin``, which PostgreSQL has in each row), and only those of
transactions before the oldest that is still at work (``pg_snapshot_xmin``): nothing can come among them any more. Within a
transaction the column ``id`` orders them.

A position has ``xid`` (with the epoch that a row's ``xmin`` lacks) and ``id`` of the last row, ``n``, how many rows are behind
it, and ``of``, which table it was: of one that was made anew, or restored elsewhere, positions mean nothing.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from merganser.codecs import Chunk, Codec, Place
from merganser.codecs.json import JsonCodec, Lines
from merganser.errors import FlowError, SourceError, UsageError, on_users_line
from merganser.schema import Schema
from merganser.secrets import Secret
from merganser.sources import Position
from merganser.sources.databases import AwayError, DatabaseReader
from merganser.sources.event_store import without_password
from merganser.sources.turns import Turns, Whole

if TYPE_CHECKING:
    import psycopg

TAKE = 20_000
"""Rows that are taken at a time, at most."""

POLL = 0.25
"""Seconds between two looks into a table that has nothing new."""

PAYLOADS = ("json", "jsonb", "text", "character varying")

log = logging.getLogger("merganser")


@on_users_line
def outbox(
    where: str | Secret,
    *,
    table: str = "outbox",
    id: str = "id",
    payload: str | None = None,
    columns: Mapping[str, str] | None = None,
) -> Outbox:
    """The rows of an outbox table in PostgreSQL (13 or newer), each once, in the order of their transactions; never changed here.

    - ``where``: ``"postgresql://user@host/shop"``, or ``mg.secret(env=…)`` for it. Needs ``pip install 'merganser[postgres]'``.
    - ``table``: its name, ``"schema.table"`` where it is in no search path. ``id``: a column that is unique, and that orders the
      rows of one transaction.
    - ``payload``: the column that holds the event as a JSON object (``json``, ``jsonb`` or text); its fields are the event's
      columns. Without, the table's columns are.
    - ``columns``: with a payload, columns of the table besides: ``{"placed_at": "created_at"}``, name to the table's column.
    """
    if isinstance(where, str) and not where.startswith(("postgresql://", "postgres://")):
        raise FlowError(f"outbox({where!r}): expected postgresql://HOST/DATABASE, or mg.secret(…) for it")
    if not re.fullmatch(r"\w+(\.\w+)?", table):
        raise FlowError(f"table={table!r} must be the name of a table, or schema.table")
    if columns and payload is None:
        raise FlowError("outbox(columns=…) names columns beside payload=; without that all columns of the table are the event's")
    return Outbox(where, table, id, payload, tuple((columns or {}).items()))


@dataclass(frozen=True, slots=True)
class Outbox(Whole):
    """The connector to an outbox table; see ``outbox``."""

    in_order: ClassVar[bool] = False

    where: str | Secret = field(repr=False)
    table: str
    id: str
    payload: str | None
    columns: tuple[tuple[str, str], ...]

    def shown(self) -> str:
        return repr(self.where) if isinstance(self.where, Secret) else without_password(self.where)

    def describe(self) -> str:
        return f"outbox {self.table} at {self.shown()}"

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {name: "VARCHAR" for name, _ in self.columns}

    def check(self) -> None:
        Table(self).close()

    def partitions(self) -> list[str]:
        return [self.table]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Turns:
        return Turns(lambda partition, position: OutboxReader(self, source, position, follow, accept_gap))

    def origin(self, positions: Sequence[Position], *, late: bool = False, whole: bool = False) -> Position | None:
        """The beginning, knowing what was read: rows that were deleted since would be missing."""
        return {"read": max(positions, key=lambda p: int(p["n"]))} if positions else None

    def codec(self, schema: Schema, time: str | None = None) -> Codec:
        return JsonCodec(schema)


class Table:
    """An outbox table that is open. Raises UsageError where it is not what it should be, AwayError where it cannot be reached."""

    def __init__(self, outbox: Outbox) -> None:
        self._outbox, self._shown = outbox, outbox.shown()
        self._con = self._connected()
        try:
            self._prepare()
        except BaseException:
            self._con.close()
            raise

    def _connected(self) -> psycopg.Connection[Any]:
        try:
            import psycopg
        except ImportError:
            raise UsageError("outbox tables need psycopg: pip install 'merganser[postgres]'") from None
        where = self._outbox.where
        try:
            url = where.read() if isinstance(where, Secret) else where
            return psycopg.connect(url, autocommit=True, connect_timeout=10, application_name="merganser")
        except psycopg.OperationalError as error:
            raise AwayError(f"{self._shown} cannot be reached: {' '.join(str(error).split())}") from None
        except psycopg.Error as error:
            raise UsageError(f"{self._shown}: {error}") from None

    def _prepare(self) -> None:
        outbox = self._outbox
        self.rows("SET TimeZone = 'UTC'")  # row_to_json writes times in it
        self.rows("SET default_transaction_read_only = on")
        name = ".".join(map(_quote, outbox.table.split(".")))
        [(oid,)] = self.rows("SELECT to_regclass(%s)::oid::bigint", name)
        if oid is None:
            raise UsageError(f"{self._shown} has no table {outbox.table!r}; mend table=, or create it")
        kinds = dict(self.rows(
            "SELECT attname::text, format_type(atttypid, NULL) FROM pg_attribute"
            " WHERE attrelid = %s::oid AND attnum > 0 AND NOT attisdropped ORDER BY attnum", oid,
        ))  # fmt: skip
        for wanted in (outbox.id, outbox.payload, *(column for _, column in outbox.columns)):
            if wanted is not None and wanted not in kinds:
                raise UsageError(f"table {outbox.table!r} at {self._shown} has no column {wanted!r}; it has {', '.join(kinds)}")
        if outbox.payload is not None and kinds[outbox.payload] not in PAYLOADS:
            raise UsageError(
                f"payload={outbox.payload!r} is a {kinds[outbox.payload]}; a payload is JSON in a {', '.join(PAYLOADS)} column"
            )
        try:
            [(system,)] = self.rows("SELECT system_identifier::text FROM pg_control_system()")
        except SourceError:  # not for every role
            system = ""
        [(database,)] = self.rows("SELECT oid::bigint FROM pg_database WHERE datname = current_database()")
        self.of = f"{system}/{database}/{oid}"
        self._select = self._sql(name, kinds)

    def _sql(self, name: str, kinds: Mapping[str, str]) -> str:
        """All rows with the transaction that wrote them, as ``x``, ``k``, ``j`` (named columns as JSON) and ``p``."""
        outbox = self._outbox
        named = outbox.columns if outbox.payload is not None else tuple((column, column) for column in kinds)
        items = ", ".join(f"t.{_quote(column)} AS {_quote(shown)}" for shown, column in named)
        row = f"(SELECT row_to_json(r)::text FROM (SELECT {items}) r)" if items else "'{}'"
        payload = f"t.{_quote(outbox.payload)}::text" if outbox.payload is not None else "NULL::text"
        self._kind = kinds[outbox.id]
        # A row has the lower half of its transaction's number: the newest one with that half is meant.
        low, high = "t.xmin::text::bigint", "((top >> 32) << 32)"
        number = f"CASE WHEN {high} + {low} < top THEN {high} + {low} ELSE {high} + {low} - 4294967296 END"
        return (
            "WITH s AS (SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled,"
            " pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS top)"
            f" SELECT * FROM (SELECT {number} AS x, t.{_quote(outbox.id)} AS k, {row} AS j, {payload} AS p, settled"
            f" FROM {name} t, s) r WHERE x < settled"
        )

    def settled(self) -> int:
        """The oldest transaction that is still at work: those before it have ended."""
        return int(self.rows("SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint")[0][0])

    def read(self, after: tuple[int, str] | None, until: int | None, limit: int) -> list[tuple[int, str, str, str | None]]:
        """The next rows behind one, of transactions that have ended (and are before ``until``)."""
        given: list[Any] = []
        where = ""
        if after is not None:
            where += f" AND (x > %s OR (x = %s AND k > %s::text::{self._kind}))"
            given += [after[0], after[0], after[1]]
        if until is not None:
            where += " AND x < %s"
            given.append(until)
        sql = self._select.replace("SELECT * FROM (SELECT", "SELECT r.x, r.k::text, r.j, r.p FROM (SELECT", 1)
        return self.rows(f"{sql}{where} ORDER BY r.x, r.k LIMIT {limit}", *given)

    def count(self, until: tuple[int, str]) -> int:
        """How many rows there are up to one."""
        sql = self._select.replace("SELECT * FROM (SELECT", "SELECT count(*) FROM (SELECT", 1)
        found = self.rows(f"{sql} AND (x < %s OR (x = %s AND k <= %s::text::{self._kind}))", until[0], *until)
        return int(found[0][0])

    def rows(self, sql: str, *given: Any) -> list[Any]:
        import psycopg

        try:
            cursor = self._con.execute(sql.encode(), given or None)
            return cursor.fetchall() if cursor.description else []
        except psycopg.OperationalError as error:
            raise AwayError(f"{self._shown} cannot be read now: {' '.join(str(error).split())}") from None
        except psycopg.Error as error:
            raise SourceError(f"{self._shown} cannot be read: {' '.join(str(error).split())}") from None

    def close(self) -> None:
        self._con.close()


class OutboxReader(DatabaseReader[Table]):
    """Reads an outbox table from a position on."""

    def __init__(self, outbox: Outbox, source: str, position: Position | None, follow: bool, accept_gap: bool) -> None:
        position = position or {}
        super().__init__(source, follow)
        self._outbox, self._accept_gap = outbox, accept_gap
        self._after: tuple[int, str] | None = (position["xid"], position["id"]) if "xid" in position else None
        self._n: int = position.get("n", 0)
        self._read_before: Position | None = position.get("read")
        self._of: str | None = position.get("of") or (self._read_before or {}).get("of")
        self._until: int | None = None
        """Where a run that does not follow ends: what was settled when it began."""
        self._done = False

    @property
    def finished(self) -> bool:
        return self._done

    def _open(self) -> Table:
        return Table(self._outbox)

    def _read(self, table: Table, max_bytes: int) -> Chunk | None:
        rows = table.read(self._after, self._until, TAKE if max_bytes >= 1 << 20 else max(1, max_bytes // 100))
        if not rows:
            self._again = time.monotonic() + POLL
            self._done = not self._follow
            return None
        return self._chunk(rows)

    def _begin(self, table: Table) -> None:
        """Check that the table is the one that was read before."""
        if self._of is not None and self._of != table.of:
            raise SourceError(
                f"source {self._source!r} cannot be read on: {self._outbox.describe()} is another table than the one that was"
                " read (made anew, or restored into another server), and what was read of it cannot be told any more. Begin a new"
                " store, with deduplicate() where events may come again"
            )
        self._of = table.of
        self._until = None if self._follow else table.settled()
        if self._read_before is not None:
            read, left = int(self._read_before["n"]), table.count((self._read_before["xid"], self._read_before["id"]))
            if left != read and not self._accept_gap:
                raise SourceError(
                    f"source {self._source!r} cannot be read from its start: {read} rows of {self._outbox.describe()} were read,"
                    f" and {left} of them are there. What is built now would lack the others. Run with --accept-gap to go on with"
                    " what is there, or keep the rows as long as views are built of them"
                )
            self._n, self._read_before = max(0, read - left), None

    def _chunk(self, rows: Sequence[tuple[int, str, str, str | None]]) -> Chunk:
        records = [_record(j, p, self._outbox.payload is not None) for _, _, j, p in rows]
        data = b"".join(record + b"\n" for record in records)
        first = self._n
        self._after, self._n = (rows[-1][0], rows[-1][1]), first + len(rows)
        position: Position = {"xid": rows[-1][0], "id": rows[-1][1], "n": self._n, "of": self._of}
        place = Place(self._outbox.describe(), None, first + 1)
        return Chunk(self._source, self._outbox.table, first, len(rows), place, Lines.of(data), position, len(data))


def _record(named: str, payload: str | None, wanted: bool) -> bytes:
    """A row as one line of JSON: the named columns, and the payload's fields beside them."""
    text = named
    if wanted:
        inner = (payload or "").strip()
        if inner.startswith("{") and inner.endswith("}"):
            fields = inner[1:-1].strip()
            text = f"{named[:-1]}{',' if fields and named != '{}' else ''}{fields}}}"
        else:  # no event: a dead letter, as it is
            text = inner
    return text.replace("\n", " ").replace("\r", " ").encode()


def _quote(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'

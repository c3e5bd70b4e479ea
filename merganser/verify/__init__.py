"""``verify``: every view recomputed by plain batch SQL over the accepted events, and compared with the store.

The accepted events are those that the source's codec makes rows of, up to the view's position, without the dead letters
that the store has (``events``). From there on nothing is shared with the engine: each verb is one step of plain SQL, or
plain Python, over all rows (``batch``).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from merganser import sinks
from merganser.codecs import encoding
from merganser.codecs.encoding.fitting import plain
from merganser.codecs.encoding.reading import reading
from merganser.codecs.shapes import Leaves, has, remade
from merganser.errors import UsageError
from merganser.flow import Flow
from merganser.plan import Aggregated, Changes, Final, Materialize, Write
from merganser.query.connection import connect
from merganser.query.snapshot import copy
from merganser.schema.types import parse
from merganser.scratch import instance
from merganser.sql import quote
from merganser.store import Store
from merganser.verify.batch import Batch
from merganser.verify.events import load, resumed, skipped

EXACT = 1e-9
"""Relative difference that sums of floating-point numbers may have, since addition depends on its order."""
APPROXIMATE = 0.1
"""Relative difference that approximate aggregates (``approx_quantile``) may have."""


UNORDERED: Leaves = {
    "MAP": lambda value, _: f"map_from_entries(list_sort(map_entries({value})))",
    "JSON": lambda value, _: f"json({value})",
}
"""What is the same value in another order, or with other spaces, in formats to which these mean nothing."""


@dataclass(frozen=True)
class ViewCheck:
    """What comparing a view gave: rows only in batch SQL (``missing``), rows only in the view (``unexpected``)."""

    view: str
    rows: int
    missing: pa.Table
    unexpected: pa.Table
    note: str | None = None

    @property
    def ok(self) -> bool:
        return not len(self.missing) and not len(self.unexpected)


def verify(
    flows: Sequence[Flow],
    store: str | Path,
    *,
    views: Sequence[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[ViewCheck]:
    """Compare views with batch SQL, as of one commit; a flow may be running. ``progress`` is called with each view's name."""
    wanted = [v for flow in flows for v in flow.ends if views is None or v.name in views]
    connection = connect(store)
    there = {row[0] for row in connection.sql("SELECT view FROM merganser.views WHERE status <> 'building'").fetchall()}
    missing = [v.name for v in wanted if v.name not in there]
    if missing:
        raise UsageError(f"{', '.join(missing)} is not in {store}; run its flow first")
    with tempfile.TemporaryDirectory() as folder:
        snapshot = Path(folder) / "snapshot.duckdb"
        copy(connection, [v.name for v in wanted if not isinstance(v, Write)], snapshot, books=True)
        return _checks(snapshot, wanted, Path(folder), progress)


def _checks(
    snapshot: Path, wanted: Sequence[Materialize], folder: Path, progress: Callable[[str], None] | None
) -> list[ViewCheck]:
    with Store(snapshot, read_only=True) as opened:
        checks = []
        for view in wanted:
            if progress:
                progress(view.name)
            checks.append(_check(opened, view, folder / f"{view.name}.duckdb"))
        return checks


def _check(store: Store, view: Materialize, path: Path) -> ViewCheck:
    cohort = int(store.value("SELECT cohort FROM merganser.views WHERE view = ? AND status <> 'building'", [view.name]))
    with instance(path) as con:
        relations, closing = load(con, store, view, cohort)
        batch = Batch(con, relations, closing, skipped(store, view, cohort), resumed(store, view, cohort))
        con.execute(f"CREATE TABLE expected AS {batch.content(view)}")
        names = [n for n in view.columns if n != "final" or not _windowed(view)]
        if isinstance(view.input, Changes):
            names.remove("retracted")
        columns = ", ".join(quote(n) for n in names)
        if isinstance(view, Write):
            _leave_out(con, view)
            _load_sent(con, store, view)
        else:
            con.register("_found", store.table(f"SELECT {columns} FROM {quote(view.name)}"))
            con.execute("CREATE TABLE found AS FROM _found")
        return _compare(con, view, names)


def _leave_out(con: duckdb.DuckDBPyConnection, write: Write) -> None:
    """Take the rows that cannot be written out of ``expected``: they are dead letters."""
    kinds = {n: t for n, t in write.columns.items() if n in write.encoding.target}
    change = ", false AS retracted" if "retracted" in kinds else ""
    con.execute(f"CREATE TABLE _all AS SELECT row_number() OVER () - 1 AS _n, *{change} FROM expected")
    rows = con.sql(f"SELECT {encoding.select(write.encoding, kinds)} FROM _all ORDER BY _n").to_arrow_table()
    refused = encoding.encoder(write.encoding).encode(rows).refused
    con.register("_refused", pa.table({"n": pa.array(list(refused), pa.int64())}))
    trees = {n: parse(plain(t)) for n, t in kinds.items()}
    casts = ", ".join(f"{remade(quote(n), t, UNORDERED)} AS {quote(n)}" for n, t in trees.items() if has(t, UNORDERED))
    same = f" REPLACE ({casts})" if casts else ""
    names = f"* EXCLUDE (_n{', retracted' if change else ''}){same}"
    con.execute(f"CREATE OR REPLACE TABLE expected AS SELECT {names} FROM _all WHERE _n NOT IN (SELECT n FROM _refused)")
    con.unregister("_refused")


def _load_sent(con: duckdb.DuckDBPyConnection, store: Store, write: Write) -> None:
    """The table ``found`` of the rows that a sink has, and those that still wait in the outbox."""
    there = sinks.content(write.sink, write.name, store.identity(), write.encoding)
    waiting = store.rows("SELECT seq, key, value FROM merganser.outbox WHERE sink = ?", [write.name])
    last = store.value("SELECT seq FROM merganser.sinks WHERE sink = ?", [write.name]) or 0
    there = {seq: row for seq, row in there.items() if seq <= last}  # a flow may have gone on since
    reached = max(there, default=0)
    rows = there | {seq: (key and bytes(key), value and bytes(value)) for seq, key, value in waiting if seq > reached}
    if write.upserts:
        # As a compacted topic has it: the last message of each key, and none where that is a tombstone.
        rows = {key: (key, value) for _, (key, value) in sorted(rows.items())}
    con.register("_read", reading(write.encoding)([value for _, value in rows.values() if value is not None]))
    columns = {n: t for n, t in write.columns.items() if n in write.encoding.target}
    casts = ", ".join(f"{remade(f'({quote(n)}::{t})', parse(plain(t)), UNORDERED)} AS {quote(n)}" for n, t in columns.items())
    con.execute(f"CREATE TABLE found AS SELECT {casts} FROM _read")
    con.unregister("_read")
    names = ", ".join(quote(n) for n in write.columns if n != "retracted")
    if isinstance(write.input, Changes) and not write.upserts:
        counted = f"SELECT {names}, sum(if(retracted, -1, 1)) AS _left FROM found GROUP BY ALL"
        # A row that was taken back more often than it was sent shows too: as one that batch SQL does not have.
        counted = f"SELECT unnest(range(abs(_left)::BIGINT)), * FROM ({counted})"
        con.execute(f"CREATE OR REPLACE TABLE found AS SELECT {names} FROM ({counted})")


def _windowed(view: Materialize) -> bool:
    return isinstance(view.input, Aggregated) and view.input.window is not None


# -- comparing ----------------------------------------------------------------------------------------------------------


def _compare(con: duckdb.DuckDBPyConnection, view: Materialize, names: Sequence[str]) -> ViewCheck:
    """Rows that only one side has, as bags; floating-point columns of aggregates may differ in their last digits."""
    count = con.execute("SELECT count(*) FROM found").fetchall()[0][0]
    node = view.input.input if isinstance(view.input, (Final, Changes)) else view.input
    loose: dict[str, float] = {}
    note = None
    if isinstance(node, Aggregated):
        loose = {a.name: EXACT for a in node.aggregates if a.type in ("DOUBLE", "FLOAT")}
        near = {a.name: APPROXIMATE for a in node.aggregates if a.approximate}
        if near:
            note = f"{', '.join(near)} compared within {APPROXIMATE:.0%}"
        loose |= near
    exact = [n for n in names if n not in loose]
    missing, unexpected = con.sql("FROM expected EXCEPT ALL FROM found"), con.sql("FROM found EXCEPT ALL FROM expected")
    if not loose:
        return ViewCheck(view.name, int(count), missing.to_arrow_table(), unexpected.to_arrow_table())
    con.execute("CREATE TABLE _missing AS FROM expected EXCEPT ALL FROM found")
    con.execute("CREATE TABLE _unexpected AS FROM found EXCEPT ALL FROM expected")
    types = {n: t for n, t in view.columns.items() if n in loose}
    numeric = [n for n in loose if _numeric(types[n])]
    same = [f"e.{quote(n)} IS NOT DISTINCT FROM f.{quote(n)}" for n in exact]
    for n in numeric:
        e, f = f"e.{quote(n)}::DOUBLE", f"f.{quote(n)}::DOUBLE"
        within = f"abs({e} - {f}) <= {loose[n]} * greatest(abs({e}), abs({f}), 1e-300)"
        same.append(f"({e} IS NOT DISTINCT FROM {f} OR (isnan({e}) AND isnan({f})) OR {within})")
    on = " AND ".join(same)
    left = con.sql(f"FROM _missing e ANTI JOIN _unexpected f ON {on}").to_arrow_table()
    right = con.sql(f"FROM _unexpected f ANTI JOIN _missing e ON {on}").to_arrow_table()
    return ViewCheck(view.name, int(count), left, right, note)


def _numeric(kind: str) -> bool:
    """Approximate results that are no numbers (lists of quantiles, top k) are not compared."""
    return not kind.endswith("]") and kind.split("(")[0].removeprefix("U") in (
        "DOUBLE", "FLOAT", "DECIMAL", "HUGEINT", "BIGINT", "INTEGER", "SMALLINT", "TINYINT",
    )  # fmt: skip

"""What a redrive sends on: the rows that a sink would have been sent had the records never been bad, and was not.

The store does not keep what it has sent. So that is built once more, with the records as they were, in a store of its own, up to
where the sink's cohort is; and what the mended records make of the log is built beside it. What only the second has is sent behind
what was; of a table that changes, what only the first has is taken back. Other rows that only the first has stay where they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb

from merganser.asking import REASONS
from merganser.engine.cohort import Cohort, Ends
from merganser.engine.graph import DeadLetter
from merganser.engine.prepare import Prepared
from merganser.errors import UsageError
from merganser.operators import STATE, Epoch, Watermarks, casts, released
from merganser.operators.changes import RETRACTED
from merganser.operators.fetch import FetchStep
from merganser.operators.fold import REASON
from merganser.operators.write import HeldStep, WriteStep
from merganser.plan import Aggregated, Changes, Fetch, Fold, MapBatches, Source, Write, by_workers, ordered
from merganser.sql import literal, quote
from merganser.store import Books, Progress, Store

NEAR = 1e-9
"""Relative difference that a sum of floating-point numbers may have, since it depends on the order of addition."""


MADE = "a row of "
"""What the file of a dead letter begins with that is no record: a row that a verb made."""

_UNANSWERED = f"SELECT {{}} FROM merganser.dead_letters WHERE view = ? AND reason IN ({', '.join(map(literal, REASONS))})"
"""SQL for the rows of a sink for which a service had no answer."""


@dataclass(frozen=True, slots=True)
class Resent:
    """What a sink was sent of what came back: ``rows`` messages. ``stale``: rows sent before that would now be otherwise."""

    sink: str
    rows: int
    stale: int


def promise(write: Write) -> str:
    """What a sink will be sent, for people to know before."""
    assert write.input is not None
    if isinstance(write.input, Changes):
        return "is sent what changes in its table"
    if by_workers(write.input):
        return "is sent what comes back, behind what was sent"
    return "is sent the rows that it lacks, behind what was sent; rows there that would now be otherwise cannot be taken back"


def obstacle(store: Store, write: Write, cohort: int) -> str | None:
    """Why it cannot be known any more what a sink was sent; None if it can."""
    gained = {name for (name,) in store.rows("SELECT DISTINCT name FROM merganser.gained WHERE cohort = ?", [cohort])}
    # No SQL can mention them, or the plan would be another one; but rows and functions may have them.
    if gained & set(write.columns) or (gained and any(isinstance(node, (Fold, MapBatches)) for node in ordered([write]))):
        return f"its source gained {', '.join(sorted(gained))} while it was being sent"
    fetches = sum(isinstance(node, Fetch) for node in ordered([write]))
    unanswered = store.rows(_UNANSWERED.format("file"), [write.name])
    if unanswered and (fetches > 1 or any(file.startswith(MADE) for (file,) in unanswered)):
        return "some of its rows had no answer, and are no records or were asked for more than once"
    for (table,) in store.rows(f"SELECT name FROM {STATE}.tables WHERE cohort = ? AND view = ?", [cohort, write.name]):
        if table.endswith(('_skipped"', '_resumed"')) and store.value(f"SELECT count(*) FROM {table}"):
            return f"a key that waited ({REASON}) was told to go on"
    return None


class Again(Cohort):
    """Sinks of a cohort, which read what it has read and no more, and hold what it has sent."""

    def __init__(self, number: int, flow: str, writes: Sequence[Write], reached: Mapping[tuple[str, str], Progress]) -> None:
        super().__init__(number, flow, writes, holds=True)
        self._reached = reached
        self.repeat(reached)

    def expect_all(self, source: Source, partitions: Sequence[str]) -> None:
        """None but those that it had."""

    def apply(
        self, store: Store, number: int, prepared: Sequence[Prepared], ends: Ends
    ) -> tuple[list[Books], list[tuple[DeadLetter, str]]]:
        cut = []
        for p in prepared:
            known = self._reached.get((p.source, p.partition))
            if known is not None and p.seq < known.seq:
                cut.append(p if p.end <= known.seq else p.before(known.seq))
        ended = frozenset(key for key in ends.ended if key in self._reached and self._reached[key].ended)
        return super().apply(store, number, cut, Ends(frozenset(), ended))


@contextmanager
def scratch(store: Store) -> Iterator[Store]:
    """A store beside a store, which is gone afterwards; what a process that was killed left of one is gone before."""
    if not isinstance(store.path, Path):
        with Store(":memory:") as opened:
            yield opened
        return
    path = store.path.with_name(f"{store.path.name}.redrive")
    _remove(path)
    try:
        with Store(path) as opened:
            yield opened
    finally:
        _remove(path)


def _remove(path: Path) -> None:
    for each in (path, Path(f"{path}.wal")):
        each.unlink(missing_ok=True)


def again(
    store: Store, beside: Store, number: int, flow: str, writes: Sequence[Write], reached: Mapping[tuple[str, str], Progress]
) -> Again:
    """The cohort of sinks whose rows are made once more, in a store beside; ``reached``: how far it had come."""
    positions = store.rows("SELECT * FROM merganser.positions WHERE cohort = ?", [number])
    beside.insert("positions", positions)  # where the logs once began
    if any(isinstance(node, Fetch) for node in ordered(writes)):
        beside.con.register("_answers", store.table("FROM merganser.answers"))
        beside.con.execute("INSERT INTO merganser.answers FROM _answers")
        beside.con.unregister("_answers")
    made = Again(number, flow, writes, reached)
    for write in writes:
        for step in (made.graph.steps[node] for node in ordered([write]) if isinstance(node, Fetch)):
            assert isinstance(step, FetchStep)
            step.unanswered |= frozenset(store.rows(_UNANSWERED.format("partition, seq"), [write.name]))
    with beside.transaction():
        made.graph.create(beside)
    return made


def check_reached(cohort: Cohort, before: Mapping[tuple[str, str], Progress]) -> None:
    """Raise a UsageError where a cohort has not read all that the one before it had."""
    for (source, partition), known in before.items():
        at = cohort.progress[source, partition].seq
        if at < known.seq:
            raise UsageError(
                f"source {source!r} ends at record {at} in partition {partition!r}, and {known.seq} were read of it; nothing has"
                " changed. Bring back what was removed"
            )


# -- what differs -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Difference:
    """The rows of a sink that only one side has, in two temporary tables of the store's connection."""

    write: Write
    more: str
    gone: str


def difference(store: Store, beside: Store, write: Write, cohort: int, before: int, index: int) -> Difference:
    """What a sink of cohort ``cohort`` has more and less than the one of cohort ``before``, which is in a store beside."""
    con, held, was = store.con, HeldStep(write, cohort), HeldStep(write, before)
    kinds = {name: kind for name, kind in held.columns.items() if not (name == RETRACTED and isinstance(write.input, Changes))}
    names = ", ".join(map(quote, kinds))
    found = Difference(write, f"_more_{index}", f"_gone_{index}")
    con.register("_sent", beside.con.sql(_held(write, was.table, names)).to_arrow_reader(100_000))
    con.execute(f"CREATE OR REPLACE TEMP TABLE _was AS SELECT {_numbered(names)} FROM (SELECT *{casts(kinds)} FROM _sent)")
    con.unregister("_sent")
    con.execute(f"CREATE OR REPLACE TEMP TABLE _is AS SELECT {_numbered(names)} FROM ({_held(write, held.table, names)})")
    on = " AND ".join([*(f"a.{quote(n)} IS NOT DISTINCT FROM b.{quote(n)}" for n in kinds), "a._i = b._i"])
    for table, these, others in ((found.more, "_is", "_was"), (found.gone, "_was", "_is")):
        con.execute(f"CREATE OR REPLACE TEMP TABLE {table} AS SELECT * EXCLUDE (_i) FROM {these} a ANTI JOIN {others} b ON {on}")
    con.execute("DROP TABLE _was; DROP TABLE _is")
    _pair_off(con, write, kinds, found)
    return found


def _held(write: Write, table: str, names: str) -> str:
    """SQL for the rows that a step holds; of changes what they come to."""
    if not isinstance(write.input, Changes):
        return f"SELECT {names}, _part, _seq, _time FROM {table}"
    left = f"SELECT {names}, sum(if({RETRACTED}, -1, 1))::BIGINT AS _n FROM {table} GROUP BY ALL"
    rows = f"SELECT {names}, unnest(range(_n)) AS _u FROM ({left})"
    return f"SELECT {names}, '' AS _part, 0::BIGINT AS _seq, 0::BIGINT AS _time FROM ({rows})"


def _numbered(names: str) -> str:
    """All columns, and of rows that are alike the number of each: those that come later in the log are the ones that differ."""
    return f"*, row_number() OVER (PARTITION BY {names} ORDER BY _time, _part, _seq) AS _i"


def _pair_off(con: duckdb.DuckDBPyConnection, write: Write, kinds: Mapping[str, str], found: Difference) -> None:
    """Leave out rows of aggregates that differ in nothing but the last digits, or in what is approximate."""
    aggregates = [a for node in ordered([write]) if isinstance(node, Aggregated) for a in node.aggregates]
    approximate = {a.name for a in aggregates if a.approximate}
    floats = [name for name, kind in kinds.items() if kind in ("DOUBLE", "FLOAT") and name not in approximate]
    if not aggregates or not (approximate or floats):
        return
    same = [f"a.{quote(n)} IS NOT DISTINCT FROM b.{quote(n)}" for n in kinds if n not in approximate and n not in floats]
    for name in floats:
        a, b = f"a.{quote(name)}", f"b.{quote(name)}"
        near = f"abs({a} - {b}) <= {NEAR} * greatest(abs({a}), abs({b}))"
        same.append(f"({a} IS NOT DISTINCT FROM {b} OR {near})")
    on = " AND ".join(same) or "true"
    con.execute(f"CREATE OR REPLACE TEMP TABLE _left AS FROM {found.more} a ANTI JOIN {found.gone} b ON {on}")
    con.execute(f"CREATE OR REPLACE TEMP TABLE _less AS FROM {found.gone} a ANTI JOIN {found.more} b ON {on}")
    for table, new in ((found.more, "_left"), (found.gone, "_less")):
        con.execute(f"DROP TABLE {table}; ALTER TABLE {new} RENAME TO {table}")


def send(store: Store, found: Difference, cohort: Cohort, epoch: int) -> Resent:
    """Put what a sink lacks into its outbox, in the caller's transaction, and let it go on with its new cohort."""
    con, write = store.con, found.write
    held = HeldStep(write, cohort.number)
    changes = isinstance(write.input, Changes)
    stale = int(store.value(f"SELECT count(*) FROM {found.gone}"))
    sql = f"FROM {found.more}"
    if changes:
        sql = f"SELECT *, false AS {RETRACTED} FROM {found.more} UNION ALL SELECT *, true FROM {found.gone}"
    sent = "SELECT seq FROM merganser.sinks WHERE sink = ?"
    before = store.value(sent, [write.name])
    rows = released(con, "_resent", held.columns, sql)
    if rows is not None:
        step = WriteStep(write, cohort.number)
        step.load(con)
        step.apply(con, [rows], Epoch(epoch, cohort.number, write.source.name, Watermarks()))
        con.unregister("_resent")
    con.execute("UPDATE merganser.sinks SET cohort = ? WHERE sink = ?", [cohort.number, write.name])
    con.execute(f"DROP TABLE {held.table}")
    con.execute(f"DELETE FROM {STATE}.tables WHERE cohort = ? AND name = ?", [cohort.number, held.table])
    return Resent(write.name, int(store.value(sent, [write.name]) - before), 0 if changes else stale)

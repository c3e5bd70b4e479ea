"""Sources that gained columns: views that say no more of them than before go on, and need not be built anew.

Rows that a view had already are NULL in a new column, whatever the log has there: until where, by partition, is kept in
``merganser.gained``, so that ``verify`` knows. See docs/decisions/gained-columns.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import duckdb

from merganser.engine.graph import Graph
from merganser.operators import STATE
from merganser.operators.write import WriteStep
from merganser.plan import AsOf, Enriched, Join, LookUp, Materialize, Node, Source, ordered, signature
from merganser.store import Store

Gains = Mapping[str, tuple[str, list[str]]]
"""By a source's line in a new signature: its line in the old one, and the columns that are new."""


def gains(before: Sequence[str], view: Materialize) -> Gains | None:
    """What a view's sources gained, if that is all that its plan differs in from an earlier one; else None."""
    now = signature(view)
    sources = {source.signature(): source for source in view.sources}
    found: dict[str, tuple[str, list[str]]] = {}
    if len(before) != len(now):
        return None
    for old, new in zip(before, now):
        if old == new:
            continue
        source = sources.get(new.strip())
        columns = None if source is None else _new_columns(old.strip(), source)
        if columns is None:
            return None
        found[new.strip()] = old.strip(), columns
    if not found or _renames(view, {name for _, names in found.values() for name in names}):
        return None
    return found


def _new_columns(old: str, source: Source) -> list[str] | None:
    """The columns, all nullable, without which a source's line would be the old one; None if there are no such."""
    head, new = f"source {source.name} (", source.signature()
    tail = new[len(head) + len(source.schema.describe()) :]
    if not old.startswith(head) or not old.endswith(tail):
        return None
    left, found = old[len(head) : len(old) - len(tail)], []
    for column in source.schema.columns:
        text = column.describe()
        if left == text or left.startswith(f"{text}, "):
            left = left[len(text) + 2 :]
        elif column.required:
            return None
        else:
            found.append(column.name)
    return None if left else found


def _renames(view: Materialize, names: set[str]) -> bool:
    """Whether a new column gets in the way of one of another stream, which then has another name."""
    joins = [node for node in ordered([view]) if isinstance(node, (Join, AsOf, Enriched, LookUp))]
    return any(name != column and {name, column} & names for node in joins for name, column in node.taken)


def widen(store: Store, cohort: int, views: Sequence[Materialize], gained: Gains) -> bool:
    """Give the tables of a cohort the new columns. False if they cannot have them so; then nothing may be committed."""
    graph = Graph(cohort, views)
    there = {name for (name,) in store.rows(f"SELECT name FROM {STATE}.tables WHERE cohort = ?", [cohort])}
    for node, step in graph.steps.items():
        if isinstance(step, WriteStep):
            continue
        ending = f"_{node.digest()}_{cohort}", f"_{_digest_before(node, gained)}_{cohort}"
        names = [(table, table.replace(*ending), f"_before_{i}") for i, table in enumerate(step.tables)]
        names = [each for each in names if each[1] in there]  # not one that steps did not have when the store was written
        for _, name, aside in names:
            store.con.execute(f"ALTER TABLE {name} RENAME TO {aside}")
        step.create(store.con)
        for table, name, aside in names:
            if not _carried(store.con, f"{STATE}.{aside}", table):
                return False
            store.con.execute(f"UPDATE {STATE}.tables SET name = ? WHERE cohort = ? AND name = ?", [table, cohort, name])
    sources = {source.signature(): source.name for view in views for source in view.sources}
    for line, (_, columns) in gained.items():
        store.con.execute(
            "INSERT INTO merganser.gained SELECT cohort, source, unnest($1), partition, seq FROM merganser.positions"
            " WHERE cohort = $2 AND source = $3", [columns, cohort, sources[line]],
        )  # fmt: skip
    return True


def _carried(con: duckdb.DuckDBPyConnection, old: str, new: str) -> bool:
    """Put what a table holds into its successor, NULL where that has more; False if that has not all of it."""
    before, now = (con.execute(f"SELECT column_name, column_type FROM (DESCRIBE {t})").fetchall() for t in (old, new))
    if not set(before) <= set(now):
        return False
    if before == now:
        con.execute(f"DROP TABLE {new}; ALTER TABLE {old} RENAME TO {new.partition('.')[2]}")
    else:
        con.execute(f"INSERT INTO {new} BY NAME FROM {old}; DROP TABLE {old}")
    return True


def _digest_before(node: Node, gained: Gains) -> str:
    """What ``digest`` was when the sources had fewer columns."""
    lines = []
    for line in signature(node):
        old = gained.get(line.strip())
        lines.append(line if old is None else line.replace(line.strip(), old[0]))
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:8]

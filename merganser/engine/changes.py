"""What changed between a flow and the store: which views go on, which are new, which were changed.

A view's signature is the text of its plan. An unchanged view goes on where it stopped; a new one is filled from the
start of its sources; a changed one is refused, with the difference, until it is rebuilt.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

from merganser.dead_letters import Letter
from merganser.engine import gained
from merganser.engine.cohort import Cohort, progress
from merganser.errors import FlowError, PlanChangedError, UsageError
from merganser.flow import Flow
from merganser.operators import STATE
from merganser.plan import Materialize, View, Write, signature
from merganser.sql import quote
from merganser.store import Store

LIVE, BUILDING, DETACHED = "live", "building", "detached"
"""States of a view: kept up to date; being rebuilt beside the live one; no longer in its flow, as it was."""


class Stored(NamedTuple):
    """A view as the store knows it; ``cohort`` is None for a plain SQL view."""

    name: str
    flow: str
    cohort: int | None
    status: str
    signature: list[str]


def stored_views(store: Store) -> list[Stored]:
    found = store.rows("SELECT view, flow, cohort, status, signature FROM merganser.views ORDER BY cohort, view")
    return [Stored(view, flow, cohort, status, json.loads(text)) for view, flow, cohort, status, text in found]


def open_cohorts(store: Store, flows: Sequence[Flow]) -> tuple[list[Cohort], list[str]]:
    """The cohorts of some flows, loaded or made, and what people should know. Refuses changed views."""
    _check_names(store, flows)
    stored = {s.name: s for s in stored_views(store) if s.status != BUILDING}
    notes: list[str] = []
    changed = [v for f in flows for v in f.ends if v.name in stored and not _unchanged(stored[v.name], v)]
    if any(stored[v.name].status == DETACHED or not gained.gains(stored[v.name].signature, v) for v in changed):
        raise PlanChangedError(_difference(store, stored, changed), where=changed[0].where)
    cohorts: list[Cohort] = []
    with store.transaction():
        notes += _widen(store, flows, stored, changed)
        for flow in flows:
            groups: dict[int, list[Materialize]] = {}
            fresh: list[Materialize] = []
            for view in flow.ends:
                known = stored.get(view.name)
                if known is not None and known.cohort is not None:
                    groups.setdefault(known.cohort, []).append(view)
                else:
                    fresh.append(view)
            for number, views in groups.items():
                cohorts.append(_loaded(store, number, flow.name, views))
                for view in views:
                    cohorts[-1].graph.show(store, view)  # another version of merganser may have made it in another way
            if fresh:
                cohorts.append(_created(store, flow.name, fresh, LIVE))
                if groups:
                    notes.append(f"new in {flow.name}: {_list(fresh)}; filled from the start of what it reads")
            notes += _detach(store, flow, stored)
            _save_flow(store, flow)
    return cohorts, notes


def _widen(store: Store, flows: Sequence[Flow], stored: dict[str, Stored], changed: Sequence[Materialize]) -> list[str]:
    """Give views whose sources gained columns these columns."""
    notes = []
    for number in sorted({stored[v.name].cohort or 0 for v in changed}):
        views = [v for f in flows for v in f.ends if v.name in stored and stored[v.name].cohort == number]
        found = {line: gain for v in views for line, gain in (gained.gains(stored[v.name].signature, v) or {}).items()}
        others = {s.name for s in stored.values() if s.cohort == number} - {v.name for v in views}
        if others or not gained.widen(store, number, views, found):
            raise PlanChangedError(_difference(store, stored, changed), where=changed[0].where)
        for view in views:
            store.con.execute(
                "UPDATE merganser.views SET signature = ? WHERE view = ? AND cohort = ?",
                [json.dumps(signature(view)), view.name, number],
            )
        columns = ", ".join(sorted({name for _, names in found.values() for name in names}))
        kept = [v for v in views if not isinstance(v, Write)]
        notes.append(f"new: {columns}; NULL in what {_list(kept or views)} had before" + (
            f" (merganser rebuild {' '.join(v.name for v in kept)} fills it from the log)" if kept else ""
        ))  # fmt: skip
    return notes


def open_rebuild(
    store: Store, flows: Sequence[Flow], names: Sequence[str], begin: str | None = None
) -> tuple[list[Cohort], bool]:
    """Cohorts that build views anew, begun or gone on with, and whether their sources were declared anew.

    ``begin``: where in the logs, instead of at their start; nothing goes on with what was begun elsewhere.
    """
    _check_names(store, flows)
    there = [v.name for f in flows for v in f.materialized]
    unknown = [n for n in names if n not in there]
    if unknown:
        raise UsageError(f"there is no view {', '.join(unknown)} in the flow; it has {', '.join(there)}")
    stored = stored_views(store)
    marks = [] if begin is None else [f"replayed from {begin}"]
    cohorts: list[Cohort] = []
    redeclared = False
    with store.transaction():
        for flow in flows:
            views = [v for v in flow.materialized if v.name in names]
            if not views:
                continue
            for s in stored:
                redeclared |= any(
                    s.status == LIVE and s.name == v.name and _sources(s.signature) != _sources(signature(v)) for v in views
                )
            begun = {s.name: s for s in stored if s.status == BUILDING and s.name in names}
            numbers = {s.cohort for s in begun.values()}
            if len(numbers) == 1 and all(v.name in begun and begun[v.name].signature == [*signature(v), *marks] for v in views):
                number = numbers.pop()
                assert number is not None
                cohorts.append(_loaded(store, number, flow.name, views))
                continue
            for s in begun.values():
                assert s.cohort is not None
                _forget(store, s.cohort, [s.name])
            cohorts.append(_created(store, flow.name, views, BUILDING, marks))
            if begin is not None:
                for source in cohorts[-1].sources:
                    source.connector.replayed(begin)  # refuses where there is no such place, before anything is kept
    return cohorts, redeclared


def open_redrive(store: Store, flows: Sequence[Flow], names: Sequence[str], digest: str) -> list[Cohort]:
    """Cohorts that build views and sinks anew with mended records, one for each that has them.

    ``digest``: of these records; no rebuild goes on with such a cohort.
    """
    _check_names(store, flows)
    stored = stored_views(store)
    known = {s.name: s for s in stored if s.status != BUILDING}
    ends = [(f.name, v) for f in flows for v in f.ends if v.name in names]
    changed = [v for _, v in ends if not _unchanged(known[v.name], v)]
    if changed:
        raise PlanChangedError(_difference(store, known, changed), where=changed[0].where)
    cohorts = []
    with store.transaction():
        for s in stored:
            if s.status == BUILDING and s.name in names and s.cohort is not None:
                _forget(store, s.cohort, [s.name])
        for flow, number in sorted({(flow, known[v.name].cohort or 0) for flow, v in ends}):
            views = [v for _, v in ends if known[v.name].cohort == number]
            cohort = _created(store, flow, views, BUILDING, [f"mended {digest}"])
            cohort.repeat(progress(store, number))
            cohorts.append(cohort)
    return cohorts


def finish_redrive(store: Store, cohorts: Sequence[Cohort], letters: Sequence[Letter]) -> None:
    """Put views with mended records in the place of the old ones. In the caller's transaction.

    A letter that is still one has been tried once more; what was fixed or discarded of the others stays so.
    """
    con = store.con
    for cohort in cohorts:
        _carry(store, cohort)
    sources = sorted({source.name for cohort in cohorts for source in cohort.sources})
    con.execute("DELETE FROM merganser.dead_letters WHERE list_contains(?, source) AND view IS NULL AND cohort IS NULL", [sources])
    for cohort in cohorts:
        _promote(store, cohort)
    for letter in letters:
        con.execute(
            "UPDATE merganser.dead_letters SET attempts = ?, fixed = ?, raw = ? WHERE source = ? AND partition = ? AND seq = ?",
            [letter.attempts + 1, letter.fixed, letter.raw, letter.source, letter.partition, letter.seq],
        )


def _carry(store: Store, cohort: Cohort) -> None:
    """What is known of letters that are letters again in a rebuilt cohort."""
    store.con.execute(
        "UPDATE merganser.dead_letters n SET fixed = o.fixed, attempts = o.attempts, status = o.status"
        " FROM merganser.dead_letters o WHERE n.cohort = ? AND o.cohort IS DISTINCT FROM n.cohort AND n.source = o.source"
        " AND n.partition = o.partition AND n.seq = o.seq AND n.view IS NOT DISTINCT FROM o.view",
        [cohort.number],
    )


def swap(store: Store, cohort: Cohort) -> None:
    """Put rebuilt views in the place of the old ones, in one transaction."""
    with store.transaction():
        _carry(store, cohort)
        _promote(store, cohort)


def _promote(store: Store, cohort: Cohort) -> None:
    """Make a cohort that was built the live one of its views."""
    for view in cohort.views:
        for s in stored_views(store):
            if s.name == view.name and s.status != BUILDING and s.cohort is not None:
                _forget(store, s.cohort, [s.name])
                store.con.execute(f"DROP VIEW IF EXISTS main.{quote(s.name)}")
    for source in cohort.sources:
        anew = store.value("SELECT count(*) FROM merganser.dead_letters WHERE cohort = ? AND view IS NULL", [cohort.number])
        if anew:
            store.con.execute(
                "DELETE FROM merganser.dead_letters WHERE source = ? AND view IS NULL AND cohort IS NULL", [source.name]
            )
    store.con.execute(
        "UPDATE merganser.dead_letters SET cohort = NULL WHERE cohort = ? AND view IS NULL", [cohort.number]
    )
    store.con.execute("UPDATE merganser.views SET status = ? WHERE cohort = ?", [LIVE, cohort.number])
    for view in cohort.views:
        store.con.execute(
            "UPDATE merganser.views SET signature = ? WHERE view = ? AND cohort = ?",
            [json.dumps(signature(view)), view.name, cohort.number],  # without marks
        )
        cohort.graph.show(store, view)


def _check_names(store: Store, flows: Sequence[Flow]) -> None:
    """Views and sources have one meaning in a store."""
    owner: dict[str, str] = {}
    sources: dict[str, str] = {}
    for flow in flows:
        if not flow.ends:
            raise FlowError(f"flow {flow.name!r} keeps nothing; end a stream with .materialize('name') or .write(…)")
        views: list[Materialize | View] = [*flow.ends, *flow.views]
        for view in views:
            if owner.setdefault(view.name, flow.name) != flow.name:
                raise FlowError(
                    f"view {view.name!r} is in flow {owner[view.name]!r} already; rename one of them", where=view.where
                )
        for source in flow.sources:
            if sources.setdefault(source.name, source.signature()) != source.signature():
                raise FlowError(f"flows declare two different sources named {source.name!r}; rename one of them")
    for s in stored_views(store):
        if s.name in owner and s.flow != owner[s.name]:
            raise FlowError(
                f"view {s.name!r} in {store.path} belongs to flow {s.flow!r}; rename it in flow {owner[s.name]!r},"
                " or use another --store"
            )


def _sources(lines: Sequence[str]) -> set[str]:
    """The declarations of sources in a view's signature."""
    return {line.strip() for line in lines if line.lstrip().startswith("source ")}


def _unchanged(stored: Stored, view: Materialize) -> bool:
    return stored.status != DETACHED and stored.cohort is not None and stored.signature == signature(view)


def _difference(store: Store, stored: dict[str, Stored], changed: Sequence[Materialize]) -> str:
    parts = []
    for view in changed:
        old = stored[view.name]
        if old.status == DETACHED and old.signature == signature(view):
            parts.append(f"view {view.name!r} was taken out of its flow for a while and misses what came meanwhile")
            continue
        lines = list(difflib.unified_diff(old.signature, signature(view), "in the store", "in the flow", lineterm="", n=1))
        parts.append(f"view {view.name!r} was made by another plan:\n" + "\n".join(f"    {line}" for line in lines))
    if any(isinstance(view, Write) for view in changed):
        return (
            "\n".join(parts)
            + "\nNothing was changed. What was sent cannot be taken back: write it under another name (write(…, name='…')), which"
            " sends everything from the start, best to another topic or folder."
        )
    names, file = " ".join(v.name for v in changed), changed[0].where.rpartition(":")[0]
    return (
        "\n".join(parts)
        + f"\nNothing was changed. To build it anew beside the old one: merganser rebuild {names} --flow {file}"
        f" --store {store.path}\nTo keep the old one too, give the new one another name in materialize()."
    )


def _created(store: Store, flow: str, views: Sequence[Materialize], status: str, marks: Sequence[str] = ()) -> Cohort:
    """``marks``: what the views are built of besides their plans, while they are built."""
    number = store.next_cohort()
    cohort = Cohort(number, flow, views, holds=status == BUILDING)
    cohort.graph.create(store)
    for view in views:
        store.con.execute("DELETE FROM merganser.views WHERE view = ? AND status = ?", [view.name, status])
        store.con.execute(
            "INSERT INTO merganser.views VALUES (?, ?, ?, ?, ?, NULL)",
            [view.name, flow, number, status, json.dumps([*signature(view), *marks])],
        )
        if status == LIVE:
            cohort.graph.show(store, view)
    return cohort


def _loaded(store: Store, number: int, flow: str, views: Sequence[Materialize]) -> Cohort:
    cohort = Cohort(number, flow, views)
    cohort.load(store)
    return cohort


def _detach(store: Store, flow: Flow, stored: dict[str, Stored]) -> list[str]:
    """Mark the views that a flow no longer has: they stay as they are, and are not kept up to date."""
    here = {v.name for v in flow.ends}
    gone = [s for s in stored.values() if s.flow == flow.name and s.name not in here and s.cohort is not None]
    notes = []
    for s in gone:
        if s.status == LIVE:
            notes.append(f"view {s.name!r} is no longer in flow {flow.name!r}: it stays as it is")
            store.con.execute("UPDATE merganser.views SET status = ? WHERE view = ?", [DETACHED, s.name])
    return notes


def _forget(store: Store, number: int, names: Sequence[str]) -> None:
    """Remove views of a cohort with their tables; the cohort too, if it has no others."""
    con = store.con
    for name in names:
        con.execute("DELETE FROM merganser.views WHERE cohort = ? AND view = ?", [number, name])
        for table in ("commits", "late", "dead_letters"):
            con.execute(f"DELETE FROM merganser.{table} WHERE cohort = ? AND view = ?", [number, name])
    mine = [number, list(names)]
    gone = store.rows(
        f"SELECT DISTINCT name FROM {STATE}.tables WHERE cohort = $1 AND list_contains($2, view) EXCEPT"
        f" SELECT name FROM {STATE}.tables WHERE cohort = $1 AND NOT list_contains($2, view)",
        mine,
    )
    for (table,) in gone:
        con.execute(f"DROP TABLE {table}")
    con.execute(f"DELETE FROM {STATE}.tables WHERE cohort = $1 AND list_contains($2, view)", mine)
    if not store.value("SELECT count(*) FROM merganser.views WHERE cohort = ?", [number]):
        for table in ("merganser.positions", f"{STATE}.watermarks", "merganser.dead_letters", "merganser.gained"):
            con.execute(f"DELETE FROM {table} WHERE cohort = ?", [number])


def _save_flow(store: Store, flow: Flow) -> None:
    """Note the flow's plan, and make its plain SQL views."""
    con = store.con
    text = str(flow)
    if store.rows("SELECT 1 FROM merganser.flows WHERE flow = ? AND plan = ?", [flow.name, text]):
        return
    con.execute("DELETE FROM merganser.flows WHERE flow = ?", [flow.name])
    now = datetime.now(UTC).replace(tzinfo=None)
    con.execute("INSERT INTO merganser.flows VALUES (?, NULL, ?, ?)", [flow.name, text, now])
    for (name,) in store.rows("SELECT view FROM merganser.views WHERE flow = ? AND cohort IS NULL", [flow.name]):
        con.execute(f"DROP VIEW IF EXISTS main.{quote(name)}")
    con.execute("DELETE FROM merganser.views WHERE flow = ? AND cohort IS NULL", [flow.name])
    for view in flow.views:
        con.execute(f"CREATE OR REPLACE VIEW main.{quote(view.name)} AS {view.sql}")
        con.execute(
            "INSERT INTO merganser.views VALUES (?, ?, NULL, ?, ?, ?)",
            [view.name, flow.name, LIVE, json.dumps([view.sql]), view.sql],
        )


def _list(views: Sequence[Materialize]) -> str:
    return ", ".join(v.name for v in views)

"""Redriving dead letters: mended records go through at their place in the log, and the views are what they would have been.

A record that comes back late may change what came after it: which of two is the first of an id, whose state a fold had, which
rows were late. So the views of its source are built anew beside the old ones, with the mended bytes in their place, and swapped
with them, with the letters and with the books in one transaction. Sinks are sent nothing. See docs/decisions/redrive.md.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from merganser import dead_letters, faults
from merganser.codecs.mending import Mends
from merganser.dead_letters import Letter, Selection, select
from merganser.engine import changes
from merganser.engine.committer import Progressed
from merganser.engine.run import CHUNK_BYTES, EPOCH_BYTES, Job, Report
from merganser.errors import UsageError
from merganser.flow import Flow
from merganser.operators.fold import REASON, go_on
from merganser.store import Store

MADE = "a row of "
"""What the file of a dead letter begins with that is no record: a row that a verb made."""


@dataclass(frozen=True, slots=True)
class Redriven:
    """What came of redriven letters: how many went through, and those that are dead letters still.

    ``waiting``: keys of folds whose event is tried again in the next run. ``sinks``: those that read the same, and were sent
    nothing. ``report``: of building the ``views`` anew; None where there were none to build.
    """

    applied: int
    dead: list[Letter]
    views: list[str]
    sinks: list[str]
    waiting: int
    report: Report | None


def redrive(
    flows: Sequence[Flow],
    selection: Selection,
    store: str | Path = "merganser.duckdb",
    *,
    epoch: float = 1.0,
    workers: int = 1,
    progress: Callable[[Progressed], None] | None = None,
    stop: threading.Event | None = None,
) -> Redriven | None:
    """Send letters through again, with their mended bytes where they have some. None if it was stopped before the end.

    ``flows``: all that read the letters' sources. Until the end nothing changes; then everything does at once. An event that a
    fold could not take is no record to be sent: it is tried again by the next run, for which no flow is needed here.
    """
    with Store(store) as opened:
        chosen = select(opened, selection)
        letters = [letter for letter in chosen if not letter.file.startswith(MADE)]
        if letters and not flows:
            raise UsageError("redrive builds views anew: name the files of the flows that read the source, --flow FLOW.py")
        waiting = _go_on(opened, chosen, skip=False)
        if waiting and not letters:
            return Redriven(0, [], [], [], waiting, None)
        if not letters:
            made = "; a row that a verb made is no record: mend the flow, and rebuild its view" if chosen else ""
            raise UsageError(f"there is no such dead letter; `merganser dead-letters list` shows those there are{made}")
        sources = sorted({letter.source for letter in letters})
        views = _views(opened, flows, sources)
        new = {(letter.source, letter.partition, letter.seq): letter.mended() for letter in letters}
        mends: dict[str, Mends] = {}
        for source in sources:
            mine = {(p, seq): m for (s, p, seq), m in new.items() if s == source}
            mends[source] = {**opened.mends(source), **mine}
        cohorts = changes.open_redrive(opened, flows, views, _digest(mends))
        job = Job(
            opened, cohorts, False, epoch, workers, CHUNK_BYTES, EPOCH_BYTES, stop or threading.Event(), mends=mends
        )
        report = job.run(progress, (), building=True)
        if report.stopped:
            return None
        faults.point("redrive.before")
        with opened.transaction():
            since = min(cohort.number for cohort in cohorts)
            changes.finish_redrive(opened, cohorts, sources, letters)
            dead = {(d.source, d.partition, d.seq) for d in select(opened, Selection(discarded=True)) if d.view is None}
            opened.mend(since, [(*key, m) for key, m in new.items() if key not in dead])
        faults.point("redrive.after")
        opened.checkpoint()
        still = {(d.source, d.partition, d.seq): d for d in select(opened, Selection(discarded=True))}
        dead_still = [still[k] for k in new if k in still]
        return Redriven(len(new.keys() - still.keys()), dead_still, views, _sinks(flows, sources), waiting, report)


def discard(store: Store, selection: Selection) -> int:
    """Give letters up; a key of a fold that waits for one goes on without it in the next run. Returns how many they are."""
    _go_on(store, select(store, selection), skip=True)
    return dead_letters.discard(store, selection)


def _go_on(store: Store, letters: Sequence[Letter], *, skip: bool) -> int:
    """Let keys of folds go on that wait for some letters."""
    failed = {(x.view, x.partition, x.seq) for x in letters if x.reason == REASON and x.view is not None}
    with store.transaction():
        return go_on(store.con, failed, skip=skip) if failed else 0


def _sinks(flows: Sequence[Flow], sources: Sequence[str]) -> list[str]:
    return sorted(w.name for f in flows for w in f.written if {s.name for s in w.sources} & set(sources))


def _views(store: Store, flows: Sequence[Flow], sources: Sequence[str]) -> list[str]:
    """The names of all views that read some sources. Raises UsageError if a flow of one is not given.

    Sinks are no views: what was sent cannot be built anew.
    """
    mine = {end.name for f in flows for end in f.ends}
    reading = store.rows(
        "SELECT DISTINCT view, flow FROM merganser.views JOIN merganser.commits c USING (view, cohort)"
        " WHERE status = ? AND list_contains(?, c.source)",
        [changes.LIVE, list(sources)],
    )
    missing = sorted({flow for view, flow in reading if view not in mine})
    if missing:
        raise UsageError(
            f"{', '.join(sources)} is also read by flow {', '.join(missing)}, whose views would miss what comes back:"
            " name its file too"
        )
    views = {v.name for f in flows for v in f.materialized}
    found = sorted(view for view, _ in reading if view in views)
    if not found:
        raise UsageError(f"no view reads {', '.join(sources)}, only sinks do; and what was sent cannot be built anew")
    return found


def _digest(mends: dict[str, Mends]) -> str:
    parts = [f"{s}/{p}/{seq}/{m.raw.hex()}" for s, all_ in sorted(mends.items()) for (p, seq), m in sorted(all_.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

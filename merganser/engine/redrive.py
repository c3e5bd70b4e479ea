"""Redriving dead letters: mended records go through at their place in the log, and the views are what they would have been.

A record that comes back late may change what came after it: which of two is the first of an id, whose state a fold had, which
rows were late. So the views of its source are built anew beside the old ones, with the mended bytes in their place, and swapped
with them, with the letters and with the books in one transaction; in it sinks are given what they lack. See
docs/decisions/redrive.md.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from merganser import dead_letters, faults
from merganser.codecs.mending import Mends
from merganser.dead_letters import Letter, Selection, select
from merganser.engine import changes, resend
from merganser.engine.cohort import Cohort, progress
from merganser.engine.committer import Progressed
from merganser.engine.delivery import Delivery
from merganser.engine.resend import MADE, Difference, Resent
from merganser.engine.run import CHUNK_BYTES, EPOCH_BYTES, Job, Report
from merganser.errors import UsageError
from merganser.flow import Flow
from merganser.operators.fold import REASON, go_on
from merganser.plan import Write
from merganser.store import Store


@dataclass(frozen=True, slots=True)
class Redriven:
    """What came of redriven letters: how many went through, and those that are dead letters still.

    ``waiting``: keys of folds whose event is tried again in the next run. ``sinks``: what was sent on. ``report``: of
    building the ``views`` anew; None where there were none to build.
    """

    applied: int
    dead: list[Letter]
    views: list[str]
    sinks: list[Resent]
    waiting: int
    report: Report | None


class Ends(NamedTuple):
    """What is built anew: views, sinks; and the sinks that are left as they are, each with the reason."""

    views: list[str]
    sinks: list[str]
    left: dict[str, str]

    @property
    def names(self) -> list[str]:
        return [*self.views, *self.sinks]


def redrive(
    flows: Sequence[Flow],
    selection: Selection,
    store: str | Path = "merganser.duckdb",
    *,
    epoch: float = 1.0,
    workers: int = 1,
    progress: Callable[[Progressed], None] | None = None,
    tell: Callable[[str], None] | None = None,
    stop: threading.Event | None = None,
) -> Redriven | None:
    """Send letters through again, with their mended bytes where they have some. None if it was stopped before the end.

    ``flows``: all that read the letters' sources. Until the end nothing changes; then everything does at once. ``tell`` is given
    sentences on what each sink will be sent, before anything is done. An event that a fold could not take is no record to be
    sent: it is tried again by the next run, for which no flow is needed here.
    """
    with Store(store) as opened:
        chosen = select(opened, selection)
        letters = [letter for letter in chosen if not letter.file.startswith(MADE)]
        if letters and not flows:
            raise UsageError("redrive builds views anew: name the files of the flows that read the source, --flow FLOW.py")
        if not letters:
            with opened.transaction():
                waiting = _go_on(opened, chosen, skip=False)
            if waiting:
                return Redriven(0, [], [], [], waiting, None)
            made = "; a row that a verb made is no record: mend the flow, and rebuild its view" if chosen else ""
            raise UsageError(f"there is no such dead letter; `merganser dead-letters list` shows those there are{made}")
        ends = _ends(opened, flows, sorted({letter.source for letter in letters}))
        for sink, sentence in _sentences(flows, ends):
            if tell:
                tell(f"{sink} {sentence}")

        def job(within: Store, cohorts: list[Cohort], mends: dict[str, Mends]) -> Report:
            made = Job(
                within, cohorts, False, epoch, workers, CHUNK_BYTES, EPOCH_BYTES, stop or threading.Event(), mends=mends,
                whole=True,
            )  # fmt: skip
            return made.run(progress, (), building=True)

        return _redriven(opened, flows, letters, chosen, ends, job)


def _redriven(
    store: Store,
    flows: Sequence[Flow],
    letters: Sequence[Letter],
    chosen: Sequence[Letter],
    ends: Ends,
    job: Callable[[Store, list[Cohort], dict[str, Mends]], Report],
) -> Redriven | None:
    new = {(letter.source, letter.partition, letter.seq): letter.mended() for letter in letters}
    mends: dict[str, Mends] = {}
    for source in {letter.source for letter in letters}:
        mends[source] = {**store.mends(source), **{(p, seq): m for (s, p, seq), m in new.items() if s == source}}
    before = {view.name: view.cohort or 0 for view in changes.stored_views(store) if view.status != changes.BUILDING}
    cohorts = changes.open_redrive(store, flows, ends.names, _digest(mends))
    others = {source.name for cohort in cohorts for source in cohort.sources} - mends.keys()
    mends |= {source: store.mends(source) for source in others}
    report = job(store, cohorts, mends)
    differences: list[tuple[Cohort, Difference]] = []
    for cohort in cohorts:
        if report.stopped:
            return None
        number = before[cohort.views[0].name]
        reached = progress(store, number)
        resend.check_reached(cohort, reached)
        writes = [view for view in cohort.views if isinstance(view, Write)]
        if not writes:
            continue
        with resend.scratch(store) as beside:
            again = resend.again(store, beside, number, cohort.flow, writes, reached)
            if job(beside, [again], {s.name: store.mends(s.name, number) for s in again.sources}).stopped:
                return None
            resend.check_reached(again, reached)
            found = [resend.difference(store, beside, w, cohort.number, number, len(differences) + i) for i, w in enumerate(writes)]
            differences += [(cohort, difference) for difference in found]
    faults.point("redrive.before")
    with store.transaction():
        sent = [resend.send(store, difference, cohort, store.next_epoch() - 1) for cohort, difference in differences]
        changes.finish_redrive(store, cohorts, letters)
        waiting = _go_on(store, chosen, skip=False)  # in the tables that are live now
        dead = {(d.source, d.partition, d.seq) for d in select(store, Selection(discarded=True)) if d.view is None}
        since = min(cohort.number for cohort in cohorts)
        store.mend(since, [(*key, m) for key, m in new.items() if key not in dead])
    faults.point("redrive.after")
    store.checkpoint()
    _deliver(store, [difference.write for _, difference in differences])
    still = {(d.source, d.partition, d.seq): d for d in select(store, Selection(discarded=True))}
    dead_still = [still[k] for k in new if k in still]
    return Redriven(len(new.keys() - still.keys()), dead_still, ends.views, sent, waiting, report)


def _deliver(store: Store, writes: Sequence[Write]) -> None:
    delivery = Delivery(store, writes, lambda _: None)
    delivery.start()
    delivery.finish()


def discard(store: Store, selection: Selection) -> int:
    """Give letters up; a key of a fold that waits for one goes on without it in the next run. Returns how many they are."""
    with store.transaction():
        _go_on(store, select(store, selection), skip=True)
    return dead_letters.discard(store, selection)


def _go_on(store: Store, letters: Sequence[Letter], *, skip: bool) -> int:
    """Let keys of folds go on that wait for some letters. In the caller's transaction."""
    failed = {(x.view, x.partition, x.seq) for x in letters if x.reason == REASON and x.view is not None}
    return go_on(store.con, failed, skip=skip) if failed else 0


def _sentences(flows: Sequence[Flow], ends: Ends) -> list[tuple[str, str]]:
    """What each sink will be sent."""
    sent = [(w.name, resend.promise(w)) for f in flows for w in f.written if w.name in ends.sinks]
    return [*sent, *((name, f"is sent nothing: {why}") for name, why in ends.left.items())]


def _ends(store: Store, flows: Sequence[Flow], sources: Sequence[str]) -> Ends:
    """All views and sinks that read some sources. Raises UsageError if a flow of one is not given."""
    mine = {end.name: end for f in flows for end in f.ends}
    reading = store.rows(
        "SELECT DISTINCT view, flow, cohort FROM merganser.views JOIN merganser.commits c USING (view, cohort)"
        " WHERE status = ? AND list_contains(?, c.source) ORDER BY ALL",
        [changes.LIVE, list(sources)],
    )
    missing = sorted({flow for view, flow, _ in reading if view not in mine})
    if missing:
        raise UsageError(
            f"{', '.join(sources)} is also read by flow {', '.join(missing)}, whose views would miss what comes back:"
            " name its file too"
        )
    found = Ends([], [], {})
    for view, _, cohort in reading:
        end = mine[view]
        if not isinstance(end, Write):
            found.views.append(view)
        elif why := resend.obstacle(store, end, cohort):
            found.left[view] = why
        else:
            found.sinks.append(view)
    if not found.names:
        left = "; ".join(f"{name} can be sent nothing: {why}" for name, why in found.left.items())
        raise UsageError(f"no view reads {', '.join(sources)}; {left}")
    return found


def _digest(mends: dict[str, Mends]) -> str:
    parts = [f"{s}/{p}/{seq}/{m.raw.hex()}" for s, all_ in sorted(mends.items()) for (p, seq), m in sorted(all_.items())]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]

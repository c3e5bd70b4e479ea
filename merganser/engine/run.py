"""Runs flows: decides what each view needs, builds the dataflow, waits for its end.

The dataflow always has the same shape: one input (the lanes of all sources), one row-local step on every worker, one
output with one partition (the store). Bytewax cuts an epoch of its own at every batch; the store joins those until
the epoch's length or size is reached and commits them as one.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import bytewax.operators as op
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow
from bytewax.outputs import FixedPartitionedSink, StatefulSinkPartition

from merganser import faults
from merganser.codecs import Chunk
from merganser.codecs.mending import Mends
from merganser.engine import changes, forward
from merganser.engine.cohort import Cohort, Ends
from merganser.engine.committer import Committer, Cut, Progressed, behind
from merganser.engine.delivery import Delivery
from merganser.engine.lanes import FIRST_BYTES, Lanes, Shared
from merganser.engine.live import LiveRun
from merganser.engine.prepare import Prepared, Preparer
from merganser.flow import Flow
from merganser.plan import Deduplicate, Node, Source, Write, by_workers, ordered, refusing, worker_ends
from merganser.query.server import Address, Server
from merganser.registry import StoppedError, until
from merganser.sources import Position
from merganser.store import Store

CHUNK_BYTES = 16 << 20
EPOCH_BYTES = 48 << 20
"""An epoch is cut at this size even before its time is up: it bounds memory, since Bytewax has no backpressure inside."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a run did. ``stopped``: it was asked to stop before the end of its input."""

    progressed: Progressed
    seconds: float
    stopped: bool
    notes: tuple[str, ...]
    """Sentences for people: views that were added or are no longer in the flow."""


def run(
    flows: Sequence[Flow],
    store: str | Path | Store = "merganser.duckdb",
    *,
    follow: bool = False,
    epoch: float = 1.0,
    workers: int = 1,
    progress: Callable[[Progressed], None] | None = None,
    stop: threading.Event | None = None,
    serve: Address | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    epoch_bytes: int = EPOCH_BYTES,
    accept_gap: bool = False,
) -> Report:
    """Bring the views of some flows up to date in a store.

    Without ``follow`` it ends at the end of the input; with it, when ``stop`` is set or on SIGINT or SIGTERM (which
    are handled if this is the main thread). ``epoch``: seconds of input that are committed together. ``progress`` is
    given the live counts once, before it starts. ``accept_gap``: go on where a log has lost records. ``serve``: where to
    answer queries meanwhile, if at all. A ``Store`` stays open. Raises MerganserError; whatever was committed stays.
    """
    with nullcontext(store) if isinstance(store, Store) else Store(store, shared=serve is not None, workers=workers) as opened:
        opened_cohorts, notes = changes.open_cohorts(opened, flows)
        job = Job(
            opened, opened_cohorts, follow, epoch, workers, chunk_bytes, epoch_bytes, stop or threading.Event(), accept_gap,
            sends=True,
        )  # fmt: skip
        with _serving(opened, job, serve):
            return job.run(progress, tuple(notes))


def rebuild(
    flows: Sequence[Flow],
    views: Sequence[str],
    store: str | Path = "merganser.duckdb",
    *,
    epoch: float = 1.0,
    workers: int = 1,
    progress: Callable[[Progressed], None] | None = None,
    stop: threading.Event | None = None,
    serve: Address | None = None,
    chunk_bytes: int = CHUNK_BYTES,
    epoch_bytes: int = EPOCH_BYTES,
    begin: str | None = None,
    accept_gap: bool = False,
) -> Report:
    """Build views anew from the start of their sources, beside the old ones, and swap them in one transaction.

    The old views can be queried until the swap. A rebuild that was interrupted goes on where it stopped. ``begin``: replay
    the logs from a time or an offset on instead; only from logs that know these (Kafka). ``accept_gap``: go on where a log has
    lost records since it was read, which the new views then lack.
    """
    with Store(store, shared=serve is not None, workers=workers) as opened:
        cohorts, building = changes.open_rebuild(opened, flows, views, begin)
        job = Job(
            opened, cohorts, False, epoch, workers, chunk_bytes, epoch_bytes, stop or threading.Event(), accept_gap, begin,
            whole=True,
        )  # fmt: skip
        with _serving(opened, job, serve):
            report = job.run(progress, (), building=building)
            if not report.stopped:
                faults.point("rebuild.before")
                for cohort in cohorts:
                    changes.swap(opened, cohort)
                faults.point("rebuild.after")
                opened.checkpoint()
        return report


@contextmanager
def _serving(store: Store, job: Job, address: Address | None) -> Iterator[None]:
    """Answer queries meanwhile, if there is an address to do so at."""
    if address is None or not isinstance(store.path, Path):
        yield
        return
    server = Server(store.path, store.con, LiveRun(job.progressed, job.shared, job.delivery), address)
    server.start()
    try:
        yield
    finally:
        server.stop()


class Job:
    """One execution of one dataflow."""

    def __init__(
        self,
        store: Store,
        cohorts: list[Cohort],
        follow: bool,
        epoch: float,
        workers: int,
        chunk_bytes: int,
        epoch_bytes: int,
        stop: threading.Event,
        accept_gap: bool = False,
        begin: str | None = None,
        mends: Mapping[str, Mends] | None = None,
        sends: bool = False,
        whole: bool = False,
    ) -> None:
        """``sends``: rows and dead letters go to their sinks, as they do the first time that a record is read.

        ``whole``: it is an error if a log no longer has what was read of it.
        """
        self.store, self.cohorts, self.workers = store, cohorts, workers
        self.epoch, self.epoch_bytes, self._whole = epoch, epoch_bytes, whole
        self.sources: list[Source] = list({s.name: s for c in cohorts for s in c.sources}.values())
        self.replays = begin is not None
        if begin is not None:
            self.sources = [replace(source, connector=source.connector.replayed(begin)) for source in self.sources]
        self._mends = mends if mends is not None else {s.name: store.mends(s.name) for s in self.sources}
        """By source: what stands for records that were bad."""
        self.progressed = Progressed()
        self.stop = stop
        self.failure: BaseException | None = None
        self.failed = threading.Event()
        for asker in (asker for cohort in cohorts for asker in cohort.graph.askers):
            asker.asked = self.progressed.asked.setdefault(asker.service.name, asker.asked)
            asker.patient, asker.stopping, asker.failing = follow, stop.is_set, self.failed.is_set
        writes = [view for cohort in cohorts for view in cohort.views if isinstance(view, Write)]
        letters = forward.forwards(self.sources) if sends else {}
        forward.begin(store, letters.values())
        self.delivery = Delivery(store, [*writes, *letters.values()], self.fail) if sends and (writes or letters) else None
        self.committer = Committer(store, cohorts, self.progressed, self.failed, self.delivery, letters)
        self.shared = Shared(
            follow, chunk_bytes, workers, self._start_of, self.progressed, threading.Event(),
            lambda: self.committer.committed, self.end, accept_gap,
        )  # fmt: skip
        self._there: set[tuple[str, str]] = set()
        """The partitions (of a source) there were when the run began."""
        self._origins: dict[tuple[str, str], list[Position]] = {}
        for name, partition, text in store.rows("SELECT source, partition, position FROM merganser.positions"):
            positions = self._origins.setdefault((name, partition), [])
            if position := json.loads(text):
                positions.append(position)
        self.pending: list[Prepared] = []
        self._pending_bytes = 0
        self._cuts = 0
        self._began: float | None = None
        self._preparers: dict[tuple[int, str], Preparer] = {}
        """By worker thread and source."""
        self._ends = _ends(cohorts)
        self._refusing = refusing(view for cohort in cohorts for view in cohort.views)

    def run(self, progress: Callable[[Progressed], None] | None, notes: tuple[str, ...], building: bool = False) -> Report:
        began = time.monotonic()
        with self._signals():
            for source in self.sources:
                if not self.shared.follow:
                    source.connector.check()
                partitions = source.connector.partitions()
                self._there |= {(source.name, partition) for partition in partitions}
                for cohort in self.cohorts:
                    if source in cohort.sources:
                        cohort.expect_all(source, partitions)
            sizes = [source.connector.total_bytes() for source in self.sources]
            if not self.shared.follow and all(size is not None for size in sizes):
                self.progressed.total_bytes = sum(size or 0 for size in sizes)
            if progress:
                progress(self.progressed)
            self.committer.building = building
            self.committer.start()
            if self.delivery:
                self.delivery.start()
            try:
                self._flow()
            finally:
                stopped = self.stop.is_set()
                if not self.failed.is_set():
                    self._cut(last=True)
                try:
                    self.committer.finish()
                    if self.delivery:
                        self.delivery.finish()
                finally:
                    self.shared.release(self.committer.committed)
        if self.failure is not None:
            raise self.failure
        self.store.checkpoint()
        return Report(self.progressed, time.monotonic() - began, stopped, notes)

    def fail(self, error: BaseException) -> None:
        """Remember the first error and end the run without committing what is pending."""
        if self.failure is None:
            self.failure = error
        self.failed.set()
        self.shared.stop.set()

    def end(self, error: BaseException) -> None:
        """Remember the first error and end the run as when it is stopped: what was read before it is committed."""
        if self.failure is None:
            self.failure = error
        self.shared.stop.set()

    # -- the dataflow ---------------------------------------------------------------------------------------------

    def _flow(self) -> None:
        flow = Dataflow("merganser")
        chunks = op.input("lanes", flow, Lanes(self.sources, self.workers, self.shared))
        spread = op.redistribute("spread", chunks)
        rows = op.flat_map("rows", spread, self._prepare)
        op.output("store", rows, _StoreSink(self))
        os.environ.pop("BYTEWAX_DATAFLOW_API_ENABLED", None)  # it would open a port without any authentication
        watch = threading.Thread(target=self._watch, name="merganser-watch", daemon=True)
        watch.start()
        try:
            cluster_main(flow, [], 0, epoch_interval=timedelta(0), worker_count_per_proc=self.workers)  # type: ignore[no-untyped-call] # Bytewax's own
        finally:
            self.shared.stop.set()
            watch.join()
            self._preparers.clear()

    def _watch(self) -> None:
        """Pass on a request to stop, or the committer's failure, to the lanes."""
        while not self.shared.stop.is_set():
            if self.stop.wait(0.05) or self.failed.is_set():
                self.shared.stop.set()

    def _prepare(self, item: tuple[str, Sequence[Chunk]]) -> list[tuple[str, Sequence[Prepared]]]:
        if self.failed.is_set():
            return []
        chunks = item[1]
        if not chunks:
            return [("store", ())]
        try:
            name = chunks[0].source
            key = threading.get_ident(), name
            if key not in self._preparers:
                source = next(s for s in self.sources if s.name == name)
                self._preparers[key] = Preparer(
                    source, self._ends[name], self._mends.get(name, {}), keeps=name in self._refusing
                )
            with until(self.stop):
                return [("store", self._preparers[key].prepare(chunks))]
        except StoppedError:  # these records, and all that come behind them, are read by the next run
            self.failed.set()
            return []
        except BaseException as error:
            self.fail(error)
            return []

    def take(self, items: list[Sequence[Prepared]]) -> None:
        for item in (prepared for some in items for prepared in some):
            self.pending.append(item)
            self._pending_bytes += item.weight
            self.shared.pending = True
            self._began = self._began or time.monotonic()

    def snapshot(self) -> None:
        """Everything that the lanes have emitted is here: commit it if the epoch is long or large enough."""
        if self._began is None or self.failed.is_set():
            return
        # 1 MB, 8 MB and twice as much each time, so that the committer soon has something to do.
        enough = min(self.epoch_bytes, 4 * FIRST_BYTES << min(self._cuts, 8) if self._cuts else FIRST_BYTES)
        enough -= min(enough, self.shared.chunk_bytes) // 2  # chunks are a little smaller than their size
        if self._pending_bytes >= enough or time.monotonic() - self._began >= self.epoch:
            self._cut()

    def _cut(self, last: bool = False) -> None:
        ends = Ends(frozenset(self.shared.finished), frozenset(self.shared.ended))
        if self.pending or (last and ends.finished):
            self.committer.submit(Cut(self.pending, ends))
            self._cuts += 1
        self.pending, self._pending_bytes, self._began = [], 0, None
        self.shared.pending = False

    def _start_of(self, source: str, partition: str) -> Position | None:
        """Where the cohort that is furthest behind goes on; the others skip what they have.

        A view that is new begins where the source once began.
        """
        found = behind(self.cohorts, source, partition)
        if found is None and not self.replays:
            connector = next(s.connector for s in self.sources if s.name == source)
            begun = any(name == source for name, _ in self._origins)
            late = (source, partition) not in (self._origins if begun else self._there)
            found = connector.origin(self._origins.get((source, partition), []), late=late, whole=self._whole)
        return found

    @contextmanager
    def _signals(self) -> Iterator[None]:
        """The first SIGINT or SIGTERM ends the input, a second one the process, which is safe at any time."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def handle(number: int, frame: Any) -> None:
            if self.stop.is_set():
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            self.stop.set()

        before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def _ends(cohorts: Sequence[Cohort]) -> dict[str, list[tuple[Node, list[Deduplicate]]]]:
    """By source: the nodes that workers compute, each with the deduplications that follow it."""
    views = [view for cohort in cohorts for view in cohort.views]
    found: dict[str, dict[Node, list[Deduplicate]]] = {}
    for node in worker_ends(views):
        found.setdefault(node.source.name, {})[node] = []
    for after in ordered(views):
        if isinstance(after, Deduplicate) and after.input is not None and by_workers(after.input):
            found[after.source.name][after.input].append(after)
    return {source: list(nodes.items()) for source, nodes in found.items()}


class _StorePart(StatefulSinkPartition[Sequence[Prepared], None]):
    def __init__(self, job: Job) -> None:
        self._job = job

    def write_batch(self, values: list[Sequence[Prepared]]) -> None:
        self._job.take(values)

    def snapshot(self) -> None:
        self._job.snapshot()


class _StoreSink(FixedPartitionedSink[Sequence[Prepared], None]):
    def __init__(self, job: Job) -> None:
        self._job = job

    def list_parts(self) -> list[str]:
        return ["store"]

    def part_fn(self, item_key: str) -> int:
        return 0

    def build_part(self, step_id: str, for_part: str, resume_state: None) -> _StorePart:
        return _StorePart(self._job)

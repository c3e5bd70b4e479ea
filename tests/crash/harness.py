"""Runs jobs in child processes that may be killed at any time, and checks what they leave behind."""

from __future__ import annotations

import json
import multiprocessing
import random
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import duckdb

VIEWS = (
    "per_minute", "hops", "per_key", "per_tag", "last_of_key", "kept", "sessions", "each_fifth", "folded", "pairs", "as_of",
    "awaited", "emitted", "fetched",
)  # fmt: skip
KILLED = -9

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["pyarrow.compute", "pandas", "merganser"])


@dataclass(frozen=True)
class Job:
    """One run: of the flow, or a rebuild of some of its views. ``fault``: where and when it is killed, if at all."""

    folder: str
    store: str
    rebuild: tuple[str, ...] = ()
    workers: int = 1
    chunk_bytes: int = 40_000
    fault: tuple[str, int] | None = None
    partition_by: str | None = None


def _work(job: Job) -> None:
    import merganser as mg
    from merganser import faults
    from tests.crash.flows import make_flow

    if job.fault:
        faults.arm(*job.fault)
    flow = make_flow(Path(job.folder), sent_to(job.store), partition_by=job.partition_by)
    if job.rebuild:
        mg.rebuild([flow], job.rebuild, job.store, workers=job.workers, chunk_bytes=job.chunk_bytes, epoch=0)
    else:
        mg.run([flow], job.store, workers=job.workers, chunk_bytes=job.chunk_bytes, epoch=0)


def attempt(job: Job, kill_after: float | None = None) -> int:
    """Run a job in a child; kill it after some seconds if it still runs. Returns its exit code, -9 if it was killed."""
    return child(_work, job, kill_after)


def start(work: Callable[[Any], None], job: Any) -> BaseProcess:
    """Begin a job in a child."""
    process = _context.Process(target=work, args=(job,))
    process.start()
    return process


def child(
    work: Callable[[Any], None], job: Any, kill_after: float | None = None, with_it: Callable[[], None] | None = None
) -> int:
    """As ``attempt``; ``with_it`` kills something else at the same moment."""
    process = start(work, job)
    process.join(kill_after)
    if process.is_alive():
        process.kill()
        if with_it is not None:
            with_it()
        process.join()
    assert process.exitcode is not None
    return process.exitcode


def sent_to(store: str) -> Path:
    """The folder that the flow of a store sends to."""
    return Path(store).with_suffix(".out")


def contents(store: str) -> dict[str, list[tuple[object, ...]]]:
    """The rows of every view, sorted, without ``final``."""
    with duckdb.connect(store, read_only=True) as con:
        found = {}
        for view in VIEWS:
            names = [n for (n, *_) in con.execute(f"DESCRIBE {view}").fetchall() if n != "final"]
            columns = ", ".join(f'CAST("{n}" AS VARCHAR)' for n in names)
            found[view] = sorted(con.execute(f"SELECT {columns} FROM {view}").fetchall(), key=repr)
        found["dead"] = sorted(
            con.execute("SELECT file, byte, line, reason, hex(raw) FROM merganser.dead_letters").fetchall(), key=repr
        )
        sent = [json.loads(line) for path in sorted(sent_to(store).glob("kept-*")) for line in path.read_text().splitlines()]
        found["sent"] = sorted(((row["id"], str(row["amount"])) for row in sent), key=repr)
        said = [json.loads(line) for path in sorted(sent_to(store).glob("emitted-*")) for line in path.read_text().splitlines()]
        found["emitted to files"] = sorted(((row["key"], row["seq"], row["what"]) for row in said), key=repr)
        assert not con.execute("SELECT count(*) FROM merganser.outbox").fetchall()[0][0]
        found["answers"] = sorted(con.execute("SELECT key, slot, answer FROM merganser.answers").fetchall(), key=repr)
        found["late"] = sorted(
            con.execute("SELECT view, partition, seq, CAST(row AS VARCHAR) FROM merganser.late").fetchall(), key=repr
        )
        found["books"] = con.execute(
            "SELECT view, sum(read), sum(applied), sum(filtered), sum(late), sum(duplicate), sum(dead)"
            " FROM merganser.commits GROUP BY ALL ORDER BY ALL"
        ).fetchall()
    return found


def until_done(job: Job, rest: Job, chance: random.Random, kills: int, longest: float) -> int:
    """Kill a job at random times until ``kills`` are used up, then let it finish. Returns how often it was killed."""
    killed = 0
    while True:
        code = attempt(job, chance.uniform(0.05, longest) if killed < kills else None)
        job = rest
        if code == 0:
            return killed
        assert code == KILLED, f"the child failed with {code}"
        killed += 1

"""``make soak MINUTES=5``: events without end through deduplication, sessions and joins, to see that nothing grows.

Two generated streams, a million events an hour of event time each: 2,000 keys, up to 20 s out of order, 2 % repeats. All state is
bounded in time and all views in size, so that memory and the store must stay as large as they are after the first third. Prints
a line each ten seconds and fails if something grew.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa

import merganser as mg
from merganser.codecs import Chunk, Decoded, Place
from merganser.engine.committer import Progressed
from merganser.schema import Schema

SCHEMA = {"id": "BIGINT", "at": "TIMESTAMP", "key": "INTEGER", "n": "INTEGER"}
BATCH = 50_000
START = 1_600_000_000_000_000
STEP = 3_600
"""Microseconds of event time from one event to the next."""


@dataclass(eq=False)
class Generated:
    """A connector to events that are computed when they are read; the same ones at the same position."""

    seed: int
    most: int
    """Events after which it ends."""
    stopped: threading.Event = field(default_factory=threading.Event)

    def describe(self) -> str:
        return "generated events"

    def metadata(self, schema: Schema) -> dict[str, str]:
        return {}

    def check(self) -> None:
        pass

    def partitions(self) -> list[str]:
        return ["0"]

    def open(self, source: str, *, follow: bool, accept_gap: bool = False) -> Generated:
        self.source, self.at, self.ended = source, 0, False
        return self

    def origin(self, positions: Sequence[Mapping[str, Any]], *, late: bool = False, whole: bool = False) -> None:
        return None

    def moved(self, old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Mapping[str, Any]:
        return new

    def replayed(self, begin: str) -> Generated:
        return self

    def codec(self, schema: Schema, time: str | None = None) -> Generated:
        return self

    def total_bytes(self) -> int | None:
        return None

    def add(self, partition: str, position: Mapping[str, Any] | None) -> None:
        self.at = position["seq"] if position else 0

    def read(self, max_bytes: int) -> Chunk | None:
        if self.ended:
            return None
        if self.at >= self.most or self.stopped.is_set():
            self.ended = True
            return None
        first, self.at = self.at, self.at + BATCH
        return Chunk(self.source, "0", first, BATCH, Place("generated", None, None), None, {"seq": self.at}, 40 * BATCH)

    def finished(self) -> list[tuple[str, bool]]:
        return [("0", False)] if self.ended else []

    def committed(self, positions: Mapping[str, Mapping[str, Any]]) -> None:
        pass

    def close(self) -> None:
        pass

    def decode(self, chunk: Chunk) -> Decoded:
        chance = np.random.default_rng((self.seed, chunk.seq))
        seq = np.arange(chunk.seq, chunk.seq + BATCH)
        repeated = (chance.random(BATCH) < 0.02) & (seq % BATCH > 200)
        ids = np.where(repeated, seq - 100, seq)
        # What belongs to an id depends on it alone, so that a repeat is one.
        mixed = ids * np.int64(0x5851F42D4C957F2D) + np.int64(self.seed)
        behind = ((mixed >> 33) % 20_000_000 + 20_000_000) % 20_000_000
        columns = {
            "id": ids,
            "at": pa.array(START + ids * STEP - behind, pa.timestamp("us")),
            "key": pa.array(((mixed >> 20) % 2000).astype(np.int32)),
            "n": pa.array(((mixed >> 40) % 100).astype(np.int32)),
            "_seq": seq,
        }
        return Decoded(pa.table(columns), [])

    def locate(self, chunk: Chunk, seqs: list[int]) -> list[tuple[Place, bytes]]:
        return [(chunk.place, b"") for _ in seqs]


def flow_of(left: Generated, right: Generated) -> mg.Flow:
    flow = mg.Flow("soak")
    a, b = (
        flow.read(mg.source(name, connector, schema=SCHEMA, time="at", lateness="30 seconds", id="id", key="key"))
        for name, connector in (("a", left), ("b", right))
    )
    once = a.deduplicate(within="2 minutes")
    sessions = once.window(mg.session("3 seconds"), by="key").aggregate(n="count(*)", total="sum(n)", kinds="count(DISTINCT n)")
    sessions.group_by("n").aggregate(sessions="count(*)", total="sum(total)").materialize("session_lengths")
    once.join(b, on="key", within="1 second", how="left").group_by("key").aggregate(pairs="count(*)").materialize("pairs")
    once.enrich(b, on="key", as_of=True).group_by("key").aggregate(n="sum(n_right)").materialize("valid")
    once.order(by="key").filter("seq % 1000 = 0").latest(by="key").materialize("thousandth")
    return flow


def state_rows(store: Path) -> int:
    """Rows in the tables of all steps."""
    with duckdb.connect(str(store), read_only=True) as con:
        sizes = con.execute("SELECT estimated_size FROM duckdb_tables() WHERE schema_name = 'merganser_state'").fetchall()
    return sum(size for (size,) in sizes)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--events", type=int, default=50_000_000, help="events of both streams after which it ends")
    options = parser.parse_args()
    left, right = Generated(1, options.events // 2), Generated(2, options.events // 2)
    seen: list[Progressed] = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder) / "soak.duckdb"
        failure: list[BaseException] = []

        def work() -> None:
            try:
                mg.run([flow_of(left, right)], store, progress=seen.append)
            except BaseException as error:
                failure.append(error)

        runs = threading.Thread(target=work)
        runs.start()
        print("| minutes | events | events/s | memory MB | store MB |\n|---|---|---|---|---|", flush=True)
        began, before, figures = time.monotonic(), 0, []
        while runs.is_alive():
            runs.join(10)
            elapsed = time.monotonic() - began
            events = seen[0].committed if seen else 0
            memory, size = _memory(), _size(store) + _size(Path(f"{store}.wal"))
            figures.append((events, memory, size))
            speed = (events - before) / 10
            print(f"| {elapsed / 60:.1f} | {events:,} | {speed:,.0f} | {memory / 1e6:,.0f} | {size / 1e6:,.0f} |", flush=True)
            before = events
            if elapsed > 60 * options.minutes:
                left.stopped.set()
                right.stopped.set()
        if failure:
            raise failure[0]
        print(f"{figures[-1][0]:,} events, {state_rows(store):,} rows of state at the end")
    third = len(figures) // 3
    for what, place in (("memory", 1), ("store", 2)):
        middle, last = (max(f[place] for f in part) for part in (figures[third : 2 * third], figures[2 * third :]))
        grown = last / middle - 1
        print(f"{what}: the last third needed {grown:+.0%} of the one before at most")
        if grown > 0.25:
            sys.exit(f"{what} grew")


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


if __name__ == "__main__":
    main()

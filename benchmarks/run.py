"""``make bench``: merganser next to DuckDB's one-shot batch query of the same, in one run on one machine.

Each measurement is a process of its own (peak memory), runs a small flow first (imports, compilation), and is taken
twice, batch and merganser in turn; the better of the two counts. Every result is checked against the batch query.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

import merganser as mg

sys.path.insert(0, str(Path(__file__).parent))
import timely  # scripts beside this one
from generate import generate

SCHEMA = {"event_id": "VARCHAR", "placed_at": "TIMESTAMPTZ", "customer_id": "INTEGER", "amount": "DOUBLE", "currency": "VARCHAR"}
SKETCHES = {
    "p95": "approx_quantile(amount, 0.95)",
    "places": "approx_count_distinct(currency)",
    "most": "arg_max(currency, amount)",
}
PLAIN = {"n": "count(*)", "total": "sum(amount)"}
JOBS = {
    "J0": "parse, filter, count per currency",
    "J1": "deduplicate, one-minute windows per customer, count and sum",
    "J2": "J1 from Parquet",
    "J3": "J1 with approx_quantile, approx_count_distinct and arg_max",
    **timely.JOBS,
}


def flow_of(job: str, path: Path) -> mg.Flow:
    lateness = "3 minutes" if job in timely.JOBS else "10 seconds"
    orders = mg.source("orders", mg.files(path), schema=SCHEMA, time="placed_at", lateness=lateness, id="event_id")
    if job in timely.JOBS:
        return timely.flow_of(job, orders)
    flow = mg.Flow(job)
    read = flow.read(orders).filter("amount > 0")
    if job == "J0":
        read.group_by("currency").aggregate(n="count(*)").materialize("v")
        return flow
    results = SKETCHES if job == "J3" else PLAIN
    windows = read.deduplicate(within="10 minutes").window(mg.tumbling("1 minute"), by="customer_id")
    windows.aggregate(**results).materialize("v")
    return flow


def rows_of(path: Path) -> str:
    if path.suffix == ".parquet":
        return f"read_parquet('{path}')"
    columns = ", ".join(f"{name}: '{kind}'" for name, kind in SCHEMA.items())
    return f"read_json('{path}', format = 'newline_delimited', columns = {{{columns}}})"


def batch_of(job: str, path: Path) -> str:
    rows = rows_of(path)
    if job in timely.JOBS:
        return timely.batch_of(job, rows)
    if job == "J0":
        return f"SELECT currency, count(*) AS n FROM {rows} WHERE amount > 0 GROUP BY currency"
    results = ", ".join(f"{sql} AS {name}" for name, sql in (SKETCHES if job == "J3" else PLAIN).items())
    return (
        f"SELECT customer_id, time_bucket(INTERVAL 1 minute, placed_at) AS window_start, {results}"
        f" FROM (SELECT DISTINCT ON (event_id) * FROM {rows} WHERE amount > 0) GROUP BY ALL"
    )


def measure(what: str, job: str, path: Path, folder: Path, workers: int) -> dict[str, float]:
    """One measurement, in this process: seconds, CPU seconds, peak memory in MB, MB of the store."""
    store = folder / f"{job}.duckdb"
    small = folder / ("small" + path.suffix)
    if what == "merganser":
        if path.suffix == ".parquet":
            duckdb.sql(f"COPY (FROM '{path}' LIMIT 1000) TO '{small}'")
        else:
            with path.open("rb") as file:
                small.write_bytes(b"".join(file.readline() for _ in range(1000)))
        mg.run([flow_of(job, small)], folder / "small.duckdb", workers=workers)
    con = duckdb.connect(config={"threads": 2})
    # DuckDB takes the rows of read_json for so few that it would compare every pair in J7's ASOF JOIN.
    con.execute("SET asof_loop_join_threshold = 0")
    flow, query = flow_of(job, path), batch_of(job, path)
    began, cpu = time.perf_counter(), time.process_time()
    if what == "batch":
        con.execute(f"CREATE TABLE v AS {query}")
    else:
        mg.run([flow], store, workers=workers)
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    peak = _peak()
    if what == "merganser":
        check(job, store, con, query, path)
    size = store.stat().st_size / 1e6 if store.exists() else 0.0
    return {"seconds": seconds, "cpu": cpu, "peak": peak / 1e6, "file": size}


def _peak() -> int:
    """Bytes of memory that this process held at most; not getrusage(), which counts its parent's before exec too."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def check(job: str, store: Path, con: duckdb.DuckDBPyConnection, query: str, path: Path) -> None:
    con.execute(f"ATTACH '{store}' AS s (READ_ONLY)")
    if job in timely.JOBS:
        timely.check(job, con, rows_of(path))
        return
    con.execute(f"CREATE TABLE expected AS {query}")
    keys = ["currency"] if job == "J0" else ["customer_id", "window_start"]
    exact = [] if job in ("J1", "J2") else ["n"] if job == "J0" else ["places"]
    near = ["n", "total"] if job in ("J1", "J2") else []
    same = [f"e.{k} = v.{k}" for k in (*keys, *exact)] + [f"abs(e.{k} - v.{k}) <= 1e-9 * abs(e.{k}) + 1e-9" for k in near]
    equal_rows = f"(SELECT count(*) FROM expected e JOIN s.v v ON {' AND '.join(same)})"
    sql = f"SELECT (SELECT count(*) FROM expected), (SELECT count(*) FROM s.v), {equal_rows}"
    expected, found, equal = con.execute(sql).fetchall()[0]
    if not expected == found == equal:
        raise SystemExit(f"{job}: {expected} groups in batch SQL, {found} in the view, {equal} equal")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--long", type=int, default=10, help="also J1 over this many times the events; 0 for not")
    parser.add_argument("--jobs", default=",".join(JOBS))
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        what, job, path = options.one
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(measure(what, job, Path(path), Path(folder), options.workers)))
        return
    machine = f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores"
    print(f"{datetime.date.today()}, {machine}, DuckDB {duckdb.__version__}, {options.workers} worker(s)")
    print(f"| job | events/s | batch events/s | ratio | CPU s/M | batch CPU s/M | peak MB | store MB |\n|{'---|' * 8}")
    plan = [(job, options.events) for job in options.jobs.split(",")]
    if options.long:
        plan.append(("J1", options.events * options.long))
    for job, events in plan:
        lines, parquet = generate(options.data, events)
        path = parquet if job == "J2" else lines
        best: dict[str, dict[str, float]] = {}
        for what in ("batch", "merganser") * (2 if events == options.events else 1):
            command = [sys.executable, __file__, "--workers", str(options.workers), "--one", what, job, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(done.stderr or done.stdout)
            result = json.loads(done.stdout)
            if what not in best or result["seconds"] < best[what]["seconds"]:
                best[what] = result
        ours, batch = best["merganser"], best["batch"]
        millions = events / 1e6
        print(
            f"| {job} {JOBS[job]}, {millions:g} M | {events / ours['seconds']:,.0f} | {events / batch['seconds']:,.0f}"
            f" | {batch['seconds'] / ours['seconds']:.2f} | {ours['cpu'] / millions:.2f} | {batch['cpu'] / millions:.2f}"
            f" | {ours['peak']:,.0f} | {ours['file']:,.0f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

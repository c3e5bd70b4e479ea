"""What queries cost a running flow: J1 alone, asked once a second, and asked by eight clients all the time.

Takes the runs in turn and gives seconds and CPU seconds (of the whole process, so with eight clients the queries' too).
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import merganser as mg
from merganser.query.server import Address

sys.path.insert(0, str(Path(__file__).parent))
from generate import generate  # scripts beside this one
from run import flow_of

POINT = "SELECT n, total FROM v WHERE customer_id = 4711 ORDER BY window_start DESC LIMIT 1"
GROUPS = "SELECT window_start, sum(n)::BIGINT AS n, sum(total) AS total FROM v GROUP BY ALL ORDER BY ALL"


def measure(path: Path, store: Path, clients: int, every: float) -> tuple[float, float, dict[str, list[float]]]:
    """Seconds and CPU seconds of a run, and the seconds that each query took."""
    ended = threading.Event()
    took: dict[str, list[float]] = {"point": [], "group by": []}

    def ask() -> None:
        connection = mg.connect(store)
        while not ended.is_set():
            for name, sql in (("point", POINT), ("group by", GROUPS)):
                began = time.perf_counter()
                connection.sql(sql)
                took[name].append(time.perf_counter() - began)
                ended.wait(every / 2)

    mg.run([flow_of("J1", path.with_name("nothing*.jsonl"))], store, follow=True, stop=_set())  # makes the view
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    began, cpu = time.perf_counter(), time.process_time()
    mg.run([flow_of("J1", path)], store, serve=Address())
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    ended.set()
    for thread in threads:
        thread.join()
    return seconds, cpu, took


def _set() -> threading.Event:
    event = threading.Event()
    event.set()
    return event


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=10_000_000)
    parser.add_argument("--data", type=Path, default=Path(__file__).parent / "data")
    options = parser.parse_args()
    path, _ = generate(options.data, options.events)
    print("| J1, asked by | events/s | CPU s/M | queries | point p50, p99 ms | group by p50, p99 ms |\n|---|---|---|---|---|---|")
    for what, clients, every in (("nobody", 0, 0.0), ("one client, once a second", 1, 1.0), ("8 clients all the time", 8, 0.0)):
        with tempfile.TemporaryDirectory() as folder:
            seconds, cpu, took = measure(path, Path(folder) / "s.duckdb", clients, every)
        cells = [
            f"{1000 * statistics.median(each):.0f}, {1000 * sorted(each)[int(0.99 * len(each))]:.0f}" if each else "-"
            for each in took.values()
        ]
        count = sum(map(len, took.values()))
        rate, each = options.events / seconds, 1e6 * cpu / options.events
        print(f"| {what} | {rate:,.0f} | {each:.2f} | {count:,} | {cells[0]} | {cells[1]} |", flush=True)


if __name__ == "__main__":
    main()

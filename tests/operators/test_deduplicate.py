"""deduplicate: the first row of an id in its partition wins, within a distance in event time."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import merganser as mg
from merganser.operators import deduplicate
from merganser.store import FORMAT
from tests.flows import SCHEMA, balanced, event, one_by_one, rows, source

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


def _flow(connector, within: str | None, schema: dict[str, str] = SCHEMA) -> mg.Flow:
    flow = mg.Flow("d")
    flow.read(source(connector, schema=schema)).deduplicate(within=within).select("n").materialize("v")
    return flow


def _collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give all ids one hash."""
    as_uuids = deduplicate.hashed
    monkeypatch.setattr(deduplicate, "hashed", lambda ids: (pa.array([7] * len(ids), pa.uint64()), as_uuids(ids)[1]))
    monkeypatch.setattr(deduplicate, "_hash", lambda ids: "7::UBIGINT")


@pytest.mark.parametrize(("within", "given", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
@pytest.mark.parametrize("cut", ["at once", "one by one", "colliding hashes"])
def test_deduplicate(within, given, expected, cut, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if cut == "colliding hashes":
        _collide(monkeypatch)
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


def test_an_id_that_repeats_again_and_again_is_asked_for_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there would be as many rows as its accepted ones times its new ones."""
    found: list[int] = []
    earlier = deduplicate.DeduplicateStep._earlier

    def noted(self, *arguments):
        found.append(len((rows := earlier(self, *arguments))[0]))
        return rows

    monkeypatch.setattr(deduplicate.DeduplicateStep, "_earlier", noted)
    times = [10 * i for i in range(20)]
    connector = mg.memory({"0": [event("hot", t, n=i) for i, t in enumerate(times)]})
    for _ in range(2):
        mg.run([_flow(connector, "5 seconds")], tmp_path / "s.duckdb")
        for t in times:
            connector.feed(event("hot", t, n=100 + t), "0")
    mg.run([_flow(connector, "5 seconds")], tmp_path / "s.duckdb")
    kept = rows(tmp_path / "s.duckdb", "SELECT count(*) FROM v")[0][0]
    assert found and max(found) <= kept


IDS = [f"0000000{i}-0000-4000-8000-00000000000a" for i in range(4)]


def _tables(store: Path) -> tuple[str, str]:
    """The names of the tables that ids are kept in: as they are, and as UUIDs."""
    found = rows(store, "SELECT table_name FROM duckdb_tables() WHERE table_name LIKE 'dedup%' ORDER BY length(table_name)")
    kept, as_uuids, _ = (name for (name,) in found)
    return f'merganser_state."{kept}"', f'merganser_state."{as_uuids}"'


# (what it shows, ids by run, numbers of the rows that are kept, how many stand as they are, and as UUIDs)
UUIDS: list[tuple[str, list[list[str | None]], list[int], int, int]] = [
    ("all are", [[IDS[0], IDS[1], IDS[0]], [IDS[1], IDS[2]]], [0, 1, 4], 0, 3),
    ("first beside another id, then alone", [[IDS[0], "x"], [IDS[0]], [IDS[1]]], [0, 1, 3], 2, 1),
    ("first alone, then beside another id", [[IDS[0]], [IDS[0], "x"], ["x"], [IDS[0]]], [0, 2], 1, 1),
    ("another text of it", [[IDS[0]], [IDS[0].upper(), IDS[0]], [f"{{{IDS[0]}}}"], [IDS[0].replace("-", "")]], [0, 1, 3, 4], 3, 1),
    ("NULL", [[None, IDS[0]], [None], [IDS[0]]], [0, 1], 2, 0),
]


@pytest.mark.parametrize(("given", "expected", "texts", "uuids"), [c[1:] for c in UUIDS], ids=[c[0] for c in UUIDS])
@pytest.mark.parametrize("colliding", [False, True])
def test_ids_that_are_uuids(given, expected, texts, uuids, colliding, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if colliding:
        _collide(monkeypatch)
    store, connector = tmp_path / "s.duckdb", mg.memory({"0": []})
    numbers = iter(range(100))
    for ids in given:
        for id in ids:
            connector.feed(event(id, n := next(numbers), n=n), "0")
        mg.run([_flow(connector, "1 hour")], store)
    assert [n for (n,) in rows(store, "SELECT n FROM v ORDER BY n")] == expected
    assert [rows(store, f"SELECT count(*) FROM {table}") for table in _tables(store)] == [[(texts,)], [(uuids,)]]
    balanced(store)


def test_expired_uuids_are_swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deduplicate, "SWEEP", 10)
    events = [event(f"{i // 2:08}{IDS[0][8:]}", i // 2 * 10, n=i) for i in range(400)]
    store = tmp_path / "s.duckdb"
    mg.run([_flow(mg.memory(events), "1 minute")], store, chunk_bytes=500, epoch=0)
    assert rows(store, "SELECT count(*), bool_and(n % 2 = 0) FROM v") == [(200, True)]
    assert rows(store, f"SELECT count(*) BETWEEN 1 AND 39 FROM {_tables(store)[1]}") == [(True,)]


@pytest.mark.parametrize("more", [{}, {"more": "INTEGER"}], ids=["as it is", "with a column more"])
def test_a_store_of_before_uuids_were_kept_goes_on(more: dict[str, str], tmp_path: Path) -> None:
    store, connector = tmp_path / "s.duckdb", mg.memory({"0": [event(IDS[0], 0, n=0), event(IDS[1], 1, n=1)]})
    mg.run([_flow(connector, None)], store)
    kept, as_uuids = _tables(store)
    with duckdb.connect(str(store)) as con:
        con.execute(f"INSERT INTO {kept} SELECT _p, _uuid::VARCHAR, _time FROM {as_uuids}; DROP TABLE {as_uuids}")
        con.execute("DELETE FROM merganser_state.tables WHERE name = $1", [as_uuids])
        con.execute("UPDATE merganser.meta SET value = 1 WHERE key = 'format'")
    for n, id in enumerate([IDS[0], IDS[2], IDS[1], IDS[2]], 2):
        connector.feed(event(id, n, n=n), "0")
        mg.run([_flow(connector, None, SCHEMA | more)], store)
    assert rows(store, "SELECT n FROM v ORDER BY n") == [(0,), (1,), (3,)]
    _, as_uuids = _tables(store)
    assert rows(store, f"SELECT count(*) FROM {as_uuids}") == [(1,)]
    assert (as_uuids,) in rows(store, "SELECT name FROM merganser_state.tables")
    assert rows(store, "SELECT value FROM merganser.meta WHERE key = 'format'") == [(str(FORMAT),)]

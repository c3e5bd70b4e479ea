"""What a run does with a store that another version of the flow, or nobody, has written."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest

import merganser as mg
from merganser import engine
from merganser.engine.changes import open_rebuild
from merganser.sources.memory import Memory
from merganser.sql import quote
from merganser.store import Store
from tests.flows import balanced, event, rows, source

EVENTS = [event(f"e{i}", i * 20, "ab"[i % 2], i) for i in range(30)]


def _flow(*, n: str = "count(*)", second: bool = False, connector=None) -> mg.Flow:
    flow = mg.Flow("f")
    read = flow.read(source(connector or mg.memory(EVENTS)))
    read.deduplicate().window(mg.tumbling("1 minute"), by="key").aggregate(n=n).materialize("first")
    if second:
        read.group_by("key").aggregate(total="sum(n)").materialize("second")
    return flow


def _dump(store: Path) -> dict[str, list]:
    tables = rows(store, "SELECT schema_name || '.' || table_name FROM duckdb_tables() ORDER BY 1")
    return {t: rows(store, f"SELECT * FROM {'.'.join(map(quote, t.split('.')))} ORDER BY ALL") for (t,) in tables}


def test_nothing_new_changes_nothing(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow(second=True)], store)
    before = _dump(store)
    report = mg.run([_flow(second=True)], store)
    assert report.progressed.committed == 0
    assert _dump(store) == before


def test_a_new_view_is_filled_from_the_start(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory(EVENTS[:20])
    mg.run([_flow(connector=connector)], store)
    for e in EVENTS[20:]:
        connector.feed(e)
    report = mg.run([_flow(second=True, connector=connector)], store)
    assert "second" in report.notes[0]
    assert rows(store, "SELECT key, total FROM second ORDER BY key") == [("a", sum(range(0, 30, 2))), ("b", sum(range(1, 30, 2)))]
    assert rows(store, "SELECT sum(n) FROM first") == [(30,)]
    read = rows(store, "SELECT view, sum(read) FROM merganser.commits GROUP BY view ORDER BY view")
    assert read == [("first", 30), ("second", 30)]
    mg.run([_flow(second=True, connector=connector)], store)
    balanced(store)


def test_a_changed_view_is_refused_until_it_is_rebuilt(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow(second=True)], store)
    before = _dump(store)
    with pytest.raises(mg.PlanChangedError) as refused:
        mg.run([_flow(n="sum(n)", second=True)], store)
    text = str(refused.value)
    assert "-Window" in text and "+Window" in text and "n = sum(n)" in text and "merganser rebuild first" in text
    assert "test_changes.py" in text
    assert _dump(store) == before
    mg.rebuild([_flow(n="sum(n)", second=True)], ["first"], store)
    assert rows(store, "SELECT sum(n) FROM first") == [(sum(range(30)),)]
    assert mg.run([_flow(n="sum(n)", second=True)], store).progressed.committed == 0
    assert not [t for t in _dump(store) if "first_1" in t]
    balanced(store)


def test_the_old_view_can_be_read_until_the_swap(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow()], store)
    stop = threading.Event()
    stop.set()  # before anything is read: the rebuild is begun, and not swapped
    assert mg.rebuild([_flow(n="sum(n)")], ["first"], store, stop=stop).stopped
    assert rows(store, "SELECT sum(n) FROM first") == [(30,)]
    with pytest.raises(mg.PlanChangedError):
        mg.run([_flow(n="sum(n)")], store)
    mg.rebuild([_flow(n="sum(n)")], ["first"], store)
    assert rows(store, "SELECT sum(n) FROM first") == [(sum(range(30)),)]


class Log(Memory):
    """That can be replayed, from its start."""

    def replayed(self, begin: str) -> Memory:
        return self


def test_a_refused_replay_leaves_nothing_behind(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow()], store)
    before = _dump(store)
    with pytest.raises(mg.UsageError, match="needs a log that knows times and offsets"):
        engine.rebuild([_flow()], ["first"], store, begin="5")
    assert _dump(store) == before


def test_nothing_goes_on_with_a_replay_that_began_elsewhere_in_the_log(tmp_path: Path) -> None:
    flow = _flow(connector=Log(mg.memory(EVENTS).lines))
    mg.run([flow], tmp_path / "s.duckdb")
    with Store(tmp_path / "s.duckdb") as store:

        def goes_on(begin: str | None) -> bool:
            (cohort,), _ = open_rebuild(store, [flow], ["first"], begin)
            marked = store.rows("SELECT 1 FROM merganser_state.watermarks WHERE cohort = ? AND source = 'mark'", [cohort.number])
            store.con.execute("INSERT INTO merganser_state.watermarks VALUES (?, 'mark', 7)", [cohort.number])
            assert store.value("SELECT count(*) FROM first") == 20  # the live one is there meanwhile
            return bool(marked)

        assert [goes_on(begin) for begin in ("5", "5", "7", "7", None, None, "5")] == [False, True, False, True, False, True, False]
    engine.rebuild([flow], ["first"], tmp_path / "s.duckdb", begin="5")
    assert mg.run([flow], tmp_path / "s.duckdb").progressed.committed == 0  # it is the view that the flow has


def test_a_view_that_left_its_flow_stays_and_must_be_rebuilt_to_come_back(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow(second=True)], store)
    assert "second" in mg.run([_flow()], store).notes[0]
    assert rows(store, "SELECT count(*) FROM second") == [(2,)]
    with pytest.raises(mg.PlanChangedError, match="taken out"):
        mg.run([_flow(second=True)], store)
    mg.rebuild([_flow(second=True)], ["second"], store)
    mg.run([_flow(second=True)], store)


def test_a_source_declared_anew_brings_its_dead_letters_up_to_date(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory([b'{"id": "a", "at": "2026-01-01", "n": 1.5}', b"broken", b'{"id": "b", "at": "2026-01-01", "n": 1}'])

    def flow(kind: str) -> mg.Flow:
        made = mg.Flow("f")
        declared = source(connector, schema={"id": "VARCHAR", "at": "TIMESTAMP", "key": "VARCHAR", "n": kind})
        made.read(declared).group_by().aggregate(n="sum(n)").materialize("total")
        return made

    mg.run([flow("BIGINT")], store)
    assert rows(store, "SELECT seq, reason FROM merganser.dead_letters ORDER BY seq") == [(0, "wrong type"), (1, "not json")]
    mg.rebuild([flow("DOUBLE")], ["total"], store)
    assert rows(store, "SELECT seq, reason FROM merganser.dead_letters ORDER BY seq") == [(1, "not json")]
    assert rows(store, "SELECT n FROM total") == [(2.5,)]


def test_two_flows_share_a_store_and_a_source_is_read_once(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    connector = mg.memory([*EVENTS, b"broken"])
    declared = source(connector)
    flows = []
    for name in ("one", "two"):
        flow = mg.Flow(name)
        flow.read(declared).group_by("key").aggregate(n="count(*)").materialize(f"by_{name}")
        flows.append(flow)
    report = mg.run(flows, store)
    assert report.progressed.read == 31
    assert rows(store, "SELECT count(*) FROM merganser.dead_letters") == [(1,)]
    assert rows(store, "FROM by_one ORDER BY key") == rows(store, "FROM by_two ORDER BY key")
    other = mg.Flow("three")
    other.read(declared).group_by("key").aggregate(n="count(*)").materialize("by_one")
    with pytest.raises(mg.FlowError, match="belongs to flow 'one'"):
        mg.run([other], store)


def test_plain_sql_views(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    flow = _flow(second=True)
    flow.view("big", "SELECT * FROM second WHERE total > 200")
    mg.run([flow], store)
    assert rows(store, "SELECT key, total FROM big ORDER BY key") == [("a", 210), ("b", 225)]
    with pytest.raises(mg.FlowError, match="nowhere"):
        flow.view("other", "SELECT * FROM nowhere")


def test_a_store_in_use_names_the_process(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow()], store)
    code = f"import duckdb, sys; c = duckdb.connect({str(store)!r}); print('open', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
        with pytest.raises(mg.StoreError, match=f"process {holder.pid}"):
            mg.run([_flow()], store)
        holder.communicate()


def test_a_store_of_a_later_version_is_refused(tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    mg.run([_flow()], store)
    with duckdb.connect(str(store)) as con:
        con.execute("UPDATE merganser.meta SET value = '99' WHERE key = 'format'")
    with pytest.raises(mg.StoreError, match="format 99"):
        mg.run([_flow()], store)


def test_a_file_that_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "s.duckdb").write_bytes(b"hello" * 1000)
    with pytest.raises(mg.UsageError, match="no DuckDB file"):
        mg.run([_flow()], tmp_path / "s.duckdb")
    with pytest.raises(mg.UsageError, match="no folder"):
        mg.run([_flow()], tmp_path / "nowhere" / "s.duckdb")

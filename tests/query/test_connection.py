"""``mg.connect`` answers the same whether a flow runs or not, and while flows come and go."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pytest

import merganser as mg
from merganser.query import sidecar
from tests.query.running import counting, events, running

KEYS = [(f"k{i}", 1000 // 7 + (i < 1000 % 7)) for i in range(7)]


@pytest.fixture(params=["free", "running"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[mg.Connection]:
    """A connection to a store with 1,000 events: of a flow that runs, or that has run."""
    memory = mg.memory([*events(1000), b"{bad"])
    store = tmp_path / "shop.duckdb"
    if request.param == "free":
        mg.run([counting(memory)], store)
        yield mg.connect(store)
    else:
        with running([counting(memory)], store) as connected:
            assert sidecar.read(store) is not None
            yield connected


def test_a_result_in_every_form(connection: mg.Connection) -> None:
    result = connection.sql("FROM per_key ORDER BY key")
    assert result.fetchall() == KEYS and len(result) == 7 and result.columns == ["key", "n"] and result.cut is None
    assert result.arrow().to_pydict() == {"key": [k for k, _ in KEYS], "n": [n for _, n in KEYS]}
    assert [row for batch in result for row in zip(*batch.to_pydict().values())] == KEYS
    assert result.df().to_dict("list") == result.pl().to_dict(as_series=False) == result.arrow().to_pydict()
    assert "k0" in repr(result) and "7 rows" in repr(result)
    assert "<td>k0</td>" in result._repr_html_() and "7 rows" in result._repr_html_()


def test_values_of_every_type_are_the_same_as_duckdbs(connection: mg.Connection) -> None:
    types = (
        "SELECT 1::TINYINT a, 2::UBIGINT b, 1.5::DOUBLE c, 12.34::DECIMAL(9,2) d, 'ä€'::VARCHAR e, DATE '2026-01-01' f,"
        " TIMESTAMP '2026-01-01 01:02:03.5' g, [1, NULL] h, {'x': 1, 'y': 'z'} i, true j, NULL::INTEGER k, '\\xAA'::BLOB l"
    )
    assert connection.sql(types).fetchall() == duckdb.sql(types).fetchall()


def test_large_results_come_batch_by_batch(connection: mg.Connection) -> None:
    result = connection.sql("SELECT range AS n, range::VARCHAR AS text FROM range(100000)")
    sizes = [len(batch) for batch in result]
    assert sum(sizes) == len(result) == 100_000 and len(sizes) > 5 and max(sizes) <= 16_384
    frame = result.pl()
    assert frame.height == 100_000 and frame["n"].sum() == result.df()["n"].sum() == sum(range(100_000))
    assert sum(len(batch) for batch in result.reader()) == 100_000  # once more, from its beginning


def test_several_queries_see_one_commit(connection: mg.Connection) -> None:
    one, two = connection.read(["SELECT sum(n)::BIGINT FROM per_key", "SELECT n FROM total"])
    assert one.fetchall() == two.fetchall() == [(1000,)] and one.epoch == two.epoch > 0
    for a, b in zip(one, two):  # both are read from one file
        assert a.to_pydict().popitem()[1] == b.to_pydict().popitem()[1]


def test_a_result_that_is_too_large_is_cut_and_says_so(connection: mg.Connection) -> None:
    with pytest.warns(UserWarning, match="cut at 1,000 rows"):
        result = connection.sql("FROM range(1000000)", max_rows=1000)
    assert len(result.fetchall()) == len(result) == 1000 and result.cut == "cut at 1,000 rows"
    with pytest.warns(UserWarning, match="1,000,000 bytes"):
        result = connection.sql("SELECT repeat('x', 1000) FROM range(1000000)", max_bytes=1_000_000)
    assert len(result.fetchall()) == len(result) < 1000


@pytest.mark.parametrize("sql", ["FROM nowhere", "SELEC 1", "DELETE FROM total", "SELECT 1; SELECT 2", "SELECT 1 / 'x'::INT", ""])
def test_a_mistake_is_one_error_and_nothing_else(sql: str, connection: mg.Connection) -> None:
    with pytest.raises(mg.QueryError):
        connection.sql(sql)
    assert connection.sql("FROM total").fetchall() == [(1000,)]


def test_a_query_that_takes_too_long_is_stopped(connection: mg.Connection) -> None:
    with pytest.raises(mg.QueryError, match=r"more than 0\.3 seconds"):
        connection.sql("SELECT count(*) FROM range(1000000) a, range(1000000) b WHERE a.range + b.range = -1", timeout=0.3)
    assert connection.sql("FROM total").fetchall() == [(1000,)]


def test_views_status_and_dead_letters(connection: mg.Connection) -> None:
    views = connection.views().arrow().to_pylist()
    assert [v["view"] for v in views] == ["per_key", "total"] and views[0]["columns"] == ["key VARCHAR", "n BIGINT"]
    status = connection.status()
    assert [(v["view"], v["rows"]) for v in status["views"]] == [("per_key", 7), ("total", 1)]
    assert {b["read"] for b in status["books"]} == {1001} and {b["dead"] for b in status["books"]} == {1}
    (dead,) = connection.dead_letters().arrow().to_pylist()
    assert dead["raw"] == b"{bad"


def test_reads_its_own_writes(tmp_path: Path) -> None:
    memory = mg.memory(events(10))
    with running([counting(memory)], tmp_path / "s.duckdb") as connection:
        for i in range(10, 15):
            memory.feed(events(1, i)[0])
            connection.wait_for("now", timeout=20)
            assert connection.sql("FROM total").fetchall() == [(i + 1,)]
        memory.feed(events(1, 15)[0])
        connection.wait_for({"events": {"0": 16}}, timeout=20)
        connection.wait_for({"events": {"0": {"seq": 16}}}, timeout=20)
        assert connection.sql("FROM total").fetchall() == [(16,)]
        with pytest.raises(mg.WaitTimeoutError, match="'0' of source 'events'"):
            connection.wait_for({"events": {"0": 17}}, timeout=0.2)
        with pytest.raises(mg.UsageError, match="a position here has seq"):
            connection.wait_for({"events": {"0": {"offset": 17}}}, timeout=5)
    with pytest.raises(mg.WaitTimeoutError, match="no flow is running"):
        connection.wait_for("now", timeout=0.2)


def test_flows_start_and_stop_between_queries_without_being_noticed(tmp_path: Path) -> None:
    store, memory = tmp_path / "s.duckdb", mg.memory(events(100))
    with running([counting(memory)], store) as connection:
        assert connection.sql("FROM total").fetchall() == [(100,)]
        first = sidecar.read(store)
        assert stat.S_IMODE(sidecar.path_of(store).stat().st_mode) == 0o600 and first is not None and len(first.token) >= 43
    assert not sidecar.path_of(store).exists()
    assert connection.sql("FROM total").fetchall() == [(100,)]
    memory.feed(events(1, 100)[0])
    with running([counting(memory)], store):
        assert sidecar.read(store) != first
        assert connection.sql("FROM total").fetchall() == [(101,)]
    assert connection.sql("FROM total").fetchall() == [(101,)]


def test_queries_while_flows_start_and_stop_all_the_time(tmp_path: Path) -> None:
    """The moments between: the file is held and nobody answers yet, or no longer."""
    store, memory = tmp_path / "s.duckdb", mg.memory(events(100))
    mg.run([counting(memory)], store)
    done, failures, answers = threading.Event(), [], 0

    def ask() -> None:
        nonlocal answers
        connection = mg.connect(store)
        while not done.is_set():
            try:
                (row,) = connection.sql("SELECT (SELECT sum(n) FROM per_key)::BIGINT, (SELECT n FROM total)").fetchall()
                assert row[0] == row[1]
                answers += 1
            except BaseException as error:
                failures.append(error)
                return

    thread = threading.Thread(target=ask)
    thread.start()
    for i in range(5):
        memory.feed(events(1, 100 + i)[0])
        with running([counting(memory)], store):
            pass
    done.set()
    thread.join()
    assert not failures and answers > 5


def test_what_a_killed_flow_leaves_behind_misleads_nobody(tmp_path: Path) -> None:
    store, memory = tmp_path / "s.duckdb", mg.memory(events(100))
    mg.run([counting(memory)], store)
    sidecar.write(store, sidecar.Holder("http://127.0.0.1:9", "x" * 43, os.getpid(), "gone"))
    assert mg.connect(store).sql("FROM total").fetchall() == [(100,)]
    with running([counting(memory)], tmp_path / "other.duckdb"):  # somebody else answers at the old address
        other = sidecar.read(tmp_path / "other.duckdb")
        assert other is not None
        sidecar.write(store, sidecar.Holder(other.url, other.token, other.pid, "gone"))
        assert mg.connect(store).sql("SELECT count(*) FROM per_key").fetchall() == [(7,)]


def test_without_a_store_it_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(mg.UsageError, match="merganser run"):
        mg.connect(tmp_path / "no.duckdb")


def test_an_arrow_reader_can_be_made_more_than_once(connection: mg.Connection) -> None:
    result = connection.sql("FROM range(100000)")
    assert isinstance(result.reader(), pa.RecordBatchReader)
    assert result.reader().read_all() == result.reader().read_all() == result.arrow()

"""A corpus of hostile statements changes nothing, reads nothing outside of the store, and does not stop the flow."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import httpx2
import pyarrow.ipc
import pytest

import merganser as mg
from merganser.query import growth, guard, sidecar
from merganser.query.caps import Limits
from merganser.query.connection import answered
from merganser.query.growth import grows
from merganser.query.reading import Query, Warden, memory
from merganser.query.snapshot import BOOKS
from merganser.query.status import QUERIES
from merganser.store import Store
from tests.query import hostile
from tests.query.running import counting, events, running

SECRET = "the-text-that-nobody-may-read"


@dataclass
class Served:
    """A running flow, and the folder with its store and a secret."""

    folder: Path
    client: httpx2.Client
    memory: mg.sources.memory.Memory
    connection: mg.Connection

    def __post_init__(self) -> None:
        (self.folder / "secret.csv").write_text(f"a\n{SECRET}\n")
        (self.folder / "evil.duckdb_extension").write_bytes(b"\x7fELF")

    @property
    def store(self) -> Path:
        return self.folder / "s.duckdb"

    def aimed(self, sql: str) -> str:
        for name, path in (("{secret}", self.folder / "secret.csv"), ("{folder}", self.folder), ("{store}", self.store)):
            sql = sql.replace(name, str(path))
        return sql

    def ask(self, sql: str, **limits: float) -> httpx2.Response:
        return self.client.post("/query", json={"sql": self.aimed(sql), **limits})

    def state(self) -> str:
        """A hash of everything in the store, and the names of all files around it."""
        names = self.connection.sql(
            "SELECT schema_name, table_name FROM duckdb_tables() UNION SELECT schema_name, view_name FROM duckdb_views()"
            " WHERE NOT internal ORDER BY ALL"
        ).fetchall()
        tables = [f'SELECT md5(string_agg(x::VARCHAR, chr(10) ORDER BY x::VARCHAR)) FROM "{s}"."{t}" x' for s, t in names]
        sums = [result.fetchall() for result in self.connection.read(tables)]
        files = sorted(str(p) for p in self.folder.rglob("*") if p.suffix != ".wal")
        return hashlib.sha256(json.dumps([names, sums, files], default=str).encode()).hexdigest()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("hostile")
    memory = mg.memory(events(1000))
    with running([counting(memory)], folder / "s.duckdb") as connection:
        holder = sidecar.read(folder / "s.duckdb")
        assert holder is not None
        headers = {"Authorization": f"Bearer {holder.token}"}
        with httpx2.Client(base_url=holder.url, headers=headers, timeout=60) as client:
            yield Served(folder, client, memory, connection)


def test_there_are_hundreds_of_them() -> None:
    assert len(set(hostile.refused())) + len(hostile.HEAVY) + len(hostile.BOMBS) >= 500


def test_each_is_refused_and_nothing_is_changed_or_told(served: Served) -> None:
    before = served.state()
    wrong = []
    for sql in hostile.refused():
        answer = served.ask(sql)
        if answer.status_code != 400 or SECRET in answer.text or "root:" in answer.text:
            wrong.append(f"{answer.status_code} {sql[:200]!r} {answer.text[:200]!r}")
    assert not wrong, "\n".join(wrong)
    assert served.state() == before


def test_each_is_refused_by_what_looks_at_statements_alone(served: Served) -> None:
    let_through = []
    for sql in hostile.refused():
        try:
            guard.check(served.aimed(sql))
            let_through.append(sql[:200])
        except mg.QueryError:
            continue
    # What names functions and tables that are not there is left to DuckDB.
    assert set(let_through) == {"FROM memory.x", "FROM ''", "SELECT getenv('HOME')", "SELECT read_text('{secret}')"}


WITHOUT_A_FENCE = (*hostile.WRITES[:8], *(d.format(w) for d in hostile.DISGUISES[7:9] for w in hostile.WRITES[:5]))


@pytest.fixture
def unguarded(tmp_path: Path) -> Iterator[tuple[Store, Path]]:
    """A store that is open for writing, as a flow has it, and a secret beside it."""
    memory = mg.memory(events(100))
    mg.run([counting(memory)], tmp_path / "s.duckdb")
    (tmp_path / "secret.csv").write_text(f"a\n{SECRET}\n")
    with Store(tmp_path / "s.duckdb") as store:
        yield store, tmp_path


@pytest.mark.parametrize("sql", WITHOUT_A_FENCE)
def test_a_write_is_refused_by_the_transaction_alone(sql: str, unguarded: tuple[Store, Path]) -> None:
    store, _ = unguarded
    with store.con.cursor() as con:
        con.execute("USE store; BEGIN TRANSACTION READ ONLY")
        if "TEMP" in sql:
            return
        with pytest.raises(duckdb.Error):
            con.execute(sql).fetchall()
    assert store.rows("SELECT n FROM total") == [(100,)]


@pytest.mark.parametrize("reader", hostile.READERS)
def test_files_are_refused_by_the_instance_alone(reader: str, unguarded: tuple[Store, Path]) -> None:
    store, folder = unguarded
    with store.con.cursor() as con, pytest.raises(duckdb.Error):
        con.execute(f"FROM {reader}('{folder}/secret.csv')").fetchall()


@pytest.mark.parametrize("sql", [*hostile.OUT[:4], *hostile.OUT[5:8], *hostile.SETTINGS[:7], *hostile.EXTENSIONS[:4]])
def test_ways_out_are_refused_by_the_instance_alone(sql: str, unguarded: tuple[Store, Path]) -> None:
    if "SET VARIABLE" in sql or "search_path" in sql or ".tmp/" in sql:
        return  # a connection's own, and a folder that DuckDB may write to: the other fences refuse these
    store, folder = unguarded
    for name, path in (("{secret}", folder / "secret.csv"), ("{folder}", folder), ("{store}", folder / "s.duckdb")):
        sql = sql.replace(name, str(path))
    before = sorted(folder.rglob("*"))
    with store.con.cursor() as con, pytest.raises(duckdb.Error):
        con.execute("USE store").execute(sql).fetchall()
    assert sorted(folder.rglob("*")) == before


def test_a_python_variable_is_no_table(unguarded: tuple[Store, Path]) -> None:
    import pyarrow as pa

    mine = pa.table({"a": [SECRET]})
    assert len(mine) == 1
    store, _ = unguarded
    with store.con.cursor() as con, pytest.raises(duckdb.CatalogException):
        con.execute("FROM mine").fetchall()


def test_heavy_ones_are_stopped_or_cut_and_the_flow_goes_on(served: Served) -> None:
    def ask(sql: str) -> tuple[int, str]:
        answer = served.ask(sql, timeout=0.5, max_rows=1000)
        return answer.status_code, answer.text[:200] if answer.status_code != 200 else answer.headers.get("merganser-cut", "")

    count = served.connection.sql("FROM total").fetchall()[0][0]
    with ThreadPoolExecutor(8) as pool:
        asked = pool.map(ask, hostile.HEAVY)
        for i in range(5):  # meanwhile events come, and are committed
            served.memory.feed(events(1, 100_000 + i)[0])
            position = {"events": {"0": len(served.memory.lines["0"])}}
            served.connection.wait_for(position, timeout=30)
        for sql, (code, text) in zip(hostile.HEAVY, asked):
            stopped = code == 400 and ("stopped" in text or "memory" in text.lower())
            assert stopped or (code == 200 and "cut" in text), (sql, text)
    assert served.connection.sql("FROM total").fetchall() == [(count + 5,)]


def test_bombs_go_off_in_a_process_of_their_own(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """And may take nothing of the flow's memory."""
    monkeypatch.setattr("merganser.query.apart.MEMORY", 300 << 20)
    count = served.connection.sql("FROM total").fetchall()[0][0]
    before, most, done = memory(), 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not done.wait(0.02):
            most = max(most, memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(2) as pool:
        asked = list(pool.map(lambda sql: served.ask(sql, timeout=3), hostile.BOMBS))
    served.memory.feed(events(1, 200_000)[0])
    served.connection.wait_for("now", timeout=30)
    done.set()
    watcher.join()
    for sql, answer in zip(hostile.BOMBS, asked):
        stopped = re.search("MB of memory|more than 3 seconds|maximum supported string size", answer.text)
        assert answer.status_code == 400 and stopped, (sql[:80], answer.text[:200])
    assert most - before < 200 << 20
    assert served.connection.sql("FROM total").fetchall() == [(count + 1,)]


HARMLESS = (
    "SELECT key || '/' || n, upper(key), sum(n) OVER (ORDER BY key), n::VARCHAR, [n, 1], substr(key, 1, 1) FROM per_key",
    "SELECT key, list(n ORDER BY n), string_agg(n::VARCHAR, ', ' ORDER BY n), max(n), median(n) FROM per_key GROUP BY 1",
    "SELECT count(*), avg(n), quantile_cont(n, 0.5), date_trunc('hour', TIMESTAMP '2026-01-01') FROM per_key",
    "SELECT CASE WHEN n > 1 THEN 'many' ELSE 'few' END, coalesce(n, 0), json_extract_string('{}', '$.a'), [1, 2] FROM per_key",
    "SELECT row->>'$.key', row->'$.key', list_filter([n], lambda x: x > 1), {'a': n, 'b': 'x'} FROM per_key, merganser.late",
    "WITH RECURSIVE t AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM t WHERE n < 10) SELECT sum(n) FROM t",
    "FROM range(10)",
    "SELECT 1 FROM per_key WHERE (key, n) IN (('a', 1), ('b', 2), ('c', 3), ('d', 4), ('e', 5), ('f', 6), ('g', 7))",
    BOOKS, *QUERIES.values(),
)  # fmt: skip


@pytest.mark.parametrize("sql", HARMLESS)
def test_what_people_ask_runs_in_the_flow(sql: str) -> None:
    assert grows(guard.check(sql)) is None


def test_the_lists_of_functions_name_those_of_duckdb() -> None:
    there = {name for (name,) in duckdb.execute("SELECT DISTINCT function_name FROM duckdb_functions()").fetchall()}
    windows = {"row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead", "first_value", "last_value"}
    parsed = {"struct_pack", "count_star", "nth_value", "->"}
    assert there | windows | parsed >= growth.NO_LARGER | growth.JOINS | growth.COLLECTORS | growth.EXTRACTORS


@pytest.mark.parametrize("sql", [
    "SELECT json_extract(key, ['$', '$']) FROM per_key", "SELECT key::JSON -> ['$', '$'] FROM per_key",
    "SELECT max(n, 10) OVER () FROM per_key",
    "SELECT regexp_extract(key, '((.*))', ['a', 'b']) FROM per_key", f"SELECT [{'key, ' * 60}key] FROM per_key",
    "SELECT key::BLOB::BIT FROM per_key", "SELECT list(n) OVER () FROM per_key", f"SELECT '{'x' * 5000}' FROM per_key",
    "SELECT list(key || key) FROM per_key", "SELECT [x FOR x IN range(n)] FROM per_key",
])  # fmt: skip
def test_what_may_grow_is_found(sql: str) -> None:
    assert grows(guard.check(sql)) is not None


@pytest.mark.parametrize("sql", [
    "SELECT repeat(key, 3) AS r, * FROM per_key ORDER BY ALL",
    "SELECT k.key, list_transform(range(t.n), lambda x: x * 2)[3] AS x FROM per_key k CROSS JOIN store.main.total t ORDER BY ALL",
    "WITH c AS (SELECT lpad(key, 10, '.') AS l, n FROM per_key) SELECT l, n FROM c JOIN (SELECT 143 AS n) USING (n) ORDER BY 1",
    "SELECT p, hex(p.key) FROM per_key p ORDER BY ALL",
    "SELECT view, sum(read) AS read, repeat('x', 2) FROM merganser.commits GROUP BY ALL ORDER BY ALL",
    "SELECT repeat('x', 3) AS x, 1::HUGEINT AS h, [1.5, NULL] AS l, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS t",
    "SELECT * FROM per_key NATURAL JOIN (SELECT hex('0') AS h, 'k1' AS key)",
])  # fmt: skip
def test_answers_from_apart_are_the_same(sql: str, served: Served) -> None:
    assert grows(guard.check(sql)) is not None
    answer = served.ask(sql)
    assert answer.status_code == 200, answer.text
    there = pyarrow.ipc.open_stream(answer.content).read_all()
    memory = mg.memory([json.loads(line) for line in served.memory.lines["0"]])
    with Store(":memory:") as store:
        mg.run([counting(memory)], store)
        (here,) = answered(store, [sql], Limits())
    assert there.to_pylist() == here.arrow().to_pylist() and there.schema.equals(here.schema)


def test_what_is_too_large_to_be_copied_is_said(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("merganser.query.apart.COPIED", 10)
    answer = served.ask("SELECT repeat(key, 2) FROM per_key")
    assert answer.status_code == 400 and "repeat()" in answer.text and "runs on a copy" in answer.text
    assert served.ask("SELECT repeat('x', 3), table_name FROM duckdb_tables()").status_code == 400


def test_what_statements_cost_is_taken_at_a_low_priority(served: Served) -> None:
    """So of processors that the flow wants they get little, however many they are."""
    if sys.platform != "linux":
        pytest.skip("other systems have no priorities of threads")
    before, used = _ticks(), {}
    with ThreadPoolExecutor(6) as pool:
        heavy = (*hostile.HEAVY[:3], *hostile.HEAVY[8:11])
        asked = [pool.submit(served.ask, sql, timeout=1.5) for sql in heavy]
        while not all(each.done() for each in asked):
            used |= _ticks()
            time.sleep(0.05)
    spent = {thread: ticks - before.get(thread, (0, 0))[1] for thread, (_, ticks) in used.items()}
    low = sum(spent[thread] for thread, (nice, _) in used.items() if nice >= 5)
    assert low > 10 and low > 3 * (sum(spent.values()) - low)


def _ticks() -> dict[str, tuple[int, int]]:
    """By thread of this process: niceness, and hundredths of a second that it used."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(OSError):
            fields = (task / "stat").read_text().rpartition(")")[2].split()
            found[task.name] = (int(fields[16]), int(fields[11]) + int(fields[12]))
    return found


def test_a_query_that_takes_too_much_memory_is_stopped(unguarded: tuple[Store, Path], tmp_path: Path) -> None:
    store, _ = unguarded
    warden = Warden(tmp_path / "spill")
    warden.budget = 200 << 20
    query = Query(["SELECT length(list(range)) FROM range(1000000000000)"], Limits(seconds=60))
    with pytest.raises(mg.QueryError, match=r"memory grew by more than 0\.2 GB"), warden.watching(query):
        query.run(store.con)
    warden.close()
    assert store.rows("SELECT n FROM total") == [(100,)]

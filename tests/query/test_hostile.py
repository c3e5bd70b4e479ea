"""A corpus of hostile statements changes nothing, reads nothing outside of the store, and does not stop the flow."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import duckdb
import httpx2
import pytest

import merganser as mg
from merganser.query import guard, sidecar
from merganser.query.reading import Limits, Query
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
    assert len(set(hostile.refused())) + len(hostile.HEAVY) >= 500


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


def test_a_query_that_takes_too_much_memory_is_stopped(unguarded: tuple[Store, Path]) -> None:
    from merganser.query.reading import Warden

    store, _ = unguarded
    warden = Warden()
    warden.budget = 200 << 20
    query = Query(["SELECT length(list(range)) FROM range(1000000000000)"], Limits(seconds=60))
    with pytest.raises(mg.QueryError, match=r"memory grew by more than 0\.2 GB"), warden.watching(query):
        query.run(store.con)
    warden.close()
    assert store.rows("SELECT n FROM total") == [(100,)]

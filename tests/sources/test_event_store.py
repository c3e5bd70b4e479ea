"""Event stores as a source: SQLite and PostgreSQL, in order, live, exactly once, and what a missing id means."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

import merganser as mg
from merganser.dead_letters import Selection, fix_by_sql
from merganser.engine.redrive import redrive
from merganser.errors import FlowError, SourceError, UsageError
from merganser.sources.event_store import EventStore
from merganser.store import Store
from merganser.verify import verify
from tests.event_stores import SCHEMA as BANK
from tests.event_stores import Balance, Bank, bank, evolve, replayed, source, sqlite, table
from tests.flows import balanced, rows
from tests.postgres import Postgres
from tests.query.running import running
from tests.sources.contract import Case, check
from tests.sources.contract import rows as contract_rows

Where = str


@pytest.fixture(params=["sqlite", "postgresql"])
def where(request: pytest.FixtureRequest, tmp_path: Path) -> Where:
    """The URL of an event store that is not there yet."""
    if request.param == "sqlite":
        return sqlite(tmp_path)
    return str(request.getfixturevalue("postgres").database())


def write(where: Where, sql: str, *given: Any) -> None:
    """Run SQL in an event store, as no application would."""
    if where.startswith("sqlite"):
        with closing(sqlite3.connect(where.removeprefix("sqlite:///"))) as con:
            con.execute(sql.replace("%s", "?"), given)
            con.commit()
    else:
        with psycopg.connect(where, autocommit=True) as con:
            con.execute(sql.encode(), given)


def insert(where: Where, states: list[bytes], topic: str = "m:Row.Made", version: int = 1) -> None:
    name = table(where)
    columns = "originator_id, originator_version, topic, state"
    for i, state in enumerate(states):
        write(where, f"INSERT INTO {name} ({columns}) VALUES (%s, %s, %s, %s)", f"{i:032x}", version, topic, state)


def flow(where: Any, **more: Any) -> mg.Flow:
    made = mg.Flow("accounts")
    read = made.read(source(where, **more))
    read.fold(initial=Balance(), apply=evolve, history=True).materialize("accounts")
    read.group_by("event_type").aggregate(n="count(*)", total="sum(amount)").materialize("per_type")
    return made


def accounts(store: Path) -> dict[str, Balance]:
    found = mg.connect(store).sql("SELECT originator_id AS id, owner, balance, closed FROM accounts").fetchall()
    return {id: Balance(*state) for id, *state in found}


def test_the_contract(where: Where) -> None:
    bank(where).close()
    insert(where, [json.dumps(row).encode() for row in contract_rows(60)])
    for seed in range(2):
        check(Case(lambda: mg.event_store(where, table=table(where)), {"log": contract_rows(60)}), seed)


def test_the_contract_by_way_of_an_application(tmp_path: Path) -> None:
    with bank(sqlite(tmp_path)) as application:
        insert(sqlite(tmp_path), [json.dumps(row).encode() for row in contract_rows(60)])
        for seed in range(2):
            check(Case(lambda: mg.event_store(application), {"log": contract_rows(60)}), seed)


def test_columns_are_typed_and_what_the_transcoder_wraps_is_unwrapped(where: Where, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    with bank(where) as application:
        a, _ = application.open('An "owner" {"_type_":"decimal_str","_data_":"1"} ä')
        b, _ = application.open("b")
        application.change(a, Decimal("12.50"))
        last = application.transfer(a, b, Decimal("2.25"))
        events = list(application.events.get(a)) + list(application.events.get(b))
    read = mg.Flow("f")
    read.read(source(where)).materialize("events")
    mg.run([read], store)
    balanced(store)
    found = mg.connect(store).sql("FROM events ORDER BY notification_id").arrow().to_pylist()
    assert [row["notification_id"] for row in found] == list(range(1, last + 1))
    assert [row["event_type"] for row in found] == [
        "Account.Opened", "Account.Opened", "Account.Deposited", "Account.Withdrawn", "Account.Deposited",
    ]  # fmt: skip
    by_id = {(row["originator_id"], row["originator_version"]): row for row in found}
    assert len(by_id) == len(events)
    for e in events:
        row = by_id[str(e.originator_id), e.originator_version]
        assert row["topic"] == f"tests.event_stores:{type(e).__qualname__}"
        assert row["timestamp"] == e.timestamp
        assert row["owner"] == getattr(e, "owner", None)
        assert row["amount"] == getattr(e, "amount", None)
        transfer = getattr(e, "transfer", None)
        assert row["transfer"] == (transfer and str(transfer)) and row["correlation_id"] is None
    assert all(c.ok for c in verify([read], store))


def test_from_another_process_exactly_once_with_restarts(where: Where, tmp_path: Path) -> None:
    """Each read goes on where the last one stopped, with events of before and after, and equals the library's replay."""
    store = tmp_path / "s.duckdb"
    reading = flow(where)
    with bank(where) as application:
        ids = [application.open(f"o{i}")[0] for i in range(4)]
        for turn in range(2):
            for i, account in enumerate(ids):
                application.change(account, Decimal(10 * turn + i + 1) / 4)
            application.transfer(ids[turn % 4], ids[(turn + 1) % 4], Decimal("0.25"))
            mg.run([reading], store, chunk_bytes=1000, epoch=0)
            assert accounts(store) == {str(i): replayed(application.repository.get(i)) for i in ids}
        assert rows(store, "SELECT sum(n) FROM per_type") == [(4 + 2 * 4 + 2 * 2,)]
        assert all(c.ok for c in verify([reading], store))
        balanced(store)
        # The past is the library's replay of the past.
        past = mg.connect(store)
        for account in ids:
            assert len(past.history("accounts", account)) == application.repository.get(account).version
        for version in (1, 3, 100):
            then = past.as_of("accounts", version=version).arrow().to_pylist()
            found = {row["originator_id"]: Balance(row["owner"], row["balance"], row["closed"]) for row in then}
            assert found == {str(i): replayed(application.repository.get(i, version=version)) for i in ids}
        before = past.sql("FROM accounts ORDER BY ALL").fetchall()
        mg.rebuild([reading], ["accounts"], store)
        assert past.sql("FROM accounts ORDER BY ALL").fetchall() == before


def test_live_while_others_write(where: Where, tmp_path: Path) -> None:
    """Four writers, which often conflict; every event is there once, and each can wait for its own."""
    with bank(where) as first:
        ids = [first.open(f"o{i}")[0] for i in range(2)]
    done: list[int] = []

    def work() -> None:
        with bank(where, CREATE_TABLE="no") as application:
            for i in range(25):
                try:
                    done.append(application.change(ids[i % 2], Decimal(1)))
                except Exception as error:
                    assert type(error).__name__ == "IntegrityError", error

    threads = [threading.Thread(target=work) for _ in range(4)]
    with flow(where).running(tmp_path / "s.duckdb", epoch=0.05) as views:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(done) > 20 and len(set(done)) == len(done)
        views.wait_for({"bank": max(done)}, timeout=20)
        assert views.sql("SELECT sum(balance) FROM accounts").fetchall() == [(len(done),)]
        with bank(where) as application:
            mine = application.change(ids[0], Decimal(100))
            views.wait_for({"bank": mine}, timeout=20)
            assert views.sql(f"SELECT balance FROM accounts WHERE originator_id = '{ids[0]}'").fetchall() == [
                (application.repository.get(ids[0]).balance,)
            ]
        (position,) = views.sql("SELECT position FROM merganser.positions").fetchall()[0]
    if where.startswith("postgresql"):  # a conflict takes an id that nobody gets
        assert json.loads(position).get("skipped", 0) == json.loads(position)["id"] - 2 - len(done) - 1


def test_only_some_types(where: Where, tmp_path: Path) -> None:
    with bank(where) as application:
        a, _ = application.open("a")
        application.change(a, Decimal(1))
        last = application.close_account(a)
        only = mg.Flow("f")
        only.read(source(where, types=["Account.Deposited"])).materialize("events")
        mg.run([only], tmp_path / "s.duckdb", chunk_bytes=1)
        assert rows(tmp_path / "s.duckdb", "SELECT event_type, notification_id FROM events") == [("Account.Deposited", 2)]
        mg.connect(tmp_path / "s.duckdb").wait_for({"bank": last}, timeout=1)  # what was passed over is read
        application.open("b")
    more = mg.Flow("f")
    more.read(source(where, types=["Account.Deposited", "Account.Opened"])).materialize("events")
    with pytest.raises(SourceError, match=r"types=\['Account.Deposited'\] so far, and is now with .* Rebuild them"):
        mg.run([more], tmp_path / "s.duckdb")
    mg.rebuild([more], ["events"], tmp_path / "s.duckdb")
    mg.run([more], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT notification_id FROM events ORDER BY ALL") == [(1,), (2,), (4,)]


def test_the_log_s_order_counts_and_not_the_clocks_of_its_writers(where: Where, tmp_path: Path) -> None:
    bank(where).close()
    name, id = table(where), "0" * 32
    sql = f"INSERT INTO {name} (originator_id, originator_version, topic, state) VALUES (%s, %s, %s, %s)"
    events = (("Opened", 9, {"owner": "a"}), ("Deposited", 5, {"amount": 3}), ("Closed", 1, {}))
    for version, (kind, second, more) in enumerate(events):
        state = {"timestamp": f"2026-01-01T00:00:0{second}+00:00", **more}
        write(where, sql, id, version + 1, f"m:Account.{kind}", json.dumps(state).encode())
    mg.run([flow(where)], tmp_path / "s.duckdb")
    assert list(accounts(tmp_path / "s.duckdb").values()) == [Balance("a", Decimal(3), True)]
    assert rows(tmp_path / "s.duckdb", "SELECT sum(n) FROM per_type") == [(3,)]


# -- ids that are not there ---------------------------------------------------------------------------------------------


def test_deleted_events_stop_the_run_in_sqlite(tmp_path: Path) -> None:
    where, store = sqlite(tmp_path), tmp_path / "s.duckdb"
    with bank(where) as application:
        for i in range(8):
            application.open(f"o{i}")
    write(where, "DELETE FROM stored_events WHERE rowid IN (3, 4, 7)")
    counting = mg.Flow("f")
    counting.read(source(where)).materialize("events")
    with pytest.raises(SourceError, match=r"notifications 3 to 4 of event store sqlite.* are not there: events were deleted"):
        mg.run([counting], store)
    mg.run([counting], store, accept_gap=True)
    assert [i for (i,) in rows(store, "SELECT notification_id FROM events ORDER BY ALL")] == [1, 2, 5, 6, 8]
    ((position,),) = rows(store, "SELECT position FROM merganser.positions")
    assert [gap[:2] for gap in json.loads(position)["gaps"]] == [[3, 4], [7, 7]]


def test_another_store_at_the_same_place_stops_the_run(where: Where, tmp_path: Path) -> None:
    with bank(where) as application:
        for i in range(3):
            application.open(f"o{i}")
    mg.run([flow(where)], tmp_path / "s.duckdb")
    write(where, f"UPDATE {table(where)} SET originator_version = 77 WHERE originator_version = 1")
    with pytest.raises(SourceError, match=r"notification 3 of .* was .*/1 when it was read, and now .*/77 is there"):
        mg.run([flow(where)], tmp_path / "s.duckdb")
    write(where, f"DELETE FROM {table(where)}")
    with pytest.raises(SourceError, match=r"now it ends at 0. Was it put back"):
        mg.run([flow(where)], tmp_path / "s.duckdb")


def test_another_store_is_found_out_while_it_runs(tmp_path: Path) -> None:
    """In SQLite ids are given out again when the last events were deleted."""
    where = sqlite(tmp_path)
    with bank(where) as application:
        for i in range(3):
            application.open(f"o{i}")
        found = pytest.raises(SourceError, match=r"notification 3 of .* and now (.*/1 is there|it ends at 2)")
        with found, running([flow(where)], tmp_path / "s.duckdb") as views:
            write(where, "DELETE FROM stored_events WHERE rowid = 3")
            assert application.open("other")[1] == 3
            with pytest.raises(TimeoutError):
                views.wait_for({"bank": 4}, timeout=1)


@pytest.mark.parametrize("by", ["url", "application"])
def test_rolled_back_ids_are_passed_over_in_postgresql(by: str, postgres: Postgres, tmp_path: Path) -> None:
    where = postgres.database()
    with bank(where) as application:
        account, _ = application.open("a")
        with psycopg.connect(where) as con:
            for i in range(3):
                con.execute(_insert(i))
            con.rollback()
        last = application.change(account, Decimal(1))
        assert last == 5
        mg.run([flow(where if by == "url" else application)], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT seq, position::JSON->'skipped' FROM merganser.positions") == [(5, "3")]


def test_a_connection_that_is_lost_is_made_again(postgres: Postgres, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = postgres.database()
    with bank(where) as application:
        account, last = application.open("a")
        with flow(where).running(tmp_path / "s.duckdb", epoch=0.05) as views, psycopg.connect(where, autocommit=True) as other:
            views.wait_for({"bank": last}, timeout=20)
            ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'merganser'"
            assert other.execute(f"{ended} AND datname = current_database()".encode()).fetchall() == [(True,)]
            views.wait_for({"bank": application.change(account, Decimal(3))}, timeout=20)
            assert views.sql("SELECT balance FROM accounts").fetchall() == [(3,)]
    assert "cannot be read now" in caplog.text and caplog.text.count("trying again") == 1


def _insert(i: int) -> bytes:
    """An event of another writer, who does not lock the table."""
    state = json.dumps({"timestamp": f"2026-01-01T00:00:0{i}+00:00", "owner": f"w{i}"})
    columns = "originator_id, originator_version, topic, state"
    return f"INSERT INTO bank_events ({columns}) VALUES (gen_random_uuid(), 1, 'm:Account.Opened', '{state}')".encode()


@pytest.mark.parametrize("ends", ["commits", "rolls back", "is prepared, then commits", "dies"])
def test_an_id_that_is_still_being_written_is_waited_for(ends: str, postgres: Postgres, tmp_path: Path) -> None:
    """Without the library's lock, an id may become visible after higher ones: it is neither lost nor waited for without need."""
    where = postgres.database()
    bank(where).close()
    with flow(where).running(tmp_path / "s.duckdb", epoch=0.05) as views, psycopg.connect(where, autocommit=True) as other:
        slow = psycopg.connect(where)
        if ends.startswith("is prepared"):
            slow.tpc_begin(slow.xid(1, "t", "b"))
        slow.execute(_insert(1))
        other.execute(_insert(2))
        if ends.startswith("is prepared"):
            slow.tpc_prepare()
        with pytest.raises(TimeoutError):
            views.wait_for({"bank": 2}, timeout=0.5)
        assert views.sql("SELECT count(*) FROM accounts").fetchall() == [(0,)]
        other.execute(_insert(3))
        match ends:
            case "commits":
                slow.commit()
            case "rolls back":
                slow.rollback()
            case "dies":
                other.execute("SELECT pg_terminate_backend(%s)", [slow.info.backend_pid])
            case _:
                slow.tpc_commit()
        views.wait_for({"bank": 3}, timeout=20)
        found = views.sql("SELECT owner FROM accounts ORDER BY owner").fetchall()
        assert found == [("w1",), ("w2",), ("w3",)][0 if "commits" in ends else 1 :]
        slow.close()


# -- what cannot be read ------------------------------------------------------------------------------------------------


def test_bad_states_are_dead_letters_and_come_back(where: Where, tmp_path: Path) -> None:
    bank(where).close()
    good = b'{"timestamp":{"_type_":"datetime_iso","_data_":"2026-01-01T00:00:00+00:00"},"owner":"a"}'
    insert(where, [good, b'{"broken', b"{\xff}", b'{"timestamp":"soon"}', good], "m:Account.Opened")
    store = tmp_path / "s.duckdb"
    mg.run([flow(where)], store)
    found = rows(store, "SELECT line, reason, raw FROM merganser.dead_letters ORDER BY line")
    assert [(line, reason) for line, reason, _ in found] == [(2, "not json"), (3, "not utf-8"), (4, "wrong type")]
    assert [bytes(raw) for _, _, raw in found] == [b'{"broken', b"{\xff}", b'{"timestamp":"soon"}']
    assert rows(store, "SELECT count(*) FROM accounts") == [(2,)]
    with Store(store) as opened:
        fix_by_sql(opened, Selection(where="line IN (2, 4)"), f"'{good.decode()}'")
    done = redrive([flow(where)], Selection(), store)
    assert done is not None and (done.applied, [letter.line for letter in done.dead]) == (2, [3])
    assert rows(store, "SELECT count(*) FROM accounts") == [(4,)]
    assert all(check.ok for check in verify([flow(where)], store))


def test_events_of_an_older_version_are_upcast(where: Where, tmp_path: Path) -> None:
    bank(where).close()
    stamp = '"timestamp":{"_type_":"datetime_iso","_data_":"2026-01-01T00:00:00+00:00"}'
    insert(where, [f'{{{stamp},"holder":"a"}}'.encode()], "m:Account.Opened")
    insert(where, [f'{{{stamp},"amount":{{"_type_":"decimal_str","_data_":"1.5"}}}}'.encode()], "m:Account.Deposited", 2)
    insert(where, [f'{{{stamp},"owner":"b","class_version":2}}'.encode()], "m:Account.Opened", 3)
    declared = mg.source(
        "bank", mg.event_store(where, table=table(where)), schema={**BANK, "class_version": "INTEGER"}, version="class_version",
        key="originator_id",
    ).upcast(from_version=1, columns={"holder": "VARCHAR"}, sql={"owner": "coalesce(owner, holder)"})  # fmt: skip
    made = mg.Flow("f")
    made.read(declared).fold(initial=[], apply=lambda state, seen: [*state, seen["owner"]]).materialize("owners")
    mg.run([made], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT state FROM owners") == [('["a",null,"b"]',)]
    assert rows(tmp_path / "s.duckdb", "SELECT count(*) FROM merganser.dead_letters") == [(0,)]


def encrypted(where: Where) -> Bank:
    return bank(where, COMPRESSOR_TOPIC="eventsourcing.compressor:ZlibCompressor")


def test_compressed_states_are_read_by_way_of_the_application(where: Where, tmp_path: Path) -> None:
    with encrypted(where) as application:
        account, _ = application.open("a")
        application.change(account, Decimal(3))
        with pytest.raises(SourceError, match=r"encrypted or compressed.*give event_store.. the application itself"):
            mg.run([flow(where)], tmp_path / "s.duckdb")
        mg.run([flow(application)], tmp_path / "t.duckdb")
        assert accounts(tmp_path / "t.duckdb") == {str(account): Balance("a", Decimal(3))}


def test_an_application_in_memory(tmp_path: Path) -> None:
    application = Bank()
    account, _ = application.open("a")
    with flow(application).running(tmp_path / "s.duckdb", epoch=0.05) as views:
        mine = application.change(account, Decimal(3))
        views.wait_for({"bank": mine}, timeout=20)
        assert views.sql("SELECT balance FROM accounts").fetchall() == [(3,)]


def test_a_flow_may_be_there_before_its_store(where: Where, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no event store|has no table"):
        mg.run([flow(where)], tmp_path / "s.duckdb")
    with flow(where).running(tmp_path / "s.duckdb", epoch=0.05) as views, bank(where) as application:
        account, last = application.open("a")
        views.wait_for({"bank": last}, timeout=20)
        assert views.sql("SELECT originator_id FROM accounts").fetchall() == [(str(account),)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (lambda: mg.event_store("shop.db"), "expected sqlite:///FILE"),
        (lambda: mg.event_store(Bank), "an instance"),
        (lambda: mg.event_store("sqlite:///s.db", types="Account.Opened"), "must be a list"),
        (lambda: mg.event_store("sqlite:///s.db", table="x; DROP"), "name of a table"),
        (lambda: mg.source("s", mg.event_store("sqlite:///s.db"), schema={"topic": "VARCHAR"}), "topic comes with each event"),
    ],
)
def test_wrong_declarations(given: Callable[[], Any], said: str) -> None:
    with pytest.raises(FlowError, match=r"test_event_store\.py.*" + said):
        given()


def test_passwords_are_not_shown() -> None:
    store: EventStore = mg.event_store("postgresql://me:secret@db.example:5433/shop?sslmode=require")
    assert store.describe() == "event store postgresql://db.example:5433/shop"
    assert "secret" not in repr(store)
    assert mg.event_store(mg.secret(env="SHOP")).describe() == "event store at secret(env='SHOP')"


def test_a_server_that_is_not_there(tmp_path: Path) -> None:
    away = mg.Flow("f")
    away.read(source("postgresql://me:secret@127.0.0.1:1/shop")).materialize("events")
    for follow in (False, True):
        with pytest.raises(mg.MerganserError, match=r"127.0.0.1:1/shop cannot be reached") as found:
            mg.run([away], tmp_path / "s.duckdb", follow=follow)
        assert "secret" not in str(found.value)

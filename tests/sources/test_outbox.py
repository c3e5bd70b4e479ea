"""Outbox tables of other programs: in the order of transactions, nothing skipped and nothing twice, whoever commits when."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psycopg
import pytest

import merganser as mg
from merganser.errors import FlowError, SourceError, UsageError
from merganser.verify import verify
from tests.flows import balanced, rows
from tests.postgres import Postgres
from tests.sources.contract import Case, check
from tests.sources.contract import rows as contract_rows

SCHEMA = {"order_id": "BIGINT NOT NULL", "amount": "DECIMAL(18,2)", "number": "BIGINT NOT NULL", "at": "TIMESTAMPTZ"}


@pytest.fixture
def shop(postgres: Postgres) -> str:
    """The URL of a shop's database, with an outbox."""
    url = postgres.database()
    with psycopg.connect(url, autocommit=True) as con:
        con.execute(
            "CREATE TABLE outbox (id bigserial PRIMARY KEY, kind text, payload jsonb,"
            " created_at timestamptz DEFAULT '2026-01-01 00:00Z')"
        )
    return url


def insert(con: psycopg.Connection[Any], *order_ids: int) -> None:
    for order_id in order_ids:
        payload = json.dumps({"order_id": order_id, "amount": 1.5, "lines": [{"id": "nested"}]})
        con.execute("INSERT INTO outbox (kind, payload) VALUES ('placed', %s)", [payload])


def flow(url: str) -> mg.Flow:
    made = mg.Flow("f")
    orders = mg.outbox(url, payload="payload", columns={"number": "id", "kind": "kind", "at": "created_at"})
    read = made.read(mg.source("orders", orders, schema=SCHEMA, time="at", lateness="0 seconds", key="order_id"))
    read.select("order_id", "number", "amount", "kind", "at").materialize("orders")
    return made


def orders(store: Path) -> list[int]:
    return [order for (order,) in rows(store, "SELECT order_id FROM orders ORDER BY order_id")]


def test_the_contract(postgres: Postgres) -> None:
    url = postgres.database()
    with psycopg.connect(url) as con:
        con.execute('CREATE TABLE "Events" (id bigint, name text, x double precision)')
        for i, row in enumerate(contract_rows(60)):
            con.execute('INSERT INTO "Events" VALUES (%s, %s, %s)', list(row.values()))
            if i % 7 == 0:
                con.commit()
    for seed in range(3):
        check(Case(lambda: mg.outbox(url, table="Events"), {"Events": contract_rows(60)}), seed)


def test_a_lower_id_that_is_committed_later_is_not_skipped(shop: str, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    with psycopg.connect(shop) as early, psycopg.connect(shop) as late:
        insert(early, 1)
        insert(late, 2)
        late.commit()
        mg.run([flow(shop)], store)
        assert orders(store) == []  # the earlier transaction may have more
        early.commit()
        mg.run([flow(shop)], store)
        assert orders(store) == [1, 2]
        with early.transaction():
            insert(early, 3)
            with early.transaction():  # a savepoint: a transaction of its own within it
                insert(late, 5)
                insert(early, 4)
            late.commit()
            mg.run([flow(shop)], store)
            assert orders(store) == [1, 2]
        with late.transaction(force_rollback=True):
            insert(late, 99)
        mg.run([flow(shop)], store)
        mg.run([flow(shop)], store)
    assert orders(store) == [1, 2, 3, 4, 5]
    [(amount, kind, at)] = rows(store, 'SELECT DISTINCT amount::VARCHAR, kind, "at"::TIMESTAMP::VARCHAR FROM orders')
    assert (amount, kind, at) == ("1.50", "placed", "2026-01-01 00:00:00")
    assert all(found.ok for found in verify([flow(shop)], store))
    balanced(store)


def test_many_writers_at_once_while_it_follows(shop: str, tmp_path: Path) -> None:
    """Transactions that overlap in every way, some of which fail, read by runs that follow and are stopped at any time."""
    store = tmp_path / "s.duckdb"
    committed: list[int] = []

    def write(worker: int) -> None:
        chance = random.Random(worker)
        with closing(psycopg.connect(shop)) as con:
            for number in range(40):
                ids = [1000 * worker + 10 * number + i for i in range(chance.randrange(1, 4))]
                for id in ids:
                    insert(con, id)
                    con.execute("SELECT pg_sleep(%s)", [chance.choice([0, 0, 0.002, 0.01])])
                if chance.random() < 0.2:
                    con.rollback()
                else:
                    con.commit()
                    committed.extend(ids)

    writers = [threading.Thread(target=write, args=(worker,)) for worker in range(1, 5)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        mg.run([flow(shop)], store, follow=True, stop=stop, epoch=0.02, chunk_bytes=random.choice([300, 1 << 20]))
    mg.run([flow(shop)], store)
    assert orders(store) == sorted(committed) and len(committed) > 150
    assert all(found.ok for found in verify([flow(shop)], store))


def test_rows_that_were_deleted_do_not_matter_to_who_has_read_them(shop: str, tmp_path: Path) -> None:
    store = tmp_path / "s.duckdb"
    with psycopg.connect(shop, autocommit=True) as con:
        insert(con, 1, 2, 3)
        mg.run([flow(shop)], store)
        con.execute("DELETE FROM outbox WHERE id <= 2")
        insert(con, 4)
        mg.run([flow(shop)], store)
    assert orders(store) == [1, 2, 3, 4]
    with pytest.raises(SourceError, match=r"4 rows of outbox outbox at .* were read, and 2 of them are there"):
        mg.rebuild([flow(shop)], ["orders"], store)
    assert orders(store) == [1, 2, 3, 4]
    other = flow(shop)
    read = other.read(other.sources[0])
    read.group_by().aggregate(n="count(*)").materialize("counted")
    with pytest.raises(SourceError, match="--accept-gap"):
        mg.run([other], store)
    mg.run([other], store, accept_gap=True)
    assert rows(store, "SELECT n FROM counted") == [(2,)]
    with psycopg.connect(shop, autocommit=True) as con:
        insert(con, 5)
    mg.run([other], store)
    assert (orders(store), rows(store, "SELECT n FROM counted")) == ([1, 2, 3, 4, 5], [(3,)])


def test_a_table_that_was_made_anew_is_an_error(shop: str, tmp_path: Path) -> None:
    with psycopg.connect(shop, autocommit=True) as con:
        insert(con, 1)
        mg.run([flow(shop)], tmp_path / "s.duckdb")
        con.execute("CREATE TABLE other AS TABLE outbox; DROP TABLE outbox; ALTER TABLE other RENAME TO outbox")
    with pytest.raises(SourceError, match="is another table than the one that was read"):
        mg.run([flow(shop)], tmp_path / "s.duckdb")
    assert orders(tmp_path / "s.duckdb") == [1]


def test_payloads_that_are_no_events_are_dead_letters(postgres: Postgres, tmp_path: Path) -> None:
    url = postgres.database()
    good = '{"order_id": 1,\n "amount": 123456789012.78, "text": "a\\u0000b"}'
    bad = ["[1]", "no json", None, '{"order_id": "x"}', "{}", '{"number": 3, "order_id": 1}']
    with psycopg.connect(url, autocommit=True) as con:
        con.execute("CREATE TABLE outbox (id uuid DEFAULT gen_random_uuid(), nr serial, payload text)")
        for payload in [good, *bad]:
            con.execute("INSERT INTO outbox (payload) VALUES (%s)", [payload])
    made = mg.Flow("f")
    source = mg.source("s", mg.outbox(url, payload="payload", columns={"number": "nr"}), schema=SCHEMA, storm=None)
    made.read(source).materialize("orders")
    mg.run([made], tmp_path / "s.duckdb")
    assert rows(tmp_path / "s.duckdb", "SELECT amount::VARCHAR, number FROM orders") == [("123456789012.78", 1)]
    found = rows(tmp_path / "s.duckdb", "SELECT seq, reason, file FROM merganser.dead_letters ORDER BY seq")
    assert [seq for seq, _, _ in found] == [1, 2, 3, 4, 5, 6]
    assert "outbox outbox at postgresql://127.0.0.1" in found[0][2]


def test_a_server_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(mg.MerganserError, match="cannot be reached"):
        mg.run([flow("postgresql://127.0.0.1:1/shop")], tmp_path / "s.duckdb")


@pytest.fixture
def mistakes(shop: str) -> Iterator[dict[str, Any]]:
    with psycopg.connect(shop, autocommit=True) as con:
        con.execute("ALTER TABLE outbox ADD COLUMN raw bytea")
    yield {"where": shop}


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"table": "inbox"}, "has no table 'inbox'"),
        ({"id": "no"}, "has no column 'no'; it has id, kind, payload, created_at, raw"),
        ({"payload": "body"}, "has no column 'body'"),
        ({"payload": "raw"}, "payload='raw' is a bytea; a payload is JSON"),
        ({"payload": "payload", "columns": {"at": "when"}}, "has no column 'when'"),
        ({"table": "out box"}, "must be the name of a table"),
        ({"where": "mysql://x"}, "expected postgresql://"),
        ({"columns": {"a": "b"}}, "beside payload="),
    ],
)
def test_mistakes_are_told(more: dict[str, Any], said: str, mistakes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises((UsageError, FlowError), match=said):
        made = mg.Flow("f")
        made.read(mg.source("s", mg.outbox(**(mistakes | more)), schema={"order_id": "BIGINT"})).materialize("v")
        mg.run([made], tmp_path / "s.duckdb")

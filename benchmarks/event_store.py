"""Event stores into a fold and into an aggregate, next to the library's own projections of the same store.

The library's runner processes an event at a time: it makes the domain event, and writes the view and the position in one
transaction. It cannot subscribe to SQLite, so there its loop stands here, over the same notifications. Its runs take fewer
events, since rates of so many are enough. PostgreSQL runs without fsync, which the library gains by: it commits each event.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.persistence import StoredEvent, Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from eventsourcing.sqlite import SQLiteFactory, SQLiteTrackingRecorder

import merganser as mg
from tests.event_stores import Account, Balance, Bank, bank, environment, evolve, source, sqlite
from tests.postgres import Server, programs
from tests.services import MissingError

PER_ACCOUNT = 20


def fill(where: str, events: int) -> None:
    """Events of accounts, twenty each, as the application writes them, but many at a time."""
    with bank(where) as application:
        model = Account("somebody")
        model.deposit(Decimal("12.50"))
        opened, deposited = (application.mapper.to_stored_event(e) for e in model.collect_events())
        accounts = [uuid5(UUID(int=0), str(i)) for i in range(events // PER_ACCOUNT)]
        for some in range(0, len(accounts), 250):
            application.recorder.insert_events([
                StoredEvent(account, version, stored.topic, stored.state)
                for account in accounts[some : some + 250]
                for version in range(1, PER_ACCOUNT + 1)
                for stored in [opened if version == 1 else deposited]
            ])  # fmt: skip


def flows(where: str) -> dict[str, mg.Flow]:
    folded, counted = mg.Flow("folded"), mg.Flow("counted")
    folded.read(source(where)).fold(initial=Balance(), apply=evolve).materialize("accounts")
    counted.read(source(where)).group_by("originator_id").aggregate(n="count(*)", balance="sum(amount)").materialize("accounts")
    return {"fold": folded, "aggregate": counted}


# -- the library's projections ------------------------------------------------------------------------------------------


class SqliteBalances(SQLiteTrackingRecorder):
    def construct_create_table_statements(self) -> list[str]:
        table = "CREATE TABLE balances (id TEXT PRIMARY KEY, n INTEGER, balance TEXT)"
        return [*super().construct_create_table_statements(), table]

    def add(self, account: UUID, amount: Decimal, tracking: Tracking) -> None:
        with self.datastore.transaction(commit=True) as c:
            self._insert_tracking(c, tracking)
            c.execute("SELECT balance FROM balances WHERE id = ?", [account.hex])
            row = c.fetchone()
            balance = Decimal(row["balance"] if row else 0) + amount
            sql = "INSERT INTO balances VALUES (?, 1, ?) ON CONFLICT (id) DO UPDATE SET n = n + 1, balance = excluded.balance"
            c.execute(sql, [account.hex, str(balance)])


class PostgresBalances(PostgresTrackingRecorder):
    def create_table(self) -> None:
        super().create_table()
        with self.datastore.transaction(commit=True) as c:
            c.execute("CREATE TABLE IF NOT EXISTS balances (id UUID PRIMARY KEY, n BIGINT, balance NUMERIC)")

    def add(self, account: UUID, amount: Decimal, tracking: Tracking) -> None:
        sql = (
            "INSERT INTO balances VALUES (%s, 1, %s)"
            " ON CONFLICT (id) DO UPDATE SET n = balances.n + 1, balance = balances.balance + excluded.balance"
        )
        with self.datastore.transaction(commit=True) as c:
            self._insert_tracking(c, tracking)
            c.execute(sql, [account, amount])


class Balances(Projection[Any]):
    name = "balances"

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.add(domain_event.originator_id, getattr(domain_event, "amount", Decimal(0)), tracking)


def by_loop(where: str, events: int) -> int:
    """SQLite: what the runner does, without its subscription."""
    with bank(where) as application:
        view = SQLiteFactory(application.env).tracking_recorder(SqliteBalances)
        projection, done = Balances(view), 0
        while done < events and (found := application.recorder.select_notifications(done, 100, inclusive_of_start=False)):
            for notification in found:
                event = application.mapper.to_domain_event(notification)
                projection.process_event(event, Tracking("Bank", notification.id))
            done = found[-1].id
        return done


def by_runner(where: str, events: int) -> int:
    """PostgreSQL: the library's runner, as it is used."""
    made: dict[str, Any] = {"application_class": Bank, "projection_class": Balances, "view_class": PostgresBalances}
    with ProjectionRunner(**made, env=environment(where)) as runner:
        runner.wait(events, timeout=600)
        return events


# -- measuring ------------------------------------------------------------------------------------------------------------


def measured(what: Callable[[], int]) -> tuple[float, float]:
    """Events a second, and CPU seconds of this process a million events."""
    began, cpu = time.perf_counter(), _cpu()
    events = what()
    return events / (time.perf_counter() - began), (_cpu() - cpu) / events * 1e6


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def run(flow: mg.Flow, events: int, folder: Path) -> int:
    mg.run([flow], folder / f"{flow.name}.duckdb")
    sums = "SELECT sum(seq), sum(balance) FROM accounts" if flow.name == "folded" else "SELECT sum(n), sum(balance) FROM accounts"
    deposits = events // PER_ACCOUNT * (PER_ACCOUNT - 1) * Decimal("12.50")
    assert mg.connect(folder / f"{flow.name}.duckdb").sql(sums).fetchall() == [(events, deposits)]
    return events


@contextmanager
def stores(folder: Path) -> Iterator[dict[str, str]]:
    folder.chmod(0o755)  # PostgreSQL runs as a user of its own
    try:
        programs()
    except MissingError as error:
        print(f"without PostgreSQL: {error}", file=sys.stderr)
        yield {"SQLite": sqlite(folder)}
        return
    server = Server(folder / "postgres")
    server.folder.mkdir()
    server.start()
    try:
        yield {"SQLite": sqlite(folder), "PostgreSQL": server.url("postgres")}
    finally:
        server.stop()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=500_000)
    parser.add_argument("--library-events", type=int, default=10_000)
    options = parser.parse_args()
    print("| from, into | events/s | CPU s/M |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as name, stores(Path(name)) as wheres:
        for store, where in wheres.items():
            fill(where, options.events)
            (folder := Path(name) / store).mkdir()
            for kind, flow in flows(where).items():
                rate, cpu = measured(lambda flow=flow, folder=folder: run(flow, options.events, folder))
                print(f"| {store}, {kind} | {rate:,.0f} | {cpu:.1f} |", flush=True)
            theirs = by_loop if store == "SQLite" else by_runner
            rate, cpu = measured(lambda theirs=theirs, where=where: theirs(where, options.library_events))
            print(f"| {store}, the library's projection | {rate:,.0f} | {cpu:.1f} |", flush=True)


if __name__ == "__main__":
    main()

"""A bank that is killed while it moves money, and its projections, which are killed while they read: jobs and what must hold."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

import merganser as mg
from tests.crash.harness import KILLED, child, start
from tests.event_stores import Balance, bank, evolve, replayed, source, table

ACCOUNTS, EACH = 6, Decimal(100)


@dataclass(frozen=True)
class Job:
    """One run of the write model (``flow`` None), or of a projection in a store of its own."""

    where: str
    seed: int = 0
    flow: str | None = None
    folder: str = ""
    follow: bool = True

    @property
    def store(self) -> Path:
        return Path(self.folder) / f"{self.flow}.duckdb"


PROJECTIONS = ("accounts", "transfers")


def make_flow(job: Job) -> mg.Flow:
    flow = mg.Flow(str(job.flow))
    read = flow.read(source(job.where))
    if job.flow == "accounts":
        read.fold(initial=Balance(), apply=evolve, history=True).materialize("accounts")
    else:
        legs = read.filter("transfer IS NOT NULL").derive(moved="if(event_type = 'Account.Withdrawn', -amount, amount)")
        legs.group_by("transfer").aggregate(legs="count(*)", left="sum(moved)").materialize("transfers")
        read.group_by().aggregate(events="count(*)", last="max(notification_id)").materialize("total")
    return flow


def opened(where: str) -> None:
    """The accounts, with money; all that there will ever be."""
    with bank(where) as application:
        for i in range(ACCOUNTS):
            account, _ = application.open(f"o{i}")
            application.change(account, EACH)


def work(job: Job) -> None:
    if job.flow is not None:
        mg.run([make_flow(job)], job.store, follow=job.follow, epoch=0.02, chunk_bytes=4000)
        return
    chance = random.Random(job.seed)
    with bank(job.where, CREATE_TABLE="no") as application:
        accounts = sorted({n.originator_id for n in application.recorder.select_notifications(None, 2 * ACCOUNTS)}, key=str)
        while True:
            giver, taker = chance.sample(accounts, 2)
            if application.repository.get(giver).balance >= 5:
                application.transfer(giver, taker, Decimal(chance.randrange(1, 500)) / 100)


def storm(where: str, folder: Path, seed: int, kills: int) -> None:
    """Kill writer and projections at random times, so often each; then let the projections come to the end."""
    chance = random.Random(seed)
    opened(where)
    log = mg.event_store(where, table=table(where)).log()
    for turn in range(kills):
        before = log.newest()
        writer = start(work, Job(where, seed=seed * 1000 + turn))
        others = [start(work, Job(where, flow=name, folder=str(folder))) for name in PROJECTIONS]
        running = [writer, *others]
        while log.newest() < before + 20:
            writer.join(0.02)
            assert writer.exitcode is None
        for process in chance.sample(running, len(running)):
            process.join(chance.uniform(0.05, 0.5))
            process.kill()
            process.join()
            assert process.exitcode == KILLED
    log.close()
    for name in PROJECTIONS:
        assert child(work, Job(where, flow=name, folder=str(folder), follow=False)) == 0


def check(where: str, folder: Path) -> int:
    """Money is neither created nor lost, and each projection is what the library's replay says. Returns the number of events."""
    with bank(where) as application:
        events = application.recorder.select_notifications(None, 1 << 30)
        mine = {str(i): replayed(application.repository.get(i)) for i in {n.originator_id for n in events}}
    accounts = mg.connect(folder / "accounts.duckdb")
    rows = accounts.sql("SELECT originator_id, owner, balance, closed FROM accounts").fetchall()
    assert {id: Balance(*state) for id, *state in rows} == mine
    assert sum(state.balance for state in mine.values()) == ACCOUNTS * EACH
    kept = accounts.sql("SELECT count(*) FROM (" + _histories(accounts) + ")").fetchall()
    assert kept == [(len(events),)]
    transfers = mg.connect(folder / "transfers.duckdb")
    assert transfers.sql("FROM transfers WHERE legs <> 2 OR \"left\" <> 0").fetchall() == []
    assert transfers.sql("FROM total").fetchall() == [(len(events), events[-1].id)]
    return len(events)


def _histories(accounts: mg.Connection) -> str:
    ((table,),) = accounts.sql("SELECT name FROM merganser_state.tables WHERE name LIKE '%_history\"'").fetchall()
    return f"SELECT DISTINCT notification_id FROM {table}"

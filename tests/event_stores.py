"""An application of the library eventsourcing, of which the events in tests are."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event

import merganser as mg


class Refused(Exception):
    """A command that an account does not take."""


class Account(Aggregate):
    @event("Opened")
    def __init__(self, owner: str) -> None:
        self.owner = owner
        self.balance = Decimal(0)
        self.closed = False

    @event("Deposited")
    def deposit(self, amount: Decimal, transfer: UUID | None = None) -> None:
        self.balance += amount

    def withdraw(self, amount: Decimal, transfer: UUID | None = None) -> None:
        if self.closed or self.balance < amount:
            raise Refused
        self._withdraw(amount, transfer)

    @event("Withdrawn")
    def _withdraw(self, amount: Decimal, transfer: UUID | None) -> None:
        self.balance -= amount

    @event("Closed")
    def close(self) -> None:
        self.closed = True


class Bank(Application[UUID]):
    """Commands; each is one transaction of the event store, and returns the id of its last notification."""

    snapshotting_intervals = {Account: 50}  # noqa: RUF012 # as the library has it

    def open(self, owner: str) -> tuple[UUID, int]:
        account = Account(owner)
        return account.id, self._saved(account)

    def change(self, account_id: UUID, amount: Decimal) -> int:
        account: Account = self.repository.get(account_id)
        account.deposit(amount) if amount >= 0 else account.withdraw(-amount)
        return self._saved(account)

    def transfer(self, source: UUID, target: UUID, amount: Decimal) -> int:
        giver: Account = self.repository.get(source)
        taker: Account = self.repository.get(target)
        transfer = uuid4()
        giver.withdraw(amount, transfer)
        taker.deposit(amount, transfer)
        return self._saved(giver, taker)

    def close_account(self, account_id: UUID) -> int:
        account: Account = self.repository.get(account_id)
        account.close()
        return self._saved(account)

    def _saved(self, *aggregates: Account) -> int:
        return max(r.notification.id for r in self.save(*aggregates))


def environment(where: str) -> dict[str, str]:
    """What an application needs to keep its events at a URL as ``mg.event_store`` takes it."""
    if where.startswith("sqlite:///"):
        return {"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": where.removeprefix("sqlite:///")}
    parts = urlsplit(where)
    return {
        "PERSISTENCE_MODULE": "eventsourcing.postgres", "POSTGRES_DBNAME": parts.path[1:], "POSTGRES_HOST": str(parts.hostname),
        "POSTGRES_PORT": str(parts.port), "POSTGRES_USER": str(parts.username), "POSTGRES_PASSWORD": parts.password or "",
    }  # fmt: skip


def bank(where: str, **more: str) -> Bank:
    """The application over an event store; its PostgreSQL table is called ``bank_events``."""
    return Bank(env=environment(where) | more)


def sqlite(folder: Path) -> str:
    return f"sqlite:///{folder}/bank.db"


def table(where: str) -> str:
    """Where ``Bank`` keeps its events."""
    return "bank_events" if where.startswith("postgresql") else "stored_events"


SCHEMA = {"owner": "VARCHAR", "amount": "DECIMAL(18, 2)", "transfer": "UUID"}


def source(where: Any, *, name: str = "bank", types: list[str] | None = None, **more: Any) -> mg.Source:
    connector = mg.event_store(where, types=types, **({"table": table(where)} if isinstance(where, str) else {}))
    options: dict[str, Any] = {"time": "timestamp", "lateness": "0 seconds", "id": "notification_id", "key": "originator_id"}
    return mg.source(name, connector, schema=SCHEMA, **(options | more))


@dataclass(frozen=True)
class Balance:
    """The state of an account as a fold has it."""

    owner: str = ""
    balance: Decimal = Decimal(0)
    closed: bool = False


def evolve(state: Balance, seen: dict[str, Any]) -> Balance:
    match seen["event_type"]:
        case "Account.Opened":
            return Balance(seen["owner"])
        case "Account.Deposited":
            return Balance(state.owner, state.balance + seen["amount"], state.closed)
        case "Account.Withdrawn":
            return Balance(state.owner, state.balance - seen["amount"], state.closed)
        case "Account.Closed":
            return Balance(state.owner, state.balance, True)
    raise ValueError(f"an event of type {seen['event_type']} is not known")


def replayed(account: Account) -> Balance:
    """What the library's own replay makes of an account, as a fold has it."""
    return Balance(account.owner, account.balance, account.closed)

"""A shop that is killed at any time: a write model, projections of its events, a saga over them, and who does what it commands.

The write model is an application of the library eventsourcing; the saga reads its events and writes commands to files, through its
outbox; a service executes them, each once, by what its aggregates remember. Answers differ from order to order: paid, declined,
never, too late; sent, out of stock, never.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

from eventsourcing.application import AggregateNotFoundError, Application
from eventsourcing.domain import Aggregate, event

import merganser as mg
from merganser import faults
from merganser.verify import verify
from tests.flows import balanced, rows

START = datetime(2026, 1, 1, tzinfo=UTC)
CUSTOMERS, MONEY = 5, Decimal(10_000)
NAMES = UUID(int=7)

FLOW_POINTS = (
    "read.after", "step.process", "step.write", "commit.before", "commit.after", "sink.before", "sink.within", "sink.after",
)  # fmt: skip


@dataclass(frozen=True)
class Job:
    """One run of the flow or of the service. ``orders``: how many there are to be at the end of it."""

    folder: str
    orders: int = 0
    tick: bool = False
    fault: tuple[str, int] | None = None


# -- the write model ------------------------------------------------------------------------------------------------------


class Wallet(Aggregate):
    """A customer's money."""

    @event("Opened")
    def __init__(self, name: str, amount: Decimal, at: datetime) -> None:
        self.name, self.money = name, amount

    @event("Charged")
    def charge(self, amount: Decimal, at: datetime) -> None:
        self.money -= amount

    @event("Refunded")
    def refund(self, amount: Decimal, at: datetime) -> None:
        self.money += amount

    @staticmethod
    def create_id(name: str, **more: Any) -> UUID:
        return uuid5(NAMES, name)


class Order(Aggregate):
    """An order; ``done`` are the numbers of the commands that were executed on it."""

    @event("Placed")
    def __init__(self, number: int, amount: Decimal, at: datetime) -> None:
        self.number, self.amount = number, amount
        self.done: list[int] = []
        self.held = Decimal(0)
        self.what = ""

    @event("PaymentCaptured")
    def capture(self, command: int, amount: Decimal, at: datetime) -> None:
        self.done.append(command)
        self.held += amount

    @event("Refunded")
    def refund(self, command: int, amount: Decimal, at: datetime) -> None:
        self.done.append(command)
        self.held -= amount

    @event("Answered")
    def answer(self, command: int, what: str, at: datetime) -> None:
        self.done.append(command)
        self.what = what

    @staticmethod
    def create_id(number: int, **more: Any) -> UUID:
        return uuid5(NAMES, str(number))


class Clock(Aggregate):
    """Time that passes though nothing happens."""

    @event("Started")
    def __init__(self, at: datetime) -> None:
        self.ticks = 0

    @event("Ticked")
    def tick(self, at: datetime) -> None:
        self.ticks += 1

    @staticmethod
    def create_id(at: datetime) -> UUID:
        return uuid5(NAMES, "clock")


class Shop(Application[UUID]):
    """Executes commands; whatever one changes is one transaction of the event store."""

    def now(self) -> datetime:
        return START + timedelta(seconds=self.recorder.max_notification_id() or 0, hours=self.got(Clock.create_id(START)).ticks)

    def got(self, id: UUID) -> Any:
        return self.repository.get(id)

    def open(self) -> None:
        try:
            self.got(Clock.create_id(START))
        except AggregateNotFoundError:
            self.save(Clock(START), *(Wallet(f"c{i}", MONEY, START) for i in range(CUSTOMERS)))

    def tick(self) -> None:
        clock = self.got(Clock.create_id(START))
        clock.tick(self.now() + timedelta(hours=1))
        self.save(clock)

    def place(self, number: int) -> None:
        try:
            self.got(Order.create_id(number))
        except AggregateNotFoundError:
            self.save(Order(number, Decimal(10 + number % 7), self.now()))

    def execute(self, command: dict[str, Any]) -> None:
        """Do what a command says, unless it was done. Who answers, and how, is a matter of the order's number."""
        order: Order = self.got(UUID(command["originator_id"]))
        number, seq, now = order.number, command["seq"], self.now()
        if seq in order.done:
            return
        wallet: Wallet = self.got(uuid5(NAMES, f"c{number % CUSTOMERS}"))
        match command["command"]:
            case "Charge" if number % 5 == 1:
                order.answer(seq, "payment declined", now)
            case "Charge" if number % 5 in (2, 3):
                return  # nobody answers; or only when it is too late
            case "Cancel" if number % 5 == 3:
                wallet.charge(order.amount, now)
                order.capture(seq, order.amount, now)
            case "Charge":
                wallet.charge(Decimal(command["amount"]), now)
                order.capture(seq, Decimal(command["amount"]), now)
            case "Ship" if number % 4 == 1:
                order.answer(seq, "out of stock", now)
            case "Ship" if number % 4 == 2:
                return
            case "Ship":
                order.answer(seq, "sent", now)
            case "Cancel":
                order.answer(seq, "cancelled", now)
            case "Refund":
                wallet.refund(Decimal(command["amount"]), now)
                order.refund(seq, Decimal(command["amount"]), now)
        self.save(wallet, order)


def shop(folder: Path) -> Shop:
    return Shop(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": str(folder / "shop.db")})


def serve(job: Job) -> None:
    """Place orders and execute all commands that there are. It keeps no position: it may see a command again and again."""
    with shop(Path(job.folder)) as application:
        application.open()
        if job.tick:
            application.tick()
        sent = commands(Path(job.folder))
        for number in range(job.orders):
            application.place(number)
            for command in sent[number :: max(1, job.orders)]:
                application.execute(command)


def commands(folder: Path) -> list[dict[str, Any]]:
    """What a reader of the saga's outbox has: the files, in the order of their names."""
    return [json.loads(line) for path in sorted(folder.glob("commands-*.jsonl")) for line in path.read_text().splitlines()]


# -- the saga and the projections -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fulfilment:
    step: str = "new"
    amount: Decimal = Decimal(0)
    held: Decimal = Decimal(0)
    due: datetime | None = None


def follow(saga: Fulfilment, seen: dict[str, Any]) -> Any:
    match saga.step, seen["event_type"].removeprefix("Order."), seen["what"]:
        case "new", "Placed", _:
            due = seen["at"] + timedelta(minutes=10)
            return replace(saga, step="paying", amount=seen["amount"], due=due), [{"command": "Charge", "amount": seen["amount"]}]
        case "paying", "PaymentCaptured", _:
            due = seen["at"] + timedelta(minutes=20)
            return replace(saga, step="shipping", held=seen["amount"], due=due), [{"command": "Ship"}]
        case "shipping", "Answered", "sent":
            return replace(saga, step="completed", due=None)
        case ("paying", "Answered", "payment declined") | ("shipping", "Answered", "out of stock"):
            return undone(saga)
        case "cancelled", "PaymentCaptured", _:
            return replace(saga, held=seen["amount"]), [{"command": "Refund", "amount": seen["amount"]}]
        case _, "Refunded", _:
            return replace(saga, held=saga.held - seen["amount"])
    return saga


def undone(saga: Fulfilment, due: datetime | None = None) -> Any:
    back = [{"command": "Refund", "amount": saga.held}] if saga.held else []
    return replace(saga, step="cancelled", due=None), [{"command": "Cancel"}, *back]


def make_flow(folder: Path) -> mg.Flow:
    events = mg.source(
        "shop", mg.event_store(f"sqlite:///{folder}/shop.db"),
        schema={"amount": "DECIMAL(18, 2)", "at": "TIMESTAMPTZ", "what": "VARCHAR", "command": "BIGINT", "name": "VARCHAR"},
        time="at", lateness="0 seconds", id="notification_id", key="originator_id",
    )  # fmt: skip
    flow = mg.Flow("shop")
    read = flow.read(events)
    of_orders = read.filter("event_type LIKE 'Order.%'")
    saga = of_orders.process(
        initial=Fulfilment(), apply=follow, timeout=undone, emits={"command": "VARCHAR NOT NULL", "amount": "DECIMAL(18, 2)"}
    )
    saga.materialize("sagas")
    saga.emitted.materialize("emitted")
    saga.emitted.write(mg.files(folder / "commands-*.jsonl"), name="commands")
    signed = "CASE event_type WHEN 'Wallet.Charged' THEN -amount WHEN 'Wallet.Refunded' THEN amount ELSE amount END"
    read.filter("event_type LIKE 'Wallet.%'").group_by("originator_id").aggregate(money=f"sum({signed})").materialize("wallets")
    paid = "CASE event_type WHEN 'Order.Refunded' THEN -amount ELSE amount END"
    taken = of_orders.filter("event_type IN ('Order.PaymentCaptured', 'Order.Refunded')")
    taken.group_by().aggregate(money=f"sum({paid})").materialize("till")
    return flow


def follow_events(job: Job) -> None:
    if job.fault:
        faults.arm(*job.fault)
    mg.run([make_flow(Path(job.folder))], Path(job.folder) / "s.duckdb", epoch=0, chunk_bytes=4000)


# -- what must come of it -------------------------------------------------------------------------------------------------


def check(folder: Path, orders: int) -> int:
    """Look at everything, once all is over. Returns how many commands there were."""
    store = folder / "s.duckdb"
    sent = commands(folder)
    said = [(UUID(c["originator_id"]), c["seq"], c["command"]) for c in sent]
    assert max(Counter(said).values()) == 1, "a command was emitted twice"
    emitted = rows(store, "SELECT originator_id::UUID, seq, command FROM emitted")
    assert sorted(said) == sorted(emitted)
    for id, count in Counter(id for id, _, _ in said).items():
        assert sorted(seq for i, seq, _ in said if i == id) == list(range(1, count + 1))
    sagas = {id: rest for id, *rest in rows(store, "SELECT originator_id::UUID, step, held, due FROM sagas")}
    with shop(folder) as application:
        wallets = {uuid5(NAMES, f"c{i}"): application.got(uuid5(NAMES, f"c{i}")).money for i in range(CUSTOMERS)}
        held = Decimal(0)
        for number in range(orders):
            order = application.got(Order.create_id(number))
            step, money, due = sagas[order.id]
            assert step in ("completed", "cancelled") and due is None, (number, step)
            assert order.held == money == (order.amount if step == "completed" else 0), (number, step, order.held, money)
            assert len(order.done) == len(set(order.done)), "a command was executed twice"
            held += order.held
    assert sum(wallets.values()) + held == MONEY * CUSTOMERS, "money was created or lost"
    assert dict(rows(store, "SELECT originator_id::UUID, money FROM wallets")) == wallets
    assert rows(store, "SELECT money FROM till") == [(held,)]
    assert [found.view for found in verify([make_flow(folder)], store) if not found.ok] == []
    balanced(store)
    return len(sent)

"""The write side of the shop: an order is an aggregate of the library eventsourcing, which says what may happen to it."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from uuid import NAMESPACE_URL, UUID, uuid5

from eventsourcing.application import Application
from eventsourcing.domain import Aggregate, event


class NotPossibleError(Exception):
    """The order is not in a state in which this can happen."""


class Order(Aggregate):
    @event("Placed")
    def __init__(self, order_id: str, customer_id: str, amount: Decimal, timestamp: datetime | None = None) -> None:
        self.order_id = order_id
        self.customer_id = customer_id
        self.amount = amount
        self.paid = Decimal(0)
        self.status = "placed"

    @staticmethod
    def create_id(order_id: str) -> UUID:
        return uuid5(NAMESPACE_URL, f"/orders/{order_id}")

    @event("Changed")
    def change(self, amount: Decimal, timestamp: datetime | None = None) -> None:
        self._must_be("placed")
        self.amount = amount

    @event("Paid")
    def pay(self, amount: Decimal, timestamp: datetime | None = None) -> None:
        self._must_be("placed", "cancelled")  # the bank may answer when nobody waits any more
        self.paid += amount
        self.status = "paid" if self.status == "placed" else "cancelled"

    @event("Refunded")
    def refund(self, amount: Decimal, timestamp: datetime | None = None) -> None:
        self._must_be("cancelled")
        self.paid -= amount

    @event("Cancelled")
    def cancel(self, reason: str, timestamp: datetime | None = None) -> None:
        self._must_be("placed", "paid")
        self.status = "cancelled"

    @event("Sent")
    def send(self, carrier: str, timestamp: datetime | None = None) -> None:
        self._must_be("paid")
        self.status = "sent"

    @event("Delivered")
    def deliver(self, timestamp: datetime | None = None) -> None:
        self._must_be("sent")
        self.status = "delivered"

    def _must_be(self, *statuses: str) -> None:
        if self.status not in statuses:
            raise NotPossibleError(f"order {self.order_id} is {self.status}")


class Shop(Application[UUID]):
    """Commands. Each is one transaction, and returns the id of the notification that says it happened."""

    def place(self, order_id: str, customer_id: str, amount: Decimal, at: datetime | None = None) -> int:
        return self._saved(Order(order_id, customer_id, amount, timestamp=at))

    def order(self, order_id: str) -> Order:
        found: Order = self.repository.get(Order.create_id(order_id))
        return found

    def change(self, order_id: str, amount: Decimal, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.change(amount, timestamp=at)
        return self._saved(order)

    def pay(self, order_id: str, amount: Decimal, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.pay(amount, timestamp=at)
        return self._saved(order)

    def refund(self, order_id: str, amount: Decimal, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.refund(amount, timestamp=at)
        return self._saved(order)

    def cancel(self, order_id: str, reason: str, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.cancel(reason, timestamp=at)
        return self._saved(order)

    def send(self, order_id: str, carrier: str, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.send(carrier, timestamp=at)
        return self._saved(order)

    def deliver(self, order_id: str, at: datetime | None = None) -> int:
        order = self.order(order_id)
        order.deliver(timestamp=at)
        return self._saved(order)

    def _saved(self, order: Order) -> int:
        return max(recording.notification.id for recording in self.save(order))


def shop(path: str = "shop-events.db") -> Shop:
    """The application over a file of SQLite."""
    return Shop(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": path})

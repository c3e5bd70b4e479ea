"""Make two days of a small shop: what happens to its orders, its customers and its products, as events.

    python flows/patterns/data/make_shop.py --out flows/patterns/data     # what is committed beside this file

Everything is drawn from one seed, so the same call writes the same bytes. README.md says what is in them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

OPENING = datetime(2025, 3, 3)
DAYS = 2
ORDERS = 240
CUSTOMERS = 60

TIMEOUT = timedelta(minutes=30)
"""How long an order waits for its payment's answer; the shop then cancels it."""

BY_HOUR = (2, 1, 1, 1, 1, 2, 4, 7, 9, 11, 12, 13, 14, 12, 11, 11, 12, 13, 15, 17, 18, 15, 10, 5)
"""How many orders come in an hour of the day, relative to the others."""

GIVEN = (
    "Ada", "Bao", "Carla", "Dmitri", "Elif", "Femi", "Greta", "Hugo", "Ines", "Jonas", "Kofi", "Lena", "Mira", "Nils",
    "Olga", "Pavel", "Rosa", "Sven", "Tomas", "Yuki",
)  # fmt: skip
FAMILY = (
    "Adeyemi", "Bauer", "Costa", "Dubois", "Eriksen", "Ferrari", "Garcia", "Horvat", "Ito", "Jansen", "Kowalski", "Lindqvist",
    "Moreau", "Novak", "Okafor", "Rossi",
)  # fmt: skip
CITIES = {
    "Lisbon": "PT", "Porto": "PT", "Lyon": "FR", "Paris": "FR", "Berlin": "DE", "Hamburg": "DE", "Vienna": "AT", "Graz": "AT",
    "Milan": "IT", "Turin": "IT", "Warsaw": "PL", "Prague": "CZ", "Oslo": "NO", "Malmo": "SE",
}  # fmt: skip
PRODUCTS = (
    ("tea-assam", "Assam tea", "5.90"), ("tea-sencha", "Sencha", "8.40"), ("tea-oolong", "Oolong", "11.20"),
    ("coffee-house", "House blend", "7.50"), ("coffee-decaf", "Decaf", "8.10"), ("coffee-kenya", "Kenya AA", "13.90"),
    ("cup-blue", "Blue cup", "9.00"), ("cup-white", "White cup", "8.00"), ("pot-small", "Small teapot", "24.00"),
    ("pot-large", "Large teapot", "34.50"), ("kettle", "Kettle", "49.00"), ("mill", "Coffee mill", "62.00"),
    ("filter-100", "Paper filters", "3.20"), ("scale", "Kitchen scale", "29.90"), ("sugar", "Cane sugar", "2.80"),
    ("honey", "Acacia honey", "6.70"), ("biscuits", "Oat biscuits", "4.30"), ("gift-box", "Gift box", "5.00"),
)  # fmt: skip

Event = dict[str, Any]
Line = dict[str, Any]


def stamp(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds") + "Z"


@dataclass
class Shop:
    """Draws events; ``told`` has those of orders with the moment at which each is known."""

    random: random.Random
    told: list[tuple[datetime, Event]] = field(default_factory=list)
    customers: list[Event] = field(default_factory=list)
    products: list[Event] = field(default_factory=list)
    prices: dict[str, Decimal] = field(default_factory=dict)
    scans: list[str] = field(default_factory=list)

    def later(self, moment: datetime, mean: float, most: float) -> datetime:
        """A moment some seconds later, mostly about ``mean``, at most ``most``."""
        return moment + timedelta(milliseconds=int(1000 * min(most, self.random.expovariate(1 / mean))) + 1)

    # -- customers and products: the whole state each time, nothing but the key when one is gone ------------------------

    def people(self) -> None:
        for number in range(CUSTOMERS):
            # Half were there before; the others come during the two days.
            joined = OPENING if number < CUSTOMERS // 2 else OPENING + timedelta(minutes=self.random.randrange(60 * 24 * DAYS))
            moment, city = joined, self.random.choice(list(CITIES))
            state = {
                "customer_id": f"c{number + 1:03}",
                "name": f"{self.random.choice(GIVEN)} {self.random.choice(FAMILY)}",
                "city": city, "country": CITIES[city], "tier": "standard",
            }  # fmt: skip
            self.customers.append({"changed_at": stamp(moment), **state})
            for _ in range(self.random.choice((0, 0, 1, 1, 2))):
                moment = self.later(moment, 6 * 3600, 20 * 3600)
                if self.random.random() < 0.5:
                    city = self.random.choice(list(CITIES))
                    state |= {"city": city, "country": CITIES[city]}
                else:
                    state |= {"tier": "plus" if state["tier"] == "standard" else "standard"}
                self.customers.append({"changed_at": stamp(moment), **state})
            if self.random.random() < 0.1:
                moment = self.later(moment, 6 * 3600, 20 * 3600)
                gone = dict.fromkeys(("name", "city", "country", "tier"))
                self.customers.append({"changed_at": stamp(moment), "customer_id": state["customer_id"], **gone})
        self.customers.sort(key=lambda event: event["changed_at"])

    def goods(self) -> None:
        for sku, name, price in PRODUCTS:
            moment = OPENING
            for _ in range(self.random.choice((1, 1, 2, 3))):
                self.products.append({"changed_at": stamp(moment), "sku": sku, "name": name, "price": float(price)})
                self.prices.setdefault(sku, Decimal(price))
                moment = self.later(moment, 12 * 3600, 40 * 3600)
                price = str((Decimal(price) * Decimal(self.random.choice(("0.9", "1.05", "1.1")))).quantize(Decimal("0.1")))
        self.products.append({"changed_at": stamp(OPENING + timedelta(hours=30)), "sku": "pot-small", "name": None, "price": None})
        self.products.sort(key=lambda event: event["changed_at"])

    # -- orders -------------------------------------------------------------------------------------------------------

    def orders(self) -> None:
        hours = self.random.choices(range(24), BY_HOUR, k=ORDERS)
        moments = [
            OPENING + timedelta(days=self.random.randrange(DAYS), hours=hour, milliseconds=self.random.randrange(3_600_000))
            for hour in hours
        ]
        for number, moment in enumerate(sorted(moments), 1):
            Order(self, f"o{number:04}", self.buyer(moment)).live(moment)
        self.told.sort(key=lambda pair: (pair[0], pair[1]["event_id"]))

    # -- the carriers' scans, some of which are no good ---------------------------------------------------------------

    def parcels(self) -> None:
        """A line for each parcel that was handed over or delivered, as the carriers send it."""
        for known, event in self.told:
            if not event["type"].startswith("Shipment") or event["type"] == "ShipmentFailed":
                continue
            grams = self.random.randrange(80, 4000)
            depot = self.random.choice(("north", "south", "harbour"))
            scan = {"scanned_at": stamp(known), "parcel": event["order_id"], "depot": depot, "grams": grams}
            line, draw = json.dumps(scan), self.random.random()
            if draw < 0.02:  # a scale that says kilograms
                line = json.dumps(scan | {"grams": f"{grams / 1000} kg"})
            elif draw < 0.04:  # a clock that is 180 years ahead
                line = line.replace('"2025-', '"2205-')
            elif draw < 0.06:  # a connection that broke
                line = line[: self.random.randrange(10, len(line) - 5)]
            self.scans.append(line)

    def buyer(self, moment: datetime) -> str:
        """Somebody who is a customer by then; some buy much more than others."""
        last = {event["customer_id"]: event for event in self.customers if event["changed_at"] <= stamp(moment)}
        there = sorted(key for key, event in last.items() if event["name"] is not None)
        return self.random.choices(there, [1 / (1 + place) ** 0.6 for place in range(len(there))])[0]


@dataclass
class Order:
    """One order's story, told as events."""

    shop: Shop
    order_id: str
    customer_id: str
    paid: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    events: int = 0
    cause: str | None = None

    def tell(self, type: str, at: datetime, **more: Any) -> None:
        """An event, known a moment after it happened; one in fifty is delivered twice."""
        self.events += 1
        event = {
            "event_id": f"{self.order_id}-{self.events:02}", "type": type, "happened_at": stamp(at), "order_id": self.order_id,
            "customer_id": self.customer_id, **more, "correlation_id": f"cart-{self.order_id[1:]}", "causation_id": self.cause,
        }  # fmt: skip
        self.cause = event["event_id"]
        known = self.shop.later(at, 1.5, 60)
        self.shop.told.append((known, event))
        if self.shop.random.random() < 0.02:
            self.shop.told.append((self.shop.later(known, 5, 60), event))

    def lines(self) -> list[Line]:
        """What is in the cart, and its sum as ``amount``."""
        chance = self.shop.random
        skus = chance.sample([sku for sku, _, _ in PRODUCTS], chance.choice((1, 1, 1, 2, 2, 3)))
        lines = [{"sku": sku, "quantity": chance.choice((1, 1, 1, 2, 3)), "price": self.shop.prices[sku]} for sku in skus]
        self.amount = sum((line["price"] * line["quantity"] for line in lines), Decimal(0))
        return [line | {"price": float(line["price"])} for line in lines]

    def live(self, at: datetime) -> None:
        """From the order to its end: delivered, or cancelled with all money back."""
        chance, later = self.shop.random, self.shop.later
        lines = self.lines()
        self.tell("OrderPlaced", at, lines=lines, amount=float(self.amount))
        if chance.random() < 0.08:
            at = later(at, 60, 300)
            lines = self.lines()
            self.tell("OrderChanged", at, lines=lines, amount=float(self.amount))
        at = later(at, 2, 20)
        placed = at
        if not self.pay(at, 1):
            return
        at = self.answered
        if at - placed > TIMEOUT:  # too late: the order was cancelled meanwhile
            self.tell("PaymentRefunded", later(at, 5, 60), payment_id=self.payment, amount=float(self.paid))
            return
        fate = chance.random()
        if fate < 0.06:
            at = later(at, 900, 3600)
            self.cancel(at, "customer")
        elif fate < 0.10:
            at = later(at, 1800, 7200)
            self.tell("ShipmentFailed", at, reason="out of stock")
            self.cancel(later(at, 2, 20), "out of stock")
        else:
            at = later(at, 2 * 3600, 12 * 3600)
            self.tell("ShipmentSent", at, carrier=chance.choice(("swift", "parcel", "bike")))
            self.tell("ShipmentDelivered", later(at, 8 * 3600, 36 * 3600))

    def pay(self, at: datetime, attempt: int) -> bool:
        """Ask for the money. True if it came, however late; ``answered`` is then when."""
        chance, later = self.shop.random, self.shop.later
        self.payment = f"p{self.order_id[1:]}-{attempt}"
        self.tell("PaymentRequested", at, payment_id=self.payment, amount=float(self.amount))
        fate = chance.random()
        if fate < 0.05:  # no answer, ever
            self.tell("OrderCancelled", at + TIMEOUT, reason="payment timed out")
            return False
        if fate < 0.15:
            at = later(at, 20, 300)
            self.tell("PaymentFailed", at, payment_id=self.payment, reason=chance.choice(("card declined", "insufficient funds")))
            if attempt == 1 and chance.random() < 0.6:
                return self.pay(later(at, 60, 600), 2)
            self.tell("OrderCancelled", later(at, 2, 20), reason="payment failed")
            return False
        if fate < 0.18:  # an answer when nobody waits any more
            self.tell("OrderCancelled", at + TIMEOUT, reason="payment timed out")
            self.answered = at + TIMEOUT + timedelta(minutes=chance.randrange(2, 60))
        else:
            self.answered = later(at, 20, 300)
        self.paid = self.amount
        self.tell("PaymentCaptured", self.answered, payment_id=self.payment, amount=float(self.amount))
        return True

    def cancel(self, at: datetime, reason: str) -> None:
        self.tell("OrderCancelled", at, reason=reason)
        self.tell("PaymentRefunded", self.shop.later(at, 5, 60), payment_id=self.payment, amount=float(self.paid))


def write(out: Path, seed: int = 7) -> list[Path]:
    """Write ``orders/`` (a file for each day in which something was known), ``customers/``, ``products/`` and ``scans/``."""
    shop = Shop(random.Random(seed))
    shop.people()
    shop.goods()
    shop.orders()
    shop.parcels()
    end = OPENING + timedelta(days=DAYS)
    days: dict[str, list[Event]] = {}
    for known, event in shop.told:
        if known < end:  # what comes of the last orders is not known yet
            days.setdefault(f"{known:%Y-%m-%d}", []).append(event)
    until = stamp(end)
    files = {f"orders/orders-{day}.jsonl": events for day, events in days.items()}
    files |= {
        f"{name}/{name}-{OPENING:%Y-%m}.jsonl": [event for event in events if event["changed_at"] < until]
        for name, events in (("customers", shop.customers), ("products", shop.products))
    }
    lines = {name: [json.dumps(event, separators=(",", ":")) for event in events] for name, events in files.items()}
    lines[f"scans/scans-{OPENING:%Y-%m}.jsonl"] = shop.scans
    return [_written(out / name, each) for name, each in lines.items()]


def _written(path: Path, lines: Iterable[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to write to")
    for path in write(parser.parse_args().out):
        print(path)

"""Gives the shop's application the two days of orders/ as commands, and so makes shop-events.db in the working directory.

    python flows/patterns/data/make_order_events.py
"""

from __future__ import annotations

import json
import sys
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from orders_application import Shop, shop

DATA = Path(__file__).parent


def happened() -> list[dict[str, Any]]:
    """The events of orders/, each once, in the order of their times."""
    lines = [line for path in sorted((DATA / "orders").glob("*.jsonl")) for line in path.read_text().splitlines()]
    events = {e["event_id"]: e for e in (json.loads(line, parse_float=Decimal) for line in lines)}
    return sorted(events.values(), key=lambda e: (e["happened_at"], e["event_id"]))


def give(application: Shop, event: dict[str, Any]) -> None:
    """The command that led to an event; some have none."""
    order, at = event["order_id"], datetime.fromisoformat(event["happened_at"])
    match event["type"]:
        case "OrderPlaced":
            application.place(order, event["customer_id"], Decimal(event["amount"]), at)
        case "OrderChanged":
            application.change(order, Decimal(event["amount"]), at)
        case "PaymentCaptured":
            application.pay(order, Decimal(event["amount"]), at)
        case "PaymentRefunded":
            application.refund(order, Decimal(event["amount"]), at)
        case "OrderCancelled":
            application.cancel(order, event["reason"], at)
        case "ShipmentSent":
            application.send(order, event["carrier"], at)
        case "ShipmentDelivered":
            application.deliver(order, at)


def main() -> None:
    path = "shop-events.db"
    if Path(path).exists():
        sys.exit(f"{path} is there already")
    with shop(path) as application:
        for event in happened():
            give(application, event)
        print(f"{path}: {application.recorder.max_notification_id()} events")


if __name__ == "__main__":
    main()

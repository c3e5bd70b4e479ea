"""A process manager (saga): each order from payment to shipment, with deadlines, and undone where it cannot be done."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal

import merganser as mg
from connectors.shop import orders

flow = mg.Flow("process_manager")

FOR_PAYMENT, FOR_SHIPMENT = timedelta(minutes=30), timedelta(hours=24)


@dataclass(frozen=True)
class Order:
    step: str = "new"  # then paying, shipping; in the end completed or cancelled
    amount: Decimal = Decimal(0)
    attempts: int = 0
    held: Decimal = Decimal(0)  # money that was captured and not paid back
    due: datetime | None = None  # when somebody should have answered


def fulfil(order, event):
    """What follows from an event: the order's next state, and the commands to others."""
    match order.step, event["type"]:
        case "new", "OrderPlaced":
            return ask(replace(order, amount=event["amount"]), event["happened_at"])
        case "paying", "OrderChanged":
            return ask(replace(order, amount=event["amount"], attempts=0), event["happened_at"])
        case "paying", "PaymentFailed" if order.attempts < 2:
            return ask(order, event["happened_at"])
        case "paying", "PaymentFailed":
            return undo(order, "payment failed")
        case "paying", "PaymentCaptured":
            paid = replace(order, step="shipping", held=event["amount"], due=event["happened_at"] + FOR_SHIPMENT)
            return paid, [{"command": "Ship"}]
        case "shipping", "ShipmentFailed":
            return undo(order, event["reason"])
        case "shipping", "ShipmentSent":
            return replace(order, step="completed", due=None)
        case "paying" | "shipping", "OrderCancelled" if event["reason"] == "customer":
            return undo(order, "customer")
        case "cancelled", "PaymentCaptured":  # an answer that nobody waits for any more
            return undo(replace(order, held=event["amount"]), "too late")
    return order


def overdue(order, due):
    """Nobody answered in time."""
    return undo(order, f"no answer while {order.step}")


def ask(order, at):
    asked = replace(order, step="paying", attempts=order.attempts + 1, due=at + FOR_PAYMENT)
    return asked, [{"command": "RequestPayment", "amount": order.amount}]


def undo(order, reason):
    """Compensate: cancel, and give back what was taken."""
    commands = [] if order.step == "cancelled" else [{"command": "CancelOrder", "reason": reason}]
    if order.held:
        commands.append({"command": "Refund", "amount": order.held, "reason": reason})
    return replace(order, step="cancelled", held=Decimal(0), due=None), commands


fulfilment = (
    flow.read(orders)
    .deduplicate()
    .process(
        by="order_id",
        initial=Order(),
        apply=fulfil,
        timeout=overdue,
        emits={"command": "VARCHAR NOT NULL", "amount": "DECIMAL(10,2)", "reason": "VARCHAR"},
    )
)
fulfilment.materialize("order_fulfilment")

commands = fulfilment.emitted.route(
    {"bank": "command IN ('RequestPayment', 'Refund')", "store": "command = 'Ship'"}, default="shop"
)
commands.bank.write(mg.files("commands/bank-*.jsonl"))
commands.store.write(mg.files("commands/store-*.jsonl"))
commands.shop.write(mg.files("commands/shop-*.jsonl"))

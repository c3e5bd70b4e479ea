"""Event sourcing: every order as its events make it, as it was at any time, and what happened to it."""

from dataclasses import dataclass, replace
from decimal import Decimal

import merganser as mg
from connectors.shop import order_events

flow = mg.Flow("event_sourcing")


@dataclass(frozen=True)
class Order:
    order_id: str = ""
    customer_id: str = ""
    status: str = "new"
    amount: Decimal = Decimal(0)
    paid: Decimal = Decimal(0)


def evolve(order, event):
    """The order after an event: nothing but these two goes in, and nothing but the new state comes out."""
    match event["event_type"]:
        case "Order.Placed":
            return Order(event["order_id"], event["customer_id"], "placed", event["amount"])
        case "Order.Changed":
            return replace(order, amount=event["amount"])
        case "Order.Paid":
            status = "paid" if order.status == "placed" else order.status
            return replace(order, status=status, paid=order.paid + event["amount"])
        case "Order.Refunded":
            return replace(order, paid=order.paid - event["amount"])
        case "Order.Cancelled":
            return replace(order, status="cancelled")
        case "Order.Sent":
            return replace(order, status="sent")
        case "Order.Delivered":
            return replace(order, status="delivered")
    return order  # of a type that is newer than this function


flow.read(order_events).fold(initial=Order(), apply=evolve, history=True).materialize("order_states")

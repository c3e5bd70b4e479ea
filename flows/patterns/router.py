"""Fan-out and content router: one stream of orders for several readers, and each event to the one who has to deal with it."""

import merganser as mg
from connectors.shop import orders

flow = mg.Flow("router")

events = flow.read(orders).deduplicate()

# Fan-out: two verbs on one stream, and both see every event. It is read once.
events.group_by("type").aggregate(n="count(*)").materialize("events_by_type")
events.window(mg.tumbling("1 day")).aggregate(orders="count(DISTINCT order_id)").materialize("orders_a_day")

# Router: each event to exactly one branch, the first one whose condition is true.
routes = events.route(
    {"bank": "type LIKE 'Payment%'", "warehouse": "type LIKE 'Shipment%'", "lost": "type = 'OrderCancelled'"},
    default="shop",
)
routes.bank.select("order_id", "happened_at", "type", "payment_id", "amount").materialize("for_the_bank")
routes.warehouse.select("order_id", "happened_at", "type", "carrier", "reason").materialize("for_the_warehouse")
routes.lost.group_by("reason").aggregate(orders="count(*)").materialize("why_orders_are_lost")
routes.shop.latest(by="order_id").materialize("for_the_shop")

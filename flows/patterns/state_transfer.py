"""Event-carried state transfer: orders with their customers, from a local copy that customers' events keep up to date."""

import merganser as mg
from connectors.shop import customers, orders

flow = mg.Flow("state_transfer")

local_copy = flow.read(customers).latest(by="customer_id")
local_copy.materialize("customers")

(
    flow.read(orders)
    .deduplicate(within="1 hour")
    .filter("type = 'OrderPlaced'")
    .select("order_id", "customer_id", "happened_at", "amount")
    .enrich(local_copy, on="customer_id")
    .materialize("orders_of_customers")
)

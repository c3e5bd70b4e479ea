"""Event notification: orders name their customer only, and who that is is asked for, once for each customer and hour."""

import os

import merganser as mg
from connectors.shop import orders

CUSTOMERS = os.environ.get("CUSTOMERS_URL", "http://127.0.0.1:8321")  # python flows/patterns/data/serve_customers.py

flow = mg.Flow("notification")

(
    flow.read(orders)
    .deduplicate(within="1 hour")
    .filter("type = 'OrderPlaced'")
    .select("order_id", "customer_id", "happened_at", "amount")
    .fetch(
        CUSTOMERS + "/customers/{customer_id}",
        name="customers",
        schema={"name": "VARCHAR", "city": "VARCHAR", "country": "VARCHAR", "tier": "VARCHAR"},
        cache="1 hour",
    )
    .materialize("orders_with_customers")
)

"""Flows chained through Kafka: one sends the orders that were placed, another counts them, each once from end to end."""

import os

import merganser as mg
from connectors.shop import orders

TOPIC, BROKERS = os.environ.get("PLACED_TOPIC", "orders-placed"), os.environ.get("KAFKA_BROKERS", "localhost:9092")

placing = mg.Flow("placing")
(
    placing.read(orders)
    .deduplicate()
    .filter("type = 'OrderPlaced'")
    .select("order_id", "customer_id", "happened_at", "amount")
    .write(mg.kafka(TOPIC, brokers=BROKERS, key="customer_id"), name="placed")
)

orders_placed = mg.source(
    "orders_placed",
    mg.kafka(TOPIC, brokers=BROKERS),
    schema={"order_id": "VARCHAR NOT NULL", "customer_id": "VARCHAR", "happened_at": "TIMESTAMPTZ", "amount": "DECIMAL(10,2)"},
    time="happened_at",
    lateness="2 minutes",
)
counting = mg.Flow("counting")
counting.read(orders_placed).group_by("customer_id").aggregate(orders="count(*)", spent="sum(amount)").materialize("spent")

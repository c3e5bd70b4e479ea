"""Outbox: what a shop did, from the table that it writes in the same transaction; sent on by an outbox of our own."""

import merganser as mg

flow = mg.Flow("outbox")

shop_events = mg.source(
    "shop_events",
    mg.outbox(
        mg.secret(env="SHOP_DATABASE"),  # postgresql://user@host/shop
        table="outbox",
        payload="payload",  # the event, as JSON
        columns={"event_id": "id", "type": "type", "happened_at": "created_at"},  # columns of the table beside it
    ),
    schema={
        "event_id": "BIGINT NOT NULL",
        "type": "VARCHAR NOT NULL",
        "happened_at": "TIMESTAMPTZ NOT NULL",
        "order_id": "VARCHAR NOT NULL",
        "amount": "DECIMAL(10,2)",
    },
    time="happened_at",
    lateness="1 minute",
    id="event_id",
    key="order_id",
)

placed = flow.read(shop_events).filter("type = 'OrderPlaced'").select("order_id", "amount", "happened_at")
placed.materialize("placed")
placed.filter("amount > 50").write(mg.files("large/orders-*.jsonl"))

"""A small shop, for flows/patterns/: what happens to its orders, and its customers and products as they change."""

from pathlib import Path

import merganser as mg

DATA = Path(__file__).parent.parent / "flows/patterns/data"

orders = mg.source(
    "orders",
    mg.files(DATA / "orders"),
    schema={
        "event_id": "VARCHAR NOT NULL",
        "type": "VARCHAR NOT NULL",  # OrderPlaced, PaymentCaptured, …: see flows/patterns/data/README.md
        "happened_at": "TIMESTAMPTZ NOT NULL",
        "order_id": "VARCHAR NOT NULL",
        "customer_id": "VARCHAR NOT NULL",
        "lines": "STRUCT(sku VARCHAR, quantity INTEGER, price DECIMAL(10,2))[]",
        "payment_id": "VARCHAR",
        "amount": "DECIMAL(10,2)",
        "reason": "VARCHAR",
        "carrier": "VARCHAR",
        "correlation_id": "VARCHAR NOT NULL",
        "causation_id": "VARCHAR",
    },
    time="happened_at",
    lateness="2 minutes",
    id="event_id",  # delivered at least once: now and then twice
    key="order_id",
)

customers = mg.source(
    "customers",
    mg.files(DATA / "customers"),
    schema={
        "changed_at": "TIMESTAMPTZ NOT NULL",
        "customer_id": "VARCHAR NOT NULL",
        "name": "VARCHAR",  # without all of these it is a tombstone: the customer is gone
        "city": "VARCHAR",
        "country": "VARCHAR",
        "tier": "VARCHAR",
    },
    time="changed_at",
    lateness="0 seconds",  # one writer, in order
    key="customer_id",
)

scans = mg.source(
    "scans",
    mg.files(DATA / "scans"),  # from three carriers, and not all of them take care
    schema={"scanned_at": "TIMESTAMPTZ NOT NULL", "parcel": "VARCHAR NOT NULL", "depot": "VARCHAR", "grams": "INTEGER"},
    time="scanned_at",
    lateness="1 hour",
    key="parcel",
)

products = mg.source(
    "products",
    mg.files(DATA / "products"),
    schema={"changed_at": "TIMESTAMPTZ NOT NULL", "sku": "VARCHAR NOT NULL", "name": "VARCHAR", "price": "DECIMAL(10,2)"},
    time="changed_at",
    lateness="0 seconds",
    key="sku",
)

order_events = mg.source(
    "order_events",
    mg.event_store("sqlite:///shop-events.db"),  # where flows/patterns/data/make_order_events.py makes it
    schema={
        "order_id": "VARCHAR",  # each column is of the types of event that have it
        "customer_id": "VARCHAR",
        "amount": "DECIMAL(10,2)",
        "reason": "VARCHAR",
        "carrier": "VARCHAR",
    },
    time="timestamp",
    lateness="1 minute",  # of the clocks of those who write: the order of the log is another matter
    id="notification_id",
    key="originator_id",
)

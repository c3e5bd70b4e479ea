"""Flights from New York, the weather there, and the aircraft: where they are, and what their owner knows about them."""

import os
from pathlib import Path

import merganser as mg

ROOT = Path(__file__).parent.parent
BROKERS = os.environ.get("FLIGHTS_KAFKA")  # host:port; without it they are read from files

flights = mg.source(
    "flights",
    mg.kafka("flights", brokers=BROKERS) if BROKERS else mg.files(ROOT / "flows/data/flights"),
    schema=ROOT / "schemas/flight.avsc",
    time="departed_at",
    lateness="12 hours",  # Honolulu: see flows/data/README.md
    id="event_id",
    key="tailnum",
)

weather = mg.source(
    "weather",
    mg.files(ROOT / "flows/data/weather"),
    schema=ROOT / "schemas/weather.avsc",
    time="observed_at",
    lateness="0 seconds",  # observations come in order
    key="airport",
)

aircraft = mg.reference(
    ROOT / "flows/data/aircraft.csv",
    schema={"tailnum": "VARCHAR NOT NULL", "built": "INTEGER", "manufacturer": "VARCHAR", "model": "VARCHAR", "seats": "INTEGER"},
)

"""Flights from New York: where the events are, and what their owner knows about them."""

from pathlib import Path

import merganser as mg

ROOT = Path(__file__).parent.parent

flights = mg.source(
    "flights",
    mg.files(ROOT / "flows/data/flights"),
    schema=ROOT / "schemas/flight.avsc",
    time="departed_at",
    lateness="12 hours",  # Honolulu: see flows/data/README.md
    id="event_id",
    key="tailnum",
)

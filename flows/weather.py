"""Departures with the weather at that airport at that hour, and what it does to delays."""

import merganser as mg
from connectors.nyc import flights, weather

flow = mg.Flow("weather")

departures = (
    flow.read(flights)
    .select("event_id", "origin", "dest", "departed_at", "cancelled", "dep_delay")
    .enrich(flow.read(weather), on={"origin": "airport"}, as_of=True)
)
departures.materialize("departures_in_weather")

(
    departures.filter("visible_miles IS NOT NULL")
    .derive(sight="CASE WHEN visible_miles < 1 THEN 'fog' WHEN visible_miles < 5 THEN 'haze' ELSE 'clear' END")
    .group_by("origin", "sight")
    .aggregate(
        departures="count(*)",
        cancelled_percent="round(100.0 * count(*) FILTER (WHERE cancelled) / count(*), 1)",
        median_delay="quantile_cont(dep_delay, 0.5)",
        p90_delay="round(quantile_cont(dep_delay, 0.9), 1)",
    )
    .materialize("delays_by_sight")
)

"""The three busiest destinations of each airport and day (top-N), and how they changed since the day before (lag)."""

import merganser as mg
from connectors.nyc import flights

flow = mg.Flow("destinations")

days = (
    flow.read(flights)
    .filter("NOT cancelled")
    .window(mg.tumbling("1 day"), by=["origin", "dest"])
    .aggregate(departures="count(*)", median_delay="quantile_cont(arr_delay, 0.5)")
)
days.materialize("destination_days")
days.order(by=["origin", "dest"]).materialize("destination_days_in_order")

flow.view(
    "busiest",
    """
    FROM destination_days
    QUALIFY row_number() OVER (PARTITION BY origin, window_start ORDER BY departures DESC, dest) <= 3
    """,
)
flow.view(
    "since_the_day_before",
    """
    SELECT origin, dest, window_start, departures,
        departures - lag(departures) OVER (PARTITION BY origin, dest ORDER BY seq) AS change
    FROM destination_days_in_order
    """,
)

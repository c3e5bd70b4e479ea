"""Departures and delay quantiles per airport and hour, while the flights come in."""

import merganser as mg
from connectors.nyc import flights

flow = mg.Flow("departures")

(
    flow.read(flights)
    .deduplicate(within="1 day")
    .window(mg.tumbling("1 hour"), by="origin")
    .aggregate(
        departures="count(*) FILTER (WHERE NOT cancelled)",
        cancelled="count(*) FILTER (WHERE cancelled)",
        mean_delay="round(avg(dep_delay), 1)",
        median_delay="round(quantile_cont(dep_delay, 0.5), 1)",
        p90_delay="round(quantile_cont(dep_delay, 0.9), 1)",
    )
    .materialize("departures_per_hour")
)

flow.view(
    "worst_hours",
    """
    SELECT origin, window_start, departures, cancelled, p90_delay
    FROM departures_per_hour WHERE departures >= 10
    ORDER BY p90_delay DESC, origin, window_start LIMIT 20
    """,
)

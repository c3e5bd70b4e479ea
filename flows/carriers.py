"""How punctual each carrier is, per day, and over the last day every six hours."""

import merganser as mg
from connectors.nyc import flights

flow = mg.Flow("carriers")

once = flow.read(flights).deduplicate(within="1 day")

(
    once.window(mg.tumbling("1 day"), by="carrier")
    .aggregate(
        flights="count(*)",
        cancelled="count(*) FILTER (WHERE cancelled)",
        on_time_percent="round(100.0 * count(*) FILTER (WHERE arr_delay <= 15) / count(arr_delay), 1)",
        median_delay="quantile_cont(arr_delay, 0.5)",
        worst_flight="arg_max(flight, arr_delay)",
        aircraft="count(DISTINCT tailnum)",
        miles="sum(distance) FILTER (WHERE NOT cancelled)",
    )
    .materialize("carrier_days")
)

(
    once.filter("NOT cancelled")
    .window(mg.hopping("1 day", every="6 hours"), by="carrier")
    .aggregate(flights="count(*)", mean_delay="round(avg(arr_delay), 1)")
    .materialize("carrier_trend")
)

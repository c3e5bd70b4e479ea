"""Stretches of activity of each aircraft: legs that leave New York less than 12 hours apart; and who built what flies them."""

import merganser as mg
from connectors.nyc import aircraft, flights

flow = mg.Flow("activity")

flown = flow.read(flights).filter("tailnum IS NOT NULL AND NOT cancelled")

(
    flown.window(mg.session("12 hours"), by="tailnum")
    .aggregate(
        legs="count(*)",
        minutes_in_the_air="sum(air_time)",
        route="string_agg(dest, ' ' ORDER BY departed_at)",
    )
    .materialize("stretches")
)

(
    flown.enrich(aircraft, on="tailnum")
    .derive(manufacturer="coalesce(manufacturer, 'not registered')")
    .group_by("carrier", "manufacturer")
    .aggregate(aircraft="count(DISTINCT tailnum)", legs="count(*)", seats="sum(seats)", oldest="min(built)")
    .materialize("fleets")
)

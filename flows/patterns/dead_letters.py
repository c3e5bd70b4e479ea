"""Dead letters: scans of parcels, some of which are no good; they wait aside, are mended, and take their place in the log."""

import merganser as mg
from connectors.shop import scans

flow = mg.Flow("dead_letters")

flow.read(scans).latest(by="parcel").materialize("parcels")

(
    flow.read(scans)
    .window(mg.tumbling("1 day"), by="depot")
    .aggregate(scans="count(*)", heaviest="max(grams)")
    .materialize("depot_days")
)

"""The latest known state of each aircraft: where it flew last, and how late it was."""

import merganser as mg
from connectors.nyc import flights

flow = mg.Flow("aircraft")

(
    flow.read(flights)
    .filter("tailnum IS NOT NULL AND NOT cancelled")
    .derive(late="coalesce(arr_delay > 15, false)")
    .select("tailnum", "carrier", "flight", "origin", "dest", "departed_at", "dep_delay", "arr_delay", "late")
    .latest(by="tailnum")
    .materialize("aircraft_state")
)

flow.view(
    "fleet",
    """
    SELECT carrier, count(*) AS aircraft, count_if(late) AS arrived_late, max(departed_at) AS last_departure
    FROM aircraft_state GROUP BY carrier ORDER BY aircraft DESC
    """,
)
